"""The example, from `cdk deploy` to an answer through the mesh.

The app is deployed into the local cloud, ECS's task definitions are read from there, and their
containers run as processes of this machine, with the secrets that the deployed workflow has filled:
`greeter` is asked at its proxy, and asks `greeting` through both.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import requests
from rich.console import Console

from handlers.core import names
from local.cloud.waiting import until
from local.consul import EmbeddedConsul
from local.deployment import Deployment, deployed_app
from local.progress import Progress
from local.task.images import (
    Image,
    consul_image,
    envoy_image,
    mesh_init_image,
    python_image,
)
from local.task.secrets import secrets_from
from local.task.task import LocalTask
from tests.local.mesh_service import by_name, quicker, why_not_here

PUBLIC_LISTENER = 20000
TIMEOUT_SECONDS = 10


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    """The deployed app with the example."""
    if reason := why_not_here():
        pytest.skip(reason)
    progress = Progress(Console(file=StringIO()))
    # Not a real one, if there is one: the agents here are stand-ins, which speak to this one only.
    options = ("-c", "example=greeter")
    with (
        EmbeddedConsul() as consul,
        deployed_app(progress, consul=consul, synth_options=options) as deployed,
    ):
        yield deployed


@pytest.fixture(scope="module")
def tasks(deployment: Deployment) -> Iterator[dict[str, LocalTask]]:
    """A running task of each service, the called one first."""
    with ExitStack() as stack:
        # A short path, for there is a socket in it. (Those of pytest are long.)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mesh-")))
        running: dict[str, LocalTask] = {}
        for service in ("greeting", "greeter"):
            running[service] = stack.enter_context(
                make_task(deployment, service, directory / service)
            )
            running[service].wait_until_running()
        yield running


def make_task(deployment: Deployment, service: str, directory: Path) -> LocalTask:
    """Make a task of a service's deployed task definition."""
    definition = described(deployment, service)
    image = {name: each["image"] for name, each in by_name(definition).items()}
    images: dict[str, Image] = {
        image["consul-client"]: consul_image(
            directory / "consul", server=deployment.consul.address
        ),
        image["sidecar-proxy"]: envoy_image(directory / "envoy"),
        image["consul-ecs-mesh-init"]: mesh_init_image(directory / "mesh-init"),
        image[service]: python_image(directory / "python"),
    }
    return LocalTask(
        quicker(definition),
        images=images,
        resolve_secret=secrets_from(deployment.cloud.client("secretsmanager")),
        workdir=directory / "task",
        cluster=deployment.cluster_arn,
    )


def described(deployment: Deployment, service: str) -> dict[str, Any]:
    """Return the task definition that the service of ECS runs, as ECS describes it."""
    ecs = deployment.cloud.client("ecs")
    for arn in ecs.list_services(cluster=deployment.cluster)["serviceArns"]:
        (found,) = ecs.describe_services(cluster=deployment.cluster, services=[arn])["services"]
        definition: dict[str, Any] = ecs.describe_task_definition(
            taskDefinition=found["taskDefinition"]
        )["taskDefinition"]
        if definition["family"] == service:
            return definition
    raise AssertionError(f"no service runs {service}")


def test_the_one_service_answers_with_what_the_other_says(tasks: dict[str, LocalTask]) -> None:
    address = f"http://{tasks['greeter'].address}:{PUBLIC_LISTENER}/"

    def answer() -> tuple[int, str] | None:
        # It has no health check, so that it may run and not listen yet.
        with suppress(requests.ConnectionError):
            answered = requests.get(address, timeout=TIMEOUT_SECONDS)
            return answered.status_code, answered.text
        return None

    answered = until(answer, within=TIMEOUT_SECONDS, what="greeter to answer")

    assert answered == (200, "The greeting is: Hello from the mesh\n")


def test_ecs_started_both_at_the_first_attempt(deployment: Deployment) -> None:
    ecs = deployment.cloud.client("ecs")
    services = ecs.list_services(cluster=deployment.cluster)["serviceArns"]

    described_services = ecs.describe_services(cluster=deployment.cluster, services=services)

    assert len(described_services["services"]) == 2
    assert [
        deployment_of["failedTasks"]
        for each in described_services["services"]
        for deployment_of in each["deployments"]
    ] == [0, 0]


def test_the_catalog_has_the_services_with_the_tasks_that_run_them(
    deployment: Deployment, tasks: dict[str, LocalTask]
) -> None:
    token = deployment.cloud.client("secretsmanager").get_secret_value(
        SecretId=names.client_secret_name(deployment.secret_prefix)
    )
    for service, task in tasks.items():
        answer = requests.get(
            f"{deployment.consul.address}/v1/catalog/service/{service}",
            headers={"X-Consul-Token": _token(token)},
            timeout=TIMEOUT_SECONDS,
        )

        (instance,) = answer.json()
        assert instance["ServiceID"].startswith(f"{service}-")
        assert instance["ServiceMeta"]["task-arn"].startswith("arn:aws:ecs:")
        assert instance["ServiceMeta"]["task-id"] in instance["ServiceID"]
        assert task.status == "RUNNING"


def _token(answer: dict[str, Any]) -> str:
    value: dict[str, str] = json.loads(answer["SecretString"])
    return value["token"]
