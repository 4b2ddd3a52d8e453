"""What each answer of Consul means, and where our token goes and where not."""

from __future__ import annotations

import io
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from handlers.clients import consul
from handlers.clients.consul import ConsulClient
from handlers.clients.consul_connection import consul as connected_consul
from handlers.clients.consul_connection import unauthenticated_consul
from handlers.core import environment, remote_calls
from handlers.core.errors import (
    ConsulAclDisabled,
    ConsulAlreadyBootstrapped,
    ConsulObjectExists,
    ConsulPermissionDenied,
    ConsulRequestInvalid,
    ConsulTokenRejected,
    ConsulUnavailable,
    InvalidSecret,
    StepError,
)
from local.consul import EmbeddedConsul, Fault
from tests.unit.aws_state import SecretsState
from tests.unit.consul_state import be_impatient
from tests.unit.loopback import Answer, CertificateAuthority, LoopbackServer, Received
from tests.unit.steps import Steps

ACCESSOR_ID = "b1a7f5d2-3c4e-4f60-8a9b-0c1d2e3f4a5b"
OWN_TOKEN = "3f6d2b1a-9c8e-4d7f-a6b5-c4d3e2f10987"
TOKEN = {"AccessorID": ACCESSOR_ID, "SecretID": "e8d7c6b5-a493-4281-9f0e-1d2c3b4a5968"}


class OwnToken:
    """A token that stays the same however often it is read."""

    def value(self) -> str:
        return OWN_TOKEN

    read_again = value

    def __str__(self) -> str:
        return "the secret arn:own"


@pytest.fixture(autouse=True)
def _start_counting() -> None:
    remote_calls.start_counting()


@pytest.fixture
def server() -> Iterator[EmbeddedConsul]:
    with EmbeddedConsul(initial_management=OWN_TOKEN) as server:
        yield server


@pytest.fixture
def client(server: EmbeddedConsul) -> ConsulClient:
    return ConsulClient(server.address, token=OwnToken())


# --- what an answer means ------------------------------------------------------------------------

