"""An HTTP/2 client that breaks the rules of RFC 9113 one by one, and keeps them one by one: python3-h2's frames and HPACK over a plain socket.

h2_client.py HOST:PORT     prints one JSON object a case: section, case, what was wanted, what the server did, whether that will do.

Wanted: `connection` = GOAWAY or the end of the connection; `stream` = RST_STREAM, a status of 4xx, or `connection`; anything else is the word
that must be among what was seen. After each case another client must be answered.
"""

import json
import socket
import struct
import sys
import time

from hpack import Decoder

HOST, PORT = sys.argv[1].rsplit(":", 1)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, PRIO = 1, 1, 4, 8, 32
CODES = "NO_ERROR PROTOCOL_ERROR INTERNAL_ERROR FLOW_CONTROL_ERROR SETTINGS_TIMEOUT STREAM_CLOSED FRAME_SIZE_ERROR REFUSED_STREAM CANCEL COMPRESSION_ERROR CONNECT_ERROR ENHANCE_YOUR_CALM".split()
GET = [(":method", "GET"), (":scheme", "http"), (":authority", "a.test"), (":path", "/"), ("x-user-id", "u1")]
POST = [(":method", "POST")] + GET[1:]


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def block(fields):
    # Literals without indexing: names in capitals and the like go out as they are.
    out = b""
    for name, value in fields:
        name, value = name.encode("latin-1"), value.encode("latin-1")
        assert len(name) < 127 and len(value) < 127
        out += b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value
    return out


def headers(fields, stream=1, flags=END_HEADERS | END_STREAM):
    return frame(HEADERS, flags, stream, block(fields))


def setting(key, value):
    return frame(SETTINGS, 0, 0, struct.pack(">HI", key, value))


class Peer:
    def __init__(self, settings=b"", preface=PREFACE):
        self.socket = socket.create_connection((HOST, int(PORT)), timeout=5)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer, self.seen, self.decoder, self.bodies = b"", [], Decoder(), {}
        self.ended = False
        self.send(preface + (settings or frame(SETTINGS, 0, 0)))

    def send(self, data):
        try:
            self.socket.sendall(data)
        except OSError:
            pass

    def read(self, until=None, within=2.0):
        """Reads until `until` is seen, the end, or the time is over; what was seen so far."""
        deadline = time.monotonic() + within
        while not self.ended and time.monotonic() < deadline:
            if until and until(self.seen):
                break
            self.socket.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                piece = self.socket.recv(65536)
            except (TimeoutError, socket.timeout):
                break
            except OSError:
                piece = b""
            if not piece:
                self.ended = True
                self.note("closed")
                break
            self.buffer += piece
            while len(self.buffer) >= 9:
                length = int.from_bytes(self.buffer[:3], "big")
                if len(self.buffer) < 9 + length:
                    break
                kind, flags = self.buffer[3], self.buffer[4]
                stream = int.from_bytes(self.buffer[5:9], "big") & 0x7FFFFFFF
                self.take(kind, flags, stream, self.buffer[9 : 9 + length])
                self.buffer = self.buffer[9 + length :]
        return self.seen

    def note(self, what):
        if what not in self.seen:
            self.seen.append(what)

    def take(self, kind, flags, stream, payload):
        code = lambda at: CODES[int.from_bytes(payload[at : at + 4], "big")]
        if kind == HEADERS:
            status = dict(self.decoder.decode(payload)).get(":status", "trailers")
            self.note(f"{status}@{stream}")
        elif kind == DATA:
            self.bodies[stream] = self.bodies.get(stream, b"") + payload
        elif kind == RST:
            self.note(f"RST_STREAM {code(0)}@{stream}")
        elif kind == GOAWAY:
            self.note(f"GOAWAY {code(4)}")
        elif kind == PING:
            self.note("PONG" if flags & ACK else "PING")
        elif kind == SETTINGS:
            self.note("SETTINGS ACK" if flags & ACK else "SETTINGS")
        if kind in (DATA, HEADERS) and flags & END_STREAM:
            self.note(f"end@{stream}")


CASES = []


def case(section, wanted, settings=b"", preface=PREFACE, within=3.0):
    def add(act):
        CASES.append((section, wanted, settings, preface, within, act))
        return act
    return add


