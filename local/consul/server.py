"""The embedded Consul: its HTTP server, and what a test can do to it.

A test can watch it (:attr:`EmbeddedConsul.requests`), put it into the situations that a real
server gets into (:attr:`EmbeddedConsul.state`), let time pass (:attr:`EmbeddedConsul.clock`) and
make single requests fail (:attr:`EmbeddedConsul.on_request`).

Blocking queries (``?index=``) are answered at once, which Consul's contract allows.
"""

from __future__ import annotations

import email.utils
import logging
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from types import TracebackType
from typing import Any, Literal, Self

from local.consul.acl import utc_now
from local.consul.api import AclMode, Api, Flavour, State
from local.consul.exchange import Answer, Call

_LOG = logging.getLogger(__name__)

# How often the accepting thread looks whether it should stop: the longest that a stop waits.
_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class RecordedRequest:
    """A request that was served: nothing in it can be a secret."""

    method: str
    path: str
    """The template of the path, such as ``/v1/acl/token/:accessor_id``."""
    user_agent: str
    status: int | None
    """The status that was answered; none if the connection was dropped without an answer."""


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong with one request. Use the constructors below."""

    status: int | None = None
    text: str = ""
    delay_seconds: float = 0
    drop: Literal["before", "after"] | None = None

    @classmethod
    def answer(cls, status: int, text: str) -> Self:
        """Answer with this and do nothing."""
        return cls(status=status, text=text)

    @classmethod
    def drop_before(cls) -> Self:
        """Drop the connection and do nothing."""
        return cls(drop="before")

    @classmethod
    def drop_after(cls) -> Self:
        """Do what was asked for, then drop the connection instead of answering."""
        return cls(drop="after")

    @classmethod
    def delay(cls, seconds: float) -> Self:
        """Wait, then go on as usual; if the server is stopped meanwhile, drop the connection."""
        return cls(delay_seconds=seconds)


@dataclass(frozen=True)
class Https:
    """Where a server also answers with TLS, and the certificate with which it does."""

    host: str
    port: int
    context: ssl.SSLContext


class EmbeddedConsul:
    """One Consul server with the part of the HTTP API that this project uses.

    Its measure is a recording of Consul 1.10.1, which ``tests/contract`` replays against it.

    Parameters
    ----------
    host, port
        Where to listen; port 0 takes any that is free, and keeps it over a restart.
    acl
        Consul's ``default_policy``, or ACLs disabled.
    initial_management
        SecretID of a management token that exists from the start, as from Consul's configuration
        (``acl.tokens.initial_management``, in 1.10 ``master``). Without one, the ACL system is
        new and waits for ``PUT /v1/acl/bootstrap``.
    version
        What ``/v1/agent/self`` says.
    flavour
        ``1.10`` answers 403 for absent tokens and policies, counts the deletion of an absent one
        as success and ignores a ``BootstrapSecret``; ``current`` says 404 to both and honours it.
    https
        Where to answer with TLS, too.

    Attributes
    ----------
    state
        How the server answers from now on: ``ready``; ``no_leader`` or ``starting``, in which it
        knows no token and writes nothing.
    requests
        Everything that was served, in order. Safe to read and to ``clear()`` at any time.
    on_request
        Asked for a fault before each request, with its method and path; must be thread-safe.
    """

    kind: Literal["embedded"] = "embedded"

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        datacenter: str = "dc1",
        acl: AclMode = "deny",
        initial_management: str | None = None,
        version: str = "1.10.1",
        flavour: Flavour = "1.10",
        https: Https | None = None,
    ) -> None:
        if acl == "disabled" and initial_management is not None:
            raise ValueError(
                "A server with ACLs disabled has no management token: leave out one of the two."
            )
        self.version = version
        self.management_token = initial_management
        self.requests: list[RecordedRequest] = []
        self.on_request: Callable[[str, str], Fault | None] | None = None
        self.clock: Callable[[], datetime] = utc_now
        self._host = host
        self._port = port
        self._api = Api(
            datacenter=datacenter,
            acl=acl,
            initial_management=initial_management,
            version=version,
            flavour=flavour,
            clock=lambda: self.clock(),  # noqa: PLW0108 - whatever it is set to by then
        )
        self._https = https
        self._server: _Server | None = None
        self._acceptors: list[tuple[_Server, threading.Thread]] = []

    def __repr__(self) -> str:
        where = f"{self._host}:{self._port or '?'}"
        return f"<EmbeddedConsul {where} {self.state if self._server else 'stopped'}>"

    @property
    def address(self) -> str:
        """Where the server listens, as ``http://127.0.0.1:12345``.

        Raises
        ------
        RuntimeError
            It has never been started and has no port yet.
        """
        if not self._port:
            raise RuntimeError(
                "The embedded Consul has no address before it is started: call start()."
            )
        return f"http://{self._host}:{self._port}"

    @property
    def state(self) -> State:
        """The situation that the server is in."""
        return self._api.state

    @state.setter
    def state(self, state: State) -> None:
        self._api.state = state

    def start(self) -> Self:
        """Listen. A server that was stopped comes back with its data, on the same port."""
        if self._server is None:
            server = _Server((self._host, self._port), self)
            self._port = server.server_address[1]
            servers = [server]
            if self._https is not None:
                where = (self._https.host, self._https.port)
                try:
                    servers.append(_Server(where, self, self._https.context))
                except OSError:
                    server.server_close()
                    raise
            self._server = server
            for each in servers:
                acceptor = threading.Thread(
                    target=each.serve_forever,
                    kwargs={"poll_interval": _POLL_SECONDS},
                    name="embedded-consul",
                )
                self._acceptors.append((each, acceptor))
                acceptor.start()
        return self

    def stop(self) -> None:
        """Stop listening, drop all connections and end all threads. The data stays."""
        acceptors, self._acceptors, self._server = self._acceptors, [], None
        for server, acceptor in acceptors:
            server.shutdown()
            acceptor.join()
            server.close_all()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def answer(self, call: Call, wait: Callable[[float], bool]) -> Answer | None:
        """Serve one request; nothing to answer means that the connection is to be dropped.

        ``wait`` is how a fault passes time; it says whether the server was stopped meanwhile.
        """
        fault = self.on_request(call.method, call.path) if self.on_request else None
        user_agent = call.headers.get("User-Agent", "")
        template = self._api.template(call)
        answer: Answer | None
        if fault and fault.delay_seconds and wait(fault.delay_seconds):
            answer = None
        elif fault and fault.status is not None:
            answer = Answer.text(fault.status, fault.text)
        elif fault and fault.drop == "before":
            answer = None
        else:
            answer = self._api.answer(call)
            if fault and fault.drop == "after":
                answer = None
        status = answer.status if answer else None
        self.requests.append(RecordedRequest(call.method, template, user_agent, status))
        # The template, not the path: some of Consul's paths hold a token's secret.
        _LOG.debug("%s %s: %s", call.method, template, status)
        return answer


class _Server(ThreadingHTTPServer):
    """A server that can end its connections: clients keep idle ones open for long."""

    daemon_threads = False  # so that server_close() waits for the threads
    request_queue_size = 128

    def __init__(
        self,
        where: tuple[str, int],
        consul: EmbeddedConsul,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.consul = consul
        self._tls = tls
        self.stopping = threading.Event()
        self._connections: set[socket.socket] = set()
        self._connections_lock = threading.Lock()
        super().__init__(where, _RequestHandler)

    def server_bind(self) -> None:
        # HTTPServer would look up the host's name as well, which can take long and is of no use.
        TCPServer.server_bind(self)

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        if self._tls is None:
            return connection, address
        # The handshake is made by the first read, in the connection's own thread.
        wrapped = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return wrapped, address

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._connections_lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._connections_lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def close_all(self) -> None:
        """End the connections, and wait for their threads; nothing accepts any more."""
        with self._connections_lock:
            for connection in self._connections:
                _hang_up(connection)
        # Only now, so that a request that a fault delays cannot be answered any more.
        self.stopping.set()
        self.server_close()


def _hang_up(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        _LOG.debug("The client was faster to close its connection.")


class _RequestHandler(BaseHTTPRequestHandler):
    """Serves the requests of one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # one write for the whole answer
    server: _Server

    def _serve(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdecimal():
            self._send(Answer.text(411, "Length Required"))
            self.close_connection = True
            return
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(length))
        call = Call(self.command, path, query, self.headers, body)
        answer = self.server.consul.answer(call, self.server.stopping.wait)
        if answer is None:
            self.close_connection = True
            _hang_up(self.connection)
            return
        self._send(answer)

    # The names that the base class looks for.
    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_OPTIONS = do_PATCH = _serve  # noqa: N815

    def _send(self, answer: Answer) -> None:
        self.send_response_only(answer.status)
        self.send_header("Date", email.utils.formatdate(usegmt=True))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)
        self.wfile.flush()

    def handle(self) -> None:
        try:
            super().handle()
        except (ConnectionError, ssl.SSLError):
            _LOG.debug("A client closed its connection in the middle of a request.")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Nothing: the line of a request may hold a token's secret."""
