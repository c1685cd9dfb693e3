"""A receiver of alerts: takes POSTs, verifies Standard Webhooks signatures where it is given a secret, prints one JSON object a call.

    alert_receiver.py PORT [SECRET [CERTIFICATE KEY]]    port 0: any; the first line printed is the port; with a certificate: https

The signature is checked as the specification says (https://www.standardwebhooks.com), written down here a second time: what grayling sends is not
checked by grayling's own code. A path that begins with /refuse is answered 503, one with /hang never.
"""

import base64
import hashlib
import hmac
import json
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

port = int(sys.argv[1])
printing = threading.Lock()
secret = sys.argv[2] if len(sys.argv) > 2 else None


def verify(headers, body):
    """None: it verifies; else why not."""
    for name in ("webhook-id", "webhook-timestamp", "webhook-signature"):
        if name not in headers:
            return "no " + name
    at = headers["webhook-timestamp"]
    if not at.isdigit() or abs(time.time() - int(at)) > 300:
        return "its time is not now"
    if not secret.startswith("whsec_"):
        return "not a secret"
    key = base64.b64decode(secret[len("whsec_"):])
    content = headers["webhook-id"].encode() + b"." + at.encode() + b"." + body
    wanted = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    for given in headers["webhook-signature"].split(" "):
        version, _, signature = given.partition(",")
        if version == "v1" and hmac.compare_digest(signature, wanted):
            return None
    return "no signature fits"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path.startswith("/hang"):
            time.sleep(60)
        status = 503 if self.path.startswith("/refuse") else 204
        fault = verify(self.headers, body) if secret else None
        told = {"path": self.path, "status": status, "fault": fault, "id": self.headers.get("webhook-id"), "body": json.loads(body)}
        with printing:
            print(json.dumps(told), flush=True)
        self.send_response(status)
        self.end_headers()

    def log_message(self, *args):
        pass


server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
if len(sys.argv) > 4:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[3], sys.argv[4])
    server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