def sends(section, name, wanted, *frames, settings=b""):
    """A case that only sends."""
    def act(peer):
        peer.send(b"".join(frames))
    act.__doc__ = name
    CASES.append((section, wanted, settings, PREFACE, 3.0, act))


OPEN = headers(POST, flags=END_HEADERS)
# 3.4
sends("3.4", "a plain request", "200@1", headers(GET))
case("3.4", "closed", preface=b"INVALID CONNECTION PREFACE\r\n\r\n")(lambda p: p.send(b""))
CASES[-1][5].__doc__ = "an invalid preface"
# 4.1, 4.2
sends("4.1", "an unknown frame type is ignored", "PONG", frame(0x42, 0xFF, 0, b"x" * 8), frame(PING, 0, 0, b"12345678"))
sends("4.1", "undefined flags are ignored", "PONG", frame(PING, 0x16, 0, b"12345678"))
sends("4.2", "DATA over SETTINGS_MAX_FRAME_SIZE", "stream", OPEN, frame(DATA, END_STREAM, 1, b"x" * 16385))
sends("4.2", "HEADERS over SETTINGS_MAX_FRAME_SIZE", "connection", frame(HEADERS, 5, 1, block(GET) + b"\x00" * 16385))
# 4.3
sends("4.3", "a broken header block", "connection", frame(HEADERS, 5, 1, b"\x40"))
sends("4.3", "an index that is not in the table", "connection", frame(HEADERS, 5, 1, b"\xff\x80\x01"))
sends("4.3", "a table size over the setting", "connection", frame(HEADERS, 5, 1, b"\x3f\xe1\xff\x7f" + block(GET)))
sends("4.3", "PRIORITY inside a header block", "connection", frame(HEADERS, 0, 1, block(GET)), frame(PRIORITY, 0, 1, b"\0\0\0\0\1"))
sends("4.3", "HEADERS of another stream inside a header block", "connection", frame(HEADERS, 0, 1, block(GET)), headers(GET, 3))
# 5.1
sends("5.1", "idle: DATA", "connection", frame(DATA, END_STREAM, 1, b"x"))
sends("5.1", "idle: RST_STREAM", "connection", frame(RST, 0, 1, b"\0\0\0\x08"))
sends("5.1", "idle: WINDOW_UPDATE", "connection", frame(WINDOW, 0, 1, b"\0\0\0\x64"))
sends("5.1", "idle: CONTINUATION", "connection", frame(CONTINUATION, END_HEADERS, 1, block(GET)))
sends("5.1", "half closed (remote): DATA", "stream", headers(GET), frame(DATA, END_STREAM, 1, b"x"))
sends("5.1", "half closed (remote): HEADERS", "stream", headers(GET), headers(GET))
sends("5.1", "half closed (remote): CONTINUATION", "connection", headers(GET), frame(CONTINUATION, END_HEADERS, 1, block(GET)))


@case("5.1", "stream")
def closed_by_both(peer):
    """closed: DATA after the answer"""
    peer.send(headers(GET))
    peer.read(lambda seen: "end@1" in seen)
    peer.seen.clear()
    peer.send(frame(DATA, END_STREAM, 1, b"x"))


@case("5.1", "stream")
def closed_by_reset(peer):
    """closed by RST_STREAM: HEADERS"""
    peer.send(OPEN + frame(RST, 0, 1, b"\0\0\0\x08"))
    peer.send(headers(GET))


sends("5.1.1", "an even stream id", "connection", headers(GET, 2))
sends("5.1.1", "a stream id below an earlier one", "connection", headers(GET, 5), headers(GET, 3))


@case("5.1.2", "REFUSED_STREAM|ENHANCE_YOUR_CALM|PROTOCOL_ERROR", within=5.0)
def too_many_streams(peer):
    """more streams than SETTINGS_MAX_CONCURRENT_STREAMS"""
    peer.read(lambda seen: "SETTINGS" in seen)
    peer.send(b"".join(headers(POST, n, END_HEADERS) for n in range(1, 2 * 300, 2)))


