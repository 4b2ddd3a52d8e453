"""The shapes of a request and an answer, and the parts of HTTP that every endpoint shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from typing import Any
from urllib.parse import parse_qs

from local.consul.errors import BadRequest, MalformedQuery
from local.consul.rendering import to_json

TEXT = "text/plain; charset=utf-8"
_ENTERPRISE = "Namespaces are a Consul Enterprise feature"


def has_bad_escape(text: str) -> bool:
    """Tell whether a URL has a ``%`` that no two hexadecimal digits follow."""
    digits = "0123456789abcdefABCDEF"
    parts = text.split("%")[1:]
    return any(len(part) < 2 or not {*part[:2]} <= {*digits} for part in parts)  # noqa: PLR2004


@dataclass
class QueryMeta:
    """What Consul tells with every read: how current the answer is, and who gave it.

    A read that is refused before it reaches the data (the caller's token is unknown or may not
    read, the server is not ready) has index 1 and no known leader. That, on Consul 1.10, is the
    only difference between "you may not" and "there is no such thing".
    """

    index: int = 1
    known_leader: bool = False
    consistency: str = ""

    def reached(self, index: int) -> None:
        """Note that the read got to the data, as of an index."""
        self.index = index
        self.known_leader = True

    def headers(self) -> dict[str, str]:
        """Render as headers."""
        headers = {
            "X-Consul-Index": str(self.index),
            "X-Consul-Knownleader": str(self.known_leader).lower(),
            "X-Consul-Lastcontact": "0",
            "X-Consul-Query-Backend": "blocking-query",
        }
        if self.consistency and self.known_leader:
            headers["X-Consul-Effective-Consistency"] = self.consistency
        return headers


@dataclass
class Call:
    """One request. Its repr is only its method: a secret may stand in every other part."""

    method: str
    path: str = field(repr=False)
    raw_query: str = field(repr=False)
    headers: Message[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    args: tuple[str, ...] = field(default=(), repr=False)
    query: Mapping[str, list[str]] = field(default_factory=dict, repr=False)
    meta: QueryMeta | None = None

    def parse_query(self) -> None:
        """Take the query string apart.

        Raises
        ------
        MalformedQuery
            A wrong escape, or a semicolon, which Go no longer takes for a separator.
        """
        if ";" in self.raw_query or has_bad_escape(self.raw_query):
            raise MalformedQuery
        self.query = parse_qs(self.raw_query, keep_blank_values=True)

    def first(self, name: str) -> str:
        """The first value of a query parameter, or nothing."""
        return self.query.get(name, [""])[0]

    @property
    def token(self) -> str:
        """The caller's SecretID, or nothing: parameter, Consul's header, bearer, in this order."""
        if self.first("token"):
            return self.first("token")
        token = self.headers.get("X-Consul-Token", "")
        if token:
            return token
        scheme, _, credentials = self.headers.get("Authorization", "").partition(" ")
        return credentials.strip() if scheme.lower() == "bearer" else ""

    def refuse_namespace(self) -> None:
        """Refuse a namespace, which only Consul Enterprise has. A partition is ignored."""
        if self.first("ns"):
            raise BadRequest(f'Bad request: Invalid query parameter: "ns" - {_ENTERPRISE}')
        if self.headers.get("X-Consul-Namespace"):
            raise BadRequest(f'Bad request: Invalid header: "X-Consul-Namespace" - {_ENTERPRISE}')

    def check_query_options(self) -> str:
        """Check the options that every read takes; returns the consistency asked for."""
        stale, consistent = "stale" in self.query, "consistent" in self.query
        if stale and consistent:
            raise BadRequest("Cannot specify ?stale with ?consistent, conflicting semantics.")
        index = self.first("index")
        if index and not index.isdecimal():
            raise BadRequest("Invalid index")
        if stale:
            return "stale"
        return "consistent" if consistent else "leader"


@dataclass(frozen=True)
class Answer:
    """One response; ``body`` is empty where Consul sends none."""

    status: int = 200
    body: bytes = field(default=b"", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def text(status: int, text: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Answer with plain text."""
        content_type = {"Content-Type": TEXT} if text else {}
        return Answer(status, text.encode(), content_type | dict(headers or {}))

    @staticmethod
    def json(value: Any, call: Call) -> Answer:
        """Answer with JSON."""
        headers = {"Content-Type": "application/json"}
        return Answer(200, to_json(value, pretty="pretty" in call.query), headers)
