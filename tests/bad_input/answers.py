"""Answers that are wrong: changes of what AWS and Consul really say, and things they never say."""

from __future__ import annotations

import gzip
import json
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from http.client import IncompleteRead
from typing import Any, Final

from botocore.exceptions import (
    ConnectionClosedError,
    EndpointConnectionError,
    HTTPClientError,
    ReadTimeoutError,
)
from botocore.exceptions import ResponseStreamingError as BotoStreamingError
from hypothesis import strategies as st
from urllib3 import exceptions as urllib3_errors

from tests.bad_input.mutations import REMOVED, Edit, Path, edited, edits, kind_of, odd
from tests.bad_input.steps import SCENARIOS, Scenario
from tests.bad_input.wire import Answer, Change, Tampering
from tests.contract.recording import exchanges

_MIB: Final = 1024 * 1024


# --- which call ----------------------------------------------------------------------------------


@cache
def _calls(scenario: Scenario) -> tuple[str, ...]:
    scene, state = scenario.begin()
    return scene.run(scenario.step, state).calls


def scenarios_that_call(service: str) -> list[Scenario]:
    """Return the scenarios in which a service is called when all is well."""
    return [
        scenario for scenario in SCENARIOS if any(c.startswith(service) for c in _calls(scenario))
    ]


@cache
def tampered(
    scenario: Scenario, service: str, changes: st.SearchStrategy[Change]
) -> st.SearchStrategy[Tampering]:
    """Return what may happen to a call of a step to a service."""
    numbers = [n for n, name in enumerate(_calls(scenario)) if name.startswith(service)]
    return st.builds(
        Tampering, call=st.sampled_from(numbers), change=changes, goes_on=st.booleans()
    )


@cache
def not_done(
    scenario: Scenario, service: str, changes: st.SearchStrategy[Change]
) -> st.SearchStrategy[Tampering]:
    """Return what may happen to a call that may have taken effect or not."""
    return st.builds(replace, tampered(scenario, service, changes), done=st.booleans())


# --- changes of an answer ------------------------------------------------------------------------


def _always(answer: Answer) -> Change:
    return lambda _: answer


def _failing(make: Callable[[], Exception]) -> Change:
    # A new one each time: an error keeps the traceback of each time that it was raised.
    return lambda _: make()


def _edited(changes: list[Edit], may: Callable[[Path, Any, Any], bool] | None = None) -> Change:
    def change(answer: Answer) -> Answer:
        try:
            value = json.loads(answer.body)
        except ValueError:
            return answer  # text, or XML
        return answer.with_json(edited(value, changes, may=may))

    return change


def _truncated(share: float) -> Change:
    return lambda answer: replace(answer, body=answer.body[: int(len(answer.body) * share)])


def _cut_off(share: float, make: Callable[[], Exception]) -> Change:
    return lambda answer: replace(
        answer, body=answer.body[: int(len(answer.body) * share)], cut_off_by=make()
    )


TRUNCATED: Final[st.SearchStrategy[Change]] = st.floats(0, 0.9999).map(_truncated)


_OPTIONAL: Final = frozenset({"nextToken", "tags", "value"})
"""What AWS leaves out where there is none: another page, tags of a task, the value of a tag."""


def is_unreadable(path: Path, old: Any, new: Any) -> bool:
    """Whether an answer with another value at a place is one that AWS never gives.

    Nobody can tell a lie from the truth: a task that is left out of a list, another status. And
    botocore makes a list of everything that has items: "ab" is ["a", "b"] for it.
    """
    if path[-1] in _OPTIONAL and (new is REMOVED or new is None):
        return False
    if isinstance(old, list) and isinstance(new, str | dict):
        return False
    if new is REMOVED:
        return isinstance(path[-1], str)
    return kind_of(new) != kind_of(old)


def is_not_written_back(path: Path, old: Any, new: Any) -> bool:
    """Whether another value at a place of Consul's answer is not what a step has to write again.

    An update of a token repeats what is to stay, so a false description of somebody's token would
    become its description.
    """
    return path[-1] != "Description" or new is REMOVED or kind_of(new) != kind_of(old)