sends("5.3.1", "PRIORITY on itself", "stream|PONG", frame(PRIORITY, 0, 1, b"\0\0\0\1\1"), frame(PING, 0, 0, b"12345678"))
# 6
sends("6.1", "DATA on stream 0", "connection", frame(DATA, END_STREAM, 0, b"x"))
sends("6.1", "DATA padded beyond its end", "connection", OPEN, frame(DATA, END_STREAM | PADDED, 1, b"\x06test"))
sends("6.1", "DATA with padding", "200@1", OPEN, frame(DATA, END_STREAM | PADDED, 1, b"\x03abc\0\0\0"))
sends("6.2", "HEADERS on stream 0", "connection", headers(GET, 0))
sends("6.2", "HEADERS padded beyond its end", "connection", frame(HEADERS, 5 | PADDED, 1, b"\xff" + block(GET)))
sends("6.2", "HEADERS with priority and padding", "200@1", frame(HEADERS, 5 | PADDED | PRIO, 1, b"\x02\0\0\0\0\x10" + block(GET) + b"\0\0"))
sends("6.3", "PRIORITY on stream 0", "connection", frame(PRIORITY, 0, 0, b"\0\0\0\1\1"))
sends("6.3", "PRIORITY of four bytes", "stream", headers(GET), frame(PRIORITY, 0, 1, b"\0\0\0\1"))
sends("6.4", "RST_STREAM on stream 0", "connection", frame(RST, 0, 0, b"\0\0\0\x08"))
sends("6.4", "RST_STREAM of three bytes", "connection", OPEN, frame(RST, 0, 1, b"\0\0\0"))
sends("6.5", "SETTINGS ACK with a payload", "connection", frame(SETTINGS, ACK, 0, b"\0"))
sends("6.5", "SETTINGS on a stream", "connection", frame(SETTINGS, 0, 1, b"\0\3\0\0\0\1"))
sends("6.5", "SETTINGS of five bytes", "connection", frame(SETTINGS, 0, 0, b"\0\3\0\0\0"))
sends("6.5.2", "SETTINGS_ENABLE_PUSH of 2", "connection", setting(2, 2))
sends("6.5.2", "SETTINGS_INITIAL_WINDOW_SIZE over 2^31-1", "connection", setting(4, 0x80000000))
sends("6.5.2", "SETTINGS_MAX_FRAME_SIZE below 2^14", "connection", setting(5, 16383))
sends("6.5.2", "SETTINGS_MAX_FRAME_SIZE over 2^24-1", "connection", setting(5, 16777216))
sends("6.5.2", "an unknown setting is ignored", "PONG", setting(0xFF, 1), frame(PING, 0, 0, b"12345678"))
sends("6.5.3", "SETTINGS are acknowledged", "SETTINGS ACK", setting(3, 100))
sends("6.6", "PUSH_PROMISE from a client", "connection", headers(POST, flags=END_HEADERS), frame(PUSH, END_HEADERS, 1, b"\0\0\0\2" + block(GET)))
sends("6.7", "PING is answered", "PONG", frame(PING, 0, 0, b"12345678"))
sends("6.7", "PING ACK is not answered", "200@1", frame(PING, ACK, 0, b"12345678"), headers(GET))
sends("6.7", "PING on a stream", "connection", frame(PING, 0, 1, b"12345678"))
sends("6.7", "PING of six bytes", "connection", frame(PING, 0, 0, b"123456"))
sends("6.8", "GOAWAY on a stream", "connection", frame(GOAWAY, 0, 1, b"\0" * 8))
sends("6.9", "WINDOW_UPDATE of 0 on the connection", "connection", frame(WINDOW, 0, 0, b"\0\0\0\0"))
sends("6.9", "WINDOW_UPDATE of 0 on a stream", "stream", OPEN, frame(WINDOW, 0, 1, b"\0\0\0\0"))
sends("6.9", "WINDOW_UPDATE of three bytes", "connection", frame(WINDOW, 0, 0, b"\0\0\1"))
sends("6.9.1", "a connection window over 2^31-1", "connection", frame(WINDOW, 0, 0, b"\x7f\xff\xff\xff") * 2)
sends("6.9.1", "a stream window over 2^31-1", "stream", OPEN, frame(WINDOW, 0, 1, b"\x7f\xff\xff\xff") * 2)


