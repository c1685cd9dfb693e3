"""A WebSocket server and clients of other people's make (python3-websockets), for the tests.

server NAME...              one server each, on ports of their own: prints `NAME PORT` a line; answers each message with `NAME: ` before it
talk URL USER [CA]          one client that does what a client does; prints `ok ARM` or a traceback
crowd URL COUNT             so many clients at once; prints `open`, waits for a line on stdin, talks again, closes all, prints `closed`
wait URL USER               one client that waits for its connection to end; prints `open`, then the code that it was closed with
"""
import asyncio
import logging
import ssl
import sys

import websockets

# Connections that end without a word are part of it.
logging.getLogger("websockets").setLevel(logging.CRITICAL)


async def server(names):
    def answers(name):
        async def handler(socket):
            try:
                async for message in socket:
                    if isinstance(message, str):
                        await socket.send(f"{name}: {message}")
                    else:
                        await socket.send(message)
            except websockets.ConnectionClosed:
                pass
        return handler

    for name in names:
        serving = await websockets.serve(
            answers(name), "127.0.0.1", 0, subprotocols=["billing.v2"], max_size=None, ping_interval=None, backlog=4096
        )
        print(name, serving.sockets[0].getsockname()[1], flush=True)
    await asyncio.Future()


def connect(url, user, **options):
    return websockets.connect(
        url, extra_headers={"x-user-id": user}, max_size=None, ping_interval=None, open_timeout=30, **options
    )


async def talk(url, user, ca=None):
    options = {}
    if ca:
        options["ssl"] = ssl.create_default_context(cafile=ca)
        options["ssl"].set_alpn_protocols(["http/1.1"])
    async with connect(url, user, subprotocols=["billing.v1", "billing.v2"], **options) as socket:
        assert socket.subprotocol == "billing.v2", socket.subprotocol
        assert any("deflate" in type(e).__name__.lower() for e in socket.extensions), socket.extensions
        await socket.send("hello")
        arm, said = (await socket.recv()).split(": ")
        assert said == "hello", said
        for size in [0, 1, 125, 126, 65535, 65536, 4 << 20]:
            sent = bytes(i * 31 & 255 for i in range(min(size, 5000))) * (size // 5000 if size > 5000 else 1)
            await socket.send(sent)
            assert await socket.recv() == sent, size
        await asyncio.wait_for(await socket.ping(), 10)
        # A message in pieces.
        await socket.send(["a", "b", "c"])
        assert await socket.recv() == f"{arm}: abc"
        await socket.close(4001, "done")
        assert (socket.close_code, socket.close_reason) == (4001, "done")
        print("ok", arm)


async def crowd(url, count):
    sockets = await asyncio.gather(*(connect(url, f"crowd-{i}") for i in range(count)))

    async def say(socket, text):
        await socket.send(text)
        assert (await socket.recv()).endswith(": " + text)

    await asyncio.gather(*(say(s, f"hello {i}") for i, s in enumerate(sockets)))
    print("open", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    await asyncio.gather(*(say(s, f"bye {i}") for i, s in enumerate(sockets)))
    # Half of them say goodbye, half are gone without a word.
    for socket in sockets[::2]:
        socket.transport.abort()
    await asyncio.gather(*(s.close() for s in sockets[1::2]))
    print("closed", flush=True)


async def wait(url, user):
    async with connect(url, user) as socket:
        print("open", flush=True)
        await socket.wait_closed()
        print(socket.close_code, flush=True)


command, arguments = sys.argv[1], sys.argv[2:]
if command == "server":
    asyncio.run(server(arguments))
elif command == "talk":
    asyncio.run(talk(*arguments))
elif command == "crowd":
    asyncio.run(crowd(arguments[0], int(arguments[1])))
elif command == "wait":
    asyncio.run(wait(*arguments))