# How Consul answers a write: the texts are those of tests/contract, and of later versions.
WRITES: list[tuple[int, str, type[StepError]]] = [
    (401, "ACL support disabled", ConsulAclDisabled),
    (403, "Permission denied", ConsulPermissionDenied),
    (403, "rpc error making call: Permission denied", ConsulPermissionDenied),
    (403, "Permission denied: token with AccessorID 'x' lacks permission 'acl:write'",
     ConsulPermissionDenied),
    (403, "ACL not found", ConsulTokenRejected),
    (403, "rpc error making call: ACL not found", ConsulTokenRejected),
    (400, "Bad request: Token decoding failed: EOF", ConsulRequestInvalid),
    (400, "Bad request: Token Accessor ID in URL and payload do not match", ConsulRequestInvalid),
    (404, "", ConsulRequestInvalid),
    (405, "method PUT not allowed", ConsulRequestInvalid),
    (413, "Request body too large", ConsulRequestInvalid),
    (408, "Request Timeout", ConsulUnavailable),
    (429, "rate limit reached, try again later or against a different server", ConsulUnavailable),
    (500, "Invalid Token: AccessorID is already in use", ConsulObjectExists),
    (500, "Invalid Token: SecretID is already in use", ConsulObjectExists),
    (500, "rpc error making call: Invalid Token: AccessorID is already in use",
     ConsulObjectExists),
    (500, 'Invalid Policy: A Policy with Name "web" already exists', ConsulObjectExists),
    (500, 'Invalid Policy: A policy with name "web" already exists', ConsulObjectExists),
    (500, "Invalid Token: SecretID is not a valid UUID", ConsulRequestInvalid),
    (500, 'Invalid Token: UUIDs with the prefix "0" are reserved', ConsulRequestInvalid),
    (500, "Invalid Policy: no Name is set", ConsulRequestInvalid),
    (500, "rpc error making call: Invalid Policy: no Name is set", ConsulRequestInvalid),
    (500, 'Invalid service policy: &acl.ServiceRule{Name:"x"}', ConsulRequestInvalid),
    (500, "Failed to parse ACL rules: At 1:15: object expected closing RBRACE got: EOF",
     ConsulRequestInvalid),
    (500, "Failed acl token lookup by accessor: failed acl token lookup: index error",
     ConsulRequestInvalid),
    (500, "failed acl policy lookup: index error: Invalid UUID", ConsulRequestInvalid),
    (500, 'No such ACL policy with name "nope"', ConsulRequestInvalid),
    (500, 'No such ACL role with ID "x"', ConsulRequestInvalid),
    (500, 'Service identity "Bad" has an invalid name. Only', ConsulRequestInvalid),
    (500, "Service identity is missing the service name field on this token",
     ConsulRequestInvalid),
    (500, "Node identity is missing the datacenter field on this token", ConsulRequestInvalid),
    (500, "Changing a tokens SecretID is not permitted", ConsulRequestInvalid),
    (500, "Changing the Datacenters of the builtin global-management policy is not permitted",
     ConsulRequestInvalid),
    (500, "Cannot change expiration time of x", ConsulRequestInvalid),
    (500, "cannot toggle local mode of x", ConsulRequestInvalid),
    (500, "Delete operation not permitted on the anonymous token", ConsulRequestInvalid),
    (500, "Deletion of the request's authorization token is not permitted", ConsulRequestInvalid),
    (500, "Accessor ID is missing or an invalid UUID", ConsulRequestInvalid),
    (500, "Policy ID invalid UUID", ConsulRequestInvalid),
    (500, "ExpirationTime cannot be less than 1m0s in the future", ConsulRequestInvalid),
    (500, "Token Expiration TTL '-1m0s' should be > 0", ConsulRequestInvalid),
    (500, "The ACL system is currently in legacy mode.", ConsulUnavailable),
    (500, "No cluster leader", ConsulUnavailable),
    (500, "rpc error making call: No cluster leader", ConsulUnavailable),
    (500, "No known Consul servers", ConsulUnavailable),
    (500, "rpc error getting client: failed to get conn: dial tcp: connect: connection refused",
     ConsulUnavailable),
    (500, "rpc error making call: EOF", ConsulUnavailable),
    (500, "leadership lost while committing log", ConsulUnavailable),
    (500, "Raft leader not found in server lookup mapping", ConsulUnavailable),
    (500, "", ConsulUnavailable),
    (502, "<html>Bad Gateway</html>", ConsulUnavailable),
    (503, "Service Unavailable", ConsulUnavailable),
    (504, "", ConsulUnavailable),
]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "text", "kind"), WRITES, ids=[f"{status} {text}"[:60] for status, text, _ in WRITES]
)
def test_a_refused_write_is_the_error_that_its_status_and_text_say(  # noqa: PLR0917
    server: EmbeddedConsul,
    client: ConsulClient,
    steps: Steps,
    status: int,
    text: str,
    kind: type[StepError],
) -> None:
    server.on_request = lambda *_: Fault.answer(status, text)
    error = steps.failure(lambda: client.create_token(TOKEN), kind)
    if kind is ConsulTokenRejected:
        assert str(error).startswith(
            f"Consul at {server.address} does not know the token in the secret arn:own. "
        )
    else:
        assert str(error).startswith(
            f"PUT /v1/acl/token: Consul at {server.address} answered {status} {text!r}."
        )
    # A refusal is an answer: the workflow decides whether to try again.
    assert remote_calls.counted() == {"consul:PUT /v1/acl/token": 1}


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [row for row in WRITES if row[0] not in {403, 404}],
    ids=[f"{status} {text}"[:60] for status, text, _ in WRITES if status not in {403, 404}],
)
def test_a_refused_read_is_the_same_error(  # noqa: PLR0917 - a table
    server: EmbeddedConsul,
    client: ConsulClient,
    steps: Steps,
    status: int,
    text: str,
    kind: type[StepError],
) -> None:
    server.on_request = lambda *_: Fault.answer(status, text)
    steps.failure(lambda: client.read_token(ACCESSOR_ID), kind)
    steps.failure(lambda: client.read_policy("web"), kind)


def test_a_refusal_is_quoted_in_part_only(
    server: EmbeddedConsul, client: ConsulClient, steps: Steps
) -> None:
    server.on_request = lambda *_: Fault.answer(500, f"{'x' * 400} end")
    error = steps.failure(lambda: client.create_policy({"Name": "web"}), ConsulUnavailable)
    assert f"answered 500 '{'x' * 300}'." in str(error)


def test_a_refusal_that_repeats_the_tokens_secret_does_not_pass_it_on(
    server: EmbeddedConsul, client: ConsulClient, steps: Steps
) -> None:
    server.on_request = lambda *_: Fault.answer(500, f"Invalid Token: {TOKEN['SecretID']} is bad")
    error = steps.failure(lambda: client.update_token(ACCESSOR_ID, TOKEN), ConsulRequestInvalid)
    assert "'Invalid Token: <secret> is bad'" in str(error)


# --- absent, or refused? -------------------------------------------------------------------------


def answering(answer: Answer) -> LoopbackServer:
    return LoopbackServer(lambda _: answer)


REFUSED = {"X-Consul-Knownleader": "false", "X-Consul-Index": "1"}
READ = {"X-Consul-Knownleader": "true", "X-Consul-Index": "27"}


