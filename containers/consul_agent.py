"""The task's Consul agent, as the programs use it.

How an agent says what is wrong was recorded from a real Consul 1.10.1. The one thing that must be
known: **a 403 proves nothing**. An agent that is starting, or whose servers have no leader, answers
`ACL not found` under `/v1/agent/` even for the best of tokens; and an agent that has been asked for
a token before the token existed goes on refusing it for 30 s. Three requests tell these apart:

* `GET /v1/status/leader` goes to the servers and needs no token: if it names a leader, the agent
  has joined and the servers can judge tokens.
* `GET /v1/acl/token/self` also goes to the servers, past the agent's cache, so it neither reads a
  stale refusal nor causes one. Only after it has found the token is the token used with the agent.
* What is then still refused is refused by a cache, which ends, or because of the token's rights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, Self
from urllib.parse import quote, urlsplit

from containers.errors import (
    AgentNotReady,
    CheckUnknown,
    EnvironmentInvalid,
    Refused,
    RequestRefused,
)
from containers.http_exchange import NoAnswer, Response, exchange
from containers.layout import DEFAULT_HTTP_ADDRESS, HTTP_ADDRESS_VARIABLE, TOKEN_VARIABLE
from containers.redaction import redactor

_DEFAULT_PORT: Final = 8500
# A server that has lost its leader holds requests back for 7 s before it says so.
_TIMEOUT_SECONDS: Final = 10
_LONGEST_TEXT: Final = 300

_OK: Final = 200
_ACLS_OFF: Final = 401
_FORBIDDEN: Final = 403
_NOT_FOUND: Final = 404
_TOO_MANY: Final = 429
_SERVER_ERROR: Final = 500


class ConsulAgent:
    """The agent's HTTP API.

    Args:
        host: where it listens.
        port: where it listens.
        token: what is sent along; none if empty.

    """

    def __init__(self, host: str, port: int, token: str = "") -> None:
        self._host = host
        self._port = port
        self._token = token
        self._redact = redactor({TOKEN_VARIABLE: token})

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Return the agent that Consul's usual variables name, by default that of the task.

        Raises:
            EnvironmentInvalid: if they name something that cannot be the task's agent.

        """
        address = environment.get(HTTP_ADDRESS_VARIABLE) or DEFAULT_HTTP_ADDRESS
        try:
            parts = urlsplit(address if "://" in address else f"http://{address}")
            host, port = parts.hostname, parts.port or _DEFAULT_PORT
        except ValueError:
            host, port, parts = None, 0, urlsplit("")
        if parts.scheme != "http" or not host or parts.path.strip("/"):
            raise EnvironmentInvalid(
                f"{HTTP_ADDRESS_VARIABLE} must be an address such as {DEFAULT_HTTP_ADDRESS}: "
                "the agent is in the same task and speaks plain HTTP. Correct it or leave it out."
            )
        token = environment.get(TOKEN_VARIABLE, "")
        if not (token.isascii() and token.isprintable()) or " " in token:
            raise EnvironmentInvalid(
                f"{TOKEN_VARIABLE} is not a token: it holds characters that no token has. Check "
                "the secret, and the JSON key that the task definition takes from it."
            )
        return cls(host, port, token)

    @property
    def has_token(self) -> bool:
        """Whether a token is sent along."""
        return bool(self._token)

    @property
    def address(self) -> str:
        """For messages."""
        return f"http://{self._host}:{self._port}"

    def check_ready(self) -> None:
        """Find out whether the agent has joined servers that have a leader.

        Raises:
            AgentNotReady: if not, or not yet.

        """
        response = self._send("GET", "/v1/status/leader", token=False)
        if response.status != _OK:
            raise AgentNotReady(
                f"The Consul agent at {self.address} has not reached a server yet "
                f"({self._said(response)}). If this lasts, look at the log of consul-client."
            )
        if response.body.strip() in {b"", b'""'}:
            raise AgentNotReady(
                f"The Consul agent at {self.address} runs, but the Consul servers have no leader."
            )

    def check_token(self) -> bool:
        """Find out whether the servers know the token; False if Consul has its ACLs turned off.

        Raises:
            AgentNotReady: if the servers cannot tell.
            Refused: if they do not know it.

        """
        response = self._send("GET", "/v1/acl/token/self")
        if response.status == _ACLS_OFF:
            return False
        if response.status in {_FORBIDDEN, _NOT_FOUND}:
            raise Refused(
                f"Consul does not know the token in {TOKEN_VARIABLE} ({self._said(response)}). "
                "The secret that the variable comes from holds a token that was deleted, or that "
                "was not created yet. Let the ACL controller provision the service again, then "
                "start a new task."
            )
        self._expect_ok(response, "/v1/acl/token/self")
        return True

    def register(self, registration: Mapping[str, Any]) -> None:
        """Register a service, or bring a registered one up to date.

        Checks that an earlier registration had and this one has not are removed.

        Raises:
            AgentNotReady: if the agent cannot take it now.
            Refused: if the token may not, or the agent has not noticed yet that it may.
            RequestRefused: if the registration itself is at fault.

        """
        path = "/v1/agent/service/register?replace-existing-checks=true"
        response = self._send("PUT", path, registration)
        if response.status == _FORBIDDEN:
            name = registration["Name"]
            raise Refused(
                f"The Consul agent refuses the registration of {name} ({self._said(response)}). "
                f"The token in {TOKEN_VARIABLE} must allow service:write on {name}: check that the "
                "secret that it comes from is that of this service."
                if self._token
                else f"The Consul agent refuses the registration of {name} without a token "
                f"({self._said(response)}). Consul has ACLs: give the container the token of the "
                f"service as the secret {TOKEN_VARIABLE}."
            )
        self._expect_ok(response, path)

    def update_check(self, check_id: str, status: str, output: str, *, timeout: float) -> None:
        """Report on a check.

        Args:
            check_id: of a TTL check.
            status: passing or critical.
            output: a sentence for people.
            timeout: seconds for each step of the exchange.

        Raises:
            AgentNotReady: if the agent does not answer.
            CheckUnknown: if it has no such check.
            Refused: if the token may not.
            RequestRefused: if the agent refuses the report for another reason.

        """
        path = f"/v1/agent/check/update/{quote(check_id, safe='')}"
        body = {"Status": status, "Output": output}
        response = self._send("PUT", path, body, timeout=timeout)
        if response.status == _FORBIDDEN:
            raise Refused(
                f"The Consul agent refuses the report ({self._said(response)}). The token in "
                f"{TOKEN_VARIABLE} was deleted or has lost its rights: if this lasts, let the ACL "
                "controller provision the service again and start a new task."
            )
        # 1.10 answers 500 `Unknown check`, newer ones 404.
        if response.status == _NOT_FOUND or b"Unknown check" in response.body:
            raise CheckUnknown(
                "The Consul agent has no such check (any more). It was deregistered, or the agent "
                "has lost its state; a new task registers it again."
            )
        self._expect_ok(response, path)

    def _expect_ok(self, response: Response, path: str) -> None:
        if response.status == _OK:
            return
        if response.status == _TOO_MANY or response.status >= _SERVER_ERROR:
            raise AgentNotReady(
                f"The Consul agent at {self.address} cannot serve {path.partition('?')[0]} now "
                f"({self._said(response)})."
            )
        raise RequestRefused(
            f"The Consul agent at {self.address} refuses {path.partition('?')[0]} "
            f"({self._said(response)}). Correct what it complains about in the task definition, or "
            "the address, if this is not a Consul agent."
        )

    def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        token: bool = True,
        timeout: float = _TIMEOUT_SECONDS,
    ) -> Response:
        headers = {"X-Consul-Token": self._token} if token and self._token else {}
        content = None
        if body is not None:
            content = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        try:
            return exchange(
                self._host,
                self._port,
                method,
                path,
                body=content,
                headers=headers,
                timeout=timeout,
            )
        except NoAnswer as error:
            raise AgentNotReady(
                f"The Consul agent at {self.address} does not answer: {error}."
            ) from None

    def _said(self, response: Response) -> str:
        text = " ".join(self._redact(response.body.decode(errors="replace")).split())
        return f"HTTP {response.status}: {text[:_LONGEST_TEXT] or 'no text'}"
