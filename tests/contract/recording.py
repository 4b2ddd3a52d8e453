"""The recording of a real Consul, and how to hold a server against it.

A segment of the recording is a conversation: what one answer makes up (the IDs of a token), later
requests and answers refer to. So it is replayed from its start, and whatever the server under test
makes up takes the place of what the recorded one made up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

RECORDING = Path(__file__).parent / "consul-1.10.1.jsonl"

# Headers that say something about the answer; Date, Content-Length and the like do not.
_COMPARED_HEADERS = (
    "Allow",
    "Content-Type",
    "X-Consul-Default-Acl-Policy",
    "X-Consul-Effective-Consistency",
    "X-Consul-Knownleader",
    "X-Consul-Lastcontact",
    "X-Consul-Query-Backend",
)
# Fields that differ from run to run.
_VOLATILE = {
    "CreateTime": "<time>",
    "ExpirationTime": "<time>",
    "CreateIndex": "<index>",
    "ModifyIndex": "<index>",
    "Node": "<node>",
    "NodeName": "<node>",
}
_GLOBAL_MANAGEMENT = {"ID": "00000000-0000-0000-0000-000000000001", "Name": "global-management"}

_VARIABLE = re.compile(r"\$\{([^}]+)\}")
_LABEL = re.compile(r"<[\w-]+>")
_REPEATED = re.compile(r"<(\d+) x '(.)'>")
_UUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+:\d+")
_RESET_INDEX = re.compile(r"reset index: \d+")
# The builtin objects have the same IDs everywhere.
_BUILTIN_ID = "00000000-0000-0000-0000-0000000000"

# Where the recording has only the length of a body, this is what it was.
_BODIES = {
    "main/token/create/invalid-utf8": b'{"Description":"\xff\xfe"}',
    "main/token/create/description-3M": b'{"Description": "%s"}' % (b"d" * 3_000_000),
}
# What was done after an exchange without being recorded, with the management token: it shows in
# what follows.
_DELETE_CREATED = ("DELETE", "/v1/acl/token/${%s.AccessorID}", None)
_UNRECORDED: Mapping[str, tuple[tuple[str, str, bytes | None], ...]] = {
    "main/token/create/description-64k": (_DELETE_CREATED,),
    "main/token/create/description-600k": (_DELETE_CREATED,),
    "main/token/create/description-3M": (_DELETE_CREATED,),
    "main/service/deregister/sidecar": (
        ("PUT", "/v1/agent/service/deregister/svc-a-t2", None),
        ("PUT", "/v1/agent/service/deregister/svc-a-t2-sidecar-proxy", None),
    ),
    "main/policy/create/acl-read-again": (
        (
            "PUT",
            "/v1/acl/token/${main/token/create/policy-acl-read.AccessorID}",
            b'{"Policies": [{"Name": "acl-read"}]}',
        ),
    ),
}
# Texts were recorded up to this length.
_TEXT_LIMIT = 600


@dataclass(frozen=True)
class Exchange:
    """One recorded request with its answer."""

    name: str
    segment: str
    request: Mapping[str, Any]
    response: Mapping[str, Any]
    captures: Mapping[str, str]
    token_label: str | None

    @property
    def path(self) -> str:
        """The path of the request, which may hold ``${NAME}``."""
        return str(self.request["path"])

    @property
    def given_ids(self) -> frozenset[str]:
        """The UUIDs that the request itself brings along."""
        return frozenset(_UUID.findall(json.dumps(self.request)))


@cache
def exchanges() -> tuple[Exchange, ...]:
    """Everything that was recorded, in order."""
    with RECORDING.open(encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    return tuple(
        Exchange(
            record["name"],
            record["segment"],
            record["request"],
            record["response"],
            record.get("captures", {}),
            record.get("token_label"),
        )
        for record in records
    )


@dataclass(frozen=True)
class Mismatch:
    """Where a server differs from the recording."""

    exchange: str
    what: str
    expected: object
    got: object

    def __str__(self) -> str:
        return (
            f"{self.exchange}: {self.what}\n"
            f"    expected {_shortened(self.expected)}\n"
            f"    got      {_shortened(self.got)}"
        )


def _shortened(value: object, limit: int = 600) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


@dataclass(frozen=True)
class Reply:
    """What the server under test answered; no status means that it did not."""

    status: int | None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class Conversation:
    """A replay of a segment against one server.

    Parameters
    ----------
    address
        Where the server is; asked before every request, since it may restart.
    tokens
        The secrets that labels such as ``<mgmt>`` stand for; more are learnt on the way.
    shared
        Whether the server has other users; then only tokens of this conversation are looked at.
    """

    def __init__(
        self,
        address: Callable[[], str],
        tokens: Mapping[str, str],
        *,
        shared: bool = False,
    ) -> None:
        self._address = address
        self._tokens = dict(tokens)
        self._shared = shared
        self._variables: dict[str, str] = {}
        self._known_ids = set(tokens.values())
        self._with_policies: set[str] = set()
        self.answers: list[tuple[Exchange, Any]] = []

    def replay(self, exchange: Exchange) -> list[Mismatch]:
        """Send a recorded request; returns how the answer differs from the recorded one."""
        self._known_ids |= {known.lower() for known in exchange.given_ids}
        reply = self._ask(exchange)
        answer = _content(reply)
        self._learn(exchange, answer)
        mismatches = list(self._compare(exchange, reply, answer))
        for method, path, body in _UNRECORDED.get(exchange.name, ()):
            url = self._filled(path.replace("%s", exchange.name))
            self._send(method, url, body, {"X-Consul-Token": self._tokens["<mgmt>"]})
        return mismatches

    # Asking -------------------------------------------------------------------------------------

    def _ask(self, exchange: Exchange) -> Reply:
        request = exchange.request
        headers = {k: self._filled(v) for k, v in request.get("headers", {}).items()}
        return self._send(request["method"], self._url(request), self._body(exchange), headers)

    def _send(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> Reply:
        connection = HTTPConnection(urlsplit(self._address()).netloc, timeout=30)
        try:
            connection.request(method, url, body, headers)
            response = connection.getresponse()
            return Reply(response.status, _headers(response), response.read())
        except (ConnectionError, HTTPException):
            return Reply(None)
        finally:
            connection.close()

    def _url(self, request: Mapping[str, Any]) -> str:
        path: str = self._filled(request["path"])
        query = request.get("query", {})
        pairs = [
            key if value is None else urlencode({key: self._filled(value)})
            for key, value in query.items()
        ]
        return f"{path}?{'&'.join(pairs)}" if pairs else path

    def _body(self, exchange: Exchange) -> bytes | None:
        if exchange.name in _BODIES:
            return _BODIES[exchange.name]
        body = exchange.request.get("body")
        if body is None:
            # An empty object was not recorded as a body; its content type was.
            headers = exchange.request.get("headers", {})
            return b"{}" if headers.get("Content-Type") == "application/json" else None
        if isinstance(body, str):
            return body.encode()
        return json.dumps(self._filled(body)).encode()

    def _filled(self, value: Any) -> Any:
        """Put what this conversation knows in the place of variables, labels and repetitions."""
        match value:
            case str():
                return self._filled_text(value)
            case list():
                return [self._filled(each) for each in value]
            case dict():
                return {key: self._filled(each) for key, each in value.items()}
        return value

    def _filled_text(self, text: str) -> str:
        text = _VARIABLE.sub(lambda m: self._variables.get(m[1], m[0]), text)
        text = _REPEATED.sub(lambda m: m[2] * int(m[1]), text)
        return _LABEL.sub(lambda m: self._tokens.get(m[0], m[0]), text)

    # Learning -----------------------------------------------------------------------------------

    def _learn(self, exchange: Exchange, answer: Any) -> None:
        self.answers.append((exchange, answer))
        if not isinstance(answer, dict):
            return
        for name in ("AccessorID", "SecretID"):
            self._variables[f"{exchange.name}.{name}"] = answer.get(name, "")
        captured = {variable: str(answer.get(name)) for variable, name in exchange.captures.items()}
        self._variables |= captured
        self._known_ids |= {known.lower() for known in captured.values()}
        if exchange.token_label:
            # What a labelled token was given is known as well, though no capture says so.
            self._tokens[exchange.token_label] = answer["SecretID"]
            self._known_ids |= {answer["AccessorID"], answer["SecretID"]}
        if answer.get("Policies", [_GLOBAL_MANAGEMENT]) != [_GLOBAL_MANAGEMENT]:
            self._with_policies.add(str(answer.get("AccessorID")))

    # Comparing ----------------------------------------------------------------------------------

    def _compare(self, exchange: Exchange, reply: Reply, answer: Any) -> Iterator[Mismatch]:
        recorded = exchange.response
        if reply.status != recorded["status"]:
            instead = f"{reply.status} {_shortened(answer)}"
            yield Mismatch(exchange.name, "status", recorded["status"], instead)
            return
        if reply.status is None:
            return
        headers = recorded.get("headers", {})
        for name in _COMPARED_HEADERS:
            if headers.get(name) != reply.headers.get(name):
                yield Mismatch(exchange.name, name, headers.get(name), reply.headers.get(name))
        yield from self._compare_index(exchange, reply)
        expected, is_cut = _recorded_content(exchange)
        if is_cut:
            answer = _first_of(answer, expected)
        expected = self._normalised(self._only_ours(self._resolved(expected)))
        got = self._normalised(self._only_ours(answer))
        if isinstance(expected, dict) and "_keys" in expected:
            expected, got = expected["_keys"], sorted(got)
        elif isinstance(expected, dict) and expected.pop("…", None):
            got = {key: got.get(key) for key in expected}
        if expected != got:
            yield Mismatch(exchange.name, "body", *_differing(expected, got))

    def _compare_index(self, exchange: Exchange, reply: Reply) -> Iterator[Mismatch]:
        """An index depends on what else was written; but a read that was refused has index 1."""
        name = "X-Consul-Index"
        expected, got = exchange.response.get("headers", {}).get(name), reply.headers.get(name)
        refused = reply.headers.get("X-Consul-Knownleader") == "false"
        if (expected is None) != (got is None) or (refused and expected != got):
            yield Mismatch(exchange.name, name, expected, got)

    def _resolved(self, value: Any) -> Any:
        """Fill in an expected answer, without objects that a left-out exchange had made."""
        filled = self._filled(value)
        if isinstance(filled, list):
            return [each for each in filled if not _VARIABLE.search(json.dumps(each))]
        return filled

    def _only_ours(self, answer: Any) -> Any:
        if self._shared and isinstance(answer, list):
            return [each for each in answer if self._is_ours(each)]
        return answer

    def _is_ours(self, item: Any) -> bool:
        if not isinstance(item, dict) or "AccessorID" not in item:
            return True
        accessor_id = item["AccessorID"]
        return accessor_id.lower() in self._known_ids and not accessor_id.startswith(_BUILTIN_ID)

    def _normalised(self, value: Any) -> Any:
        """Replace whatever differs from run to run, and order lists of objects."""
        match value:
            case str():
                return self._normalised_text(value)
            case list():
                items = [self._normalised(each) for each in value]
                if any(isinstance(each, dict) for each in items):
                    items.sort(key=lambda each: json.dumps(each, sort_keys=True))
                return items
            case dict():
                return {key: self._normalised_field(key, value) for key in value}
        return value

    def _normalised_text(self, text: str) -> str:
        text = _UUID.sub(self._generated, text)
        text = _ADDRESS.sub("<address>", text)
        return _RESET_INDEX.sub("reset index: <index>", text)

    def _normalised_field(self, key: str, owner: Mapping[str, Any]) -> Any:
        if key in _VOLATILE:
            return _VOLATILE[key]
        if key == "Hash" and owner.get("AccessorID") in self._with_policies:
            return "<hash of generated IDs>"
        if key == "Port" and owner.get("Service") == "consul":
            return "<port>"
        return self._normalised(owner[key])

    def _generated(self, match: re.Match[str]) -> str:
        """Leave an ID that somebody chose or that was captured; all others are made up."""
        known = match[0].lower() in self._known_ids or match[0].startswith(_BUILTIN_ID)
        return match[0] if known else "<generated>"


def _differing(expected: Any, got: Any) -> tuple[Any, Any]:
    """Of two lists, what only one of them has; of two objects, the fields that differ."""
    if isinstance(expected, list) and isinstance(got, list):
        only_expected = [each for each in expected if each not in got]
        only_got = [each for each in got if each not in expected]
        return only_expected, only_got
    if isinstance(expected, dict) and isinstance(got, dict):
        keys = [key for key in expected | got if expected.get(key) != got.get(key)]
        return {k: expected.get(k) for k in keys}, {k: got.get(k) for k in keys}
    return expected, got


def _headers(response: HTTPResponse) -> dict[str, str]:
    names = (*_COMPARED_HEADERS, "X-Consul-Index")
    return {name: value for name in names if (value := response.headers.get(name)) is not None}


def _content(reply: Reply) -> Any:
    if reply.headers.get("Content-Type") == "application/json":
        return json.loads(reply.body)
    return reply.body.decode("utf-8", errors="replace")


def _recorded_content(exchange: Exchange) -> tuple[Any, bool]:
    """The recorded body, and whether it is only the beginning of it."""
    if "json" in exchange.response:
        return exchange.response["json"], False
    text = exchange.response["text"]
    if exchange.response.get("headers", {}).get("Content-Type") != "application/json":
        return text, False
    if len(text) < _TEXT_LIMIT:
        return json.loads(text), False
    return _whole_parts(text), True


def _whole_parts(text: str) -> Any:
    """What is complete of a JSON list or object that was cut off."""
    decoder = json.JSONDecoder()
    parts: list[Any] = []
    at = 1
    with suppress(json.JSONDecodeError):
        while True:
            part, at = decoder.raw_decode(text, at)
            parts.append(part)
            at += 1  # the comma or colon
    if text.startswith("["):
        return parts
    return dict(zip(parts[::2], parts[1::2], strict=False))


def _first_of(answer: Any, beginning: Any) -> Any:
    if isinstance(answer, list):
        return answer[: len(beginning)]
    return {key: answer.get(key) for key in beginning} if isinstance(answer, dict) else answer
