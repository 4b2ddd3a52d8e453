"""What people, other tools and accidents put into secrets."""

from __future__ import annotations

import base64
import json
import uuid
from dataclasses import asdict
from typing import Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handlers.clients import consul_connection
from handlers.core import environment, names
from handlers.core.errors import ClusterNotBootstrapped, InvalidSecret, StepError
from handlers.core.token_secret import TokenIds, parse_acl_token
from tests.bad_input.kms import ca_certificate, server_identity
from tests.bad_input.mutations import ANY_JSON, ODD_TEXTS, edited, edits, odd
from tests.bad_input.profile import examples
from tests.bad_input.steps import CLIENT_SECRET, CONTROLLER_SECRET, SCENARIOS, Scenario
from tests.bad_input.wire import Answer, Tampering
from tests.bad_input.world import PREFIX, Outcome, check, check_error, got_out, ids_of, shown, world

CANARY: Final = "canary-7b1d5c"
"""Is in every value that is no token: it must not get out."""

_PAIR: Final = {"accessor_id": ids_of("fresh").accessor_id, "token": ids_of("fresh").secret_id}
_RESERVED: Final = "00000000-0000-0000-0000-0000000000"
_ODD_IDS: Final = (
    *(str(uuid.UUID(int=0)), f"{_RESERVED}02", f"{_RESERVED}ff", "", " ", "not-a-uuid"),
    ids_of("fresh").accessor_id.upper(),
    ids_of("fresh").accessor_id.replace("-", ""),
    f"{ids_of('fresh').accessor_id} ",
    f"{ids_of('fresh').accessor_id}\n",
    f"{{{ids_of('fresh').accessor_id}}}",
    f"urn:uuid:{ids_of('fresh').accessor_id}",
    "\uff10" + ids_of("fresh").accessor_id[1:],  # a digit, but not an ASCII one
    ids_of("their web").accessor_id,
    ids_of("web").accessor_id,
)
_PUBLIC: Final = {ids_of("fresh").accessor_id, *_ODD_IDS}
_AROUND: Final = st.sampled_from(["", " ", "\n", "\ufeff", "\x00", "\u2028", "\t\r\n", CANARY])


def _wrapped(value: str, before: str, after: str) -> str:
    return f"{before}{value}{after}"


def _with_canary(value: Any) -> str:
    return json.dumps({"password": CANARY, **value} if isinstance(value, dict) else [CANARY, value])


ALMOST_PAIRS: Final = edits(odd(*_ODD_IDS)).map(lambda changes: edited(_PAIR, changes))
CONTENTS: Final = st.one_of(
    st.sampled_from([f"{text}{CANARY}" for text in ODD_TEXTS]),
    st.text(max_size=30).map(lambda text: f"{text}{CANARY}"),
    ANY_JSON.map(_with_canary),
    ALMOST_PAIRS.map(_with_canary),
    st.builds(_wrapped, ALMOST_PAIRS.map(json.dumps), _AROUND, _AROUND),
    st.builds(
        lambda a, b: json.dumps({"accessor_id": a, "token": b, "note": CANARY}),
        st.sampled_from([*_ODD_IDS, *_PAIR.values()]),
        st.sampled_from([*_ODD_IDS, *_PAIR.values()]),
    ),
    st.sampled_from(["{}", " {} ", "{", "[]", "null", "", " ", "{}{}", '{"token": null}']),
    st.just("{" + '"a":{' * 10_000),
    st.just(json.dumps({**_PAIR, "padding": CANARY * 4000})[:65_536]),
    st.just(CANARY.ljust(65_536, "x")),
)


def _keys(value: str) -> tuple[str, ...]:
    """Return what must not get out of a value: the canary, and what may be taken for a token."""
    found = [CANARY]
    try:
        data = json.loads(value)
    except (ValueError, RecursionError):
        data = None
    token = data.get("token") if isinstance(data, dict) else None
    if isinstance(token, str) and len(token) >= 30 and token not in _PUBLIC:
        found.append(token)
    return tuple(found)


def _assert_left_alone(outcome: Outcome, name: str) -> None:
    """Fail if a value that is none of ours was not left exactly as it is."""
    assert outcome.after.secrets[name] == outcome.before.secrets[name]