# Not copied: a secret would get to where no secret is.
_EDITS: Final = edits(odd(), kinds=("replace", "remove", "rename", "repeat"))
UNREADABLE: Final[st.SearchStrategy[Change]] = _EDITS.map(
    lambda changes: _edited(changes, is_unreadable)
)
"""Members that are missing, null or of another type."""
ALTERED: Final[st.SearchStrategy[Change]] = _EDITS.map(_edited)
"""The same, and other values of the same type."""
ALTERED_BUT_FOR_WHAT_STAYS: Final[st.SearchStrategy[Change]] = _EDITS.map(
    lambda changes: _edited(changes, is_not_written_back)
)
"""The same, for steps that change things by what they have read."""


# --- AWS -----------------------------------------------------------------------------------------

_CODES: Final = (
    *(
        "AccessDeniedException",
        "ThrottlingException",
        "ValidationException",
        "ExpiredTokenException",
    ),
    *("ResourceNotFoundException", "ResourceExistsException", "InvalidRequestException"),
    *(
        "InvalidParameterException",
        "DecryptionFailure",
        "InternalServiceError",
        "LimitExceededException",
    ),
    *("ClusterNotFoundException", "ServiceNotFoundException", "ServiceNotActiveException"),
    *(
        "ExecutionAlreadyExists",
        "InvalidExecutionInput",
        "UnrecognizedClientException",
        "",
        "x#y:z",
    ),
)
_STATUSES: Final = (200, 201, 204, 301, 400, 403, 404, 405, 413, 429, 500, 502, 503, 504, 599)
_PAGES: Final = (
    *(b"", b"null", b"5", b'"x"', b"[]", b"[1]", b"true", b"\xff\xfe{}", b"{", b"\x00", b"{}"),
    b"<html><body>Please log in</body></html>",
    b"\xef\xbb\xbf{}",
    b"[" * 100_000,
    b'{"message": "' + b"x" * 100_000 + b'"}',
    b'{"Message": null, "__type": null}',
    b'{"__type": 5, "message": []}',
)


def _refused(status: int, code: Any, message: Any) -> Change:
    body = json.dumps({"__type": code, "message": message}).encode()
    return _always(Answer(status, body))


def _no_connection(kind: type[HTTPClientError]) -> Change:
    return _failing(lambda: kind(endpoint_url="https://aws.example.com", error="as ordered"))


AWS_REFUSALS: Final[st.SearchStrategy[Change]] = st.builds(
    _refused,
    st.sampled_from(_STATUSES[4:]),
    st.sampled_from(_CODES) | odd(),
    st.sampled_from(["marked for deletion", "", None]) | odd(),
)
AWS_GARBAGE: Final[st.SearchStrategy[Change]] = st.one_of(
    st.builds(Answer, st.sampled_from(_STATUSES), st.sampled_from(_PAGES)).map(_always),
    TRUNCATED,
)
AWS_FAILURES: Final[st.SearchStrategy[Change]] = st.one_of(
    st.sampled_from(
        [ReadTimeoutError, EndpointConnectionError, ConnectionClosedError, HTTPClientError]
    ).map(_no_connection),
    st.builds(_cut_off, st.floats(0, 1), st.just(lambda: BotoStreamingError(error="cut off"))),
)


# --- Consul --------------------------------------------------------------------------------------


@cache
def _recorded() -> tuple[list[int], list[Mapping[str, str]], list[bytes]]:
    statuses: set[int] = set()
    headers: dict[str, Mapping[str, str]] = {}
    bodies: set[bytes] = set()
    for exchange in exchanges():
        response = exchange.response
        if response["status"] is None:
            continue
        statuses.add(response["status"])
        headers[json.dumps(response["headers"])] = response["headers"]
        text = json.dumps(response["json"]) if "json" in response else response["text"]
        bodies.add(text.encode())
    return sorted(statuses), list(headers.values()), sorted(bodies)