@pytest.mark.parametrize(
    ("status", "text", "headers"),
    [
        pytest.param(403, b"ACL not found", READ, id="up to Consul 1.14"),
        pytest.param(403, b"rpc error making call: ACL not found", READ, id="through a client"),
        pytest.param(403, b"ACL not found", {}, id="through a proxy that drops headers"),
        pytest.param(404, b"Requested token not found: ACL not found", READ, id="since then"),
        pytest.param(404, b"", {}, id="without a word"),
    ],
)
def test_what_is_absent_reads_as_none(status: int, text: bytes, headers: dict[str, str]) -> None:
    with answering(Answer(status, text, headers)) as server:
        client = ConsulClient(server.address, token=OwnToken())
        assert client.read_token(ACCESSOR_ID) is None
        assert client.read_policy("web") is None


@pytest.mark.parametrize("text", [b"ACL not found", b"rpc error making call: ACL not found"])
def test_a_read_that_did_not_get_as_far_as_the_state_was_refused_for_our_token(
    steps: Steps, text: bytes
) -> None:
    with answering(Answer(403, text, REFUSED)) as server:
        client = ConsulClient(server.address, token=OwnToken())
        steps.failure(lambda: client.read_token(ACCESSOR_ID), ConsulTokenRejected)
        steps.failure(lambda: client.read_policy("web"), ConsulTokenRejected)


@pytest.mark.parametrize(
    ("answer", "known"),
    [
        pytest.param(Answer(200, json.dumps({"SecretID": OWN_TOKEN}).encode()), True, id="known"),
        pytest.param(Answer(403, b"ACL not found"), False, id="unknown, up to Consul 1.14"),
        pytest.param(Answer(404, b"Supplied token does not exist"), False, id="unknown, later"),
    ],
)
def test_a_token_is_known_or_not(answer: Answer, *, known: bool) -> None:
    with answering(answer) as server:
        assert ConsulClient(server.address).knows_token(OWN_TOKEN) is known
        assert server.requests[0].headers["X-Consul-Token"] == OWN_TOKEN


@pytest.mark.parametrize("status", [500, 503])
def test_a_server_that_fails_does_not_make_a_token_unknown(steps: Steps, status: int) -> None:
    with answering(Answer(status, b"No cluster leader")) as server:
        client = ConsulClient(server.address)
        steps.failure(lambda: client.knows_token(OWN_TOKEN), ConsulUnavailable)


@pytest.mark.parametrize("status", [200, 404])
def test_deleting_what_is_absent_is_fine(status: int) -> None:
    with answering(Answer(status, b"Cannot find token to delete")) as server:
        ConsulClient(server.address, token=OwnToken()).delete_token(ACCESSOR_ID)
        assert [(r.method, r.path) for r in server.requests] == [
            ("DELETE", f"/v1/acl/token/{ACCESSOR_ID}")
        ]


def test_a_reset_index_is_found_through_a_client_agent_too(steps: Steps) -> None:
    cause = "rpc error making call: ACL bootstrap no longer allowed (reset index: 5)"
    with answering(Answer(403, f"Permission denied: {cause}".encode())) as server:
        client = ConsulClient(server.address)
        error = steps.failure(lambda: client.bootstrap(OWN_TOKEN), ConsulAlreadyBootstrapped)
    assert "write 5 to the file acl-bootstrap-reset" in str(error)


# --- all tokens ----------------------------------------------------------------------------------

LIST = "consul:GET /v1/acl/tokens"


def names_only(token: dict[str, Any]) -> str | None:
    """Keep the descriptions, where there are any."""
    return token["Description"] or None


def test_all_tokens_are_listed_with_their_secrets_and_only_what_is_kept_of_them_is_returned(
    client: ConsulClient,
) -> None:
    client.create_token({**TOKEN, "Description": "ours"})
    client.create_token({"Description": ""})
    remote_calls.start_counting()
    found = client.list_tokens(lambda token: token if token["Description"] == "ours" else None)
    assert [(token["AccessorID"], token["SecretID"]) for token in found] == [
        (TOKEN["AccessorID"], TOKEN["SecretID"])
    ]
    assert remote_calls.counted() == {LIST: 1}
    assert "ours" in client.list_tokens(names_only)
    assert "" not in client.list_tokens(names_only)
    assert client.list_tokens(lambda _: None) == []


def listed(*descriptions: str) -> bytes:
    return json.dumps([{"AccessorID": "a", "Description": text} for text in descriptions]).encode()


