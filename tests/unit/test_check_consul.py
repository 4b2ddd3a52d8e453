"""Consul is ready once there is a leader and the ACL system answers."""

from __future__ import annotations

from typing import Any

import pytest

from handlers import check_consul
from handlers.core import environment
from handlers.core.errors import (
    ConsulAclDisabled,
    ConsulRequestInvalid,
    ConsulUnavailable,
    ConsulWrongDatacenter,
    InvalidConfiguration,
)
from local.consul import EmbeddedConsul, Fault
from tests.unit.conftest import FLAVOURS
from tests.unit.consul_state import ConsulState
from tests.unit.steps import Steps

CALLS = {"consul:GET /v1/status/leader": 1, "consul:GET /v1/acl/tokens": 1}


def test_a_ready_consul_names_its_leader(consul: ConsulState, steps: Steps) -> None:
    leader = consul.call("GET", "/v1/status/leader")
    assert leader
    assert steps.run(check_consul, {}) == {"leader": leader}
    assert steps.remote_calls == CALLS  # and no secret was read


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("acl", ["deny", "allow"])
def test_an_acl_system_that_is_not_bootstrapped_is_ready(
    steps: Steps, monkeypatch: pytest.MonkeyPatch, flavour: Any, acl: Any
) -> None:
    monkeypatch.setenv(environment.CONSUL_DATACENTER, "dc1")
    with EmbeddedConsul(flavour=flavour, acl=acl) as server:
        monkeypatch.setenv(environment.CONSUL_HTTP_ADDR, server.address)
        assert steps.run(check_consul, {}) == {"leader": "127.0.0.1:8300"}


@pytest.mark.parametrize("situation", ["no_leader", "starting"])
def test_a_consul_without_a_leader_is_unavailable(
    embedded: ConsulState, steps: Steps, situation: Any
) -> None:
    embedded.embedded.state = situation
    error = steps.fail(check_consul, {}, ConsulUnavailable)
    assert str(error) == 'The Consul datacenter "dc1" has no leader yet.'
    embedded.embedded.state = "ready"
    assert steps.run(check_consul, {})["leader"]


def test_an_acl_system_that_starts_is_unavailable(embedded: ConsulState, steps: Steps) -> None:
    text = "The ACL system is currently in legacy mode."
    embedded.embedded.on_request = lambda _, path: (
        Fault.answer(500, text) if "acl" in path else None
    )
    error = steps.fail(check_consul, {}, ConsulUnavailable)
    assert str(error) == (
        f"Checking the ACL system: Consul at {embedded.server.address} answered 500 {text!r}."
    )


def test_a_consul_without_acls_says_what_to_do(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(environment.CONSUL_DATACENTER, "dc1")
    with EmbeddedConsul(acl="disabled") as server:
        monkeypatch.setenv(environment.CONSUL_HTTP_ADDR, server.address)
        error = steps.fail(check_consul, {}, ConsulAclDisabled)
    assert str(error).endswith("answered 401 'ACL support disabled'. Enable acl on the servers.")


def test_another_datacenter_names_the_setting(
    consul: ConsulState, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(environment.CONSUL_DATACENTER, "dc2")
    error = steps.fail(check_consul, {}, ConsulWrongDatacenter)
    assert str(error) == (
        f'Consul at {consul.server.address} knows no datacenter "dc2". Correct consul.datacenter '
        "in the settings."
    )


@pytest.mark.parametrize("answer", ["<html>", "{}", "null", '"'], ids=repr)
def test_a_server_that_is_not_consul_is_said_to_be_none(
    embedded: ConsulState, steps: Steps, answer: str
) -> None:
    embedded.embedded.on_request = lambda *_: Fault.answer(200, answer)
    error = steps.fail(check_consul, {}, ConsulUnavailable)
    assert str(error) == (
        f"Reading the leader: the answer from {embedded.server.address} is not Consul's. "
        "Is it the address?"
    )


def test_a_server_that_knows_no_such_path_is_refused(embedded: ConsulState, steps: Steps) -> None:
    embedded.embedded.on_request = lambda *_: Fault.answer(404, "<h1>nginx</h1>")
    steps.fail(check_consul, {}, ConsulRequestInvalid)


@pytest.mark.parametrize("name", [environment.CONSUL_HTTP_ADDR, environment.CONSUL_DATACENTER])
def test_a_function_without_its_variables_says_which(
    consul: ConsulState, steps: Steps, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    del consul
    monkeypatch.delenv(name)
    error = steps.fail(check_consul, {}, InvalidConfiguration)
    assert str(error) == (
        f"The environment variable {name} of the function is not set. Deploy it again."
    )
