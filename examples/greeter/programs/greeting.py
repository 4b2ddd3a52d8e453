"""The service `greeting`: answers each request with a greeting.

It listens on 127.0.0.1, so that whoever wants to reach it has to come through the proxy.
"""

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = int(os.environ["PORT"])


class Greeting(BaseHTTPRequestHandler):
    """Answers GET."""

    def do_GET(self) -> None:
        """Greet."""
        text = b"Hello from the mesh\n"
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


ThreadingHTTPServer(("127.0.0.1", PORT), Greeting).serve_forever()
