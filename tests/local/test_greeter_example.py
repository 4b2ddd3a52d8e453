"""The example, from `cdk deploy` to an answer through the mesh.

The stack is deployed into a local cloud that runs its tasks: the Consul server, `greeting` and
`greeter`, whose containers are processes of this machine, with the secrets that the deployed
workflows have filled. `greeter` is asked at its proxy, and asks `greeting` through both.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import requests
from rich.console import Console

from handlers.core import names
from local.cloud.waiting import until
from local.consul_api import ConsulApi
from local.example import DeployedExample, deployed_example, why_no_example
from local.progress import Progress
from local.tasks import LocalTasks
from tests.local.leaks import capture_events, every_secret, every_text

PUBLIC_LISTENER = 20000
TIMEOUT_SECONDS = 10
SERVER, SERVICES = "consul-server", ("greeter", "greeting")
LONG_SECONDS = 60


@pytest.fixture(scope="module")
def example() -> Iterator[DeployedExample]:
    """The deployed example, and the events of its tasks."""
    if reason := why_no_example():
        pytest.skip(reason)
    progress = Progress(Console(file=StringIO()))
    with deployed_example(progress, task_stage_seconds=0.3, check_interval=0.3) as deployed:
        if deployed.consul.kind != "embedded":
            pytest.skip("with a real consul on the PATH the proxies need its certificates")
        capture_events(deployed)
        yield deployed


@dataclass(frozen=True)
class Seen:
    """What was seen of the deployed example, with its first Consul server.

    Attributes:
        answer: what `greeter` says.
        instances: what the catalog has, by service.
        allowed: who may call whom, as Consul says, of some pairs.
        calls: what comes of calling one service's proxy from the other's task.

    """

    answer: tuple[int, str]
    instances: Mapping[str, list[dict[str, Any]]]
    allowed: Mapping[tuple[str, str], bool]
    calls: Mapping[tuple[str, str], int | None]


@pytest.fixture(scope="module")
def seen(example: DeployedExample) -> Seen:
    """What is seen when everything is up."""
    address = f"http://{example.task('greeter').address}:{PUBLIC_LISTENER}/"

    def answer() -> tuple[int, str] | None:
        # Its proxy is there before it, and it before its upstream.
        with suppress(requests.ConnectionError):
            answered = requests.get(address, timeout=TIMEOUT_SECONDS)
            return (answered.status_code, answered.text) if answered.ok else None
        return None

    answered = until(answer, within=LONG_SECONDS, what="greeter to answer")
    consul = management(example)
    return Seen(
        answer=answered,
        instances={name: consul.get(f"/v1/catalog/service/{name}") for name in SERVICES},
        allowed={
            (source, destination): consul.get(
                f"/v1/connect/intentions/check?source={source}&destination={destination}"
            )["Allowed"]
            for source, destination in (
                ("greeter", "greeting"),
                ("greeting", "greeter"),
                ("somebody-else", "greeting"),
            )
        },
        calls={
            pair: called(*(example.task(each).address for each in pair))
            for pair in (SERVICES, SERVICES[::-1])
        },
    )


def called(source: str, destination: str) -> int | None:
    """Call a task's proxy from another task's address; none if that refuses."""
    connection = http.client.HTTPConnection(
        destination, PUBLIC_LISTENER, timeout=TIMEOUT_SECONDS, source_address=(source, 0)
    )
    try:
        connection.request("GET", "/")
        return connection.getresponse().status
    except (ConnectionError, http.client.HTTPException):
        return None
    finally:
        connection.close()


@pytest.fixture(scope="module")
def after_a_new_server(example: DeployedExample, seen: Seen) -> dict[str, dict[str, str]]:
    """Put another Consul, an empty one, in the place of the first; returns the tokens before."""
    del seen
    before = stored_tokens(example)
    first = example.task(SERVER)
    moment = example.cloud.clock.now()
    example.cloud.client("ecs").stop_task(cluster=example.cluster, task=first.arn)
    first.wait_until_stopped()
    until(
        # Not one that the first server has started, and that ends late.
        lambda: any(
            each["startDate"] > moment for each in succeeded(example, "ClusterBootstrapArn")
        ),
        within=LONG_SECONDS,
        what="ClusterBootstrap to have succeeded once more",
    )
    return before


def stored_tokens(example: DeployedExample) -> dict[str, dict[str, str]]:
    """Return the contents of the secrets of all tokens that workflows have made, by their names."""
    prefix = example.secret_prefix
    secrets = [
        names.controller_secret_name(prefix),
        example.outputs["ClientTokenSecretName"],
        names.service_secret_name(prefix, "greeter"),
        names.service_secret_name(prefix, "greeting"),
    ]
    client = example.cloud.client("secretsmanager")
    return {
        name: json.loads(client.get_secret_value(SecretId=name)["SecretString"]) for name in secrets
    }


def succeeded(example: DeployedExample, workflow: str) -> list[dict[str, Any]]:
    """Return the executions of a workflow that have succeeded."""
    found: list[dict[str, Any]] = example.cloud.client("stepfunctions").list_executions(
        stateMachineArn=example.outputs[workflow], statusFilter="SUCCEEDED"
    )["executions"]
    return found


def management(example: DeployedExample) -> ConsulApi:
    """Return the API of the Consul that there is now."""
    return ConsulApi(example.consul, example.consul.management_token)


def known_tokens(example: DeployedExample) -> list[dict[str, str]]:
    """Return the tokens of Consul, as their secrets would have them."""
    return [
        {"accessor_id": token["AccessorID"], "token": token["SecretID"]}
        for token in management(example).get("/v1/acl/tokens")
    ]


def test_the_one_service_answers_with_what_the_other_says(seen: Seen) -> None:
    assert seen.answer == (200, "The greeting is: Hello from the mesh\n")


def test_ecs_started_each_service_at_the_first_attempt(example: DeployedExample) -> None:
    ecs = example.cloud.client("ecs")
    services = ecs.list_services(cluster=example.cluster)["serviceArns"]

    described = ecs.describe_services(cluster=example.cluster, services=services)["services"]

    assert [each["deployments"][0]["failedTasks"] for each in described] == [0, 0, 0]


def test_the_catalog_has_the_services_with_the_tasks_that_run_them(
    example: DeployedExample, seen: Seen
) -> None:
    found = {
        service: [
            (instance["ServiceMeta"]["task-arn"], instance["ServiceAddress"])
            for instance in instances
        ]
        for service, instances in seen.instances.items()
    }

    tasks = {service: example.task(service) for service in SERVICES}
    assert found == {service: [(task.arn, task.address)] for service, task in tasks.items()}


def test_the_one_may_call_the_other_and_nobody_else_may(seen: Seen) -> None:
    assert seen.allowed == {
        ("greeter", "greeting"): True,
        ("greeting", "greeter"): False,
        ("somebody-else", "greeting"): False,
    }
    assert seen.calls == {("greeter", "greeting"): 200, ("greeting", "greeter"): None}


def test_the_server_has_its_secrets_neither_in_its_command_nor_in_its_environment(
    example: DeployedExample,
) -> None:
    process = Path(f"/proc/{example.task(SERVER).pid(SERVER)}")
    secrets = every_secret(example, management(example))

    texts = [(process / name).read_text(errors="replace") for name in ("cmdline", "environ")]

    assert "consul" in texts[0]
    assert [
        where for where, secret in secrets.items() if any(secret in text for text in texts)
    ] == []


def test_a_new_server_knows_the_same_tokens_again(
    example: DeployedExample, after_a_new_server: dict[str, dict[str, str]]
) -> None:
    controller, client, *_ = after_a_new_server.values()
    assert [each for each in (controller, client) if each not in known_tokens(example)] == []

    LocalTasks(example).run_to_its_end(example.outputs["ReconciliationArn"], {})

    assert stored_tokens(example) == after_a_new_server
    known = known_tokens(example)
    assert [name for name, each in after_a_new_server.items() if each not in known] == []


def test_a_new_server_lets_the_same_services_call_each_other(
    example: DeployedExample, after_a_new_server: dict[str, dict[str, str]]
) -> None:
    del after_a_new_server
    path = "/v1/connect/intentions/check?source=greeter&destination=greeting"

    until(
        lambda: management(example).get(path)["Allowed"],
        within=LONG_SECONDS,
        what="the intention to be there again",
    )


def test_no_secret_is_anywhere_but_in_its_store(
    example: DeployedExample, after_a_new_server: dict[str, dict[str, str]]
) -> None:
    secrets = every_secret(example, management(example))
    places = every_text(example) | {
        f"containers {task.arn}": "\n".join(line.text for line in task.logs)
        for task in example.runner.tasks()
    }

    leaks = {
        place: [where for where, secret in secrets.items() if secret in text]
        for place, text in places.items()
    }

    assert {place: found for place, found in leaks.items() if found} == {}
    # Those of the server are among them.
    for kind in ("Certificate", "GossipKey", "ManagementToken", "AgentToken"):
        assert any(kind in where for where in secrets), kind
