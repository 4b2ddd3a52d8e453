"""Holds the embedded Consul, and a real one where there is one, against recorded behaviour."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests

from local.consul import ConsulServer, EmbeddedConsul, consul_for_local_run
from tests.contract.left_out import EMBEDDED, REAL, LeftOut, reason_to_leave_out
from tests.contract.recording import Conversation, Exchange, Mismatch, exchanges

RECORDED_VERSION = "1.10."
# The initial management token of every recorded server but the one that was bootstrapped.
INITIAL_MANAGEMENT = "11111111-2222-3333-4444-555555555555"
# The recording has absolute times; a token that expires at one of them must be valid by then.
RECORDED_AT = datetime(2026, 11, 22, 19, 7, 26, tzinfo=UTC)

SEGMENTS = ("main", "allow", "disabled", "noleader", "dev", "boot", "restart")

# From its first moment on, a server was asked the same questions again and again; the number at
# the end of a name counts the different answers. A first one has no connection, a second one is
# from a server that starts, a third one from a server that is ready. But for these two: asked
# while it started, the restarted server hung until it was ready.
_READY_AT_LAST = ("restart/catalog-services-mgmt/2", "restart/service-register-mgmt/2")


def _replayed(segment: str, table: tuple[LeftOut, ...]) -> list[Exchange]:
    return [
        exchange
        for exchange in exchanges()
        if exchange.segment == segment and reason_to_leave_out(exchange, table) is None
    ]


def _server(segment: str) -> EmbeddedConsul:
    match segment:
        case "main":
            return EmbeddedConsul()
        case "disabled":
            return EmbeddedConsul(acl="disabled")
        case "allow":
            return EmbeddedConsul(acl="allow", initial_management=INITIAL_MANAGEMENT)
    return EmbeddedConsul(initial_management=INITIAL_MANAGEMENT)


def _put_into_situation(server: EmbeddedConsul, exchange: Exchange) -> None:
    """Bring the server to where the recorded one was when it gave this answer."""
    if exchange.segment == "noleader":
        server.state = "no_leader"
    elif exchange.name == "main/expiry/self-just-after":
        server.clock = lambda: RECORDED_AT + timedelta(seconds=61)
    elif exchange.segment in {"boot", "restart"}:
        if exchange.response["status"] is None:
            server.stop()
            return
        server.start()
        is_starting = exchange.name.endswith("/2") and exchange.name not in _READY_AT_LAST
        server.state = "starting" if is_starting else "ready"


def _replay(server: EmbeddedConsul, conversation: Conversation, segment: str) -> list[Mismatch]:
    mismatches = []
    for exchange in _replayed(segment, EMBEDDED):
        _put_into_situation(server, exchange)
        mismatches += conversation.replay(exchange)
    return mismatches


def _assert_none(mismatches: list[Mismatch]) -> None:
    if mismatches:
        report = "\n".join(map(str, mismatches))
        pytest.fail(
            f"{len(mismatches)} answers differ from the recording:\n{report}", pytrace=False
        )


@pytest.mark.parametrize("segment", SEGMENTS)
def test_the_embedded_consul_answers_as_the_recorded_one(segment: str) -> None:
    with _server(segment) as server:
        server.clock = lambda: RECORDED_AT
        tokens = {"<mgmt>": INITIAL_MANAGEMENT, "<some>": INITIAL_MANAGEMENT}
        conversation = Conversation(lambda: server.address, tokens)
        if segment == "restart":
            # A restarted server has what it had before.
            _replay(server, conversation, "boot")
        _assert_none(_replay(server, conversation, segment))


def test_every_recorded_exchange_is_replayed_or_left_out_for_a_reason() -> None:
    replayed = {exchange.name for segment in SEGMENTS for exchange in _replayed(segment, EMBEDDED)}
    unaccounted = [
        exchange.name
        for exchange in exchanges()
        if exchange.name not in replayed and reason_to_leave_out(exchange, EMBEDDED) is None
    ]
    assert unaccounted == []


@pytest.mark.parametrize("table", [EMBEDDED, REAL], ids=["embedded", "real"])
def test_every_reason_to_leave_something_out_applies_to_something(
    table: tuple[LeftOut, ...],
) -> None:
    idle = [entry for entry in table if not any(map(entry.matches, exchanges()))]
    assert idle == []


# A real server ----------------------------------------------------------------------------------


@dataclass
class RealServer:
    """A server that is not ours to leave anything on."""

    address: str
    token: str = field(repr=False)

    def request(self, method: str, path: str, body: object = None) -> requests.Response:
        headers = {"X-Consul-Token": self.token}
        return requests.request(method, self.address + path, json=body, headers=headers, timeout=30)

    def names_in_use(self) -> set[str]:
        """The IDs and names that the conversation would want for itself, and are taken."""
        wanted_ids = {known for e in exchanges() if e.segment == "main" for known in e.given_ids}
        bodies = [e.request.get("body") for e in exchanges() if e.path == "/v1/acl/policy"]
        wanted_names = {body.get("Name") for body in bodies if isinstance(body, dict)}
        tokens = {each["AccessorID"] for each in self.request("GET", "/v1/acl/tokens").json()}
        policies = {each["Name"] for each in self.request("GET", "/v1/acl/policies").json()}
        # The builtin objects are mentioned, but not made.
        mentioned = {"00000000-0000-0000-0000-000000000002", "global-management"}
        return (tokens & wanted_ids | policies & wanted_names) - mentioned

    def clean_up(self, answers: list[tuple[Exchange, Any]]) -> None:
        """Remove everything that a conversation has made."""
        for exchange, answer in answers:
            if exchange.request["method"] != "PUT" or not isinstance(answer, dict):
                continue
            if "AccessorID" in answer:
                self.request("DELETE", f"/v1/acl/token/{answer['AccessorID']}")
            elif "Rules" in answer:
                self.request("DELETE", f"/v1/acl/policy/{answer['ID']}")
        for service_id in ("svc-a-t1", "svc-a-t2", "svc-d-1"):
            for each in (service_id, f"{service_id}-sidecar-proxy"):
                self.request("PUT", f"/v1/agent/service/deregister/{quote(each)}")
        # One of them stays in the catalog, as its token was deleted before it was deregistered.
        for entry in self.request("GET", "/v1/catalog/service/svc-d").json():
            body = {"Node": entry["Node"], "ServiceID": entry["ServiceID"]}
            self.request("PUT", "/v1/catalog/deregister", body)


@pytest.fixture
def real_server(tmp_path: Path) -> Iterator[RealServer]:
    with consul_for_local_run(workdir=tmp_path) as server:
        yield _usable(server)


def _usable(server: ConsulServer) -> RealServer:
    if server.kind == "embedded":
        pytest.skip(
            "no real Consul: set CONSUL_HTTP_ADDR and CONSUL_HTTP_TOKEN, or put consul on PATH"
        )
    if not server.version.startswith(RECORDED_VERSION):
        pytest.skip(f"the recording is of Consul {RECORDED_VERSION}x, this one is {server.version}")
    token = server.management_token
    if token is None:
        bootstrap = requests.put(f"{server.address}/v1/acl/bootstrap", timeout=30)
        token = bootstrap.json()["SecretID"]
    return RealServer(server.address, token)


def test_a_real_consul_answers_as_the_recorded_one(real_server: RealServer) -> None:
    in_use = real_server.names_in_use()
    if in_use:
        pytest.fail(f"{real_server.address} already has what this test makes: {sorted(in_use)}")
    conversation = Conversation(
        lambda: real_server.address, {"<mgmt>": real_server.token}, shared=True
    )
    mismatches = []
    try:
        for exchange in _replayed("main", REAL):
            mismatches += conversation.replay(exchange)
    finally:
        real_server.clean_up(conversation.answers)
    _assert_none(mismatches)
    assert real_server.names_in_use() == set()


def test_the_replay_against_a_real_consul_works_and_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The embedded server poses as somebody's, so that the replay itself is tested everywhere."""
    with EmbeddedConsul(initial_management=INITIAL_MANAGEMENT) as pretended:
        monkeypatch.setenv("CONSUL_HTTP_ADDR", pretended.address)
        monkeypatch.setenv("CONSUL_HTTP_TOKEN", INITIAL_MANAGEMENT)
        with consul_for_local_run(workdir=tmp_path) as server:
            real_server = _usable(server)
        before = real_server.request("GET", "/v1/acl/tokens").json()
        test_a_real_consul_answers_as_the_recorded_one(real_server)
        assert real_server.request("GET", "/v1/acl/tokens").json() == before
        assert len(real_server.request("GET", "/v1/acl/policies").json()) == 1
        assert real_server.request("GET", "/v1/agent/services").json() == {}
