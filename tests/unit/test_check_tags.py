"""Which tasks are in the mesh, which token they need, and which are told why not.

`events/` holds whole "ECS Task State Change" events in the shape that AWS documents.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ConnectTimeoutError
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from handlers import check_tags
from handlers.clients import aws
from handlers.clients.ecs import Ecs
from handlers.core import environment
from handlers.core.errors import (
    AwsAccessDenied,
    AwsRequestRefused,
    AwsThrottled,
    AwsUnavailable,
    InvalidConfiguration,
    InvalidEvent,
    InvalidServiceName,
    InvalidStepInput,
    SecretNameCollision,
    StepError,
    TaskNotVisibleYet,
    UnsupportedTenancy,
)
from tests.unit.aws_state import CLUSTER_ARN, EcsState, SecretsState, answering
from tests.unit.steps import Steps

MESH = "consul.hashicorp.com/mesh"
SERVICE_NAME = "consul.hashicorp.com/service-name"
IN_MESH = {MESH: "true"}
TASK_ARN = "arn:aws:ecs:us-east-1:123456789012:task/mesh/5f0c1d7e2b8a4c39a6d4e1f0b7c8d921"
ONE_CALL = {"ecs:DescribeTasks": 1}

JsonObject = dict[str, Any]


def documented(name: str) -> JsonObject:
    path = Path(__file__).with_name("events") / f"{name}.json"
    event: JsonObject = json.loads(path.read_text())
    return event


def by_hand(task_arn: str, cluster_arn: str = CLUSTER_ARN) -> JsonObject:
    return {"detail": {"clusterArn": cluster_arn, "taskArn": task_arn}}


def input_with(event: Any, rules: JsonObject | None = None) -> JsonObject:
    return {"event": event, "service_rules": rules or {}}


def mesh_result(task_arn: str, service: str, cluster_arn: str = CLUSTER_ARN) -> JsonObject:
    """What the next steps need for a service without rules of its own."""
    return {
        "mesh": True,
        "task_arn": task_arn,
        "service_name": service,
        "secret": {
            "id": f"acme-{service}",
            "description": f"Consul token of the service {service}",
            "tags": {
                "consul.hashicorp.com/cluster": cluster_arn,
                "consul.hashicorp.com/service-name": service,
            },
        },
        "token": {
            "description": (
                f"Token for {service} service\nconsul.hashicorp.com/cluster: {cluster_arn}"
            ),
            "service_identities": [service],
            "policies": [],
        },
    }


# --- which tasks, by which name ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "tags", "service"),
    [
        pytest.param("web", IN_MESH, "web", id="named by its family"),
        pytest.param("web-task", IN_MESH | {SERVICE_NAME: "web"}, "web", id="named by its tag"),
        pytest.param("web", IN_MESH | {SERVICE_NAME: ""}, "web", id="empty tag: by its family"),
        pytest.param("WebTask", IN_MESH | {SERVICE_NAME: "web"}, "web",
                     id="a family that is no service name does no harm if there is a tag"),
        pytest.param("web", IN_MESH | {SERVICE_NAME: "a" * 250}, "a" * 250, id="a long name"),
        pytest.param("web", IN_MESH | {"team": "shop", "consul.hashicorp.com/mesh-2": "false"},
                     "web", id="other tags do not matter"),
        pytest.param("web", IN_MESH | {"consul.hashicorp.com/partition": "default",
                                       "consul.hashicorp.com/namespace": ""},
                     "web", id="the default partition and namespace, which a module may write"),
    ],
)  # fmt: skip
def test_a_mesh_task_gets_all_that_the_next_steps_need(
    ecs: EcsState, steps: Steps, family: str, tags: dict[str, str], service: str
) -> None:
    task_arn = ecs.run_task(family=family, tags=tags)
    result = steps.run(check_tags, input_with(by_hand(task_arn)))
    assert result == mesh_result(task_arn, service)
    assert steps.remote_calls == ONE_CALL


NO_TAG = (
    "The task has no tag consul.hashicorp.com/mesh. If it should have one: tags reach a task only "
    "if its service or RunTask call propagates them (propagateTags)."
)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        pytest.param({}, NO_TAG, id="no tags"),
        pytest.param({SERVICE_NAME: "web"}, NO_TAG, id="a service name alone"),
        pytest.param({MESH.upper(): "true"}, NO_TAG, id="a tag in capitals"),
        pytest.param({MESH: "True"}, f'The tag {MESH} is "True", not "true".', id="True"),
        pytest.param({MESH: "false"}, f'The tag {MESH} is "false", not "true".', id="false"),
        pytest.param({MESH: "true "}, f'The tag {MESH} is "true ", not "true".', id="a space"),
        pytest.param({MESH: ""}, f'The tag {MESH} is "", not "true".', id="an empty tag"),
    ],
)
def test_a_task_is_in_the_mesh_only_if_its_tag_says_exactly_true(
    ecs: EcsState, steps: Steps, tags: dict[str, str], reason: str
) -> None:
    task_arn = ecs.run_task(tags=tags)
    result = steps.run(check_tags, input_with(by_hand(task_arn)))
    assert result == {"mesh": False, "task_arn": task_arn, "reason": reason}
    assert steps.remote_calls == ONE_CALL


def test_a_tag_without_a_value_counts_as_empty() -> None:
    task = {
        "taskArn": TASK_ARN,
        "taskDefinitionArn": "arn:aws:ecs:us-east-1:123456789012:task-definition/web:7",
        "desiredStatus": "RUNNING",
        "tags": [{"key": MESH}],
    }
    client = SimpleNamespace(describe_tasks=lambda **_: {"tasks": [task]})
    found = Ecs(client).describe_task(cluster_arn=CLUSTER_ARN, task_arn=TASK_ARN)
    assert found is not None
    assert (found.family, found.tags) == ("web", {MESH: ""})


def test_a_task_whose_definition_names_no_family_is_refused(steps: Steps) -> None:
    task = {"taskArn": TASK_ARN, "taskDefinitionArn": "web", "desiredStatus": "RUNNING"}
    ecs = Ecs(SimpleNamespace(describe_tasks=lambda **_: {"tasks": [task]}))
    error = steps.failure(
        lambda: ecs.describe_task(cluster_arn=CLUSTER_ARN, task_arn=TASK_ARN), InvalidEvent
    )
    assert str(error) == f"The task {TASK_ARN} has no family: 'web'."


def test_a_stopping_task_needs_no_new_token(ecs: EcsState, steps: Steps) -> None:
    task_arn = ecs.run_task(tags=IN_MESH, desired_status="STOPPED")
    assert steps.run(check_tags, input_with(by_hand(task_arn))) == {
        "mesh": False,
        "task_arn": task_arn,
        "reason": "The task is stopping: it needs no new token.",
    }


def test_a_task_that_is_gone_is_not_in_the_mesh(ecs: EcsState, steps: Steps) -> None:
    ecs.run_task(tags=IN_MESH)
    assert steps.run(check_tags, input_with(by_hand(TASK_ARN))) == {
        "mesh": False,
        "task_arn": TASK_ARN,
        "reason": "The task no longer exists.",
    }
    assert steps.remote_calls == ONE_CALL


def test_a_cluster_that_is_gone_has_no_tasks(ecs: EcsState, steps: Steps) -> None:
    del ecs  # nothing was ever made in it
    result = steps.run(check_tags, input_with(by_hand(TASK_ARN)))
    assert result["reason"] == "The task no longer exists."


@pytest.mark.parametrize("name", ["mesh-2", "mes", "Mesh", "other"])
def test_a_task_of_another_cluster_is_left_alone_unseen(
    ecs: EcsState, steps: Steps, name: str
) -> None:
    cluster_arn = CLUSTER_ARN.replace("cluster/mesh", f"cluster/{name}")
    task_arn = ecs.run_task(tags=IN_MESH, cluster=name)
    assert steps.run(check_tags, input_with(by_hand(task_arn, cluster_arn))) == {
        "mesh": False,
        "task_arn": task_arn,
        "reason": f"The task belongs to the cluster {cluster_arn}, not to {CLUSTER_ARN}.",
    }
    assert steps.remote_calls == {}


# --- names that cannot be ------------------------------------------------------------------------

RULE = (
    "lower-case letters, digits, '-' and '_', at most 256 characters, "
    "the first and the last one a letter or a digit"
)


@pytest.mark.parametrize(
    "name",
    ["Web", "my.web", "-web", "web-", "wéb", "my web", "a" * 257],
    ids=lambda name: name[:8],
)
def test_an_invalid_service_name_is_refused_with_all_that_helps_to_correct_it(
    ecs: EcsState, steps: Steps, name: str
) -> None:
    task_arn = ecs.run_task(tags=IN_MESH | {SERVICE_NAME: name})
    error = steps.fail(check_tags, input_with(by_hand(task_arn)), InvalidServiceName)
    assert str(error) == (
        f'The tag {SERVICE_NAME} of the task {task_arn} is "{name}", which is no valid service '
        f"name. Allowed: {RULE}. Correct the tag {SERVICE_NAME} and start the task again."
    )
    assert steps.remote_calls == ONE_CALL


def test_an_invalid_family_is_refused_with_the_tag_to_add(ecs: EcsState, steps: Steps) -> None:
    task_arn = ecs.run_task(family="WebTask", tags=IN_MESH)
    error = steps.fail(check_tags, input_with(by_hand(task_arn)), InvalidServiceName)
    assert str(error) == (
        f"The task definition family (it has no tag {SERVICE_NAME}) of the task {task_arn} is "
        f'"WebTask", which is no valid service name. Allowed: {RULE}. Correct the tag '
        f"{SERVICE_NAME} and start the task again."
    )


@pytest.mark.parametrize("name", ["consul-client-token", "consul-controller-token"])
def test_a_service_cannot_take_a_secret_of_the_controller(
    ecs: EcsState, steps: Steps, name: str
) -> None:
    task_arn = ecs.run_task(tags=IN_MESH | {SERVICE_NAME: name})
    error = steps.fail(check_tags, input_with(by_hand(task_arn)), SecretNameCollision)
    assert str(error) == (
        f'The task {task_arn} asks for the service name "{name}", but the secret acme-{name} '
        "belongs to the controller. Choose another service name."
    )


@pytest.mark.parametrize("name", ["consul-client-token-2", "consul-client", "consul-client-toke"])
def test_a_name_that_only_resembles_a_reserved_one_is_free(
    ecs: EcsState, steps: Steps, name: str
) -> None:
    task_arn = ecs.run_task(tags=IN_MESH | {SERVICE_NAME: name})
    result = steps.run(check_tags, input_with(by_hand(task_arn)))
    assert result == mesh_result(task_arn, name)


def test_without_reserved_names_any_is_free(
    ecs: EcsState, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(environment.RESERVED_SECRET_NAMES)
    task_arn = ecs.run_task(tags=IN_MESH | {SERVICE_NAME: "consul-client-token"})
    assert steps.run(check_tags, input_with(by_hand(task_arn)))["mesh"] is True


@pytest.mark.parametrize("kind", ["partition", "namespace"])
def test_an_enterprise_tenancy_is_refused(ecs: EcsState, steps: Steps, kind: str) -> None:
    tag = f"consul.hashicorp.com/{kind}"
    task_arn = ecs.run_task(tags=IN_MESH | {tag: "team-a"})
    error = steps.fail(check_tags, input_with(by_hand(task_arn)), UnsupportedTenancy)
    assert str(error) == (
        f'The tag {tag} of the task {task_arn} is "team-a". Partitions and namespaces are Consul '
        "Enterprise features, which are not supported here. Remove the tag."
    )


# --- rules of its own ----------------------------------------------------------------------------


def test_a_service_with_extra_rules_gets_a_policy_of_its_own(ecs: EcsState, steps: Steps) -> None:
    task_arn = ecs.run_task(tags=IN_MESH)
    rules = {"web": 'key_prefix "web/" { policy = "read" }', "billing": "other"}
    result = steps.run(check_tags, input_with(by_hand(task_arn), rules))
    expected = mesh_result(task_arn, "web")
    expected["token"]["policies"] = ["acme-web-service"]
    expected["policy"] = {
        "name": "acme-web-service",
        "description": f"Policy for web service\nconsul.hashicorp.com/cluster: {CLUSTER_ARN}",
        "rules": 'key_prefix "web/" { policy = "read" }',
    }
    assert result == expected


def test_the_rules_of_another_service_are_not_its_own(ecs: EcsState, steps: Steps) -> None:
    task_arn = ecs.run_task(tags=IN_MESH)
    result = steps.run(check_tags, input_with(by_hand(task_arn), {"web-2": "x", "we": "y"}))
    assert result == mesh_result(task_arn, "web")


# --- a service by its name -----------------------------------------------------------------------


def service_result(service: str) -> JsonObject:
    result = mesh_result(TASK_ARN, service)
    del result["task_arn"]
    return result


@pytest.mark.parametrize("name", ["web", "w", "web_2-b", "a" * 256])
@pytest.mark.usefixtures("_aws")
def test_a_service_that_is_named_needs_no_task(steps: Steps, name: str) -> None:
    assert steps.run(check_tags, input_with({"service": name})) == service_result(name)
    assert steps.remote_calls == {}


@pytest.mark.usefixtures("_aws")
def test_a_service_that_is_named_gets_its_own_rules_too(steps: Steps) -> None:
    result = steps.run(check_tags, input_with({"service": "web"}, {"web": "x", "api": "y"}))
    expected = service_result("web")
    expected["token"]["policies"] = ["acme-web-service"]
    expected["policy"] = {
        "name": "acme-web-service",
        "description": f"Policy for web service\nconsul.hashicorp.com/cluster: {CLUSTER_ARN}",
        "rules": "x",
    }
    assert result == expected


@pytest.mark.parametrize("name", ["", "Web", "my.web", "-web", "web-", "web\n", "a" * 257])
@pytest.mark.usefixtures("_aws")
def test_a_named_service_needs_a_valid_name(steps: Steps, name: str) -> None:
    error = steps.fail(check_tags, input_with({"service": name}), InvalidServiceName)
    assert str(error) == (f"service is {name!r}, which is no valid service name. Allowed: {RULE}.")


@pytest.mark.parametrize("name", ["consul-client-token", "consul-controller-token"])
@pytest.mark.usefixtures("_aws")
def test_a_named_service_cannot_take_a_secret_of_the_controller(steps: Steps, name: str) -> None:
    error = steps.fail(check_tags, input_with({"service": name}), SecretNameCollision)
    assert str(error) == (
        f'The input asks for the service name "{name}", but the secret acme-{name} belongs to the '
        "controller. Choose another service name."
    )


@pytest.mark.parametrize(
    ("event", "message"),
    [
        pytest.param({"service": "web", **by_hand(TASK_ARN)},
                     'The input has both "service" and "detail". Give one of them.',
                     id="both"),
        pytest.param({"service": "web", "detail": None},
                     'The input has both "service" and "detail". Give one of them.',
                     id="both, one null"),
        pytest.param({"service": None},
                     "service must be the name of a service, a text; it is None.", id="null"),
        pytest.param({"service": ["web"]},
                     "service must be the name of a service, a text; it is ['web'].", id="a list"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("_aws")
def test_a_service_is_named_by_a_text_and_alone(
    steps: Steps, event: JsonObject, message: str
) -> None:
    assert str(steps.fail(check_tags, input_with(event), InvalidEvent)) == message
    assert steps.remote_calls == {}


# --- a shared token ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "secret", "kind"),
    [
        ({"token": "client"}, "acme-consul-client-token", "client"),
        ({"token": "controller"}, "acme-consul-controller-token", "controller"),
    ],
)
def test_a_shared_token_is_repaired_by_its_name(
    secrets: SecretsState,
    steps: Steps,
    monkeypatch: pytest.MonkeyPatch,
    *,
    event: JsonObject,
    secret: str,
    kind: str,
) -> None:
    arn = secrets.create(secret, "{}")
    monkeypatch.setenv(f"{kind.upper()}_TOKEN_SECRET_ARN", arn)
    result = steps.run(check_tags, input_with(event, {kind: "x"}))
    assert steps.remote_calls == {}
    # It is no service's, and its secret exists: it is never created here.
    assert set(result) == {"mesh", "secret", "token", "policy"}
    assert result["mesh"] is True
    assert result["secret"] == {"id": arn}
    assert result["token"] == {
        "description": f"ECS Consul {kind} Token\nconsul.hashicorp.com/cluster: {CLUSTER_ARN}",
        "service_identities": [],
        "policies": [f"acme-consul-{kind}-policy"],
    }
    assert result["policy"]["name"] == f"acme-consul-{kind}-policy"


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"token": "all"}, """token must be "client" or "controller"; it is 'all'."""),
        ({"token": "client", "service": "web"},
         'The input has both "service" and "token". Give one of them.'),
        ({"token": "client", **by_hand(TASK_ARN)},
         'The input has both "token" and "detail". Give one of them.'),
    ],
    ids=["another", "and a service", "and a task"],
)  # fmt: skip
@pytest.mark.usefixtures("_aws")
def test_a_shared_token_is_named_by_one_of_two_words_and_alone(
    steps: Steps, event: JsonObject, message: str
) -> None:
    assert str(steps.fail(check_tags, input_with(event), InvalidEvent)) == message


def test_a_function_that_knows_no_shared_secret_says_which_variable_it_lacks(
    secrets: SecretsState, steps: Steps
) -> None:
    del secrets
    error = steps.fail(check_tags, input_with({"token": "client"}), InvalidConfiguration)
    assert str(error) == (
        "The environment variable CLIENT_TOKEN_SECRET_ARN of the function is not set. Deploy it "
        "again."
    )


# --- events --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "service"),
    [
        pytest.param("fargate_provisioning", "web", id="Fargate, PROVISIONING"),
        pytest.param("fargate_pending", "web", id="Fargate, PENDING"),
        pytest.param("fargate_running", "web", id="Fargate, RUNNING"),
        pytest.param("ec2_pending", "billing", id="EC2, PENDING"),
        pytest.param("unknown_fields", "web", id="with fields that nobody knows yet"),
        pytest.param("container_overrides", "migrate", id="RunTask with overrides"),
    ],
)
def test_a_whole_event_leads_to_its_task(
    ecs: EcsState, steps: Steps, name: str, service: str
) -> None:
    event = documented(name)
    task_arn = ecs.run_task(family=service, tags=IN_MESH, arn=event["detail"]["taskArn"])
    assert task_arn == event["detail"]["taskArn"]
    assert steps.run(check_tags, input_with(event)) == mesh_result(task_arn, service)
    assert steps.remote_calls == ONE_CALL


def test_what_the_rule_passes_on_of_an_event_is_enough(ecs: EcsState, steps: Steps) -> None:
    event = documented("fargate_provisioning")
    kept = ("clusterArn", "taskArn", "lastStatus", "desiredStatus", "version")
    passed_on = {
        "id": event["id"],
        "time": event["time"],
        "detail": {key: str(event["detail"][key]) for key in kept},
    }
    task_arn = ecs.run_task(tags=IN_MESH, arn=event["detail"]["taskArn"])
    assert steps.run(check_tags, input_with(passed_on)) == mesh_result(task_arn, "web")


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["fargate_provisioning", "fargate_provisioning"], id="delivered twice"),
        pytest.param(["fargate_pending", "fargate_provisioning"], id="out of order"),
        pytest.param(["fargate_running", "fargate_provisioning"], id="late"),
        pytest.param(["fargate_stopped", "fargate_running"],
                     id="stopped, but ECS still says that it should run"),
    ],
)  # fmt: skip
def test_neither_the_number_nor_the_order_of_events_matters(
    ecs: EcsState, steps: Steps, names: list[str]
) -> None:
    task_arn = ecs.run_task(tags=IN_MESH, arn=TASK_ARN)
    for name in names:
        event = documented(name)
        assert event["detail"]["taskArn"] == TASK_ARN
        assert steps.run(check_tags, input_with(event)) == mesh_result(task_arn, "web")


def test_an_event_of_a_start_is_not_believed_once_the_task_stops(
    ecs: EcsState, steps: Steps
) -> None:
    ecs.run_task(tags=IN_MESH, arn=TASK_ARN, desired_status="STOPPED")
    for name in ("fargate_stopped", "fargate_provisioning"):
        assert steps.run(check_tags, input_with(documented(name))) == {
            "mesh": False,
            "task_arn": TASK_ARN,
            "reason": "The task is stopping: it needs no new token.",
        }


def test_the_event_of_another_cluster_is_left_alone(ecs: EcsState, steps: Steps) -> None:
    del ecs
    result = steps.run(check_tags, input_with(documented("other_cluster")))
    assert result["mesh"] is False
    assert (
        "belongs to the cluster arn:aws:ecs:us-east-1:123456789012:cluster/mesh-2"
        in (result["reason"])
    )
    assert steps.remote_calls == {}


@pytest.mark.parametrize(
    ("name", "region"), [("gov_cloud", "us-gov-west-1"), ("china", "cn-north-1")]
)
@pytest.mark.usefixtures("_aws")
def test_other_partitions_have_tasks_too(
    steps: Steps, monkeypatch: pytest.MonkeyPatch, name: str, region: str
) -> None:
    event = documented(name)
    cluster_arn = event["detail"]["clusterArn"]
    monkeypatch.setenv("AWS_DEFAULT_REGION", region)
    monkeypatch.setenv(environment.CLUSTER_ARN, cluster_arn)
    aws.client.cache_clear()
    try:
        ecs = EcsState(aws.client("ecs"))
        task_arn = ecs.run_task(tags=IN_MESH, arn=event["detail"]["taskArn"])
        result = steps.run(check_tags, input_with(event))
    finally:
        aws.client.cache_clear()
    assert task_arn == event["detail"]["taskArn"]
    assert result == mesh_result(task_arn, "web", cluster_arn)


def test_nothing_of_an_events_overrides_is_passed_on_or_logged(
    ecs: EcsState, steps: Steps, log: Callable[[], list[logging.LogRecord]]
) -> None:
    event = documented("container_overrides")
    secret = "correct-horse-battery"
    assert secret in json.dumps(event)
    ecs.run_task(family="migrate", tags=IN_MESH, arn=event["detail"]["taskArn"])
    steps.run(check_tags, input_with(event))
    assert secret not in "".join(steps.outputs)
    assert [secret in repr(vars(record)) for record in log()] == [False]


NO_DETAIL = (
    'The input has no object "detail" and no "service". Start the workflow with an ECS task event, '
    'with {"detail": {"clusterArn": "…", "taskArn": "…"}}, or with {"service": "…"}.'
)
NO_TASK = "detail.taskArn must be the ARN of an ECS task; it is "
NO_CLUSTER = "detail.clusterArn must be the ARN of an ECS cluster; it is "


@pytest.mark.parametrize(
    ("event", "message"),
    [
        pytest.param(None, NO_DETAIL, id="none"),
        pytest.param("x", NO_DETAIL, id="text"),
        pytest.param([], NO_DETAIL, id="a list"),
        pytest.param({}, NO_DETAIL, id="empty"),
        pytest.param({"detail": None}, NO_DETAIL, id="detail null"),
        pytest.param({"detail": [TASK_ARN]}, NO_DETAIL, id="detail a list"),
        pytest.param({"details": by_hand(TASK_ARN)["detail"]}, NO_DETAIL, id="details"),
        pytest.param({"detail": {}}, f"{NO_CLUSTER}absent.", id="detail empty"),
        pytest.param({"detail": {"clusterArn": CLUSTER_ARN}}, f"{NO_TASK}absent.", id="no task"),
        pytest.param(documented("missing_task_arn"), f"{NO_TASK}absent.",
                     id="a recorded event without its task"),
        pytest.param(documented("container_instance"), f"{NO_TASK}absent.",
                     id="an event of another type"),
        pytest.param(by_hand("5f0c1d7e"), f"{NO_TASK}'5f0c1d7e'.", id="the ID of a task"),
        pytest.param(by_hand(CLUSTER_ARN), f"{NO_TASK}'{CLUSTER_ARN}'.", id="a cluster as task"),
        pytest.param(by_hand(f"{TASK_ARN}\n"), f"{NO_TASK}{TASK_ARN + chr(10)!r}.",
                     id="a line end"),
        pytest.param(by_hand(TASK_ARN, "mesh"), f"{NO_CLUSTER}'mesh'.", id="a cluster's name"),
        pytest.param({"detail": {"clusterArn": CLUSTER_ARN, "taskArn": 7}}, f"{NO_TASK}7.",
                     id="a number"),
        pytest.param({"detail": {"clusterArn": CLUSTER_ARN, "taskArn": [TASK_ARN]}},
                     f"{NO_TASK}['{TASK_ARN}'].", id="a list of tasks"),
        pytest.param(by_hand("x" * 1000), f"{NO_TASK}'{'x' * 199}.", id="endless text"),
    ],
)  # fmt: skip
def test_a_malformed_event_is_refused_with_what_is_wrong(
    ecs: EcsState, steps: Steps, event: Any, message: str
) -> None:
    del ecs
    error = steps.fail(check_tags, input_with(event), InvalidEvent)
    assert str(error) == message
    assert steps.remote_calls == {}


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
arns = st.from_regex(r"\Aarn:aws:ecs:us-east-1:123456789012:(task|cluster)/\w[\w/-]*\Z")
details = st.fixed_dictionaries(
    {}, optional={"clusterArn": st.just(CLUSTER_ARN) | arns | json_values,
                  "taskArn": arns | json_values}
)  # fmt: skip


# The fixture serves all examples: none of them changes anything.
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(event=json_values | st.fixed_dictionaries({"detail": details | json_values}))
@example(event={"detail": {"clusterArn": CLUSTER_ARN, "taskArn": f"{TASK_ARN}/"}})
def test_any_json_is_either_judged_or_an_invalid_event(ecs: EcsState, event: Any) -> None:
    ecs.client.create_cluster(clusterName="mesh")
    try:
        result = check_tags.handler(input_with(event), None)
    except InvalidEvent:
        return
    assert result["mesh"] is False
    assert set(result) == {"mesh", "task_arn", "reason"}


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(service=json_values | st.from_regex(r"\A[a-z0-9_-]{1,9}\Z"))
@pytest.mark.usefixtures("_aws")
def test_any_named_service_is_either_taken_as_it_is_or_refused(service: Any) -> None:
    try:
        result = check_tags.handler(input_with({"service": service}), None)
    except (InvalidEvent, InvalidServiceName):
        return
    assert result == service_result(service)


def test_an_input_without_the_services_rules_is_the_workflows_fault(
    ecs: EcsState, steps: Steps
) -> None:
    task_arn = ecs.run_task(tags=IN_MESH)
    error = steps.fail(check_tags, {"event": by_hand(task_arn)}, InvalidStepInput)
    assert str(error) == 'The input of the step needs "service_rules", an object.'


def test_a_function_without_its_variables_says_which(
    ecs: EcsState, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_arn = ecs.run_task(tags=IN_MESH)
    monkeypatch.setenv(environment.CLUSTER_ARN, "")
    error = steps.fail(check_tags, input_with(by_hand(task_arn)), InvalidConfiguration)
    assert str(error) == (
        "The environment variable CLUSTER_ARN of the function is not set. Deploy it again."
    )


# --- what AWS may answer -------------------------------------------------------------------------

WHAT = f"Describing the task {TASK_ARN}"
DENIED = "User: arn:aws:sts::123456789012:assumed-role/r/f is not authorized"


@pytest.mark.parametrize(
    ("status", "code", "message", "kind", "text"),
    [
        (400, "ThrottlingException", "Rate exceeded", AwsThrottled,
         f"{WHAT}: throttled (ThrottlingException)."),
        (400, "LimitExceededException", "", AwsThrottled,
         f"{WHAT}: throttled (LimitExceededException)."),
        (503, "SlowDown", "", AwsThrottled, f"{WHAT}: throttled (SlowDown)."),
        (500, "ServerException", "", AwsUnavailable, f"{WHAT}: AWS failed (ServerException)."),
        (503, "ServiceUnavailable", "", AwsUnavailable,
         f"{WHAT}: AWS failed (ServiceUnavailable)."),
        (400, "UnrecognizedClientException", "", AwsUnavailable,
         f"{WHAT}: AWS failed (UnrecognizedClientException)."),
        (400, "AccessDeniedException", DENIED, AwsAccessDenied, f"{WHAT}: {DENIED}"),
        (400, "ClientException", "Wrong.", AwsRequestRefused,
         f"{WHAT}: Wrong. (ClientException)"),
        (400, "ValidationException", "1 error: Value 's3cret' …", AwsRequestRefused,
         f"{WHAT}: AWS finds the request invalid (ValidationException)."),
        (400, "InvalidParameterException", "longArn", InvalidEvent,
         f"ECS does not take {TASK_ARN} for a task of the cluster {CLUSTER_ARN}."),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isalpha() else "",
)  # fmt: skip
def test_what_ecs_refuses_is_one_of_our_errors(  # noqa: PLR0917 - a table
    ecs: EcsState,
    steps: Steps,
    status: int,
    code: str,
    message: str,
    kind: type[StepError],
    text: str,
) -> None:
    with answering(ecs.client, "DescribeTasks", status=status, code=code, message=message):
        error = steps.fail(check_tags, input_with(by_hand(TASK_ARN)), kind)
    assert str(error) == text


def test_no_answer_from_ecs_is_worth_another_try(steps: Steps) -> None:
    def time_out(**_: Any) -> None:
        raise ConnectTimeoutError(endpoint_url="https://ecs.us-east-1.amazonaws.com/")

    ecs = Ecs(SimpleNamespace(describe_tasks=time_out))
    error = steps.failure(
        lambda: ecs.describe_task(cluster_arn=CLUSTER_ARN, task_arn=TASK_ARN), AwsUnavailable
    )
    assert str(error) == f"{WHAT}: no answer from AWS (ConnectTimeoutError)."


# --- a task that ECS does not show yet -----------------------------------------------------------


@pytest.mark.parametrize(
    ("age", "expected"),
    [(timedelta(seconds=1), TaskNotVisibleYet), (timedelta(minutes=2), None)],
    ids=["a moment old", "two minutes old"],
)
def test_a_task_that_is_not_there_is_waited_for_while_its_event_is_young(
    ecs: EcsState, steps: Steps, age: timedelta, expected: type[StepError] | None
) -> None:
    del ecs
    event = by_hand(TASK_ARN) | {"time": (datetime.now(UTC) - age).isoformat()}
    state = input_with(event)
    if expected is not None:
        steps.fail(check_tags, state, expected)
    else:
        assert steps.run(check_tags, state)["reason"] == "The task no longer exists."