@case("6.9.2", "end@1", settings=setting(4, 0))
def window_opened_later(peer):
    """a window of 0, opened by SETTINGS once the head is there"""
    peer.send(headers(GET))
    peer.read(lambda seen: "200@1" in seen)
    assert not peer.bodies.get(1), "DATA though the window was shut"
    peer.send(setting(4, 1))
    peer.read(lambda seen: False, within=0.3)
    assert len(peer.bodies.get(1, b"")) == 1, peer.bodies
    peer.send(frame(WINDOW, 0, 1, b"\0\0\xff\xff"))


sends("6.10", "CONTINUATION in many pieces", "200@1", frame(HEADERS, END_STREAM, 1, block(GET[:2])), frame(CONTINUATION, 0, 1, block(GET[2:3])),
      frame(CONTINUATION, 0, 1), frame(CONTINUATION, END_HEADERS, 1, block(GET[3:])))
sends("6.10", "CONTINUATION after END_HEADERS", "connection", headers(POST, flags=END_HEADERS), frame(CONTINUATION, END_HEADERS, 1, block(GET)))
sends("6.10", "CONTINUATION on stream 0", "connection", frame(HEADERS, END_STREAM, 1, block(GET)), frame(CONTINUATION, END_HEADERS, 0))
sends("6.10", "DATA instead of CONTINUATION", "connection", frame(HEADERS, END_STREAM, 1, block(GET)), frame(DATA, END_STREAM, 1, b"x"))
# 8.1
sends("8.1", "a second HEADERS without END_STREAM", "stream", OPEN, headers([("x-a", "b")], flags=END_HEADERS))
sends("8.1", "trailers", "200@1", OPEN, frame(DATA, 0, 1, b"abc"), headers([("x-sum", "1")]))
# The library drops it, and with it the whole of the trailers' meaning; nothing of it goes on.
sends("8.1", "a pseudo-header in trailers", "stream|200@1", OPEN, frame(DATA, 0, 1, b"abc"), headers([(":method", "GET")]))
MALFORMED = [
    ("8.2.1", "a name in capitals", GET + [("X-TEST", "ok")]),
    ("8.2.1", "a colon inside a name", GET + [("x:test", "ok")]),
    ("8.2.1", "a space in a name", GET + [("x test", "ok")]),
    ("8.2.1", "CR LF in a value", GET + [("x-test", "a\r\nb: c")]),
    ("8.2.1", "NUL in a value", GET + [("x-test", "a\0b")]),
    ("8.2.1", "white space before a value", GET + [("x-test", " a")]),
    ("8.2.2", "connection", GET + [("connection", "keep-alive")]),
    ("8.2.2", "keep-alive", GET + [("keep-alive", "1")]),
    ("8.2.2", "proxy-connection", GET + [("proxy-connection", "1")]),
    ("8.2.2", "transfer-encoding", GET + [("transfer-encoding", "chunked")]),
    ("8.2.2", "upgrade", GET + [("upgrade", "websocket")]),
    ("8.2.2", "te other than trailers", GET + [("te", "trailers, deflate")]),
    ("8.3", "an unknown pseudo-header", GET[:4] + [(":test", "ok")]),
    ("8.3", "a response's pseudo-header", GET[:4] + [(":status", "200")]),
    ("8.3", "a pseudo-header after a field", [("x-a", "b")] + GET[:4]),
    ("8.3.1", "an empty :path", GET[:3] + [(":path", "")]),
    ("8.3.1", "a :path without its slash", GET[:3] + [(":path", "x")]),
    ("8.3.1", "no :method", GET[1:]),
    ("8.3.1", "no :scheme", GET[:1] + GET[2:]),
    ("8.3.1", "no :path", GET[:3]),
    ("8.3.1", ":method twice", GET[:1] + GET),
    ("8.3.1", ":scheme twice", GET[1:2] + GET),
    ("8.3.1", ":path twice", GET[3:4] + GET),
    ("8.3.1", ":authority twice", GET[2:3] + GET),
    ("8.5", "CONNECT with a :path", [(":method", "CONNECT"), (":authority", "a.test:1"), (":scheme", "http"), (":path", "/")]),
]
for section, name, fields in MALFORMED:
    sends(section, name, "stream", headers(fields))
