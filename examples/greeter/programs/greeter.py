"""The service `greeter`: asks its upstream `greeting`, and passes on what that says.

The upstream is a port of 127.0.0.1, where the task's own proxy listens. It is asked for each
request, and every ten seconds besides, so that the log shows how the mesh does.
"""

import os
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = int(os.environ["PORT"])
UPSTREAM = os.environ["UPSTREAM"]
SECONDS = 10


def ask() -> tuple[int, str]:
    """Return a status, and what the upstream says, or why it says nothing."""
    try:
        with urllib.request.urlopen(UPSTREAM, timeout=SECONDS) as answer:  # noqa: S310
            return 200, f"The greeting is: {answer.read().decode().strip()}"
    except OSError as error:
        return 502, f"There is no greeting: {error}"


class Greeter(BaseHTTPRequestHandler):
    """Answers GET."""

    def do_GET(self) -> None:
        """Pass on the greeting."""
        status, text = ask()
        body = f"{text}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def keep_asking() -> None:
    """Log what the upstream says, again and again."""
    while True:
        print(ask()[1], flush=True)  # noqa: T201 - the container's log
        threading.Event().wait(SECONDS)


threading.Thread(target=keep_asking, daemon=True).start()
ThreadingHTTPServer(("127.0.0.1", PORT), Greeter).serve_forever()
