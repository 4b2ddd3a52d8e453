"""What the properties of this folder have found, each as its smallest example."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from handlers.clients import consul_connection
from handlers.core import environment
from handlers.core.errors import (
    AwsUnavailable,
    ConsulUnavailable,
    ForeignObject,
    InvalidEvent,
    InvalidSecret,
    InvalidStepInput,
    StepError,
)
from handlers.core.token_secret import TokenIds
from settings import SettingsError, load_settings
from tests.bad_input.steps import SCENARIOS
from tests.bad_input.test_settings_files import COMPLETE, SECRETS
from tests.bad_input.wire import Answer, Tampering
from tests.bad_input.world import (
    FOREIGN,
    MANAGEMENT,
    PREFIX,
    Outcome,
    World,
    check,
    ids_of,
    uuid_of,
)
from tests.unit.loopback import CertificateAuthority

PROXYS_PAGE: Final = Answer(200, b"<html><body>Please log in</body></html>")
HALF_A_CHARACTER: Final = "a\udfffb"


def begin(step: str, name: str) -> tuple[World, dict[str, Any]]:
    return next(one for one in SCENARIOS if (one.step, one.name) == (step, name)).begin()


def run(
    step: str, name: str, state: Mapping[str, Any], tampering: Tampering | None = None
) -> Outcome:
    """Run a step with other input than in a scenario; nothing may be lost."""
    scene, valid = begin(step, name)
    outcome = scene.run(step, {**valid, **state}, tampering)
    check(outcome)
    return outcome


def error(outcome: Outcome, kind: type[StepError]) -> str:
    assert type(outcome.error) is kind
    return str(outcome.error)


# --- inputs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["what tasks pull", "what tasks pulled before"])
def test_only_what_a_rotation_has_stored_is_abandoned(which: str) -> None:
    scene, _ = begin("abandon_rotation", "a service's")
    arn, current = scene.arn(f"{PREFIX}-api"), scene.current_id(f"{PREFIX}-api")
    version_id = current if which == "what tasks pull" else uuid_of("old api")
    secret = {"arn": arn, "version_id": version_id, "replaces_version_id": current}

    outcome = run(
        "abandon_rotation", "a service's", {"subject": {"service": "api"}, "secret": secret}
    )

    assert "was stored by no rotation" in error(outcome, InvalidStepInput)
    assert outcome.after.secrets == outcome.before.secrets


@pytest.mark.parametrize("secret_id", [ids_of("web").secret_id, ids_of("fresh").secret_id])
def test_a_pending_version_with_the_accessor_id_that_tasks_have_deletes_nothing(
    secret_id: str,
) -> None:
    scene, state = begin("abandon_rotation", "a service's")
    pending = TokenIds(ids_of("web").accessor_id, secret_id).to_secret_string()
    scene.set_secret(f"{PREFIX}-web", pending, stage="AWSPENDING")

    outcome = scene.run("abandon_rotation", state)

    check(outcome)
    assert outcome.after.consul.tokens == outcome.before.consul.tokens


@pytest.mark.parametrize("attach_to", [5, ["x"], "", "..", "../policy/x", "web"])
def test_a_policy_is_attached_to_an_accessor_id_and_to_nothing_else(attach_to: object) -> None:
    _, valid = begin("create_policy", "one that is attached")
    policy = {**valid["policy"], "attach_to": attach_to}

    outcome = run("create_policy", "one that is attached", {"policy": policy})

    error(outcome, InvalidStepInput)
    assert outcome.calls == ()


def test_a_policy_without_a_description_is_not_adopted_by_accident() -> None:
    policy = {"name": f"{PREFIX}-db-service", "description": "d", "rules": "", "adopt": ""}

    error(run("create_policy", "the client's", {"policy": policy}), ForeignObject)


@pytest.mark.parametrize(
    "state",
    [
        {"since": "9999-12-31T23:59:59Z"},
        {"since": "0001-01-01T00:00:00+23:59", "limit_minutes": -1},
        {"limit_minutes": 10**30},
        {"limit_minutes": -(10**30)},
    ],
)
def test_a_limit_may_lie_outside_of_the_calendar(state: dict[str, Any]) -> None:
    outcome = run("check_redeployments", "a service's", state)

    assert outcome.result is not None
    assert outcome.result["expired"] is (state.get("limit_minutes", 60) < 0)


@pytest.mark.parametrize("item", [0, None, "run", ["run"]])
@pytest.mark.parametrize(
    ("step", "name", "place"),
    [
        ("report_rotation", "some that failed", ("rotations",)),
        ("report_reconciliation", "a full run", ("run", "provisioned")),
        ("report_reconciliation", "a full run", ("run", "put_back")),
    ],
)
def test_a_report_counts_objects_only(
    step: str, name: str, place: tuple[str, ...], item: object
) -> None:
    _, valid = begin(step, name)
    state = {place[0]: [item] if len(place) == 1 else {**valid["run"], place[1]: [item]}}

    error(run(step, name, state), InvalidStepInput)


@pytest.mark.parametrize("outcomes", [5, {"run": {}}, "run"])
def test_a_report_counts_lists_only(outcomes: object) -> None:
    _, valid = begin("report_reconciliation", "a full run")

    state = {"run": {**valid["run"], "provisioned": outcomes}}

    error(run("report_reconciliation", "a full run", state), InvalidStepInput)


@pytest.mark.parametrize(
    ("step", "name", "state"),
    [
        ("store_secret", "a secret that has IDs", {"secret": {"id": HALF_A_CHARACTER}}),
        (
            "publish_secret",
            "a pending version",
            {
                "secret": {
                    "arn": HALF_A_CHARACTER,
                    "version_id": "x",
                    "replaces_version_id": HALF_A_CHARACTER,
                }
            },
        ),
        (
            "create_policy",
            "the client's",
            {"policy": {"name": HALF_A_CHARACTER, "description": "d", "rules": ""}},
        ),
        ("redeploy_service", "an old deployment", {"ecs_service": HALF_A_CHARACTER}),
        (
            "check_redeployments",
            "a service's",
            {"keep_ecs_services": ["web", HALF_A_CHARACTER]},
        ),
    ],
)
def test_half_a_character_is_no_text(step: str, name: str, state: dict[str, Any]) -> None:
    outcome = run(step, name, state)

    error(outcome, InvalidStepInput)
    assert outcome.calls == ()


# --- AWS -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body", [PROXYS_PAGE.body, b"", b"{}", b"null", b"[]", b"5", b"\xff", b"[" * 100_000]
)
@pytest.mark.parametrize(
    ("step", "name", "call"),
    [
        ("check_tags", "an event of ECS", 0),
        ("delete_unused", "suspects of all kinds", 0),
        ("delete_unused", "suspects of all kinds", 7),
        ("delete_unused", "suspects of all kinds", 8),
        ("redeploy_service", "an old deployment", 0),
        ("store_secret", "a secret that has IDs", 0),
        ("store_secret", "a secret that is not there yet", 1),
        ("store_secret", "a secret without a value", 1),
        ("prove_token", "a pending one", 0),
    ],
)
def test_a_page_of_a_proxy_is_no_answer_of_aws(
    step: str, name: str, call: int, body: bytes
) -> None:
    outcome = run(step, name, {}, Tampering(call, lambda _: Answer(200, body), done=False))

    assert "is not one of AWS's" in error(outcome, AwsUnavailable)


def test_a_page_of_a_proxy_is_told_to_cloudformation_as_what_it_is() -> None:
    outcome = run("start_deployment_run", "an update", {}, Tampering(0, lambda _: PROXYS_PAGE))

    assert outcome.result == {"started": False}
    assert "AwsUnavailable: Describing the stack" in outcome.told
    assert "a bug" not in outcome.told


@pytest.mark.parametrize("member", ["taskArn", "desiredStatus", "lastStatus"])
def test_a_task_of_which_ecs_tells_half_saves_every_token(member: str) -> None:
    def without(answer: Answer) -> Answer:
        found = json.loads(answer.body)
        for task in found["tasks"]:
            del task[member]
        return answer.with_json(found)

    outcome = run("delete_unused", "suspects of all kinds", {}, Tampering(8, without))

    error(outcome, AwsUnavailable)
    assert outcome.after.consul.tokens == outcome.before.consul.tokens


def test_a_task_of_an_unreadable_family_saves_every_token() -> None:
    def changed(answer: Answer) -> Answer:
        found = json.loads(answer.body)
        found["tasks"][0]["taskDefinitionArn"] = "web"
        return answer.with_json(found)

    outcome = run("delete_unused", "suspects of all kinds", {}, Tampering(8, changed))

    error(outcome, InvalidEvent)
    assert outcome.after.consul.tokens == outcome.before.consul.tokens


# --- Consul --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "location", ["http://[::1", "http://x/\xff", "//", "http://x:99999999/", "http://elsewhere/"]
)
def test_nobody_looks_at_where_a_redirect_points(location: str) -> None:
    redirect = Answer(302, b"x" * (5 * 1024 * 1024), {"Location": location})

    outcome = run("check_consul", "a Consul that is ready", {}, Tampering(0, lambda _: redirect))

    assert "answered with more than 4194304 bytes" in error(outcome, ConsulUnavailable)
    assert outcome.calls == ("consul:GET /v1/status/leader",)


def test_another_object_is_not_taken_for_the_token_that_was_asked_for() -> None:
    role = {"ID": uuid_of("role"), "Name": "role-a", "Description": "r"}
    token = {"AccessorID": FOREIGN.accessor_id, "Description": "another one"}

    for other in (role, token):
        tampering = Tampering(3, partial(Answer.with_json, value=other))
        outcome = run("create_policy", "one that is attached", {}, tampering)
        error(outcome, ConsulUnavailable)


@pytest.mark.parametrize(
    "changes",
    [
        {"Policies": "x"},
        {"Policies": 5},
        {"Policies": ["x"]},
        {"Policies": [{"Name": {}}]},
        {"ServiceIdentities": [5]},
        {"ServiceIdentities": [{"ServiceName": []}]},
        {"ServiceIdentities": [{"ServiceName": "api", "Datacenters": 5}]},
        {"Description": 5},
        {"Description": None},
        {"AccessorID": None},
    ],
)
def test_a_token_with_members_of_other_types_is_none_of_consul(changes: dict[str, Any]) -> None:
    def changed(answer: Answer) -> Answer:
        return answer.with_json({**json.loads(answer.body), **changes})

    outcome = run("create_token", "a token that is there", {}, Tampering(2, changed))

    error(outcome, ConsulUnavailable)


@pytest.mark.parametrize("member", ["ID", "Name", "Description", "Rules"])
def test_a_policy_with_half_of_its_members_is_none_of_consul(member: str) -> None:
    def without(answer: Answer) -> Answer:
        found = json.loads(answer.body)
        del found[member]
        return answer.with_json(found)

    outcome = run("create_policy", "one that differs", {}, Tampering(1, without))

    error(outcome, ConsulUnavailable)


@pytest.mark.parametrize("policy_id", ["", "..", "../token/x", HALF_A_CHARACTER])
def test_a_policy_whose_id_is_none_is_none_of_consul(policy_id: str) -> None:
    def changed(answer: Answer) -> Answer:
        return answer.with_json({**json.loads(answer.body), "ID": policy_id})

    outcome = run("create_policy", "one that differs", {}, Tampering(1, changed))

    error(outcome, ConsulUnavailable)


@pytest.mark.parametrize("chosen", ["", "a b", "x\r\ny", "management"])
def test_what_is_no_token_is_not_stored_as_the_management_token(chosen: str) -> None:
    body = json.dumps({"SecretID": chosen}).encode()

    outcome = run("bootstrap_acls", "a fresh Consul", {}, Tampering(2, lambda _: Answer(200, body)))

    error(outcome, ConsulUnavailable)


@pytest.mark.parametrize("body", [b"{}", b"[]", b"5", b'{"SecretID": "x"}'])
def test_a_token_is_known_if_the_answer_shows_it(body: bytes) -> None:
    outcome = run("prove_token", "a pending one", {}, Tampering(1, lambda _: Answer(200, body)))

    error(outcome, ConsulUnavailable)


def test_an_error_has_an_encoding_whatever_it_quotes() -> None:
    description = f"x\nconsul.hashicorp.com/cluster: {HALF_A_CHARACTER}"

    def changed(answer: Answer) -> Answer:
        return answer.with_json({**json.loads(answer.body), "Description": description})

    outcome = run("create_token", "a token that is there", {}, Tampering(2, changed))

    assert "belongs to the cluster a\\udfffb" in error(outcome, ForeignObject)


def test_a_ca_with_half_a_character_in_its_comments_is_refused() -> None:
    scene, state = begin("check_consul", "a Consul that is ready")
    scene.environment[environment.CONSUL_CA_SECRET_ARN] = scene.arn(f"{PREFIX}-batch")
    pem = CertificateAuthority("Private").pem
    scene.set_secret(f"{PREFIX}-batch", f"{HALF_A_CHARACTER}\n{pem}")

    outcome = scene.run("check_consul", state)

    check(outcome)
    error(outcome, InvalidSecret)


def test_the_management_token_is_kept_out_of_a_refusal_of_its_own_bootstrap() -> None:
    scene, _ = begin("bootstrap_acls", "a fresh Consul")

    def quoting(_: Answer) -> Answer:
        return Answer(500, f"Invalid Token: {MANAGEMENT.secret_id}".encode())

    with scene.installed(Tampering(0, quoting, goes_on=True)):
        client = consul_connection.unauthenticated_consul()
        with pytest.raises(StepError) as caught:
            client.bootstrap(MANAGEMENT.secret_id)

    assert MANAGEMENT.secret_id not in str(caught.value)
    assert "<secret>" in str(caught.value)


# --- settings ------------------------------------------------------------------------------------


def _said(tmp_path: Path, text: str) -> str:
    (tmp_path / "web.hcl").write_text('key_prefix "web/" {\n  policy = "write"\n}\n')
    path = tmp_path / "mesh.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_settings(path)
    return str(caught.value)


@pytest.mark.parametrize("key", ["subnet_ids", "security_group_ids"])
def test_a_list_of_nothing_but_wrong_entries_is_not_called_too_short(
    tmp_path: Path, key: str
) -> None:
    network = {**COMPLETE["network"], key: ["sg-x"]}

    said = _said(tmp_path, yaml.safe_dump({**COMPLETE, "network": network}))

    assert "1 problem\n" in said
    assert f"network.{key}[0] (line " in said


@pytest.mark.parametrize("secret", SECRETS[:1] + SECRETS[3:])
def test_a_secret_that_yaml_takes_for_a_tag_is_not_repeated(tmp_path: Path, secret: str) -> None:
    said = _said(tmp_path, f"ecs: !{secret} x\n")

    assert "a value that looks like a secret (not shown)" in said
    assert secret not in said


def test_of_thousands_of_problems_the_first_hundred_are_told(tmp_path: Path) -> None:
    network = {**COMPLETE["network"], "security_group_ids": ["sg-x"] * 3000}

    said = _said(tmp_path, yaml.safe_dump({**COMPLETE, "network": network}))

    assert "3000 problems\n" in said
    assert "network.security_group_ids[99] (line " in said
    assert said.endswith("\n\n  and 2900 more")
