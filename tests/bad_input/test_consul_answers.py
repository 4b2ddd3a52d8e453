"""What Consul answers, and what answers in its place."""

from __future__ import annotations

import inspect
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handlers.clients import consul_connection
from handlers.clients.consul import ConsulClient
from handlers.core import errors
from handlers.core.errors import StepError
from tests.bad_input.answers import (
    ALTERED,
    ALTERED_BUT_FOR_WHAT_STAYS,
    CONSUL_FAILURES,
    TRUNCATED,
    always,
    consul_answers,
    huge_answers,
    not_done,
    scenarios_that_call,
    tampered,
)
from tests.bad_input.profile import examples
from tests.bad_input.steps import Scenario
from tests.bad_input.wire import Answer, Change, Tampering
from tests.bad_input.world import (
    MANAGEMENT,
    PREFIX,
    World,
    check,
    check_error,
    credentials,
    got_out,
    ids_of,
    lost,
    shown,
    uuid_of,
    world,
)

FRESH: Final = ids_of("fresh")
TOKEN: Final = {"AccessorID": FRESH.accessor_id, "SecretID": FRESH.secret_id, "Description": "d"}
POLICY: Final = {"Name": f"{PREFIX}-new", "Description": "d", "Rules": 'acl = "read"'}
_FIRST_CONSUL_CALL: Final = 1
"""After the one that reads the client's token."""


@dataclass(frozen=True)
class Method:
    """A method of the client, how it is called, and what it may return."""

    name: str
    call: Callable[[ConsulClient], Any]
    fits: Callable[[Any], bool]

    def __str__(self) -> str:
        return self.name


METHODS: Final = (
    Method("leader", lambda c: c.leader("dc1"), lambda r: isinstance(r, str)),
    Method("check_acl_system", lambda c: c.check_acl_system(), lambda r: r is None),
    Method(
        "bootstrap",
        lambda c: c.bootstrap(FRESH.secret_id),
        lambda r: re.fullmatch(r"[!-~]+", r) is not None,
    ),
    Method("knows_token", lambda c: c.knows_token(FRESH.secret_id), lambda r: r in {True, False}),
    Method(
        "read_token",
        lambda c: c.read_token(ids_of("web").accessor_id),
        lambda r: r is None or _is_token(r),
    ),
    Method("create_token", lambda c: c.create_token(TOKEN), lambda r: r is None),
    Method(
        "update_token",
        lambda c: c.update_token(ids_of("batch").accessor_id, {"Description": "d"}),
        lambda r: r is None,
    ),
    Method(
        "list_tokens",
        lambda c: c.list_tokens(lambda token: token),
        lambda r: isinstance(r, list) and all(_is_token(one) for one in r),
    ),
    Method(
        "delete_token", lambda c: c.delete_token(ids_of("batch").accessor_id), lambda r: r is None
    ),
    Method(
        "read_policy",
        lambda c: c.read_policy(f"{PREFIX}-api-service"),
        lambda r: r is None or _is_policy(r),
    ),
    Method("create_policy", lambda c: c.create_policy(POLICY), lambda r: r is None),
    Method(
        "update_policy",
        lambda c: c.update_policy(uuid_of(f"{PREFIX}-api-service"), POLICY),
        lambda r: r is None,
    ),
    Method(
        "read_intention",
        lambda c: c.read_intention("cron", "web"),
        lambda r: r is None or _is_intention(r),
    ),
    Method(
        "write_intention",
        lambda c: c.write_intention("cron", "api", {"Action": "allow"}),
        lambda r: r is None,
    ),
    Method("delete_intention", lambda c: c.delete_intention("cron", "web"), lambda r: r is None),
    Method("save_snapshot", lambda c: c.save_snapshot(io.BytesIO()), lambda r: r is None),
    Method(
        "restore_snapshot",
        lambda c: c.restore_snapshot(io.BytesIO(b"none"), token=FRESH.secret_id),
        lambda r: r is None,
    ),
    Method(
        "registered_servers",
        lambda c: c.registered_servers(token=MANAGEMENT.secret_id),
        lambda r: (
            isinstance(r, list)
            and all(name.isprintable() and isinstance(node_id, str) for name, node_id in r)
        ),
    ),
    Method(
        "raft_server_ids",
        lambda c: c.raft_server_ids(token=MANAGEMENT.secret_id),
        lambda r: len(r) > 0 and all(isinstance(one, str) and one for one in r),
    ),
    Method(
        "deregister_node",
        lambda c: c.deregister_node("old", "dc1", token=MANAGEMENT.secret_id),
        lambda r: r is None,
    ),
    Method("use_fresh_token", lambda c: c.use_fresh_token(), lambda r: r is None),
)
NEED_NO_TOKEN: Final = {
    *("leader", "check_acl_system", "bootstrap", "knows_token", "restore_snapshot"),
    *("registered_servers", "raft_server_ids", "deregister_node"),
}


def _is_token(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and all(isinstance(value[key], str) for key in ("AccessorID", "Description"))
        and isinstance(value.get("SecretID", ""), str)  # lists of Consul 1.10.0 do not have it
        and _are_links(value.get("Policies"), "Name")
        and _are_links(value.get("ServiceIdentities"), "ServiceName")
    )


