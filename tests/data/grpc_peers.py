"""A gRPC server and a battery of calls, on grpcio (Debian's python3-grpcio), without protoc.

grpc_peers.py server [CERTIFICATE KEY]         prints where it listens, and serves until it is killed
grpc_peers.py calls quick|silent TARGET USER [CA]
    makes each call, and prints a line of JSON for each: {"case", "ok", "did"}
"""

import concurrent.futures
import json
import os
import queue
import sys
import threading
import time
import traceback

import grpc

MIB = 1 << 20
# Not in the default of gRPC: messages of 20 MiB, metadata of more than 8 KiB.
OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", 256 << 10),
]
# Its own choice would share a connection between channels with the same target.
CLIENT_OPTIONS = OPTIONS + [("grpc.use_local_subchannel_pool", 1)]
SILENCE = 75

# --- the server

# The ids of calls that hang until their client ends them, and that it has ended.
over = set()


def metadata_of(context):
    return [(k, v) for k, v in context.invocation_metadata() if k.startswith("x-in")]


def watch(context):
    """Notes the end of the call under its id."""
    call = dict(context.invocation_metadata())["x-call"]
    context.add_callback(lambda: over.add(call))


def until_over(context):
    while context.is_active():
        time.sleep(0.01)


def unary(name):
    def echo(request, context):
        return request

    def metadata(request, context):
        context.send_initial_metadata([("x-out", "head")] + [(k.replace("x-in", "x-out"), v) for k, v in metadata_of(context)])
        context.set_trailing_metadata([("x-end", "tail")] + [(k.replace("x-in", "x-end"), v) for k, v in metadata_of(context)])
        return request

    def sized(request, context):
        """`HEAD TRAILER`: bytes of metadata in each."""
        head, trailer = (int(n) for n in request.split())
        if head:
            context.send_initial_metadata([("x-large", "h" * head)])
        if trailer:
            context.set_trailing_metadata([("x-large", "t" * trailer)])
        return request

    def download(request, context):
        return bytes(int(request))

    def length(request, context):
        return str(len(request)).encode()

    def abort(request, context):
        context.set_trailing_metadata([("x-reason-bin", b"\0\xff"), ("grpc-status-details-bin", b"\x08\x05" + bytes(300))])
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "kein Guthaben: \u20ac 0,00 \u2013 100%")

    def throw(request, context):
        raise ValueError("on purpose")

    def hang(request, context):
        watch(context)
        until_over(context)
        return b""

    def remaining(request, context):
        return str(context.time_remaining()).encode()

    def is_over(request, context):
        """Has the call of that id ended?"""
        return b"yes" if request.decode() in over else b"no"

    def compressed(request, context):
        context.set_compression(grpc.Compression.Gzip)
        return request

    def silent(request, context):
        time.sleep(SILENCE)
        return request

    return locals().get(name)


def server_stream(name):
    def count(request, context):
        for n in range(int(request)):
            yield str(n).encode()

    def fails(request, context):
        for n in range(3):
            yield str(n).encode()
        context.abort(grpc.StatusCode.DATA_LOSS, "after three")

    def hang(request, context):
        watch(context)
        yield b"first"
        until_over(context)

    def silent(request, context):
        yield b"first"
        time.sleep(SILENCE)
        yield b"last"

    return locals().get(name)


def client_stream(name):
    def total(requests, context):
        return str(sum(len(r) for r in requests)).encode()

    def hang(requests, context):
        watch(context)
        until_over(context)
        return b""

    def first(requests, context):
        """Ends well after the first message, whatever the client goes on sending."""
        return next(requests)

    def refuses(requests, context):
        next(requests)
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "enough")

    return locals().get(name)


def both_streams(name):
    def echo(requests, context):
        yield from requests

    def after(requests, context):
        """Answers only when the client has sent all."""
        all_of_them = list(requests)
        yield str(len(all_of_them)).encode()
        yield from all_of_them

    def hang(requests, context):
        watch(context)
        yield b"first"
        until_over(context)

    def early(requests, context):
        yield next(requests)

    return locals().get(name)


def health(request, context):
    """grpc.health.v1: the service `sick` is NOT_SERVING, the server is SERVING, another is not known."""
    service = request[2:].decode()
    if service not in ("", "sick"):
        context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
    return b"\x08\x02" if service else b"\x08\x01"


