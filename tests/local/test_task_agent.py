"""The local task keeps to ECS's rules; with containers that are a line of shell each."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests

from local.cloud.waiting import until
from local.task import addresses, confine, metadata
from local.task.addresses import UnsupportedMachineError, at_task_address, free_task_address
from local.task.definition import TaskDefinition, TaskDefinitionError
from local.task.images import Image
from local.task.record import Event, milestones
from local.task.secrets import SecretUnavailableError, secrets_from
from local.task.task import LocalTask
from local.task.translation import Translation

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only on Linux is all of 127.0.0.0/8 there"
)

FOREVER = "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done"
STUBBORN = "trap '' TERM; echo up; while :; do sleep 0.05; done"
SECRET = "e3e4f0d1-0000-4000-8000-0000000000ab"


def container(name: str, script: str, **fields: Any) -> dict[str, Any]:
    """Return a container that runs a shell script."""
    return {"name": name, "image": "shell", "command": ["-c", script], **fields}


def after(name: str, condition: str) -> dict[str, str]:
    return {"containerName": name, "condition": condition}


def definition(*containers: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "family": "test",
        "revision": 3,
        "networkMode": "awsvpc",
        "containerDefinitions": list(containers),
        **fields,
    }


def no_secret(value_from: str) -> str:
    raise SecretUnavailableError(f"there is no {value_from}")


class Tasks:
    """Makes tasks, and ends them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._made: list[LocalTask] = []

    def __call__(
        self, *containers: dict[str, Any], secrets: Mapping[str, str] | None = None, **fields: Any
    ) -> LocalTask:
        task = LocalTask(
            definition(*containers, **fields),
            images={"shell": Image(entry_point=["/bin/sh"])},
            resolve_secret=secrets.__getitem__ if secrets else no_secret,
            workdir=self._directory / str(len(self._made)),
        )
        self._made.append(task)
        return task.start()

    def close(self) -> None:
        for task in self._made:
            task.close()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Tasks]:
    tasks = Tasks(tmp_path)
    yield tasks
    tasks.close()


def wait_until_up(task: LocalTask, *containers: str) -> None:
    """Wait until containers handle SIGTERM: before that, it ends them."""
    for name in containers:
        task.wait_for(partial(_is_up, name), meaning=f"{name} is up")


def _is_up(name: str, task: LocalTask) -> bool:
    return "up" in task.output(name).split()


def has_ended(process: int) -> bool:
    """Tell whether a process has ended, be it that nobody has waited for it yet."""
    try:
        return ") Z " in Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def happened(task: LocalTask) -> list[str]:
    """Return what has happened to containers, in order."""
    return [f"{event.container} {event.what}" for event in task.events if event.container]


# The order of a start -----------------------------------------------------------------------------


def test_containers_without_dependencies_start_at_once(run: Tasks) -> None:
    task = run(container("a", FOREVER), container("b", FOREVER))
    task.wait_until_running()
    assert sorted(happened(task)) == ["a started", "b started"]


def test_a_container_starts_after_the_start_of_another(run: Tasks) -> None:
    task = run(
        container("late", FOREVER, dependsOn=[after("early", "START")]),
        container("early", FOREVER),
    )
    task.wait_until_running()
    assert happened(task) == ["early started", "late started"]


@pytest.mark.parametrize(("condition", "status"), [("SUCCESS", 0), ("COMPLETE", 3)])
def test_a_container_starts_after_the_end_of_another(
    run: Tasks, condition: str, status: int
) -> None:
    task = run(
        container("app", FOREVER, dependsOn=[after("init", condition)]),
        container("init", f"exit {status}", essential=False),
    )
    task.wait_until_running()
    assert happened(task) == ["init started", f"init exited {status}", "app started"]


def test_a_container_that_needs_a_success_never_starts_after_a_failure(run: Tasks) -> None:
    task = run(
        container("app", FOREVER, dependsOn=[after("init", "SUCCESS")]),
        container("init", "echo no >&2; exit 4", essential=False),
    )
    task.wait_until_stopped()
    assert task.event("app", "started") is None
    assert task.exit_code("app") == 143
    assert (task.stop_code, task.stopped_reason) == (
        "EssentialContainerExited",
        "Essential container in task exited",
    )
    assert [(line.container, line.stream, line.text) for line in task.logs] == [
        ("init", "stderr", "no")
    ]


