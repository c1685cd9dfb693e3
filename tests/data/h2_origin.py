"""An HTTP/2 origin with prior knowledge, on python3-h2, that misbehaves as the path says. h2_origin.py STREAMS_MAX prints where it listens.

Its windows are small: a thousand bytes a stream, given back as they are read. What it announces holds from the first byte: of the number of
streams that is nginx's way too; of the windows it is not the standard's, so let the first request have no body.
"""

import socket
import sys
import threading
import time

import h2.config
import h2.connection
import h2.events
import h2.settings
import h2.errors

STREAMS_MAX = int(sys.argv[1])


def serve(sock):
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, validate_inbound_headers=True))
    connection.local_settings = h2.settings.Settings(
        client=False,
        initial_values={
            h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: STREAMS_MAX,
            h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1000,
        },
    )
    connection.initiate_connection()
    sock.sendall(connection.data_to_send())
    streams = {}
    while True:
        data = sock.recv(65536)
        if not data:
            return
        for event in connection.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                path = dict(event.headers)[b":path"].decode()
                streams[event.stream_id] = [path, 0, 0]
            elif isinstance(event, h2.events.DataReceived):
                streams[event.stream_id][1] += len(event.data)
                streams[event.stream_id][2] += sum(event.data)
                if event.flow_controlled_length:
                    connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                if answer(sock, connection, event.stream_id, *streams.pop(event.stream_id)) == "end":
                    return
        sock.sendall(connection.data_to_send())


def answer(sock, connection, stream, path, length, total):
    def head():
        connection.send_headers(stream, [(":status", "200")])

    def whole(text):
        head()
        connection.send_data(stream, text.encode(), end_stream=True)

    if path == "/count":
        whole(f"{length} {total}")
    elif path == "/trailers":
        head()
        connection.send_data(stream, b"with trailers")
        connection.send_headers(stream, [("x-sum", "1")], end_stream=True)
    elif path == "/refuse":
        connection.reset_stream(stream, h2.errors.ErrorCodes.REFUSED_STREAM)
    elif path == "/reset":
        connection.reset_stream(stream, h2.errors.ErrorCodes.INTERNAL_ERROR)
    elif path == "/reset-after-head":
        head()
        connection.send_data(stream, b"half of")
        connection.reset_stream(stream, h2.errors.ErrorCodes.INTERNAL_ERROR)
    elif path == "/hang":
        pass
    elif path == "/hang-after-head":
        head()
    elif path == "/goaway":
        # The frame alone: h2 itself would say no more after it, and what is open must still be answered.
        sock.sendall(connection.data_to_send() + b"\0\0\x08\x07\0\0\0\0\0" + stream.to_bytes(4, "big") + b"\0\0\0\0")
        time.sleep(0.02)
        whole("the last")
        sock.sendall(connection.data_to_send())
        return "end"
    elif path == "/cut":
        return "end"
    elif path == "/slow":
        time.sleep(0.02)
        whole("slow")
    else:
        whole("ok")


def guarded(sock):
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        serve(sock)
    except OSError:
        pass
    finally:
        sock.close()


listener = socket.create_server(("127.0.0.1", 0), backlog=256)
print("127.0.0.1:%d" % listener.getsockname()[1], flush=True)
while True:
    threading.Thread(target=guarded, args=(listener.accept()[0],), daemon=True).start()