def test_a_list_may_be_longer_than_any_other_answer() -> None:
    body = listed(*["x" * 500] * 20_000)
    assert len(body) > 8 * 1024 * 1024
    with answering(Answer(200, body)) as server:
        client = ConsulClient(server.address, token=OwnToken())
        assert sum(client.list_tokens(lambda token: len(token["Description"]))) == 10_000_000


def test_an_empty_list_is_one() -> None:
    with answering(Answer(200, b"[]")) as server:
        assert ConsulClient(server.address, token=OwnToken()).list_tokens(names_only) == []
        assert server.requests[0].headers["X-Consul-Token"] == OWN_TOKEN


@pytest.mark.parametrize(
    ("status", "text", "kind"), WRITES, ids=[f"{status} {text}"[:60] for status, text, _ in WRITES]
)
def test_a_refused_list_is_the_error_that_its_status_and_text_say(
    steps: Steps, status: int, text: str, kind: type[StepError]
) -> None:
    headers = REFUSED if status == 403 else READ
    with answering(Answer(status, text.encode(), headers)) as server:
        client = ConsulClient(server.address, token=OwnToken())
        error = steps.failure(lambda: client.list_tokens(names_only), kind)
    assert server.address in str(error)


@pytest.mark.parametrize(
    "body",
    [b"", b'[{"SecretID": "hunter2"', b"<html>", b'{"SecretID": "hunter2"}', b"null", b"[7]",
     b'[{"SecretID": hunter2}]', b"[" * 100_000, b'[{"a":' + b"[" * 100_000],
    ids=["empty", "cut off", "HTML", "an object", "null", "a list of numbers", "no JSON", "deep",
         "a deep object"],
)  # fmt: skip
def test_a_list_that_is_none_is_not_consuls(steps: Steps, body: bytes) -> None:
    with answering(Answer(200, body)) as server:
        client = ConsulClient(server.address, token=OwnToken())
        error = steps.failure(lambda: client.list_tokens(str), ConsulUnavailable)
    assert str(error) == (
        f"Reading a list: the answer from {server.address} is not Consul's. Is it the address?"
    )
    assert "hunter2" not in "".join(steps.outputs)


def test_a_refusal_of_a_list_is_not_read_to_its_end_either(steps: Steps) -> None:
    four_mib = 4 * 1024 * 1024
    with answering(Answer(500, b" " * (four_mib + 2**17), length=64 * four_mib)) as server:
        client = ConsulClient(server.address, token=OwnToken())
        error = steps.failure(lambda: client.list_tokens(names_only), ConsulUnavailable)
    assert str(error) == f"Consul at {server.address} answered with more than {four_mib} bytes."


def test_a_list_that_breaks_off_is_asked_for_once_more_from_its_beginning() -> None:
    whole = listed("a", "b")
    answers = [Answer(200, whole[:-2], length=1000), Answer(200, whole)]
    with LoopbackServer(lambda _: answers.pop(0)) as server:
        client = ConsulClient(server.address, token=OwnToken())
        assert client.list_tokens(names_only) == ["a", "b"]
    assert remote_calls.counted() == {LIST: 2}


def test_a_list_that_breaks_off_twice_is_given_up(steps: Steps) -> None:
    with answering(Answer(200, b'[{"SecretID": "hunter2', length=1000)) as server:
        client = ConsulClient(server.address, token=OwnToken())
        error = steps.failure(lambda: client.list_tokens(names_only), ConsulUnavailable)
    assert "no answer from Consul (IncompleteRead" in str(error)
    assert len(server.requests) == 2
    assert "hunter2" not in "".join(steps.outputs)


def test_an_error_of_ours_about_a_token_of_the_list_is_passed_on(steps: Steps) -> None:
    def refuse(_: Any) -> None:
        message = "hidden"
        raise ConsulPermissionDenied(message)

    with answering(Answer(200, listed("a"))) as server:
        client = ConsulClient(server.address, token=OwnToken())
        steps.failure(lambda: client.list_tokens(refuse), ConsulPermissionDenied)
        # And the connection serves the next request.
        assert client.list_tokens(names_only) == ["a"]


# --- our own token -------------------------------------------------------------------------------


class TokenThatChanges(OwnToken):
    """A token that is another one each time that it is read again."""

    def __init__(self) -> None:
        self.current = 0

    def value(self) -> str:
        return f"token-{self.current}"

    def read_again(self) -> str:
        self.current += 1
        return self.value()


def test_our_token_is_read_again_when_a_step_asks_for_it() -> None:
    with answering(Answer(200, b"[]")) as server:
        client = ConsulClient(server.address, token=TokenThatChanges())
        for _ in range(2):
            client.list_tokens(names_only)
        client.use_fresh_token()
        client.list_tokens(names_only)
        sent = [request.headers["X-Consul-Token"] for request in server.requests]
    assert sent == ["token-0", "token-0", "token-1"]


