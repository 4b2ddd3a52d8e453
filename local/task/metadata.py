"""The task metadata endpoint, version 4, of one task.

Only what exists in Docker is listed, so a container that waits for others is missing, as it is on
AWS. https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-metadata-endpoint-v4.html
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

_POLL_SECONDS = 0.02


class MetadataServer:
    """Serves what two functions return at the time of each request, once it has been started.

    It listens from the beginning, and has to be stopped whether it has been started or not.

    Parameters
    ----------
    address
        Where to listen; the port is any that is free.
    task
        Describes the task.
    container
        Describes a container, by its ID; none if there is no such.
    """

    def __init__(
        self,
        address: str,
        *,
        task: Callable[[], Mapping[str, Any]],
        container: Callable[[str], Mapping[str, Any] | None],
    ) -> None:
        class Handler(_Handler):
            @staticmethod
            def answer(container_id: str, path: str) -> Mapping[str, Any] | None:
                found = container(container_id)
                if found is None or path not in {"", "task"}:
                    return None
                return task() if path else found

        self._server = _Server((address, 0), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": _POLL_SECONDS}, daemon=True
        )

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def uri(self, container_id: str) -> str:
        """What ``ECS_CONTAINER_METADATA_URI_V4`` is in a container."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}/v4/{container_id}"

    def stop(self) -> None:
        """Listen no more."""
        if self._thread.is_alive():  # or it would be waited for, for ever
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        # HTTPServer would look up the host's name as well, which can take long and is of no use.
        TCPServer.server_bind(self)


class _Handler(BaseHTTPRequestHandler):
    @staticmethod
    def answer(container_id: str, path: str) -> Mapping[str, Any] | None:
        raise NotImplementedError

    def do_GET(self) -> None:
        version, container_id, path = [*self.path.strip("/").split("/", 2), "", ""][:3]
        found = self.answer(container_id, path) if version == "v4" else None
        body = json.dumps(found).encode() if found is not None else b"404 page not found"
        self.send_response_only(200 if found is not None else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:
            return  # the client has gone

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Nothing."""
