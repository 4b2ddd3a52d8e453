"""What the local cloud's ECS does with tasks whose containers somebody runs for real."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from local.cloud import LocalCloud
from local.cloud.waiting import until

ADDRESS = "127.99.0.1"
REAL, MADE_UP = "real", "made-up"


class Runner:
    """Runs the tasks of one family, in name only."""

    def __init__(self) -> None:
        self.running: dict[str, Callable[[str, str], None]] = {}
        self.asked_to_stop: list[str] = []

    def runs(self, definition: Mapping[str, Any]) -> bool:
        return bool(definition["family"] == REAL)

    def start(
        self,
        definition: Mapping[str, Any],
        *,
        task_arn: str,
        cluster_arn: str,
        ended: Callable[[str, str], None],
    ) -> str:
        assert definition["containerDefinitions"][0]["image"] == "i"
        assert cluster_arn.endswith(":cluster/default")
        self.running[task_arn] = ended
        return ADDRESS

    def stop(self, task_arn: str) -> None:
        self.asked_to_stop.append(task_arn)

    def is_running(self, task_arn: str) -> bool:
        return task_arn in self.running


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner()


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory, runner: Runner) -> Iterator[LocalCloud]:
    @contextmanager
    def provided(client: Callable[[str], Any], hosts_file: Path) -> Iterator[Runner]:
        assert hosts_file.read_text() == ""
        yield runner

    workdir = tmp_path_factory.mktemp("cloud")
    with LocalCloud(workdir=workdir, task_stage_seconds=0.01, task_runner=provided) as cloud:
        ecs = cloud.client("ecs")
        ecs.create_cluster()
        for family in (REAL, MADE_UP):
            ecs.register_task_definition(
                family=family,
                requiresCompatibilities=["FARGATE"],
                networkMode="awsvpc",
                cpu="256",
                memory="512",
                containerDefinitions=[{"name": "app", "image": "i"}],
            )
        yield cloud


def started(cloud: LocalCloud, family: str) -> str:
    """Run a task, and return its ARN when it is RUNNING."""
    subnet = cloud.client("ec2").describe_subnets()["Subnets"][0]["SubnetId"]
    arn: str = cloud.client("ecs").run_task(
        taskDefinition=family,
        launchType="FARGATE",
        networkConfiguration={"awsvpcConfiguration": {"subnets": [subnet]}},
    )["tasks"][0]["taskArn"]
    until(lambda: described(cloud, arn)["lastStatus"] == "RUNNING", what="the task runs")
    return arn


def described(cloud: LocalCloud, arn: str) -> dict[str, Any]:
    task: dict[str, Any] = cloud.client("ecs").describe_tasks(tasks=[arn])["tasks"][0]
    return task


def addresses(task: Mapping[str, Any]) -> set[str]:
    """Return what a task says of its address, in both places."""
    (container,) = task["containers"]
    details = {each["name"]: each["value"] for each in task["attachments"][0]["details"]}
    return {
        details["privateIPv4Address"],
        container["networkInterfaces"][0]["privateIpv4Address"],
    }


def test_a_task_is_found_where_its_containers_are(cloud: LocalCloud, runner: Runner) -> None:
    arn = started(cloud, REAL)

    assert addresses(described(cloud, arn)) == {ADDRESS}
    assert arn in runner.running


def test_a_task_that_nobody_runs_has_an_address_of_its_own(
    cloud: LocalCloud, runner: Runner
) -> None:
    arn = started(cloud, MADE_UP)

    (address,) = addresses(described(cloud, arn))
    assert not address.startswith("127.")
    assert arn not in runner.running


def test_a_task_stops_when_its_containers_have_ended(cloud: LocalCloud, runner: Runner) -> None:
    arn = started(cloud, REAL)

    cloud.client("ecs").stop_task(task=arn)

    until(lambda: arn in runner.asked_to_stop, what="the containers are asked to end")
    assert described(cloud, arn)["lastStatus"] == "STOPPING"
    del runner.running[arn]
    until(lambda: described(cloud, arn)["lastStatus"] == "STOPPED", what="the task has stopped")


def test_containers_that_end_by_themselves_stop_their_task(
    cloud: LocalCloud, runner: Runner
) -> None:
    arn = started(cloud, REAL)

    runner.running.pop(arn)("Essential container in task exited", "EssentialContainerExited")

    until(lambda: described(cloud, arn)["lastStatus"] == "STOPPED", what="the task has stopped")
    task = described(cloud, arn)
    assert (task["stoppedReason"], task["stopCode"]) == (
        "Essential container in task exited",
        "EssentialContainerExited",
    )