def test_a_list_that_is_refused_for_our_token_is_sent_again_with_the_new_one() -> None:
    answers = [Answer(403, b"ACL not found", REFUSED), Answer(200, listed("a"))]
    with LoopbackServer(lambda _: answers.pop(0)) as server:
        client = ConsulClient(server.address, token=TokenThatChanges())
        assert client.list_tokens(names_only) == ["a"]
        sent = [request.headers["X-Consul-Token"] for request in server.requests]
    assert sent == ["token-0", "token-1"]


def test_a_client_without_a_token_has_none_to_read_again(server: EmbeddedConsul) -> None:
    ConsulClient(server.address).use_fresh_token()
    assert server.requests == []


# --- answers that are none -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [b"", b'{"SecretID": "hunter2"', b"<html>", b"[]", b"7", b'"text"', b"null", b"\xff\xfe",
     b"[" * 100_000],
    ids=["empty", "cut off", "HTML", "a list", "a number", "text", "null", "not UTF-8", "deep"],
)  # fmt: skip
def test_an_answer_that_is_no_object_is_not_consuls(steps: Steps, body: bytes) -> None:
    with answering(Answer(200, body)) as server:
        client = ConsulClient(server.address, token=OwnToken())
        error = steps.failure(lambda: client.read_token(ACCESSOR_ID), ConsulUnavailable)
    assert str(error) == (
        f"GET /v1/acl/token/{ACCESSOR_ID}: the answer from {server.address} is not Consul's. "
        "Is it the address?"
    )
    assert "hunter2" not in "".join(steps.outputs)


def test_an_endless_answer_is_not_read_to_its_end(steps: Steps) -> None:
    four_mib = 4 * 1024 * 1024
    with answering(Answer(200, b" " * (four_mib + 2**17), length=64 * four_mib)) as server:
        client = ConsulClient(server.address, token=OwnToken())
        error = steps.failure(lambda: client.read_token(ACCESSOR_ID), ConsulUnavailable)
    assert str(error) == f"Consul at {server.address} answered with more than {four_mib} bytes."
    assert len(server.requests) == 1


def test_an_answer_that_breaks_off_is_asked_for_once_more(steps: Steps) -> None:
    with answering(Answer(200, b'{"SecretID": "hunter2', length=1000)) as server:
        client = ConsulClient(server.address, token=OwnToken())
        error = steps.failure(lambda: client.read_token(ACCESSOR_ID), ConsulUnavailable)
    assert "no answer from Consul (IncompleteRead" in str(error)
    assert len(server.requests) == 2
    assert "hunter2" not in "".join(steps.outputs)


# --- where requests go ---------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_does_not_take_the_token_elsewhere(steps: Steps, status: int) -> None:
    with answering(Answer(200, b"{}")) as elsewhere:
        location = {"Location": f"{elsewhere.address}/v1/acl/token/x"}
        with answering(Answer(status, b"", location)) as server:
            client = ConsulClient(server.address, token=OwnToken())
            for call in (
                lambda: client.read_token(ACCESSOR_ID),
                lambda: client.create_token(TOKEN),
            ):
                error = steps.failure(call, ConsulRequestInvalid)
                assert f"answered {status} ''" in str(error)
        assert elsewhere.requests == []


def test_a_proxy_in_the_environment_sees_nothing(
    client: ConsulClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(Answer(502)) as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.address)
            monkeypatch.setenv(name.lower(), proxy.address)
        assert client.read_token(ACCESSOR_ID) is None
        assert proxy.requests == []


def test_a_netrc_file_adds_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password hunter2\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with answering(Answer(200, b"[]")) as server:
        ConsulClient(server.address, token=OwnToken()).list_tokens(names_only)
    (request,) = server.requests
    assert "Authorization" not in request.headers


def test_the_token_travels_in_its_header_only() -> None:
    with answering(Answer(200, b'"127.0.0.1:8300"')) as server:
        client = ConsulClient(f"{server.address}/", token=OwnToken())
        client.create_policy({"Name": "web"})
        client.leader("dc1")
    write, leader = server.requests
    assert (write.method, write.path) == ("PUT", "/v1/acl/policy")
    assert write.headers["X-Consul-Token"] == OWN_TOKEN
    assert write.headers["User-Agent"] == "consul-on-ecs"
    assert json.loads(write.body) == {"Name": "web"}
    assert (leader.method, leader.path) == ("GET", "/v1/status/leader?dc=dc1")
    assert "X-Consul-Token" not in leader.headers