class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        _, kind, name = details.method.split("/")
        if (kind, name) == ("grpc.health.v1.Health", "Check"):
            return grpc.unary_unary_rpc_method_handler(health)
        kinds = {
            "t.Unary": (unary, grpc.unary_unary_rpc_method_handler),
            "t.Down": (server_stream, grpc.unary_stream_rpc_method_handler),
            "t.Up": (client_stream, grpc.stream_unary_rpc_method_handler),
            "t.Both": (both_streams, grpc.stream_stream_rpc_method_handler),
        }
        find, handler = kinds.get(kind, (lambda name: None, None))
        behaviour = find(name)
        return handler(behaviour) if behaviour else None


def serve(certificate=None, key=None):
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(400), handlers=[Handler()], options=OPTIONS)
    if certificate:
        pair = (open(key, "rb").read(), open(certificate, "rb").read())
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


# --- the client

CASES = {"quick": [], "silent": []}


def case(what, group="quick"):
    def keep(function):
        CASES[group].append((what, function))
        return function

    return keep


class Calls:
    """Stubs of one channel, all with the user's id."""

    def __init__(self, target, user, ca=None):
        self.target, self.user, self.ca = target, user, ca
        self.channel = self.new_channel()

    def new_channel(self, **more):
        if self.ca:
            credentials = grpc.ssl_channel_credentials(open(self.ca, "rb").read())
            return grpc.secure_channel(self.target, credentials, options=CLIENT_OPTIONS, **more)
        return grpc.insecure_channel(self.target, options=CLIENT_OPTIONS, **more)

    def metadata(self, *more):
        return [("x-user-id", self.user), *more]

    def unary(self, name):
        return self.channel.unary_unary(f"/t.Unary/{name}")

    def down(self, name):
        return self.channel.unary_stream(f"/t.Down/{name}")

    def up(self, name):
        return self.channel.stream_unary(f"/t.Up/{name}")

    def both(self, name):
        return self.channel.stream_stream(f"/t.Both/{name}")

    def seen_over(self, call):
        """Does the server see within a second that the call has ended?"""
        until = time.monotonic() + 1
        while time.monotonic() < until:
            if self.unary("is_over")(call.encode(), metadata=self.metadata()) == b"yes":
                return True, "seen"
            time.sleep(0.02)
        return False, "not seen within a second"


def same(got, wanted):
    return got == wanted, "as wanted" if got == wanted else f"{got!r:.300} for {wanted!r:.300}"


def fails(call, code, details=None):
    try:
        got = call()
    except grpc.RpcError as error:
        if error.code() != code or (details is not None and error.details() != details):
            return False, f"{error.code()} {error.details()!r}"
        return True, str(code)
    return False, f"no error: {got!r}"


class Feed:
    """Messages of a client, put in one by one."""

    def __init__(self):
        self.messages = queue.Queue()

    def put(self, message):
        self.messages.put(message)

    def end(self):
        self.messages.put(None)

    def __iter__(self):
        return iter(self.messages.get, None)


@case("unary")
def _(c):
    return same(c.unary("echo")(b"hello", metadata=c.metadata()), b"hello")


@case("server stream")
def _(c):
    return same(list(c.down("count")(b"200", metadata=c.metadata())), [str(n).encode() for n in range(200)])


@case("client stream")
def _(c):
    return same(c.up("total")(iter([b"x" * 100] * 200), metadata=c.metadata()), b"20000")


@case("both stream, one by one")
def _(c):
    feed, got = Feed(), []
    answers = c.both("echo")(iter(feed), metadata=c.metadata())
    for n in range(100):
        feed.put(b"%d" % n)
        got.append(next(answers))
    feed.end()
    return same((got, list(answers)), ([b"%d" % n for n in range(100)], []))


@case("empty messages")
def _(c):
    return same((c.unary("echo")(b"", metadata=c.metadata()), c.up("total")(iter([b"", b""]), metadata=c.metadata())), (b"", b"0"))


@case("a stream of nothing each way")
def _(c):
    return same(
        (list(c.down("count")(b"0", metadata=c.metadata())), c.up("total")(iter([]), metadata=c.metadata()), list(c.both("echo")(iter([]), metadata=c.metadata()))),
        ([], b"0", []),
    )


@case("metadata in the head and in the trailers")
def _(c):
    more = [("x-in-a", "1"), ("x-in-a", "2"), ("x-in-b", "with blanks, and a comma")]
    _, call = c.unary("metadata").with_call(b"", metadata=c.metadata(*more))
    # Only the values of one name have an order (RFC 9110 §5.3).
    head = sorted(((k, v) for k, v in call.initial_metadata() if k.startswith("x-out")), key=lambda f: f[0])
    tail = sorted(((k, v) for k, v in call.trailing_metadata() if k.startswith("x-end")), key=lambda f: f[0])
    wanted = lambda name: [(k.replace("x-in", f"x-{name}"), v) for k, v in more]
    return same((head, tail), ([("x-out", "head")] + wanted("out"), [("x-end", "tail")] + wanted("end")))