def _parsed(value: str) -> TokenIds | StepError | None:
    try:
        return TokenIds.parse(value, where="it")
    except InvalidSecret as error:
        return error


# --- service's secrets ---------------------------------------------------------------------------

READERS: Final = [
    scenario
    for scenario in SCENARIOS
    if scenario.step
    in {
        *("store_secret", "create_token", "prove_token", "abandon_rotation"),
        *("retire_tokens", "delete_unused", "find_drift"),
    }
]


@pytest.mark.parametrize("stage", ["AWSCURRENT", "AWSPENDING"])
@pytest.mark.parametrize("scenario", READERS, ids=str)
@examples(15)
@given(value=CONTENTS)
def test_any_value_of_a_secret_is_read_without_harm(
    scenario: Scenario, stage: str, value: str
) -> None:
    scene, state = scenario.begin()
    for name in (f"{PREFIX}-web", f"{PREFIX}-api", f"{PREFIX}-waiting", CLIENT_SECRET):
        scene.set_secret(name, value, stage=stage)

    outcome = scene.run(scenario.step, state)

    check(outcome, canaries=_keys(value))


@examples(300)
@given(value=CONTENTS)
@example(value="{}")
def test_a_value_that_is_no_pair_of_ids_is_refused_and_left_alone(value: str) -> None:
    scene, state = SCENARIOS[3].begin()
    scene.set_secret(f"{PREFIX}-web", value)

    outcome = scene.run("store_secret", state)

    check(outcome, canaries=_keys(value))
    parsed = _parsed(value)
    if isinstance(parsed, StepError):
        assert type(outcome.error) is InvalidSecret
        _assert_left_alone(outcome, f"{PREFIX}-web")
    elif parsed is not None:
        assert outcome.result is not None
        assert outcome.result["accessor_id"] == parsed.accessor_id
        _assert_left_alone(outcome, f"{PREFIX}-web")


@examples(400)
@given(value=CONTENTS)
def test_ids_are_those_that_consul_takes_or_the_value_is_refused(value: str) -> None:
    parsed = _parsed(value)

    if isinstance(parsed, StepError):
        check_error(parsed)
        got_out("\n".join(shown(parsed)), _keys(value))
    elif parsed is not None:
        for one in (parsed.accessor_id, parsed.secret_id):
            assert str(uuid.UUID(one)) == one.lower()
            assert not one.startswith(_RESERVED)
        got_out(repr(parsed), (parsed.secret_id,))


@pytest.mark.parametrize("scenario", READERS, ids=str)
def test_a_binary_value_is_refused(scenario: Scenario) -> None:
    def binary(answer: Answer) -> Answer:
        value = json.loads(answer.body)
        if "SecretString" in value:
            value["SecretBinary"] = base64.b64encode(value.pop("SecretString").encode()).decode()
        return answer.with_json(value)

    scene, state = scenario.begin()
    outcome = scene.run(scenario.step, state, Tampering(0, binary, goes_on=True))

    check(outcome)


# --- what servers start with ---------------------------------------------------------------------

_OF_SERVERS: Final = [
    scenario
    for scenario in SCENARIOS
    if scenario.step in {"choose_secret", "issue_ca_certificate", "issue_server_certificate"}
]
_NEARLY: Final = st.sampled_from(
    [
        *("AAAA", f"{CANARY}==", ca_certificate(), f"{ca_certificate()}{CANARY}"),
        *(ca_certificate()[:-60] + CANARY, server_identity().certificate),
        json.dumps({"certificate": ca_certificate(), "private_key": CANARY}),
        json.dumps({"certificate": CANARY, "private_key": server_identity().private_key}),
        json.dumps({**asdict(server_identity()), "note": CANARY}),
    ]
)