def test_names_are_escaped_in_paths() -> None:
    with answering(Answer(404)) as server:
        ConsulClient(server.address, token=OwnToken()).read_policy("../a b?c#d/é")
    (request,) = server.requests
    assert request.path == "/v1/acl/policy/name/..%2Fa%20b%3Fc%23d%2F%C3%A9"


def test_calls_are_counted_without_what_is_in_their_paths(client: ConsulClient) -> None:
    client.read_token(ACCESSOR_ID)
    client.read_policy("web")
    client.delete_token(ACCESSOR_ID)
    assert remote_calls.counted() == {
        "consul:DELETE /v1/acl/token/:accessor_id": 1,
        "consul:GET /v1/acl/policy/name/:name": 1,
        "consul:GET /v1/acl/token/:accessor_id": 1,
    }


def test_a_client_without_a_token_sends_no_request_that_needs_one(server: EmbeddedConsul) -> None:
    client = ConsulClient(server.address)
    with pytest.raises(RuntimeError, match="this client was made without one"):
        client.read_token(ACCESSOR_ID)
    assert server.requests == []


# --- connections ---------------------------------------------------------------------------------


def test_one_connection_serves_many_requests() -> None:
    ports: set[int] = set()

    class Watched(EmbeddedConsul):
        def answer(self, call: Any, wait: Callable[[float], bool]) -> Any:
            ports.add(connections())
            return super().answer(call, wait)

    def connections() -> int:
        assert server._server is not None
        return len(server._server._connections)

    with Watched(initial_management=OWN_TOKEN) as server:
        client = ConsulClient(server.address, token=OwnToken())
        for _ in range(3):
            client.read_token(ACCESSOR_ID)
    assert ports == {1}


def test_a_connection_that_the_server_closed_meanwhile_is_opened_again(
    server: EmbeddedConsul, client: ConsulClient
) -> None:
    client.create_token(TOKEN)
    server.stop()
    server.start()
    found = client.read_token(ACCESSOR_ID)
    assert found is not None
    assert found["SecretID"] == TOKEN["SecretID"]


@pytest.mark.parametrize("drops", [1, 2])
def test_a_connection_that_breaks_is_opened_again_once(
    server: EmbeddedConsul, client: ConsulClient, steps: Steps, drops: int
) -> None:
    faults = [Fault.drop_before()] * drops
    server.on_request = lambda *_: faults.pop() if faults else None
    if drops == 1:
        assert client.read_token(ACCESSOR_ID) is None
    else:
        error = steps.failure(lambda: client.read_token(ACCESSOR_ID), ConsulUnavailable)
        assert "no answer from Consul (RemoteDisconnected" in str(error) or (
            "ConnectionResetError" in str(error)
        )
    assert remote_calls.counted() == {"consul:GET /v1/acl/token/:accessor_id": 2}


def test_a_refused_connection_is_not_tried_again_here(steps: Steps) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    client = ConsulClient(f"http://127.0.0.1:{port}", token=OwnToken())
    error = steps.failure(lambda: client.create_token(TOKEN), ConsulUnavailable)
    assert str(error).startswith(
        f"PUT http://127.0.0.1:{port}/v1/acl/token: no answer from Consul ("
    )
    assert "Connection refused" in str(error)
    assert OWN_TOKEN not in "".join(steps.outputs)
    assert remote_calls.counted() == {"consul:PUT /v1/acl/token": 1}


def test_a_server_that_does_not_answer_is_given_up(
    server: EmbeddedConsul, client: ConsulClient, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_impatient(monkeypatch)
    server.on_request = lambda *_: Fault.delay(60)
    error = steps.failure(lambda: client.read_token(ACCESSOR_ID), ConsulUnavailable)
    assert str(error) == (
        f"GET {server.address}/v1/acl/token/{ACCESSOR_ID}: no answer from Consul (timed out)."
    )
    assert remote_calls.counted() == {"consul:GET /v1/acl/token/:accessor_id": 1}


def test_a_server_that_is_slow_to_read_a_snapshot_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(consul, "_CONNECT_SECONDS", 0.1)
    archive = io.BytesIO(bytes(16 * 1024 * 1024))  # more than all buffers on the way take
    read = 0

    def take_a_break_and_then_read(listener: socket.socket) -> None:
        nonlocal read
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as request:
            while request.readline() != b"\r\n":
                pass
            time.sleep(0.5)
            while read < len(archive.getbuffer()):
                read += len(request.read(1024 * 1024))
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=take_a_break_and_then_read, args=(listener,), daemon=True)
        server.start()
        client = ConsulClient(f"http://127.0.0.1:{listener.getsockname()[1]}")
        client.restore_snapshot(archive, token=OWN_TOKEN)
        server.join()

    assert read == len(archive.getbuffer())


