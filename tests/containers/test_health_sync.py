"""health-sync: what ECS says, what Consul is told, and what it is told last."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from containers import health_sync, mesh_init
from containers.consul_agent import ConsulAgent
from containers.errors import EnvironmentInvalid
from containers.health_sync import HealthSync, Report, report
from containers.task_config import TaskConfigError
from containers.task_metadata import Task, TaskMetadata
from local.consul import EmbeddedConsul
from tests.containers.task import (
    TASK_ARN,
    TASK_ID,
    TOKEN,
    FakeTask,
    FakeTime,
    config,
    metadata,
    put_consul,
    start,
)
from tests.unit.consul_state import ConsulState
from tests.unit.loopback import Received

MANAGEMENT = "11111111-2222-3333-4444-555555555555"
PREFIX = "/v1/agent/check/update/"
CHECK = f"{PREFIX}web-{TASK_ID}-web-consul-ecs"
CACHE_CHECK = f"{PREFIX}web-{TASK_ID}-cache-consul-ecs"

Sync = Callable[..., HealthSync]


def passing(container: str = "web") -> dict[str, str]:
    return {"Status": "passing", "Output": f"ECS reports the container {container} as HEALTHY."}


def critical(container: str = "web", health: str = "UNHEALTHY") -> dict[str, str]:
    return {"Status": "critical", "Output": f"ECS reports the container {container} as {health}."}


STOPPING = {"Status": "critical", "Output": "The task is being stopped."}


@pytest.fixture
def sync(task: FakeTask, time: FakeTime, tmp_path: Path) -> Sync:
    def sync(*containers: str) -> HealthSync:
        task_config = config(health_sync_containers=containers or ("web",))
        environment = task.environment(tmp_path, task_config)
        return HealthSync(
            task_config,
            TaskMetadata.from_environment(environment),
            ConsulAgent.from_environment(environment),
            time,
        )

    return sync


@pytest.mark.parametrize(
    ("health", "expected"),
    [
        ({"web": "HEALTHY"}, Report("passing", "ECS reports the container web as HEALTHY.")),
        ({"web": "UNHEALTHY"}, Report("critical", "ECS reports the container web as UNHEALTHY.")),
        ({"web": "UNKNOWN"}, Report("critical", "ECS reports the container web as UNKNOWN.")),
        ({"web": "Healthy"}, Report("critical", "ECS reports the container web as Healthy.")),
        ({"web": ""}, Report("critical", "ECS reports no health for the container web.")),
        ({"api": "HEALTHY"}, Report("critical", "ECS lists no container web in this task.")),
    ],
)
def test_only_healthy_passes(health: dict[str, str], expected: Report) -> None:
    assert report(Task(TASK_ARN, "web", health), "web") == expected


def test_only_changes_are_written(sync: Sync, task: FakeTask) -> None:
    syncing = sync("web", "cache")
    for health in (
        {"web": "UNKNOWN", "cache": "HEALTHY"},
        {"web": "UNKNOWN", "cache": "HEALTHY"},
        {"web": "HEALTHY", "cache": "HEALTHY"},
        {"web": "HEALTHY", "cache": "UNHEALTHY"},
        {"web": "HEALTHY", "cache": "UNHEALTHY"},
        {"web": "UNHEALTHY", "cache": "UNHEALTHY"},
    ):
        task.metadata = metadata(health)
        syncing.tick()

    assert task.writes == [
        (CHECK, critical(health="UNKNOWN")),
        (CACHE_CHECK, passing("cache")),
        (CHECK, passing()),
        (CACHE_CHECK, critical("cache")),
        (CHECK, critical()),
    ]


def test_a_container_that_ecs_does_not_list_is_critical_once(sync: Sync, task: FakeTask) -> None:
    syncing = sync()
    for health in ({}, {}, {"web": None}, {"web": None}, {"web": "HEALTHY"}, {}, {}):
        task.metadata = metadata(health)
        syncing.tick()

    missing = {"Status": "critical", "Output": "ECS lists no container web in this task."}
    silent = {"Status": "critical", "Output": "ECS reports no health for the container web."}
    assert [body for _, body in task.writes] == [missing, silent, passing(), missing]


def test_while_ecs_is_silent_the_last_health_stands_and_that_is_said_once(
    sync: Sync, task: FakeTask, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    task.metadata = metadata({"web": "HEALTHY"})
    syncing = sync()
    syncing.tick()
    task.answers["/v4/"] = 500, ""
    for _ in range(5):
        syncing.tick()
    task.answers.clear()
    syncing.tick()

    assert task.writes == [(CHECK, passing())]
    assert [record.message for record in caplog.records][1:] == [
        (
            "ECS does not tell the containers' health; trying on. "
            "The task metadata endpoint answers with HTTP status 500."
        ),
        "ECS does not tell the containers' health: that is over.",
    ]


@pytest.mark.parametrize(
    ("status", "text", "message"),
    [
        (0, "", "does not answer"),
        (403, "ACL not found", "refuses the report (HTTP 403: ACL not found)"),
        (403, "Permission denied: Missing service:write on web", "has lost its rights"),
        (500, f'Unknown check "web-{TASK_ID}-web-consul-ecs"', "no such check"),
        (404, 'Unknown check "x"', "no such check"),
        (500, "No cluster leader", "cannot serve"),
        (400, "Request decode failed", "refuses /v1/agent/check/update"),
    ],
)
def test_what_consul_does_not_take_is_written_again_and_said_once(
    status: int,
    text: str,
    message: str,
    *,
    sync: Sync,
    task: FakeTask,
    caplog: pytest.LogCaptureFixture,
) -> None:
    task.metadata = metadata({"web": "HEALTHY"})
    task.answers[PREFIX] = status, text
    syncing = sync()
    for _ in range(3):
        syncing.tick()
    attempts = [request for request in task.requests if request.path == CHECK]
    assert len(attempts) == 3
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert message in record.message
    assert TOKEN not in caplog.text

    task.answers.clear()
    syncing.tick()
    syncing.tick()
    assert task.writes == [(CHECK, passing())]


def test_a_write_that_may_have_got_lost_is_repeated_even_if_the_health_comes_back(
    sync: Sync, task: FakeTask
) -> None:
    task.metadata = metadata({"web": "HEALTHY"})
    syncing = sync()
    syncing.tick()
    task.answers[PREFIX] = 0, ""
    task.metadata = metadata({"web": "UNHEALTHY"})
    syncing.tick()
    task.answers.clear()
    task.metadata = metadata({"web": "HEALTHY"})
    syncing.tick()

    assert [body for _, body in task.writes] == [passing(), passing()]


def test_one_container_s_trouble_is_not_another_s(sync: Sync, task: FakeTask) -> None:
    task.metadata = metadata({"web": "HEALTHY", "cache": "HEALTHY"})
    task.answers[CHECK] = 500, "x"
    sync("web", "cache").tick()

    assert task.writes == [(CACHE_CHECK, passing("cache"))]


def test_it_asks_every_second_and_in_the_end_marks_everything_critical_once(
    sync: Sync, task: FakeTask, time: FakeTime
) -> None:
    task.metadata = metadata({"web": "HEALTHY", "cache": "UNHEALTHY"})

    def stop() -> None:
        time.requested = len(time.pauses) == 3

    time.at_pause = stop
    sync("web", "cache").run()

    assert time.pauses == [1.0, 1.0, 1.0]
    assert task.writes == [
        (CHECK, passing()),
        (CACHE_CHECK, critical("cache")),
        (CHECK, STOPPING),
        (CACHE_CHECK, STOPPING),
    ]


def test_after_the_signal_not_even_the_rest_of_a_round_is_written(
    sync: Sync, task: FakeTask, time: FakeTime
) -> None:
    task.metadata = metadata({"web": "HEALTHY", "cache": "HEALTHY"})

    def stop_during_the_first_write(received: Received) -> None:
        time.requested = time.requested or received.path == CHECK

    task.before = stop_during_the_first_write
    sync("web", "cache").run()

    assert task.writes == [(CHECK, passing()), (CHECK, STOPPING), (CACHE_CHECK, STOPPING)]


def test_in_the_end_each_check_is_tried_once_whatever_comes_of_it(
    sync: Sync, task: FakeTask, time: FakeTime
) -> None:
    task.metadata = metadata({"web": "HEALTHY", "cache": "HEALTHY"})

    def stop() -> None:
        time.requested = True
        task.answers[PREFIX] = 0, ""

    time.at_pause = stop
    sync("web", "cache").run()

    assert [r.path for r in task.requests if r.path.startswith(PREFIX)] == [
        CHECK,
        CACHE_CHECK,
        CHECK,
        CACHE_CHECK,
    ]


def test_a_task_that_ecs_never_told_about_has_nothing_to_mark(
    sync: Sync, task: FakeTask, time: FakeTime
) -> None:
    task.answers["/v4/"] = 500, ""

    def stop() -> None:
        time.requested = True

    time.at_pause = stop
    sync().run()

    assert task.writes == []


def test_what_mesh_init_registers_is_what_health_sync_reports_on(
    task: FakeTask, time: FakeTime, volume: Path
) -> None:
    put_consul(volume)
    with EmbeddedConsul(initial_management=MANAGEMENT) as consul:
        state = ConsulState(consul, MANAGEMENT)
        state.create_token(SecretID=TOKEN, ServiceIdentities=[{"ServiceName": "web"}])
        task_config = config(volume, health_sync_containers=("web",))
        environment = task.environment(volume, task_config, CONSUL_HTTP_ADDR=consul.address)
        mesh_init.run(environment, time, inject_dir=str(volume / "inject"))

        def health() -> dict[str, tuple[str, str]]:
            return {
                check["Name"]: (check["Status"], check["Output"])
                for instance in state.call("GET", "/v1/health/service/web")
                for check in instance["Checks"]
                if check["ServiceID"]
            }

        seen = [health()]

        def look() -> None:
            seen.append(health())
            time.requested = len(time.pauses) == 2
            task.metadata = metadata({"web": "UNHEALTHY"})

        task.metadata = metadata({"web": "HEALTHY"})
        time.at_pause = look
        health_sync.run(environment, time)
        seen.append(health())
        state.close()

    assert seen == [
        {"consul ecs synced": ("critical", "")},
        {"consul ecs synced": ("passing", passing()["Output"])},
        {"consul ecs synced": ("critical", critical()["Output"])},
        {"consul ecs synced": ("critical", STOPPING["Output"])},
    ]


def test_there_must_be_something_to_report(task: FakeTask, time: FakeTime, tmp_path: Path) -> None:
    with pytest.raises(TaskConfigError, match="healthSyncContainers names no container"):
        health_sync.run(task.environment(tmp_path, config()), time)
    with pytest.raises(EnvironmentInvalid, match="CONSUL_ECS_CONFIG_JSON is not set"):
        health_sync.run({}, time)


# --- As a process --------------------------------------------------------------------------------


def test_as_a_process_it_reports_until_it_is_stopped_and_ends_with_0(
    task: FakeTask, tmp_path: Path
) -> None:
    task.metadata = metadata({"web": "HEALTHY"})
    environment = task.environment(tmp_path, config(health_sync_containers=("web",)))

    with start("health-sync", environment) as process:
        task.wait_for(lambda: task.writes == [(CHECK, passing())])
        process.terminate()
        out, err = process.communicate(timeout=10)

    assert (process.returncode, out) == (0, "")
    assert task.writes == [(CHECK, passing()), (CHECK, STOPPING)]
    assert "INFO The task is being stopped: marking its checks critical." in err.splitlines()
    assert TOKEN not in err


def test_as_a_process_it_finishes_the_write_that_the_signal_comes_into(
    task: FakeTask, tmp_path: Path
) -> None:
    task.metadata = metadata({"web": "HEALTHY", "cache": "HEALTHY"})
    environment = task.environment(tmp_path, config(health_sync_containers=("web", "cache")))
    in_write: list[str] = []

    def hold(received: Received) -> None:
        if received.path == CHECK and not in_write:
            with task.changed:
                in_write.append("arrived")
                task.changed.notify_all()
                # Answered only when the signal has been sent.
                assert task.changed.wait_for(lambda: "signalled" in in_write, timeout=10)

    task.before = hold
    with start("health-sync", environment) as process:
        task.wait_for(lambda: "arrived" in in_write)
        process.terminate()
        with task.changed:
            in_write.append("signalled")
            task.changed.notify_all()
        process.communicate(timeout=10)

    assert process.returncode == 0
    assert task.statuses == ["passing", "critical", "critical"]


def test_as_a_process_it_ends_with_1_if_it_is_started_wrong(task: FakeTask, tmp_path: Path) -> None:
    with start("health-sync", task.environment(tmp_path, config())) as process:
        _, err = process.communicate(timeout=10)

    assert process.returncode == 1
    assert err.startswith("ERROR TaskConfigError: healthSyncContainers names no container")