sends("8.1.1", "content-length that is not the body's", "stream", headers(POST + [("content-length", "1")], flags=END_HEADERS), frame(DATA, END_STREAM, 1, b"test"))
sends("8.1.1", "content-length over two DATA frames", "stream", headers(POST + [("content-length", "1")], flags=END_HEADERS),
      frame(DATA, 0, 1, b"te"), frame(DATA, END_STREAM, 1, b"st"))
sends("8.1.1", "content-length without a body", "stream", headers(POST + [("content-length", "4")]))
sends("8.4", "a client's own stream promised", "connection", frame(PUSH, END_HEADERS, 1, b"\0\0\0\3" + block(GET)))


@case("flood", "connection|200@1", within=8.0)
def settings_flood(peer):
    """20,000 SETTINGS"""
    for _ in range(200):
        peer.send(setting(3, 100) * 100)
    peer.send(headers(GET))


@case("flood", "connection|200@1", within=8.0)
def ping_flood(peer):
    """20,000 PINGs, their answers unread"""
    for _ in range(200):
        peer.send(frame(PING, 0, 0, b"12345678") * 100)
    peer.send(headers(GET))


@case("flood", "connection|200@1", within=8.0)
def priority_flood(peer):
    """20,000 PRIORITY frames"""
    for n in range(200):
        peer.send(b"".join(frame(PRIORITY, 0, 1 + 2 * (100 * n + i), b"\0\0\0\0\1") for i in range(100)))
    peer.send(headers(GET, 100001))


@case("flood", "connection|200@1", within=8.0)
def window_flood(peer):
    """20,000 WINDOW_UPDATEs of one byte"""
    for _ in range(200):
        peer.send(frame(WINDOW, 0, 0, b"\0\0\0\1") * 100)
    peer.send(headers(GET))


@case("life", "200@3")
def goaway_from_client(peer):
    """GOAWAY from the client: what it has open is answered"""
    peer.send(headers(GET) + headers(GET, 3) + frame(GOAWAY, 0, 0, b"\0\0\0\0\0\0\0\0"))


@case("life", "200@101", within=5.0)
def resets_in_between(peer):
    """fifty streams, every fifth reset by the client"""
    for n in range(1, 103, 2):
        peer.send(headers(GET, n))
        if n % 10 == 3:
            peer.send(frame(RST, 0, n, b"\0\0\0\x08"))
        if n % 20 == 1:
            peer.read(lambda seen: f"end@{n}" in seen, within=2)


@case("life", "200@1")
def half_closed_writes(peer):
    """the client's side of the socket is shut after a whole request: its answer, or the end"""
    peer.send(headers(GET))
    peer.read(lambda seen: "200@1" in seen, within=3)
    peer.socket.shutdown(socket.SHUT_WR)


def others_are_told():
    """The status line that another client gets."""
    with socket.create_connection((HOST, int(PORT)), timeout=5) as other:
        other.sendall(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        said = b""
        while piece := other.recv(4096):
            said += piece
    return said.partition(b"\r\n")[0].decode("latin-1")


def fits(wanted, seen):
    ended = any(s == "closed" or s.startswith("GOAWAY") and "NO_ERROR" not in s for s in seen)
    for one in wanted.split("|"):
        if one == "connection" and ended:
            return True
        if one == "stream" and (ended or any(s.startswith("RST_STREAM") or s[0] == "4" for s in seen)):
            return True
        if any(one in s for s in seen):
            return True
    return False


for section, wanted, settings, preface, within, act in CASES:
    peer, error = Peer(settings, preface), None
    try:
        act(peer)
        peer.read(lambda seen: fits(wanted, seen), within)
    except AssertionError as wrong:
        error = str(wrong)
    others = others_are_told()
    ok = error is None and fits(wanted, peer.seen) and others.startswith("HTTP/1.1 200 ")
    did = [s for s in peer.seen if not s.startswith("SETTINGS") or wanted == "SETTINGS ACK"]
    print(json.dumps({"section": section, "case": act.__doc__, "wanted": wanted, "did": sorted(set(did))[:6], "error": error, "others": others, "ok": ok}), flush=True)
    peer.socket.close()
