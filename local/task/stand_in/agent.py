"""``consul agent``: a client agent without gossip.

A client agent keeps the services of its task, and passes everything that concerns ACLs and the
catalog on to the servers. This one passes all requests on to the HTTP API of one server, whose own
agent keeps the services. They get the task's address where they have none, which a real server
would take from the node. With TLS it asks for what a real one asks for: a certificate of its CA,
and of a server of its datacenter. It takes part in no gossip, resolves no DNS, probes no checks,
and has no cache.

Other than a real one it ends when the server refuses its token: a real agent goes on and is of no
use, which a test would have to find in its log.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseRequestHandler, TCPServer, ThreadingTCPServer
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from local.task.stand_in import discovery
from local.task.stand_in.config import ConfigError, read_config
from local.task.stand_in.flags import FlagError, parse_flags

_DEFAULT_HTTP_PORT = 8500
_DEFAULT_HTTPS_PORT = 8501
_TIMEOUT_SECONDS = 10.0
_RETRY_JOIN_SECONDS = 0.2  # a real agent waits 30 s
_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME of OpenSSL
_OK = 200
_JSON: Mapping[str, str] = {"Content-Type": "application/json"}
_NO_ANSWER = (OSError, http.client.HTTPException)
_REGISTER = "/v1/agent/service/register"
_DEREGISTER = "/v1/agent/service/deregister/"
# What a request's token may come in.
_PASSED_ON = ("X-Consul-Token", "Authorization", "Content-Type", "User-Agent", "X-Consul-Namespace")


def run_agent(flags: Sequence[str], server: str, hosts_file: str, *, ignore_dates: bool) -> int:
    """Run until SIGTERM or SIGINT, and return the exit status."""
    try:
        config = _config(flags)
        if config.get("server"):
            from local.task.stand_in.server import run_server  # noqa: PLC0415 - only a server does

            return run_server(config)
        agent = Agent(config, server, hosts_file, ignore_dates=ignore_dates)
    except (FlagError, KeyError, OSError, ConfigError) as error:
        print(f"==> {error}", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: agent.ended.set())
    return agent.run()


def _config(flags: Sequence[str]) -> dict[str, Any]:
    given = parse_flags(flags, texts=frozenset({"config-dir", "config-file"}))
    files = [Path(given["config-file"])] if "config-file" in given else []
    if "config-dir" in given:
        files += sorted(Path(given["config-dir"]).glob("*.json"))
    return read_config(*(file.read_text(encoding="utf-8") for file in files))


class Agent:
    """One agent.

    Parameters
    ----------
    config
        Its configuration, checked.
    server
        The HTTP address of its server; empty for the first that it is to join.
    hosts_file
        Has the addresses of names, as ``/etc/hosts``; empty if there is none.
    ignore_dates
        Whether certificates are taken whatever their dates.
    """

    def __init__(
        self, config: Mapping[str, Any], server: str, hosts_file: str, *, ignore_dates: bool
    ) -> None:
        self.ended = threading.Event()
        self._config = config
        self._server = urlsplit(server).netloc
        self._hosts_file = hosts_file
        self._tls: ssl.SSLContext | None = None
        if config.get("ca_file"):
            self._tls = ssl.create_default_context(cafile=config["ca_file"])
            self._tls.check_hostname = bool(config.get("verify_server_hostname"))
            if ignore_dates:
                self._tls.verify_flags |= _NO_CHECK_TIME
        self._registered: dict[str, str] = {}
        self._lock = threading.Lock()
        self._refused = False

    def run(self) -> int:
        """Serve, and leave in the end."""
        host = str(self._config.get("client_addr", "127.0.0.1"))
        ports = self._config.get("ports", {})
        api = _Server((host, ports.get("http", _DEFAULT_HTTP_PORT)), self)
        servers: list[TCPServer] = [api]
        if ports.get("grpc", -1) > 0:
            servers.append(_Grpc((host, ports["grpc"]), BaseRequestHandler))
        for each in servers:
            threading.Thread(target=each.serve_forever, args=(0.02,), daemon=True).start()
        _log("Consul agent running! (a stand-in)")
        threading.Thread(target=self._join, daemon=True).start()
        self.ended.wait()
        if self._config.get("leave_on_terminate"):
            self._leave()
        for each in servers:
            each.shutdown()
        return 1 if self._refused else 0

    def _join(self) -> None:
        """Try until the server answers, then see whether it takes the agent's token."""
        while not self.ended.is_set():
            try:
                status, _, leader = self.forward("GET", "/v1/status/leader", {}, b"")
                if status == _OK and json.loads(leader):
                    break
            except _NO_ANSWER:
                pass
            self.ended.wait(_RETRY_JOIN_SECONDS)
        else:
            return
        token = self._config.get("acl", {}).get("tokens", {}).get("agent")
        if self._config.get("acl", {}).get("enabled"):
            headers = {"X-Consul-Token": token or ""}
            status, _, _ = self.forward("GET", "/v1/acl/token/self", headers, b"")
            if not token or status != _OK:
                _log("Node info update blocked by ACLs: the agent's token is refused")
                self._refused = True
                self.ended.set()
                return
        _log("(LAN) joined")

    def _leave(self) -> None:
        _log("Gracefully shutting down agent...")
        with self._lock:
            registered = dict(self._registered)
        # The proxies first: a service that is still there has no way in any more.
        for service, token in reversed(registered.items()):
            path = _DEREGISTER + quote(service, safe="")
            try:
                self.forward("PUT", path, {"X-Consul-Token": token}, b"")
            except _NO_ANSWER as error:
                _log(f"Could not deregister {service}: {type(error).__name__}")
        _log("Graceful exit completed")

    def forward(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Pass a request on to the server; returns status, headers and body of its answer.

        Raises
        ------
        OSError, http.client.HTTPException
            There is no answer.
        """
        connection = self._connection()
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self._server:
            return http.client.HTTPConnection(self._server, timeout=_TIMEOUT_SECONDS)
        # Looked up each time: a server that is replaced has another address.
        host = _address(self._config["retry_join"][0], self._hosts_file)
        if self._tls is None:
            where = f"{host}:{_DEFAULT_HTTP_PORT}"
            return http.client.HTTPConnection(where, timeout=_TIMEOUT_SECONDS)
        datacenter = self._config.get("datacenter", "dc1")
        return _ServerConnection(host, f"server.{datacenter}.consul", self._tls)

    def discover(self, path: str, request: bytes) -> bytes:
        """Answer a proxy that asks where its upstreams are, or who may come in.

        Raises
        ------
        OSError, http.client.HTTPException
            The server does not answer, or not with what there has to be.
        """
        token = self._config.get("acl", {}).get("tokens", {}).get("agent", "")

        def get(path: str) -> tuple[Any, Mapping[str, str]]:
            status, headers, text = self.forward("GET", path, {"X-Consul-Token": token}, b"")
            if status != _OK:
                raise OSError(f"GET {path}: {status}")
            return json.loads(text), headers

        host = self._config.get("client_addr", "127.0.0.1")
        return discovery.answer(path, request, get, host)

    def complete(self, path: str, body: bytes) -> bytes:
        """Give a service that is to be registered the task's address, if it has none."""
        service = _json_object(body) if path.partition("?")[0] == _REGISTER else {}
        if not service or service.get("Address"):
            return body
        address = self._config.get("advertise_addr") or self._config["bind_addr"]
        return json.dumps(service | {"Address": address}).encode()

    def remember(self, path: str, body: bytes, token: str) -> None:
        """Note that the server has registered or deregistered a service."""
        path, _, _ = path.partition("?")
        with self._lock:
            if path == _REGISTER:
                service = _json_object(body)
                self._registered[str(service.get("ID") or service.get("Name"))] = token
            elif path.startswith(_DEREGISTER):
                self._registered.pop(unquote(path.removeprefix(_DEREGISTER)), None)


class _ServerConnection(http.client.HTTPSConnection):
    """A connection to a server, which shows a certificate for its kind, not for its address."""

    def __init__(self, host: str, name: str, context: ssl.SSLContext) -> None:
        super().__init__(host, _DEFAULT_HTTPS_PORT, timeout=_TIMEOUT_SECONDS, context=context)
        self._name = name
        self._tls = context

    def connect(self) -> None:
        plain = socket.create_connection((self.host, self.port), self.timeout)
        try:
            self.sock = self._tls.wrap_socket(plain, server_hostname=self._name)
        except BaseException:
            plain.close()
            raise


def _address(host: str, hosts_file: str) -> str:
    if hosts_file:
        for line in Path(hosts_file).read_text(encoding="utf-8").splitlines():
            address, name = line.split()
            if name == host:
                return address
    return host


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, where: tuple[str, int], agent: Agent) -> None:
        self.agent = agent
        super().__init__(where, _Handler)

    def server_bind(self) -> None:
        # HTTPServer would look up the host's name as well, which can take long and is of no use.
        TCPServer.server_bind(self)


class _Grpc(ThreadingTCPServer):
    """Where a real agent configures its proxies: this one takes connections and ends them."""

    daemon_threads = True
    allow_reuse_address = True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: _Server

    def _serve(self) -> None:
        agent = self.server.agent
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        headers = {name: self.headers[name] for name in _PASSED_ON if name in self.headers}
        completed = agent.complete(self.path, body)
        answered: Mapping[str, str]
        try:
            if self.path in discovery.PATHS:
                status, answered, text = _OK, _JSON, agent.discover(self.path, body)
            else:
                status, answered, text = agent.forward(self.command, self.path, headers, completed)
        except _NO_ANSWER:
            status, answered, text = 500, {}, b"No known Consul servers"
        if status == _OK and self.command == "PUT":
            agent.remember(self.path, completed, headers.get("X-Consul-Token", ""))
        self.send_response_only(status)
        self.send_header("Date", email.utils.formatdate(usegmt=True))
        for name, value in answered.items():
            if name.startswith("X-Consul-") or name == "Content-Type":
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
        self.wfile.flush()

    # The names that the base class looks for.
    do_GET = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:
            return  # the client has gone

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Nothing: the line of a request may hold a token's secret."""


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _log(text: str) -> None:
    print(f"==> {text}", flush=True)