def test_a_container_starts_when_another_is_healthy(run: Tasks) -> None:
    health = {"command": ["CMD-SHELL", "test -e ready"], "interval": 0.05, "retries": 100}
    task = run(
        container("app", FOREVER, dependsOn=[after("proxy", "HEALTHY")]),
        container("proxy", f"sleep 0.3; touch ready; {FOREVER}", healthCheck=health),
    )
    task.wait_until_running()
    assert happened(task) == ["proxy started", "proxy healthy", "app started"]


def test_a_start_timeout_is_the_longest_that_others_wait(run: Tasks) -> None:
    health = {"command": ["CMD", "false"], "interval": 0.05, "retries": 1000}
    task = run(
        container("app", FOREVER, dependsOn=[after("proxy", "HEALTHY")]),
        container("proxy", FOREVER, healthCheck=health, startTimeout=0.3),
    )
    task.wait_until_stopped()
    assert "app not started: a dependency has not got so far within its start timeout" in happened(
        task
    )


# A start that is interrupted ----------------------------------------------------------------------


def interrupted_in_secrets(value_from: str) -> str:
    raise KeyboardInterrupt


def a_fault(*_: object, **__: object) -> None:
    raise OSError("Too many open files")


def one(directory: Path, resolve: Callable[[str], str], **fields: Any) -> LocalTask:
    """Make a task that needs a secret."""
    secret = {"secrets": [{"name": "TOKEN", "valueFrom": "arn"}]}
    return LocalTask(
        definition(container("a", FOREVER, **secret), container("b", FOREVER), **fields),
        images={"shell": Image(entry_point=["/bin/sh"])},
        resolve_secret=resolve,
        workdir=directory / "task",
    )


def is_given_back(address: str) -> bool:
    return bool(address) and address not in addresses._taken


def test_an_interrupt_while_secrets_are_pulled_gives_the_address_back(tmp_path: Path) -> None:
    task = one(tmp_path, interrupted_in_secrets)
    with pytest.raises(KeyboardInterrupt), task:
        pytest.fail("it has started")
    assert is_given_back(task.address)


def test_a_directory_that_is_there_already_gives_the_address_back(tmp_path: Path) -> None:
    task = one(tmp_path, lambda _: SECRET)
    task._home("a").mkdir(parents=True)
    with pytest.raises(FileExistsError):
        task.start()
    assert is_given_back(task.address)