_ODD_STATUSES: Final = (201, 204, 206, 302, 307, 308, 429, 502, 504, 599)
_ODD_HEADERS: Final[tuple[Mapping[str, str], ...]] = (
    {},
    {"Content-Type": "application/json; charset=utf-16"},
    {"Content-Type": "text/html; charset=no-such-thing"},
    {"Content-Type": ""},
    {"Content-Encoding": "gzip"},
    {"Content-Encoding": "deflate, br"},
    {"Content-Length": "1"},
    {"Content-Length": "5000"},
    {"Content-Length": "1, 2"},
    {"Content-Length": "x"},
    {"Transfer-Encoding": "chunked"},
    {"Location": "http://elsewhere.example.com/"},
    {"Location": "http://[::1"},
    {"Location": "//"},
    {"Location": ""},
    {"Location": "http://x/\xff"},
    {"Location": "http://x:99999999/%zz"},
    {"Set-Cookie": "a=b; \x00"},
    {"X-Consul-Knownleader": "maybe"},
    {"Retry-After": "-1"},
)
_ODD_BODIES: Final = (
    *(b"", b"null", b"true", b"5", b'"x"', b'""', b"[]", b"{}", b"[null]", b"[{}]", b"[[]]"),
    *(b"NaN", b"-Infinity", b"1e400", b"\xff", b"\xef\xbb\xbf{}", b"\x00", b'{"SecretID": ""}'),
    b'{"SecretID": "a b\\r\\nX: y"}',
    b'{"SecretID": null, "AccessorID": null, "Description": null}',
    '{"Description": "\u00fc"}'.encode("utf-16"),
    "[{},{}]".encode("utf-32"),
    b'{"a": 1} {"b": 2}',
    b"[{}] x",
    b"<html><body>502 Bad Gateway</body></html>",
    gzip.compress(b'{"SecretID": "x"}'),
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'[{"a":' * 1000,
    b"9" * 6000,
)
_HUGE: Final = (
    b"x" * (5 * _MIB),
    b'{"a": "' + b"x" * (5 * _MIB) + b'"}',
    b'[{"a": "' + b"x" * (2 * _MIB) + b'"}]',
    b"[" + b'{"AccessorID": "a", "Description": "b"},' * 100_000 + b"{}]",
    b" " * (5 * _MIB),
)


@cache
def consul_answers() -> st.SearchStrategy[Answer]:
    """Return any recorded status with any recorded headers and any recorded body, and odd ones."""
    statuses, headers, bodies = _recorded()
    return st.builds(
        Answer,
        st.sampled_from([*statuses, *_ODD_STATUSES]) | st.just(200),
        st.one_of(
            st.sampled_from(bodies),
            st.sampled_from(_ODD_BODIES),
            st.binary(max_size=40),
        ),
        st.sampled_from(headers) | st.sampled_from(_ODD_HEADERS),
    )


def huge_answers() -> st.SearchStrategy[Answer]:
    """Return answers of several MiB."""
    return st.builds(
        Answer, st.sampled_from([200, 301, 500]), st.sampled_from(_HUGE), st.just({"Location": "x"})
    )


_POOL: Final[Any] = None
_NO_ANSWER: Final[tuple[Callable[[], Exception], ...]] = (
    lambda: urllib3_errors.ReadTimeoutError(_POOL, "/", "Read timed out."),
    lambda: urllib3_errors.ProtocolError("Connection aborted.", ConnectionResetError(104, "reset")),
    lambda: _gave_up(urllib3_errors.NewConnectionError(_POOL, "Connection refused")),
    lambda: _gave_up(urllib3_errors.NameResolutionError("consul", _POOL, socket.gaierror(-2, "?"))),
    lambda: _gave_up(urllib3_errors.ConnectTimeoutError(_POOL, "timed out")),
    lambda: _gave_up(urllib3_errors.ResponseError("too many")),
    lambda: _gave_up(urllib3_errors.SSLError("CERTIFICATE_VERIFY_FAILED")),
    lambda: urllib3_errors.SSLError("CERTIFICATE_VERIFY_FAILED"),
    lambda: urllib3_errors.InvalidHeader("Content-Length contained multiple unmatching values"),
    lambda: urllib3_errors.ClosedPoolError(_POOL, "Pool is closed."),
    lambda: OSError(24, "Too many open files"),
)


def _gave_up(reason: Exception) -> Exception:
    """Return what urllib3 raises when there is no connection to be had."""
    return urllib3_errors.MaxRetryError(_POOL, "/", reason)


_HALF_AN_ANSWER: Final[tuple[Callable[[], Exception], ...]] = (
    lambda: IncompleteRead(b"", 10),
    lambda: TimeoutError("timed out"),
    lambda: ConnectionResetError(104, "Connection reset by peer"),
    lambda: ssl.SSLError("bad record mac"),
)

CONSUL_FAILURES: Final[st.SearchStrategy[Change]] = st.one_of(
    st.sampled_from(_NO_ANSWER).map(_failing),
    st.builds(_cut_off, st.floats(0, 1), st.sampled_from(_HALF_AN_ANSWER)),
)


def always(answers: st.SearchStrategy[Answer]) -> st.SearchStrategy[Change]:
    """Return changes that put other answers in the place of the good ones."""
    return answers.map(_always)
