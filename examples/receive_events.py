"""Receives the events of docs/events.md, and checks who sent them.

python receive_events.py KEY_FILE PORT prints one line for each event, once, although it may come
more than once.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

KEY = base64.b64decode(Path(sys.argv[1]).read_text(encoding="ascii").strip()[len("whsec_") :])
seen: set[tuple[str, str]] = set()  # a real receiver keeps these in its database


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(min(int(self.headers["Content-Length"]), 65_536))
        stamp = self.headers["webhook-timestamp"]
        signed = f"{self.headers['webhook-id']}.{stamp}.".encode() + body
        right = "v1," + base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
        given = self.headers["webhook-signature"].split(" ")
        is_genuine = any(hmac.compare_digest(one.encode(), right.encode()) for one in given)
        is_recent = abs(time.time() - int(stamp)) < 300  # a recorded request isn't taken later
        self.send_response(204 if is_genuine and is_recent else 401)
        self.end_headers()
        if is_genuine and is_recent:
            event = json.loads(body)
            if (event["source"], event["id"]) not in seen:
                seen.add((event["source"], event["id"]))
                print(event["type"], event["subject"], json.dumps(event["data"]), flush=True)


if __name__ == "__main__":
    HTTPServer(("127.0.0.1", int(sys.argv[2])), Receiver).serve_forever()