@case("binary metadata")
def _(c):
    more = [("x-in-a-bin", bytes(range(256))), ("x-in-b-bin", b""), ("x-in-c-bin", b"\xff")]
    _, call = c.unary("metadata").with_call(b"", metadata=c.metadata(*more))
    tail = sorted((k, v) for k, v in call.trailing_metadata() if k.startswith("x-end-"))
    head = sorted((k, v) for k, v in call.initial_metadata() if k.startswith("x-out-"))
    return same(([v for _, v in head], [v for _, v in tail]), ([v for _, v in more],) * 2)


@case("trailers of 60 KB")
def _(c):
    _, call = c.unary("sized").with_call(b"0 61440", metadata=c.metadata())
    return same(len(dict(call.trailing_metadata())["x-large"]), 61440)


@case("a head of 60 KB")
def _(c):
    _, call = c.unary("sized").with_call(b"61440 0", metadata=c.metadata())
    return same(len(dict(call.initial_metadata())["x-large"]), 61440)


@case("metadata of 20 KB from the client")
def _(c):
    return same(c.unary("echo")(b"x", metadata=c.metadata(("x-large", "c" * 20480))), b"x")


@case("an error with details")
def _(c):
    try:
        c.unary("abort")(b"", metadata=c.metadata())
    except grpc.RpcError as error:
        trailers = dict(error.trailing_metadata())
        got = (error.code(), error.details(), trailers["x-reason-bin"], len(trailers["grpc-status-details-bin"]))
        return same(got, (grpc.StatusCode.FAILED_PRECONDITION, "kein Guthaben: \u20ac 0,00 \u2013 100%", b"\0\xff", 302))
    return False, "no error"


@case("an error after three messages")
def _(c):
    got = []
    code = fails(lambda: got.extend(c.down("fails")(b"", metadata=c.metadata())), grpc.StatusCode.DATA_LOSS, "after three")
    return code[0] and got == [b"0", b"1", b"2"], (code[1], got)


@case("an exception in the server")
def _(c):
    return fails(lambda: c.unary("throw")(b"", metadata=c.metadata()), grpc.StatusCode.UNKNOWN)


@case("a method that there is not")
def _(c):
    return fails(lambda: c.unary("nothing")(b"", metadata=c.metadata()), grpc.StatusCode.UNIMPLEMENTED)


@case("a server that refuses a client in mid-stream")
def _(c):
    feed = Feed()
    feed.put(b"x")
    return fails(lambda: c.up("refuses")(iter(feed), metadata=c.metadata()), grpc.StatusCode.RESOURCE_EXHAUSTED, "enough")


@case("a server that ends well before its client")
def _(c):
    feed = Feed()
    feed.put(b"x")
    both = Feed()
    both.put(b"y")
    return same((c.up("first")(iter(feed), metadata=c.metadata()), list(c.both("early")(iter(both), metadata=c.metadata()))), (b"x", [b"y"]))


@case("half-close: the server answers afterwards")
def _(c):
    return same(list(c.both("after")(iter([b"a", b"b"]), metadata=c.metadata())), [b"2", b"a", b"b"])


@case("the server knows the deadline")
def _(c):
    remaining = float(c.unary("remaining")(b"", timeout=50, metadata=c.metadata()))
    return 40 < remaining < 51, remaining


@case("a deadline of a unary call, seen by the server")
def _(c):
    code = fails(lambda: c.unary("hang")(b"", timeout=0.5, metadata=c.metadata(("x-call", "d1"))), grpc.StatusCode.DEADLINE_EXCEEDED)
    seen = c.seen_over("d1")
    return code[0] and seen[0], (code[1], seen[1])


@case("a deadline in a server stream, seen by the server")
def _(c):
    code = fails(lambda: list(c.down("hang")(b"", timeout=0.5, metadata=c.metadata(("x-call", "d2")))), grpc.StatusCode.DEADLINE_EXCEEDED)
    seen = c.seen_over("d2")
    return code[0] and seen[0], (code[1], seen[1])