def test_a_metadata_server_that_cannot_be_started_listens_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = one(tmp_path, lambda _: SECRET)
    monkeypatch.setattr(metadata.MetadataServer, "start", a_fault)
    with pytest.raises(OSError, match="Too many open files"):
        task.start()
    assert is_given_back(task.address)
    with pytest.raises(requests.ConnectionError):
        requests.get(task.metadata_uri, timeout=10)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_while_containers_are_started_ends_them_and_everything_else(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = one(tmp_path, lambda _: SECRET)
    spawn = task._spawn
    processes: list[int] = []

    def interrupted(target: Callable[..., None], *args: Any) -> None:
        if len(task._threads) == 1:  # the one of a's; b's never comes to be
            task.wait_until_event("a", "started")
            processes.append(task.pid("a"))
            raise error
        spawn(target, *args)

    monkeypatch.setattr(task, "_spawn", interrupted)
    with pytest.raises(error), task:
        pytest.fail("it has started")
    assert [has_ended(process) for process in processes] == [True]
    assert not any(thread.is_alive() for thread in task._threads)
    assert is_given_back(task.address)
    with pytest.raises(requests.ConnectionError):
        requests.get(task.metadata_uri, timeout=10)


def test_a_task_starts_once(run: Tasks) -> None:
    task = run(container("app", FOREVER))
    task.wait_until_running()
    with pytest.raises(RuntimeError, match="has been started"):
        task.start()
    assert task.status == "RUNNING"


# Health -------------------------------------------------------------------------------------------


def health_of(task: LocalTask, name: str) -> Any:
    described = requests.get(f"{task.metadata_uri}/task", timeout=10).json()["Containers"]
    return {each["Name"]: each.get("Health") for each in described}[name]


def test_health_is_unknown_until_so_many_failures_in_a_row_and_recovers(run: Tasks) -> None:
    health = {
        # The first one takes until somebody has looked.
        "command": [
            "CMD-SHELL",
            "until test -e go; do sleep 0.05; done; echo probed; test -e well",
        ],
        "interval": 0.1,
        "retries": 3,
        "timeout": 60,
    }
    script = f"trap 'touch well' USR1; {FOREVER}"
    task = run(container("app", script, healthCheck=health))
    wait_until_up(task, "app")
    assert health_of(task, "app")["status"] == "UNKNOWN"
    (task._home("app") / "go").touch()
    unhealthy = task.wait_until_event("app", "unhealthy")
    assert unhealthy.seconds >= 0.3
    assert health_of(task, "app")["status"] == "UNHEALTHY"
    assert health_of(task, "app")["output"] == "probed\n"
    os.kill(task.pid("app"), 10)
    task.wait_until_event("app", "healthy")
    # Nobody restarts or stops an unhealthy container: of tasks without a service, not even ECS.
    assert task.status == "RUNNING"


def test_a_probe_that_takes_too_long_is_ended_and_failed(run: Tasks) -> None:
    health = {
        "command": ["CMD-SHELL", "sleep 60 & wait"],
        "interval": 0.05,
        "timeout": 0.1,
        "retries": 1,
    }
    task = run(container("app", FOREVER, healthCheck=health))
    task.wait_until_event("app", "unhealthy")
    assert "exceeded timeout" in health_of(task, "app")["output"]


def test_failures_in_the_start_period_do_not_count(run: Tasks) -> None:
    health = {
        "command": ["CMD", "false"],
        "interval": 0.05,
        "retries": 1,
        "startPeriod": 0.5,
    }
    task = run(container("app", FOREVER, healthCheck=health))
    assert task.wait_until_event("app", "unhealthy").seconds >= 0.5


# The stop -----------------------------------------------------------------------------------------


def test_a_task_is_stopped_in_the_reverse_order_of_its_dependencies(run: Tasks) -> None:
    task = run(
        container("agent", FOREVER),
        container("proxy", FOREVER, dependsOn=[after("agent", "START")]),
        container("app", FOREVER, dependsOn=[after("proxy", "START")]),
    )
    wait_until_up(task, "agent", "proxy", "app")
    task.stop("enough", "ServiceSchedulerInitiated")
    task.wait_until_stopped()
    assert happened(task)[3:] == [
        "app stopping",
        "app exited 0",
        "proxy stopping",
        "proxy exited 0",
        "agent stopping",
        "agent exited 0",
    ]
    assert (task.stopped_reason, task.stop_code) == ("enough", "ServiceSchedulerInitiated")


def test_a_container_that_ignores_sigterm_is_killed_after_its_stop_timeout(run: Tasks) -> None:
    task = run(container("app", STUBBORN, stopTimeout=0.2))
    wait_until_up(task, "app")
    task.stop()
    task.wait_until_stopped()
    assert happened(task)[1:] == ["app stopping", "app killed", "app exited 137"]


def test_what_a_container_has_started_ends_with_it(run: Tasks) -> None:
    task = run(container("app", "sleep 1000 & echo $!; exit 5"))
    task.wait_until_stopped()
    assert task.exit_code("app") == 5
    until(lambda: has_ended(int(task.output("app"))), what="the process has ended")


def test_closing_ends_everything_at_once(run: Tasks) -> None:
    task = run(
        container("app", f"sleep 1000 & echo $!; {STUBBORN}"),
        container("beside", STUBBORN, dependsOn=[after("app", "START")]),
    )
    task.wait_until_running()
    wait_until_up(task, "app", "beside")
    processes = [task.pid("app"), task.pid("beside"), int(task.output("app").split()[0])]
    task.close()
    until(lambda: all(map(has_ended, processes)), what="the processes have ended")


def test_a_program_that_there_is_not_stops_the_task(run: Tasks) -> None:
    task = run(container("app", "", entryPoint=["no-such-program"]), container("other", FOREVER))
    task.wait_until_stopped()
    (why,) = (e.what for e in task.events if e.container == "app")
    assert 'CannotStartContainerError: exec: "no-such-program"' in why


# What a container gets ----------------------------------------------------------------------------


def test_each_task_has_an_address_of_its_own_in_the_place_of_the_loopback_address(
    run: Tasks,
) -> None:
    script = "echo 127.0.0.1 localhost $OWN $CONSUL_HTTP_ADDR"
    own = {"environment": [{"name": "OWN", "value": "http://127.0.0.1:8080/"}]}
    first, second = (run(container("app", script, **own)) for _ in range(2))
    for task in (first, second):
        task.wait_until_stopped()
        address = task.address
        assert task.output("app") == (
            f"{address} {address} http://{address}:8080/ http://{address}:8500"
        )
    assert first.address != second.address


def test_paths_of_mounts_are_those_of_the_volumes(run: Tasks, tmp_path: Path) -> None:
    task = run(
        container(
            "writer",
            "echo hello > /shared/deep/file",
            essential=False,
            mountPoints=[{"sourceVolume": "data", "containerPath": "/shared/deep"}],
        ),
        container(
            "reader",
            "cat /other/file",
            mountPoints=[
                {"sourceVolume": "data", "containerPath": "/other", "readOnly": True},
            ],
            dependsOn=[after("writer", "SUCCESS")],
        ),
        volumes=[{"name": "data"}],
    )
    task.wait_until_stopped()
    assert task.output("reader") == "hello"
    assert (task.volume("data") / "file").read_text() == "hello\n"


@pytest.mark.skipif(not confine.supported(), reason="this kernel has no Landlock")
def test_a_container_can_neither_write_what_it_mounts_read_only_nor_see_other_volumes(
    run: Tasks, tmp_path: Path
) -> None:
    where = tmp_path / "0" / "volumes"
    task = run(
        container(
            "curious",
            f"cat {where}/hidden/file; ls {where}; ls {where}/hidden; echo x > /ro/new;"
            f" echo x > {tmp_path}/x; echo x > own; cat /ro/file; echo over",
            readonlyRootFilesystem=True,
            mountPoints=[{"sourceVolume": "ro", "containerPath": "/ro", "readOnly": True}],
            dependsOn=[after("writer", "SUCCESS")],
        ),
        container(
            "writer",
            "echo secret > /a/file; echo open > /b/file",
            essential=False,
            mountPoints=[
                {"sourceVolume": "hidden", "containerPath": "/a"},
                {"sourceVolume": "ro", "containerPath": "/b"},
            ],
        ),
        volumes=[{"name": "hidden"}, {"name": "ro"}],
    )
    task.wait_until_stopped()
    out = [line.text for line in task.logs if line.stream == "stdout"]
    assert out == ["open", "over"]
    refused = [line.text for line in task.logs if line.stream == "stderr"]
    assert len(refused) == 6
    assert all("Permission denied" in text for text in refused)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["file", "file"]


def test_a_container_starts_beside_thousands_of_files(run: Tasks, tmp_path: Path) -> None:
    """Their names are more than fits into an argument of a command line: 128 KiB."""
    names = [f"{number:04}-{'n' * 60}" for number in range(4000)]
    for name in names:
        (tmp_path / name).write_text(name[:4])
    health = {"command": ["CMD-SHELL", f"grep 0000 {tmp_path}/{names[0]}"], "interval": 0.05}
    script = f"cat {tmp_path}/{names[-1]}; echo; readlink /proc/self/fd/0; {FOREVER}"
    task = run(container("app", script, healthCheck=health))
    task.wait_until_event("app", "healthy")
    wait_until_up(task, "app")
    assert task.output("app").split() == ["3999", "/dev/null", "up"]


def test_a_command_that_is_too_long_stops_the_task(run: Tasks) -> None:
    task = run(container("app", f": {'x' * 200_000}"))
    task.wait_until_stopped()
    (why,) = (e.what for e in task.events if e.container == "app")
    assert "CannotStartContainerError" in why
    assert "Argument list too long" in why


def test_a_container_gets_its_own_secrets_and_environment_only(
    run: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_PARENT", "1")
    task = run(
        container("app", f"env; {FOREVER}", environment=[{"name": "MINE", "value": "2"}]),
        container("other", f"env; {FOREVER}", secrets=[{"name": "TOKEN", "valueFrom": "arn"}]),
        secrets={"arn": SECRET},
    )
    for name in ("app", "other"):
        wait_until_up(task, name)
    task.stop()
    task.wait_until_stopped()
    app, other = (
        {line.partition("=")[0] for line in task.output(name).splitlines()}
        for name in ("app", "other")
    )
    common = {"HOME", "TMPDIR", "HOSTNAME", "AWS_EXECUTION_ENV", "CONSUL_HTTP_ADDR"}
    common |= {"CONSUL_GRPC_ADDR", "ECS_CONTAINER_METADATA_URI_V4", "PATH", "PWD"}
    assert app - {"_", "OLDPWD", "SHLVL", "up"} == common | {"MINE"}
    assert other - {"_", "OLDPWD", "SHLVL", "up"} == common | {"TOKEN"}


def test_a_secret_that_cannot_be_had_stops_the_task_before_any_container(run: Tasks) -> None:
    task = run(
        container("app", FOREVER),
        container("other", FOREVER, secrets=[{"name": "TOKEN", "valueFrom": "arn"}]),
    )
    assert (task.status, task.stop_code) == ("STOPPED", "TaskFailedToStart")
    assert happened(task) == []
    assert "service call has been retried 1 time(s): there is no arn" in str(task.stopped_reason)


def test_what_is_no_arn_of_a_secret_is_refused() -> None:
    with pytest.raises(SecretUnavailableError, match="not the ARN of a secret"):
        secrets_from(None)("arn:aws:ssm:eu-west-1:123456789012:parameter/token")


# Metadata -----------------------------------------------------------------------------------------


def test_the_metadata_endpoint_lists_containers_from_their_start_on(run: Tasks) -> None:
    script = 'curl -fs "$ECS_CONTAINER_METADATA_URI_V4"; echo; curl -fs "$ECS_CONTAINER_METADATA_URI_V4/task"; echo; exit 7'  # noqa: E501
    task = run(
        container("init", script, essential=False),
        container("app", FOREVER, dependsOn=[after("init", "COMPLETE")]),
    )
    task.wait_until_running()
    own, whole = task.output("init").splitlines()
    assert '"Name": "init"' in own
    assert f'"IPv4Addresses": ["{task.address}"]' in own
    assert '"Name": "app"' not in whole
    described = requests.get(f"{task.metadata_uri}/task", timeout=10).json()
    assert (described["Revision"], described["KnownStatus"]) == ("3", "RUNNING")
    assert described["Cluster"] == task.cluster
    states = {
        each["Name"]: (each["KnownStatus"], each.get("ExitCode"), each["Type"])
        for each in described["Containers"]
    }
    assert states == {"init": ("STOPPED", 7, "NORMAL"), "app": ("RUNNING", None, "NORMAL")}
    assert requests.get(f"{task.metadata_uri}/stats", timeout=10).status_code == 404


# Definitions and machines -------------------------------------------------------------------------

HEALTH = {"command": ["CMD", "true"]}


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (definition(container("a", ""), networkMode="bridge"), "must be awsvpc"),
        (definition(container("a", ""), container("a", "")), "the same name"),
        (definition(container("a", "", essential=False)), "at least one essential"),
        (
            definition(container("a", "", dependsOn=[after("b", "START")])),
            "waits for b to be START, which is no container",
        ),
        (
            definition(container("a", "", dependsOn=[after("b", "SUCCESS")]), container("b", "")),
            "essential and so must not end",
        ),
        (
            definition(container("a", "", dependsOn=[after("b", "HEALTHY")]), container("b", "")),
            "has no health check",
        ),
        (
            definition(container("a", "", dependsOn=[after("b", "SOON")]), container("b", "")),
            "no condition",
        ),
        (
            definition(
                container("a", "", dependsOn=[after("b", "START")]),
                container("b", "", dependsOn=[after("a", "START")]),
            ),
            "wait for each other: ",
        ),
        (
            definition(
                container("a", "", mountPoints=[{"sourceVolume": "v", "containerPath": "/v"}])
            ),
            "mounts v, which is no volume",
        ),
        (
            definition(
                container("a", ""), volumes=[{"name": "v", "efsVolumeConfiguration": {"x": 1}}]
            ),
            "not of the task's own storage",
        ),
        (definition(container("a", "", healthCheck={"command": ["true"]})), "without CMD"),
        (
            definition(
                container(
                    "a",
                    "",
                    environment=[{"name": "X", "value": ""}],
                    secrets=[{"name": "X", "valueFrom": "arn"}],
                )
            ),
            "has X as a secret and in its environment",
        ),
    ],
)
def test_a_definition_that_ecs_would_not_take_is_refused(broken: dict[str, Any], why: str) -> None:
    with pytest.raises(TaskDefinitionError, match=why):
        TaskDefinition.of(broken)


