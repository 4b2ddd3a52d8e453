"""From the handlers' Consul client to the simulated server, without a socket in between."""

from __future__ import annotations

import io
import json as json_module
from collections.abc import Mapping
from email.message import Message
from http.client import RemoteDisconnected
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit

import requests
from urllib3.exceptions import ProtocolError

from local.consul.exchange import Answer, Call
from tests.faults.consul_server import SimulatedConsul
from tests.faults.history import View
from tests.faults.kinds import Fault, RemoteCall
from tests.faults.network import Network

# What a server says that gives up in the middle (agent/consul/rpc.go), and to too many requests
# (limits.http_max_conns_per_client).
_LEADERSHIP_LOST = "rpc error making call: leadership lost while committing log"
_DENIED = "rpc error making call: Permission denied"
_NO_LEADER = "No cluster leader"
_TOO_MANY = "Your IP is issuing too many concurrent connections, please rate limit your calls"


class ConsulSession:
    """Takes the place of the client's `requests.Session`.

    A session of `requests` with an adapter of ours would do, but two thirds of the time of a run
    would go into it. test_fakes.py holds this one against a real session and a real socket.
    """

    def __init__(self, server: SimulatedConsul, network: Network) -> None:
        self._server = server
        self._network = network

    def request(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout: tuple[float, float],
        **_: Any,
    ) -> requests.Response:
        """Send a request."""
        path = urlsplit(url).path
        body = json_module.dumps(json).encode() if json is not None else b""
        fields: Message[str, str] = Message()
        for name, value in (headers or {}).items():
            fields[name] = value

        def serve(view: View) -> Answer:
            # The server takes a request apart, so one that is sent again is made again.
            call = Call(method, path, urlencode(params or {}), fields, body)
            return self._server.answer(call, view)

        call = RemoteCall(
            "consul",
            f"{method} {self._server.template(method, unquote(path))}",
            reads=method == "GET",
            patience=timeout[1],
        )
        answer = self._network.carry(call, serve, _failure)
        response = requests.Response()
        response.status_code = answer.status
        response.headers.update(answer.headers)
        response.raw = io.BytesIO(answer.body)
        response.url = url
        return response


def _failure(fault: Fault) -> Answer:
    match fault.name:
        case "denied":
            return Answer.text(403, _DENIED)
        case "429":
            return Answer.text(429, _TOO_MANY)
        case "done+500":
            return Answer.text(500, _LEADERSHIP_LOST)
        case "read-only":
            return Answer.text(500, _NO_LEADER)
        case "refused":
            raise requests.exceptions.ConnectionError("[Errno 111] Connection refused")
        case "dropped" | "done+dropped":
            reason = RemoteDisconnected("Remote end closed connection without response")
            raise requests.exceptions.ConnectionError(ProtocolError("Connection aborted.", reason))
        case _:
            raise requests.exceptions.ReadTimeout("Read timed out.")