def cancelled(c, call, name, begun):
    """`begun` waits until the server has the call."""
    begun()
    call.cancel()
    code = call.code()
    seen = c.seen_over(name)
    return code == grpc.StatusCode.CANCELLED and seen[0], (str(code), seen[1])


@case("a cancel of a unary call, seen by the server within a second")
def _(c):
    call = c.unary("hang").future(b"", metadata=c.metadata(("x-call", "c1")))
    return cancelled(c, call, "c1", lambda: time.sleep(0.3))


@case("a cancel of a server stream, seen by the server within a second")
def _(c):
    call = c.down("hang")(b"", metadata=c.metadata(("x-call", "c2")))
    return cancelled(c, call, "c2", lambda: next(call))


@case("a cancel of a client stream, seen by the server within a second")
def _(c):
    feed = Feed()
    feed.put(b"x")
    call = c.up("hang").future(iter(feed), metadata=c.metadata(("x-call", "c3")))
    return cancelled(c, call, "c3", lambda: time.sleep(0.3))


@case("a cancel where both stream, seen by the server within a second")
def _(c):
    feed = Feed()
    feed.put(b"x")
    call = c.both("hang")(iter(feed), metadata=c.metadata(("x-call", "c4")))
    return cancelled(c, call, "c4", lambda: next(call))


@case("20 MiB up, and 20 MiB down")
def _(c):
    up = c.unary("length")(bytes(20 * MIB), metadata=c.metadata())
    down = len(c.unary("download")(b"%d" % (20 * MIB), metadata=c.metadata()))
    return same((up, down), (b"%d" % (20 * MIB), 20 * MIB))


@case("20 MiB each way at once, in messages of 1 MiB, and compressed")
def _(c):
    sent = [bytes([n]) * MIB for n in range(20)]
    plain = list(c.both("echo")(iter(sent), metadata=c.metadata())) == sent
    squeezed = c.unary("compressed")(b"z" * MIB, metadata=c.metadata(), compression=grpc.Compression.Gzip)
    return same((plain, squeezed == b"z" * MIB), (True, True))


@case("200 streams at once")
def _(c):
    feeds = [Feed() for _ in range(200)]
    calls = [c.both("echo")(iter(feed), metadata=c.metadata()) for feed in feeds]
    for n, feed in enumerate(feeds):
        feed.put(b"%d" % n)
    # Every stream is open when the first ends.
    got = [next(call) for call in calls]
    for feed in feeds:
        feed.end()
    return same((got, [list(call) for call in calls]), ([b"%d" % n for n in range(200)], [[]] * 200))


@case("a unary call that is answered after 75 s", "silent")
def _(c):
    return same(c.unary("silent")(b"x", metadata=c.metadata()), b"x")


@case("75 s between two messages of a server", "silent")
def _(c):
    return same(list(c.down("silent")(b"", metadata=c.metadata())), [b"first", b"last"])


@case("75 s between two messages of a client", "silent")
def _(c):
    def messages():
        yield b"x"
        time.sleep(SILENCE)
        yield b"y"

    return same(c.up("total")(messages(), metadata=c.metadata()), b"2")


@case("75 s in which neither side sends", "silent")
def _(c):
    feed = Feed()
    answers = c.both("echo")(iter(feed), metadata=c.metadata())
    feed.put(b"x")
    first = next(answers)
    time.sleep(SILENCE)
    feed.put(b"y")
    second = next(answers)
    feed.end()
    return same((first, second, list(answers)), (b"x", b"y", []))


def attempt(what, function, calls, limit):
    began, result = time.monotonic(), queue.Queue()

    def run():
        try:
            result.put(function(calls))
        except Exception as error:
            result.put((False, "".join(traceback.format_exception_only(type(error), error))))

    threading.Thread(target=run, daemon=True).start()
    try:
        ok, did = result.get(timeout=limit)
    except queue.Empty:
        ok, did = False, "hangs"
    print(json.dumps({"case": what, "ok": bool(ok), "did": str(did), "took": round(time.monotonic() - began, 2)}), flush=True)


def make_calls(group, target, user, ca=None):
    calls, cases = Calls(target, user, ca), CASES[group]
    limit = 60 if group == "quick" else SILENCE + 60
    # Those that only wait do it all at once.
    with concurrent.futures.ThreadPoolExecutor(1 if group == "quick" else len(cases)) as pool:
        list(pool.map(lambda case: attempt(*case, calls, limit), cases))
    # Not after the threads of calls that hang.
    os._exit(0)


{"server": serve, "calls": make_calls}[sys.argv[1]](*sys.argv[2:])