def _is_intention(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and (value["SourceName"].lower(), value["DestinationName"].lower()) == ("cron", "web")
        and all(isinstance(value.get(key, ""), str) for key in ("Action", "Description"))
    )


def _are_links(value: Any, key: str) -> bool:
    return value is None or (
        isinstance(value, list)
        and all(isinstance(one, dict) and isinstance(one.get(key), str) for one in value)
    )


def _is_policy(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(value[key], str) for key in ("ID", "Name", "Description", "Rules")
    )


def _documented(name: str) -> set[str]:
    """Return the errors that the docstrings of the class and of the method name."""
    of_all = (ConsulClient.__doc__ or "").partition("can raise:")[2]
    own = (inspect.getdoc(getattr(ConsulClient, name)) or "").partition("Raises:")[2]
    known = {kind for kind in vars(errors) if kind.startswith("Consul")}
    return known & set(re.findall(r"\bConsul\w+", of_all + own))


def _ask(method: Method, change: Change, *, goes_on: bool = True) -> None:
    """Call a method whose answer is changed; check what comes out."""
    scene = world()
    scene.reset()
    before = scene.content
    needs_no_token = method.name in NEED_NO_TOKEN
    number = 0 if needs_no_token else _FIRST_CONSUL_CALL
    error: StepError | None = None
    with scene.installed(Tampering(number, change, goes_on=goes_on)) as log:
        client = (
            consul_connection.unauthenticated_consul()
            if needs_no_token
            else consul_connection.consul()
        )
        try:
            assert method.fits(method.call(client))
        except StepError as raised:
            error = raised
    if error is not None:
        check_error(error)
        assert type(error).__name__ in _documented(method.name)
    assert lost(before, scene.content) == []
    told = [*log, *(shown(error) if error is not None else ())]
    got_out("\n".join(told), (*credentials(before), FRESH.secret_id))


def test_every_method_gets_bad_answers() -> None:
    public = {name for name in vars(ConsulClient) if not name.startswith("_")}

    assert {method.name for method in METHODS} == public


@pytest.mark.parametrize("method", METHODS[:-1], ids=str)
@examples(120)
@given(answer=consul_answers())
@example(answer=Answer(302, b"", {"Location": "http://[::1"}))
@example(answer=Answer(301, b"", {"Location": "http://x/\xff"}))
def test_any_status_with_any_body_gives_a_documented_error_or_a_result(
    method: Method, answer: Answer
) -> None:
    _ask(method, lambda _: answer)


@pytest.mark.parametrize("method", METHODS[:-1], ids=str)
@examples(60)
@given(change=TRUNCATED)
def test_an_answer_that_ends_early_gives_a_documented_error_or_a_result(
    method: Method, change: Change
) -> None:
    _ask(method, change)


@pytest.mark.parametrize("method", METHODS[:-1], ids=str)
@examples(60)
@given(change=ALTERED)
def test_an_answer_with_other_values_gives_a_documented_error_or_a_result(
    method: Method, change: Change
) -> None:
    _ask(method, change)


@pytest.mark.parametrize("method", METHODS[:-1], ids=str)
@examples(40)
@given(change=CONSUL_FAILURES, goes_on=st.booleans())
def test_a_connection_that_fails_gives_a_documented_error_or_a_result(
    method: Method, change: Change, *, goes_on: bool
) -> None:
    _ask(method, change, goes_on=goes_on)


@pytest.mark.parametrize("method", METHODS[:-1], ids=str)
@examples(10)
@given(answer=huge_answers())
def test_a_huge_answer_gives_a_documented_error_or_a_result(method: Method, answer: Answer) -> None:
    _ask(method, lambda _: answer)


# --- steps ---------------------------------------------------------------------------------------

STEPS: Final = scenarios_that_call("consul")
ANSWERS: Final = always(consul_answers())
CHANGES: Final = ALTERED_BUT_FOR_WHAT_STAYS | TRUNCATED


def _run(scenario: Scenario, tampering: Tampering) -> None:
    scene: World
    state: Mapping[str, Any]
    scene, state = scenario.begin()
    check(scene.run(scenario.step, state, tampering))


@pytest.mark.parametrize("scenario", STEPS, ids=str)
@examples(35)
@given(data=st.data())
def test_a_step_that_gets_any_status_with_any_body_loses_nothing(
    scenario: Scenario, data: st.DataObject
) -> None:
    _run(scenario, data.draw(not_done(scenario, "consul", ANSWERS)))


@pytest.mark.parametrize("scenario", STEPS, ids=str)
@examples(35)
@given(data=st.data())
def test_a_step_that_gets_an_answer_with_other_values_loses_nothing(
    scenario: Scenario, data: st.DataObject
) -> None:
    _run(scenario, data.draw(tampered(scenario, "consul", CHANGES)))


@pytest.mark.parametrize("scenario", STEPS, ids=str)
@examples(20)
@given(data=st.data())
def test_a_step_whose_connection_to_consul_fails_loses_nothing(
    scenario: Scenario, data: st.DataObject
) -> None:
    _run(scenario, data.draw(not_done(scenario, "consul", CONSUL_FAILURES)))
