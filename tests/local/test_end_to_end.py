"""The deployed app, from `cdk bootstrap` to a proven token.

One deployment serves all tests here: the real CDK command line deploys into the local cloud, and
everything after goes through the AWS API and Consul's. With `CONSUL_HTTP_ADDR` and
`CONSUL_HTTP_TOKEN` set, or a `consul` on PATH, Consul is a real one.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from typing import Any

import pytest
import yaml
from rich.console import Console

from handlers.core import names
from local.consul_api import ConsulApi
from local.demo import DEMO_SYNTH_OPTIONS, DemoResult, run_demo
from local.deployment import Deployment, deployed_app
from local.progress import Progress
from local.report import as_data, print_report
from local.tasks import Execution, LocalTasks
from tests.local.intention_stack import IntentionStack
from tests.local.leaks import capture_events, every_secret, every_text

MESH = {names.MESH_TAG: "true"}


@pytest.fixture(scope="module")
def printed() -> StringIO:
    return StringIO()


@pytest.fixture(scope="module")
def progress(printed: StringIO) -> Progress:
    return Progress(Console(file=printed, width=160))


@pytest.fixture(scope="module")
def deployment(progress: Progress) -> Iterator[Deployment]:
    with deployed_app(
        progress, task_stage_seconds=0.5, synth_options=DEMO_SYNTH_OPTIONS
    ) as deployment:
        capture_events(deployment)
        yield deployment


@pytest.fixture(scope="module")
def tasks(deployment: Deployment) -> LocalTasks:
    return LocalTasks(deployment)


@pytest.fixture(scope="module")
def demo(deployment: Deployment, progress: Progress) -> DemoResult:
    return run_demo(deployment, progress)


@pytest.fixture(scope="module")
def management(deployment: Deployment) -> ConsulApi:
    secret = deployment.cloud.client("secretsmanager").get_secret_value(
        SecretId=deployment.outputs["BootstrapTokenSecretArn"]
    )
    return ConsulApi(deployment.consul, secret["SecretString"])


def tokens_of(management: ConsulApi, deployment: Deployment, service: str) -> list[dict[str, Any]]:
    description = names.service_token_description(service, deployment.cluster_arn)
    return [
        token for token in management.get("/v1/acl/tokens") if token["Description"] == description
    ]


def secret_of(deployment: Deployment, service: str) -> dict[str, str]:
    name = names.service_secret_name(deployment.secret_prefix, service)
    answer = deployment.cloud.client("secretsmanager").get_secret_value(SecretId=name)
    value: dict[str, str] = json.loads(answer["SecretString"])
    return value


def test_the_demonstration_finds_everything_as_it_should_be(demo: DemoResult) -> None:
    assert demo.problems() == []


def test_the_demonstrations_data_has_a_row_for_each_task(
    deployment: Deployment, demo: DemoResult
) -> None:
    data = as_data(deployment.consul, demo)

    rows = [
        {
            key: value
            for key, value in row.items()
            if key not in {"task_arn", "accessor_id", "seconds", "attempts"}
        }
        for row in data["tasks"]
    ]
    prefix = deployment.secret_prefix

    def with_token(family: str, service: str, token_from: str) -> dict[str, Any]:
        return {
            "family": family,
            "service": service,
            "mesh": True,
            "execution_status": "SUCCEEDED",
            "error": None,
            "secret_name": f"{prefix}-{service}",
            "token_from": token_from,
            "last_status": "RUNNING",
            "own_service_allowed": True,
            "other_service_refused": True,
        }

    def without_token(family: str, *, mesh: bool, status: str, error: str | None) -> dict[str, Any]:
        return {
            "family": family,
            "service": None,
            "mesh": mesh,
            "execution_status": status,
            "error": error,
            "secret_name": None,
            "token_from": None,
            "last_status": "RUNNING",
            "own_service_allowed": None,
            "other_service_refused": None,
        }

    assert rows == [
        with_token("storefront-v2", "storefront", "event"),
        with_token("storefront-v2", "storefront", "earlier task"),
        with_token("payments", "payments", "deployment"),
        with_token("inventory", "inventory", "event"),
        without_token("nightly-report", mesh=False, status="SUCCEEDED", error=None),
        without_token("Legacy_API", mesh=True, status="FAILED", error="InvalidServiceName"),
    ]
    assert data["consul"] == {
        "kind": deployment.consul.kind,
        "version": deployment.consul.version,
    }


def test_each_situation_makes_exactly_its_remote_calls(demo: DemoResult) -> None:
    assert demo.remote_calls == {
        "new_service": {
            "consul:GET /v1/acl/token/:accessor_id": 1,
            "consul:PUT /v1/acl/token": 1,
            "ecs:DescribeTasks": 1,
            "secretsmanager:CreateSecret": 1,
            "secretsmanager:GetSecretValue": 2,
            "secretsmanager:PutSecretValue": 1,
            "secretsmanager:UpdateSecretVersionStage": 1,
        },
        "new_service_with_a_secret": {
            "consul:GET /v1/acl/token/:accessor_id": 1,
            "consul:PUT /v1/acl/token": 1,
            "ecs:DescribeTasks": 1,
            "secretsmanager:CreateSecret": 1,
            "secretsmanager:DescribeSecret": 1,
            "secretsmanager:GetSecretValue": 3,
            "secretsmanager:PutSecretValue": 2,
            "secretsmanager:UpdateSecretVersionStage": 1,
        },
        "known_service": {
            "consul:GET /v1/acl/token/:accessor_id": 1,
            "ecs:DescribeTasks": 1,
            "secretsmanager:GetSecretValue": 2,
        },
        "not_mesh": {"ecs:DescribeTasks": 1},
    }


def test_the_first_task_of_a_deployed_service_runs_at_the_first_attempt(demo: DemoResult) -> None:
    (payments,) = (task for task in demo.tasks if task.task.service == "payments")

    assert payments.attempts == 1
    assert payments.token_before_service


def test_the_token_in_consul_is_the_one_in_the_secret(
    deployment: Deployment, demo: DemoResult, management: ConsulApi
) -> None:
    (token,) = tokens_of(management, deployment, "storefront")

    assert secret_of(deployment, "storefront") == {
        "accessor_id": token["AccessorID"],
        "token": token["SecretID"],
    }
    assert token["ServiceIdentities"] == [{"ServiceName": "storefront"}]


def test_thirty_concurrent_starts_of_a_new_service_give_exactly_one_token(
    deployment: Deployment, tasks: LocalTasks, management: ConsulApi
) -> None:
    tasks.register("stampede")
    started = [tasks.run("stampede", MESH) for _ in range(30)]

    executions = tasks.wait_for_workflows(started)

    ends = {execution.status for each in executions.values() for execution in each}
    assert ends == {"SUCCEEDED"}
    (token,) = tokens_of(management, deployment, "stampede")
    assert secret_of(deployment, "stampede")["token"] == token["SecretID"]


def test_a_token_deleted_by_hand_comes_back_with_the_same_ids(
    deployment: Deployment, tasks: LocalTasks, management: ConsulApi
) -> None:
    tasks.register("phoenix")
    tasks.wait_for_workflows([tasks.run("phoenix", MESH)])
    before = secret_of(deployment, "phoenix")
    management.delete(f"/v1/acl/token/{before['accessor_id']}")

    tasks.wait_for_workflows([tasks.run("phoenix", MESH)])

    (token,) = tokens_of(management, deployment, "phoenix")
    assert {"accessor_id": token["AccessorID"], "token": token["SecretID"]} == before
    assert secret_of(deployment, "phoenix") == before


def test_a_person_can_start_the_workflow_with_two_arns(
    deployment: Deployment, tasks: LocalTasks
) -> None:
    tasks.register("by-hand")
    task_arn = tasks.run("by-hand", MESH)
    tasks.wait_for_workflows([task_arn])
    step_functions = deployment.cloud.client("stepfunctions")

    step_functions.start_execution(
        stateMachineArn=deployment.outputs["TaskProvisioningArn"],
        input=json.dumps({"detail": {"clusterArn": deployment.cluster_arn, "taskArn": task_arn}}),
    )

    executions = tasks.wait_for_workflows([task_arn], at_least=3)[task_arn]
    assert [execution.status for execution in executions] == ["SUCCEEDED"] * 3
    assert executions[-1].output["token"] == {"change": "none"}


def test_a_task_that_stops_starts_no_workflow(deployment: Deployment, tasks: LocalTasks) -> None:
    tasks.register("short-lived")
    task_arn = tasks.run("short-lived", MESH)
    tasks.wait_for_workflows([task_arn])
    ecs = deployment.cloud.client("ecs")

    ecs.stop_task(cluster=deployment.cluster, task=task_arn)
    tasks.wait_until_stopped(task_arn)

    assert len(tasks.wait_for_workflows([task_arn])[task_arn]) == 2


def test_bootstrapping_again_changes_nothing(
    deployment: Deployment, demo: DemoResult, management: ConsulApi
) -> None:
    del demo
    before = management.get("/v1/acl/tokens"), management.get("/v1/acl/policies")

    output = run_bootstrap(deployment)

    assert (management.get("/v1/acl/tokens"), management.get("/v1/acl/policies")) == before
    assert output["management"] == {"bootstrapped": False}
    assert {output[key]["token"]["change"] for key in ("controller", "client")} == {"none"}


def run_bootstrap(deployment: Deployment) -> dict[str, Any]:
    tasks = LocalTasks(deployment)
    execution = tasks.run_to_its_end(deployment.outputs["ClusterBootstrapArn"], {})
    assert execution["status"] == "SUCCEEDED", execution.get("cause")
    output: dict[str, Any] = json.loads(execution["output"])
    return output


def test_a_changed_setting_takes_effect_with_the_next_deployment(
    deployment: Deployment, tasks: LocalTasks, management: ConsulApi, progress: Progress
) -> None:
    tasks.register("ruled")
    tasks.wait_for_workflows([tasks.run("ruled", MESH)])
    before = secret_of(deployment, "ruled")
    rules = 'key_prefix "ruled/" {\n  policy = "write"\n}\n'
    deployment.settings_file.with_name("ruled.hcl").write_text(rules)
    settings = yaml.safe_load(deployment.settings_file.read_text())
    settings["services"] = {"ruled": {"rules": "ruled.hcl"}}
    deployment.settings_file.write_text(yaml.safe_dump(settings))

    deployment.deploy(progress)
    tasks.wait_for_workflows([tasks.run("ruled", MESH)])

    policy_name = names.service_policy_name(deployment.secret_prefix, "ruled")
    assert management.get(f"/v1/acl/policy/name/{policy_name}")["Rules"] == rules
    (token,) = tokens_of(management, deployment, "ruled")
    assert [policy["Name"] for policy in token["Policies"]] == [policy_name]
    assert token["ServiceIdentities"] == [{"ServiceName": "ruled"}]
    assert secret_of(deployment, "ruled") == before


@dataclass(frozen=True)
class Mishap:
    """A task whose secret holds what its workflow has to refuse."""

    service: str
    secret_string: str
    token: str
    """The credential that is in the secret, in whatever form."""
    error: str


@pytest.fixture(scope="module")
def mishaps(
    deployment: Deployment, tasks: LocalTasks, management: ConsulApi
) -> Iterator[list[tuple[Mishap, list[Execution]]]]:
    """Mishaps, each with the executions of its task."""
    garbled, halved, wanted, taken, accessor_id = (str(uuid.uuid4()) for _ in range(5))
    all_mishaps = [
        Mishap("garbled", f"the token: {garbled}", garbled, "InvalidSecret"),
        Mishap("halved", json.dumps({"token": halved}), halved, "InvalidSecret"),
        Mishap(
            "taken",
            json.dumps({"accessor_id": accessor_id, "token": wanted}),
            wanted,
            "ForeignObject",
        ),
    ]
    foreign = {"AccessorID": accessor_id, "SecretID": taken, "Description": "Somebody else's"}
    assert management.put("/v1/acl/token", foreign)
    try:
        started = {}
        for mishap in all_mishaps:
            deployment.cloud.client("secretsmanager").create_secret(
                Name=names.service_secret_name(deployment.secret_prefix, mishap.service),
                SecretString=mishap.secret_string,
            )
            tasks.register(mishap.service)
            started[mishap.service] = tasks.run(mishap.service, MESH)
        executions = tasks.wait_for_workflows(list(started.values()))
        yield [(mishap, executions[started[mishap.service]]) for mishap in all_mishaps]
    finally:
        # The Consul may be somebody's.
        management.delete(f"/v1/acl/token/{accessor_id}")


def test_a_secret_or_a_token_that_is_not_ours_ends_the_workflow_and_stays_as_it_is(
    deployment: Deployment, mishaps: list[tuple[Mishap, list[Execution]]]
) -> None:
    ends = {
        mishap.service: {(execution.status, execution.error) for execution in executions}
        for mishap, executions in mishaps
    }
    values = {
        mishap.service: deployment.cloud.client("secretsmanager").get_secret_value(
            SecretId=names.service_secret_name(deployment.secret_prefix, mishap.service)
        )["SecretString"]
        for mishap, _ in mishaps
    }

    assert ends == {mishap.service: {("FAILED", mishap.error)} for mishap, _ in mishaps}
    assert values == {mishap.service: mishap.secret_string for mishap, _ in mishaps}


# Intentions: from another stack to Consul, and back -----------------------------------------------

PAIR, OTHER = ("greeter", "greeting"), ("greeter", "weather")


@pytest.fixture
def shop(deployment: Deployment, management: ConsulApi) -> Iterator[IntentionStack]:
    stack = IntentionStack(deployment, management)
    yield stack
    if stack.is_there:
        stack.delete()


def test_a_stack_allows_a_call_and_its_deletion_ends_that(shop: IntentionStack) -> None:
    assert not shop.allows(PAIR)

    assert shop.deploy(Allow=shop.allow(PAIR)) == "CREATE_COMPLETE"
    assert shop.allows(PAIR)

    assert shop.delete() == "DELETE_COMPLETE"
    assert not shop.allows(PAIR)


def test_an_update_to_other_services_ends_the_old_and_keeps_the_new(shop: IntentionStack) -> None:
    shop.deploy(Allow=shop.allow(PAIR))

    assert shop.deploy(Allow=shop.allow(OTHER)) == "UPDATE_COMPLETE"

    assert (shop.allows(PAIR), shop.allows(OTHER)) == (False, True)


def test_an_update_that_fails_later_goes_back_to_the_old_and_ends_the_new(
    shop: IntentionStack,
) -> None:
    shop.deploy(Allow=shop.allow(PAIR))
    wrong = {**shop.resource(Input={}), "DependsOn": "Allow"}

    status = shop.deploy(Allow=shop.allow(OTHER), Wrong=wrong)

    assert status == "UPDATE_ROLLBACK_COMPLETE"
    assert "InvalidEvent: The input needs" in shop.reasons()["Wrong CREATE_FAILED"]
    assert (shop.allows(PAIR), shop.allows(OTHER)) == (True, False)


@pytest.mark.parametrize("fails", [False, True], ids=["succeeds", "fails"])
def test_a_resource_that_takes_the_place_of_another_keeps_the_intention(
    shop: IntentionStack, *, fails: bool
) -> None:
    shop.deploy(Before=shop.allow(PAIR, mark="before"))
    after = {"After": shop.allow(PAIR, mark="after")}
    if fails:
        after["Wrong"] = {**shop.resource(Input={}), "DependsOn": "After"}

    status = shop.deploy(**after)

    assert status == ("UPDATE_ROLLBACK_COMPLETE" if fails else "UPDATE_COMPLETE")
    assert shop.allows(PAIR)
    assert shop.delete() == "DELETE_COMPLETE"
    assert not shop.allows(PAIR)


def test_a_deletion_whose_run_fails_says_why_and_how_to_go_on(shop: IntentionStack) -> None:
    intention = {"source": "a", "destination": "b"}
    shop.deploy(
        Allow=shop.resource(
            Input={"intention": {**intention, "action": "allow"}}, OnDelete={"remove": True}
        )
    )

    assert shop.delete() == "DELETE_FAILED"

    reason = shop.reasons()["Allow DELETE_FAILED"]
    assert "InvalidEvent: The input needs" in reason
    assert "Look at the execution arn:aws:states:" in reason
    assert "--retain-resources Allow" in reason
    shop.disallow(("a", "b"))


@pytest.fixture(scope="module")
def every_place(
    deployment: Deployment,
    demo: DemoResult,
    mishaps: list[tuple[Mishap, list[Execution]]],
    printed: StringIO,
) -> dict[str, str]:
    """The texts that a secret could be found in, after all that has gone well and badly."""
    del mishaps
    print_report(Console(file=printed, width=160), deployment.consul, demo)
    return {
        **every_text(deployment),
        "what the demonstration prints": printed.getvalue(),
        "what the demonstration writes": json.dumps(as_data(deployment.consul, demo)),
    }


def test_no_secret_is_anywhere_but_in_its_store(
    deployment: Deployment,
    management: ConsulApi,
    mishaps: list[tuple[Mishap, list[Execution]]],
    every_place: dict[str, str],
) -> None:
    tokens = every_secret(deployment, management) | {
        f"what is in the secret of {mishap.service}": mishap.token for mishap, _ in mishaps
    }

    leaks = {
        place: [secret for secret, token in tokens.items() if token in text]
        for place, text in every_place.items()
    }

    assert {place: found for place, found in leaks.items() if found} == {}


def test_the_search_for_secrets_looks_at_every_kind_of_place_and_for_every_secret(
    deployment: Deployment, management: ConsulApi, every_place: dict[str, str]
) -> None:
    kinds = {place.partition(" ")[0] for place in every_place}
    searched = set(every_secret(deployment, management).values())
    in_secrets = {secret_of(deployment, service)["token"] for service in ("storefront", "taken")}
    in_consul = {
        token["SecretID"]
        for token in management.get("/v1/acl/tokens")
        if token["Description"] == "Somebody else's"
    }

    assert kinds == {
        "execution",
        "log",
        "template",
        "outputs",
        "function",
        "task-definition",
        "event",
        "dead-letter",
        "what",
    }
    assert len(in_consul) == 1
    assert searched >= in_secrets | in_consul
