"""An HTTP server of the standard library whose answers take long: event streams, downloads, uploads.

Prints its port, and then a line for each answer that has ended: `PATH whole`, or `PATH gone` when its client has left.
"""
import http.server
import select
import socket
import time

PIECES = 25
PAUSE_S = 0.2


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def has_left(self):
        if not select.select([self.connection], [], [], 0)[0]:
            return False
        try:
            return self.connection.recv(1, socket.MSG_PEEK) == b""
        except OSError:
            return True

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def head(self, *fields):
        self.send_response(200)
        for name, value in fields:
            self.send_header(name, value)
        self.end_headers()

    def answers(self):
        path = self.path
        if path.startswith(("/events", "/quiet")):
            self.received()
            self.head(("content-type", "text/event-stream"), ("transfer-encoding", "chunked"))
            self.chunk(b"data: first\n\n")
            while not self.has_left():
                time.sleep(PAUSE_S)
                if path.startswith("/events"):
                    self.chunk(b"data: more\n\n")
            return False
        if path.startswith("/flood"):
            self.head(("transfer-encoding", "chunked"))
            while True:
                self.chunk(b"x" * 65536)
        if path.startswith("/brief"):
            self.head(("transfer-encoding", "chunked"))
            for _ in range(PIECES // 3):
                self.chunk(b"x" * 1000)
                time.sleep(PAUSE_S)
            self.chunk(b"")
            return True
        if path.startswith("/download"):
            self.head(("content-length", str(PIECES * 1000)))
            for _ in range(PIECES):
                self.wfile.write(b"x" * 1000)
                time.sleep(PAUSE_S)
            return True
        if path.startswith("/late"):
            time.sleep(PIECES * PAUSE_S)
        body = str(self.received()).encode()
        self.head(("content-length", str(len(body))))
        self.wfile.write(body)
        return True

    def received(self):
        if "chunked" not in self.headers.get("transfer-encoding", ""):
            return len(self.rfile.read(int(self.headers.get("content-length", 0))))
        total = 0
        while size := int(self.rfile.readline(), 16):
            total += len(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return total

    def do_GET(self):
        try:
            whole = self.answers()
        except OSError:
            whole = False
        self.close_connection = not whole
        print(self.path, "whole" if whole else "gone", flush=True)

    do_POST = do_GET


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


server = Server(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