def test_an_image_that_is_not_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskDefinitionError, match="image shell of the container a is not known"):
        LocalTask(
            definition(container("a", "")), images={}, resolve_secret=no_secret, workdir=tmp_path
        )


def test_a_machine_without_a_loopback_network_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UnsupportedMachineError, match="darwin has only"), free_task_address():
        pass


@pytest.mark.parametrize(
    ("text", "translated"),
    [
        ("curl http://localhost:1/ 127.0.0.1", "curl http://T:1/ T"),
        ("exec 3<>/dev/tcp/127.0.0.1/20000", "exec 3<>/dev/tcp/T/20000"),
        ("10.127.0.0.1 127.0.0.11 my-localhost localhost.example.com", None),
        ('{"a":"127.0.0.1"}', '{"a":"T"}'),
        ("It is at localhost.", "It is at T."),
        ('{"https":"0.0.0.0"} 0.0.0.0:8501', '{"https":"T"} T:8501'),
        ("0.0.0.0/0 10.0.0.0 0.0.0.0.1", None),
    ],
)
def test_only_what_means_the_task_itself_becomes_its_address(
    text: str, translated: str | None
) -> None:
    assert at_task_address(text, "T") == (text if translated is None else translated)


@pytest.mark.parametrize(
    ("text", "translated"),
    [
        ("/consul/envoy/a /consul/b /consul", "/E/a /C/b /C"),
        ("/bin/consul-inject:/usr/bin", "/bin/consul-inject:/usr/bin"),
        ("/etc/consul /consul2 /consul.d", None),
        ('{"dir":"/consul/envoy"}', '{"dir":"/E"}'),
        ("> /consul/config/client.json", "> /C/config/client.json"),
    ],
)
def test_only_whole_paths_of_mounts_become_those_of_volumes(
    text: str, translated: str | None
) -> None:
    mounts = {"/consul": Path("/C"), "/consul/envoy": Path("/E")}
    expected = text if translated is None else translated
    assert Translation("127.1.2.3", mounts).path(text) == expected


def test_milestones_need_the_whole_start() -> None:
    events = [
        Event(1.0, "consul-client", "started"),
        Event(2.0, "consul-ecs-mesh-init", "started"),
        Event(3.0, "sidecar-proxy", "started"),
    ]
    with pytest.raises(LookupError, match="sidecar-proxy has not healthy"):
        milestones(events, ["app"])
    events += [Event(4.0, "sidecar-proxy", "healthy"), Event(5.0, "app", "started")]
    moments = milestones(events, ["app"])
    assert (moments.t0, moments.t1, moments.t2, moments.apps) == (2.0, 3.0, 4.0, 5.0)