def test_a_server_that_stops_in_the_middle_of_its_answer_is_given_up(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_impatient(monkeypatch)
    with answering(Answer(200, b"{}", stall=True)) as server:
        client = ConsulClient(server.address, token=OwnToken())
        error = steps.failure(lambda: client.read_token(ACCESSOR_ID), ConsulUnavailable)
    assert "timed out" in str(error)
    assert len(server.requests) == 1


@pytest.mark.parametrize("address", ["consul:8500", "ftp://consul", "http://"])
def test_an_address_that_is_none_is_said_to_get_no_answer(steps: Steps, address: str) -> None:
    client = ConsulClient(address, token=OwnToken())
    error = steps.failure(lambda: client.read_token(ACCESSOR_ID), ConsulUnavailable)
    assert "no answer from Consul" in str(error)


# --- TLS -----------------------------------------------------------------------------------------

CA_SECRET = "acme/consul-ca"
GET_SECRET = "secretsmanager:GetSecretValue"
GET_LEADER = "consul:GET /v1/status/leader"


@pytest.fixture(scope="module")
def ca() -> CertificateAuthority:
    return CertificateAuthority("Consul Agent CA")


@pytest.fixture(scope="module")
def other_ca() -> CertificateAuthority:
    return CertificateAuthority("Consul Agent CA, the second")


@pytest.fixture(autouse=True)
def _files_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def leader(_: Received) -> Answer:
    return Answer(200, b'"10.0.0.1:8300"')


@pytest.fixture
def ca_secret(secrets: SecretsState, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Put a text into the CA's secret; return the secret's ARN."""

    def put(pem: str) -> str:
        if CA_SECRET in secrets.names():
            secrets.put(CA_SECRET, pem)
        else:
            monkeypatch.setenv(environment.CONSUL_CA_SECRET_ARN, secrets.create(CA_SECRET, pem))
        return secrets.arn(CA_SECRET)

    return put


def serve(
    ca: CertificateAuthority, directory: Path, *, port: int = 0, address: str = "127.0.0.1"
) -> LoopbackServer:
    context = ca.server_context(directory, address=address)
    return LoopbackServer(leader, tls=context, port=port)


def ask_for_the_leader() -> str:
    remote_calls.start_counting()
    return unauthenticated_consul().leader("dc1")


def test_a_private_ca_is_trusted_and_read_once(
    ca: CertificateAuthority,
    ca_secret: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ca_secret(ca.pem)
    with serve(ca, tmp_path) as server:
        monkeypatch.setenv(environment.CONSUL_HTTP_ADDR, server.address)
        assert ask_for_the_leader() == "10.0.0.1:8300"
        assert remote_calls.counted() == {GET_LEADER: 1, GET_SECRET: 1}
        assert ask_for_the_leader() == "10.0.0.1:8300"
        assert remote_calls.counted() == {GET_LEADER: 1}


def test_a_bundle_of_cas_with_comments_is_trusted(
    ca: CertificateAuthority,
    other_ca: CertificateAuthority,
    ca_secret: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ca_secret(f"# größer als nötig\n{other_ca.pem}\n# the one in use\n{ca.pem}")
    with serve(ca, tmp_path) as server:
        monkeypatch.setenv(environment.CONSUL_HTTP_ADDR, server.address)
        assert ask_for_the_leader() == "10.0.0.1:8300"


def test_a_private_ca_is_not_trusted_without_its_secret(
    ca: CertificateAuthority, steps: Steps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(ca, tmp_path) as server:
        monkeypatch.setenv(environment.CONSUL_HTTP_ADDR, server.address)
        error = steps.failure(ask_for_the_leader, ConsulUnavailable)
    assert "CERTIFICATE_VERIFY_FAILED" in str(error)
    assert server.requests == []


def test_a_wrong_ca_names_its_secret(  # noqa: PLR0917 - the fixtures it needs
    ca: CertificateAuthority,
    other_ca: CertificateAuthority,
    ca_secret: Callable[[str], str],
    steps: Steps,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arn = ca_secret(other_ca.pem)
    with serve(ca, tmp_path) as server:
        monkeypatch.setenv(environment.CONSUL_HTTP_ADDR, server.address)
        error = steps.failure(ask_for_the_leader, ConsulUnavailable)
    assert "CERTIFICATE_VERIFY_FAILED" in str(error)
    assert str(error).endswith(f"The CA comes from the secret {arn}.")
    # The secret was looked at once more, and the same CA not tried again.
    assert remote_calls.counted() == {GET_LEADER: 1, GET_SECRET: 2}
    assert server.requests == []


def test_a_certificate_for_another_address_is_not_trusted(
    ca: CertificateAuthority,
    ca_secret: Callable[[str], str],
    steps: Steps,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ca_secret(ca.pem)
    with serve(ca, tmp_path, address="127.0.0.2") as server:
        monkeypatch.setenv(environment.CONSUL_HTTP_ADDR, server.address)
        error = steps.failure(ask_for_the_leader, ConsulUnavailable)
    assert "127.0.0.1" in str(error)
    assert server.requests == []


def test_a_ca_that_is_rotated_is_trusted_at_the_next_request(
    ca: CertificateAuthority,
    other_ca: CertificateAuthority,
    ca_secret: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ca_secret(ca.pem)
    with serve(ca, tmp_path) as server:
        monkeypatch.setenv(environment.CONSUL_HTTP_ADDR, server.address)
        ask_for_the_leader()
    ca_secret(other_ca.pem)
    with serve(other_ca, tmp_path, port=server.port):
        assert ask_for_the_leader() == "10.0.0.1:8300"
        assert remote_calls.counted() == {GET_LEADER: 2, GET_SECRET: 1}
        assert ask_for_the_leader() == "10.0.0.1:8300"
        assert remote_calls.counted() == {GET_LEADER: 1}


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("hunter2-hunter2", id="no PEM"),
        pytest.param("-----BEGIN CERTIFICATE-----\naHVudGVyMg==\n-----END CERTIFICATE-----\n",
                     id="no certificate in it"),
        pytest.param("-----BEGIN PRIVATE KEY-----\nhunter2-hunter2\n-----END PRIVATE KEY-----\n",
                     id="a private key"),
        pytest.param(" ", id="blank"),
    ],
)  # fmt: skip
def test_a_secret_without_a_ca_is_named(  # noqa: PLR0917 - the fixtures it needs
    server: EmbeddedConsul,
    ca_secret: Callable[[str], str],
    steps: Steps,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
) -> None:
    arn = ca_secret(text)
    monkeypatch.setenv(environment.CONSUL_HTTP_ADDR, server.address)
    error = steps.failure(ask_for_the_leader, InvalidSecret)
    assert str(error) == f"The secret {arn} holds no CA certificate in PEM."
    assert "hunter2" not in "".join(steps.outputs)
    assert list(tmp_path.iterdir()) == []
    assert server.requests == []


def test_a_ca_secret_without_a_value_does_not_mean_the_public_cas(
    server: EmbeddedConsul,
    secrets: SecretsState,
    steps: Steps,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(environment.CONSUL_HTTP_ADDR, server.address)
    monkeypatch.setenv(environment.CONSUL_CA_SECRET_ARN, secrets.create(CA_SECRET))
    steps.failure(ask_for_the_leader, InvalidSecret)


def test_the_authenticated_client_trusts_the_private_ca_too(
    ca: CertificateAuthority,
    ca_secret: Callable[[str], str],
    secrets: SecretsState,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ca_secret(ca.pem)
    own = secrets.create("own", OWN_TOKEN)
    monkeypatch.setenv(environment.CONSUL_TOKEN_SECRET_ARN, own)
    context = ca.server_context(tmp_path)
    with LoopbackServer(lambda _: Answer(200, b"[]"), tls=context) as server:
        monkeypatch.setenv(environment.CONSUL_HTTP_ADDR, server.address)
        assert connected_consul().list_tokens(names_only) == []
        assert server.requests[0].headers["X-Consul-Token"] == OWN_TOKEN


def test_a_private_ca_without_a_key_usage_is_taken_on_python_3_13_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def as_on_3_13() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(consul, "create_urllib3_context", as_on_3_13)
    adapter = consul._PrivateCaAdapter()
    context = adapter.poolmanager.connection_pool_kw["ssl_context"]
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_a_secret_is_taken_out_of_a_long_answer_before_it_is_cut(
    server: EmbeddedConsul, client: ConsulClient, steps: Steps
) -> None:
    secret_id = TOKEN["SecretID"]
    server.on_request = lambda *_: Fault.answer(500, "Invalid " + "x" * 275 + secret_id)
    error = steps.failure(lambda: client.create_token(TOKEN), ConsulRequestInvalid)
    assert secret_id[:8] not in str(error)


@pytest.mark.parametrize("hops", [0, 1, 2])
def test_a_refused_request_is_one_however_many_servers_pass_it_on(
    server: EmbeddedConsul, client: ConsulClient, steps: Steps, hops: int
) -> None:
    text = "rpc error making call: " * hops + "Invalid Token: SecretID is not a valid UUID"
    server.on_request = lambda *_: Fault.answer(500, text)
    steps.failure(lambda: client.create_token(TOKEN), ConsulRequestInvalid)