@pytest.mark.parametrize("stage", ["AWSCURRENT", "AWSPENDING"])
@pytest.mark.parametrize("name", ["ca", "server", "gossip", "waiting"])
@pytest.mark.parametrize("scenario", _OF_SERVERS, ids=str)
@examples(8)
@given(value=CONTENTS | _NEARLY)
def test_any_value_in_a_secret_of_servers_is_read_without_harm(
    scenario: Scenario, name: str, stage: str, value: str
) -> None:
    scene, state = scenario.begin()
    if stage == "AWSPENDING":
        scene.write_ahead(f"{PREFIX}-{name}", value)
    else:
        scene.set_secret(f"{PREFIX}-{name}", value)

    outcome = scene.run(scenario.step, state)

    check(outcome, canaries=_keys(value))


# --- the controller's own ------------------------------------------------------------------------

_WITH_CONSUL: Final = [
    scenario
    for scenario in SCENARIOS
    if scenario.step in {"create_token", "create_policy", "retire_tokens", "find_drift"}
]
_ACL_TOKENS: Final = CONTENTS | st.sampled_from(
    [
        *(f"{CANARY}\r\nX-Evil: 1", f'"{CANARY}"', f"{CANARY} {CANARY}", f"\u00fc{CANARY}"),
        *(f'{{"token": "{CANARY}\\n{CANARY}"}}', f'{{"token": 5, "a": "{CANARY}"}}', CANARY),
        *(f"\ufeff{CANARY}", f"{CANARY}\x00", f"{CANARY}\u2028", "{" + CANARY),
    ]
)


@pytest.mark.parametrize("scenario", _WITH_CONSUL, ids=str)
@examples(40)
@given(value=_ACL_TOKENS)
def test_any_value_in_the_controllers_secret_is_read_without_harm(
    scenario: Scenario, value: str
) -> None:
    scene, state = scenario.begin()
    scene.set_secret(CONTROLLER_SECRET, value)

    outcome = scene.run(scenario.step, state)

    check(outcome, canaries=_keys(value))
    _assert_left_alone(outcome, CONTROLLER_SECRET)


@pytest.mark.parametrize(
    "scenario", [one for one in SCENARIOS if one.step == "bootstrap_acls"], ids=str
)
@examples(150)
@given(value=_ACL_TOKENS)
def test_any_value_in_the_bootstrap_secret_is_read_without_harm(
    scenario: Scenario, value: str
) -> None:
    name = f"{PREFIX}-bootstrap"
    scene, state = scenario.begin()
    scene.set_secret(name, value)

    outcome = scene.run(scenario.step, state)

    check(outcome, canaries=_keys(value))
    if outcome.error is not None:
        assert outcome.after.consul.tokens == outcome.before.consul.tokens
        assert outcome.after.secrets[name].holder("AWSCURRENT") == outcome.before.secrets[
            name
        ].holder("AWSCURRENT")


@examples(400)
@given(value=_ACL_TOKENS)
def test_a_token_to_authenticate_with_fits_into_a_header_or_is_refused(value: str) -> None:
    try:
        token = parse_acl_token(value, where="it")
    except InvalidSecret as error:
        check_error(error)
        got_out("\n".join(shown(error)), _keys(value))
        return
    if token is not None:
        assert token.isascii()
        assert token.isprintable()
        assert token.split() == [token]


# --- the CA --------------------------------------------------------------------------------------

_PEMS: Final = CONTENTS | st.sampled_from(
    [
        f"-----BEGIN CERTIFICATE-----\n{CANARY}\n-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        f"-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----\n",
        "-----BEGIN CERTIFICATE-----",
        "\ud800",
    ]
)


@examples(150)
@given(pem=_PEMS)
def test_a_secret_without_a_certificate_is_refused_as_ca(pem: str) -> None:
    scene, state = next(one for one in SCENARIOS if one.step == "check_consul").begin()
    scene.environment[environment.CONSUL_CA_SECRET_ARN] = scene.arn(f"{PREFIX}-batch")
    scene.set_secret(f"{PREFIX}-batch", pem)

    outcome = scene.run("check_consul", state)

    check(outcome, canaries=_keys(pem))
    assert type(outcome.error) is InvalidSecret


def test_a_secret_without_a_value_is_not_taken_for_a_token() -> None:
    scene = world()
    scene.reset()
    scene.set_secret(CONTROLLER_SECRET, None)

    with scene.installed(), pytest.raises(ClusterNotBootstrapped):
        consul_connection.consul().read_policy(names.client_policy_name(PREFIX))
