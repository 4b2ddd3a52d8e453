"""A task: its containers as processes, in the order and with the rules that ECS has.

The rules are those of the ECS container agent
(https://github.com/aws/amazon-ecs-agent, agent/engine) and of
https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_ContainerDependency.html:

* Secrets are pulled before anything starts. One that cannot be had stops the task.
* A container starts when all that it depends on is as far as it has to be. If that can never be
  any more, the container ends without having started, as if it had exited with 143.
* The end of an essential container stops the task.
* A task is stopped in the reverse order: a container gets SIGTERM when all that depend on it have
  ended, whatever the condition, and SIGKILL when its stop timeout is over.

What is not as in a container: users (all processes run as this one's), limits of CPU and memory,
process IDs and everything else that namespaces and control groups do. Files are kept apart by
Landlock where the kernel has it (:attr:`LocalTask.confined`).
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

from local.task import confine
from local.task.addresses import free_task_address
from local.task.definition import (
    Condition,
    ContainerDefinition,
    TaskDefinition,
    TaskDefinitionError,
)
from local.task.health import Health, watch
from local.task.images import Image
from local.task.metadata import MetadataServer
from local.task.process import CannotStartError, Confinement, Process
from local.task.record import Event, LogLine
from local.task.secrets import SecretUnavailableError, pulled
from local.task.translation import Translation

Status: TypeAlias = Literal["PROVISIONING", "PENDING", "RUNNING", "DEPROVISIONING", "STOPPED"]
KnownStatus: TypeAlias = Literal["NONE", "RUNNING", "STOPPED"]

CLUSTER_ARN = "arn:aws:ecs:us-east-1:123456789012:cluster/local"
_SUCCESS, _SIGTERM_EXIT, _NO_COMMAND_EXIT = 0, 143, 126
_LONG_ENOUGH = 60.0


@dataclass
class _Container:
    """The state of one container; guarded by the task's lock."""

    definition: ContainerDefinition
    id: str
    known: KnownStatus = "NONE"
    exit_code: int | None = None
    health: Health = field(default_factory=Health.new)
    process: Process | None = None
    started_at: datetime | None = None
    started_seconds: float = 0.0
    finished_at: datetime | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    def has(self, condition: Condition) -> bool:
        """Tell whether a dependency on it is met."""
        match condition:
            case "START":
                return self.known == "RUNNING"
            case "COMPLETE":
                return self.known == "STOPPED" and self.exit_code is not None
            case "SUCCESS":
                return self.known == "STOPPED" and self.exit_code == _SUCCESS
            case "HEALTHY":
                return self.known == "RUNNING" and self.health.status == "HEALTHY"

    def can_still_have(self, condition: Condition) -> bool:
        """Tell whether a dependency on it may be met later."""
        if self.known != "STOPPED":
            return True
        return condition in {"COMPLETE", "SUCCESS"} and self.has(condition)


class LocalTask:
    """One task, from its start to its end; a context manager that leaves no process behind.

    Parameters
    ----------
    described
        The task definition, as DescribeTaskDefinition returns it.
    images
        What the names of images stand for here.
    resolve_secret
        Gets the value that a container's ``valueFrom`` names, see
        :func:`local.task.secrets.secrets_from`.
    workdir
        Where the volumes and the containers' directories are made; must not be there yet.
    task_arn
        The task's ARN; by default one with a new ID.
    cluster
        The ARN of its cluster.

    Attributes
    ----------
    events
        What has happened, in order.
    logs
        What the containers have written, in order.
    stopped_reason, stop_code
        Why the task was stopped, as ECS says it; none as long as it is not.

    Raises
    ------
    TaskDefinitionError
        ECS would not have registered the definition, or an image is not known here.
    UnsupportedMachineError
        On start: this is not Linux.
    """

    def __init__(
        self,
        described: Mapping[str, Any],
        *,
        images: Mapping[str, Image],
        resolve_secret: Callable[[str], str],
        workdir: Path,
        task_arn: str | None = None,
        cluster: str = CLUSTER_ARN,
    ) -> None:
        self.definition = TaskDefinition.of(described)
        for container in self.definition.containers.values():
            if container.image not in images:
                raise TaskDefinitionError(
                    f"The image {container.image} of the container {container.name} is not known "
                    f"here, but these are: {', '.join(sorted(images))}."
                )
        self.cluster = cluster
        base = cluster.replace(":cluster/", ":task/")
        self.arn = task_arn or f"{base}/{uuid.uuid4().hex}"
        self.events: list[Event] = []
        self.logs: list[LogLine] = []
        self.stopped_reason: str | None = None
        self.stop_code: str | None = None
        self._images = images
        self._resolve = resolve_secret
        self._workdir = workdir
        self._containers = {
            name: _Container(definition, f"{self.id}-{_digest(name)}")
            for name, definition in self.definition.containers.items()
        }
        self._changed = threading.Condition()
        self._started = 0.0
        self._started_at: datetime | None = None
        self._status: Status = "PROVISIONING"
        self._stopping = False
        self._stack = ExitStack()
        self._threads: list[threading.Thread] = []
        self._probes: set[subprocess.Popen[str]] = set()
        self._secrets: Mapping[str, Mapping[str, str]] = {}
        self._metadata: MetadataServer | None = None
        self._address = ""

    # What it is ---------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The last part of its ARN."""
        return self.arn.rpartition("/")[2]

    @property
    def address(self) -> str:
        """Its address, which stands for 127.0.0.1 inside of it."""
        return self._address

    @property
    def confined(self) -> bool:
        """Whether the kernel keeps the containers' files apart."""
        return confine.supported()

    @property
    def metadata_uri(self) -> str:
        """The metadata endpoint, as the first container sees it."""
        if self._metadata is None:
            raise RuntimeError("The task has not been started: call start().")
        return self._metadata.uri(next(iter(self._containers.values())).id)

    @property
    def status(self) -> Status:
        """The task's last status."""
        with self._changed:
            return self._status

    def known_status(self, container: str) -> KnownStatus:
        """Tell how far a container is."""
        with self._changed:
            return self._containers[container].known

    def exit_code(self, container: str) -> int | None:
        """Return the exit code of a container that has ended."""
        with self._changed:
            return self._containers[container].exit_code

    def pid(self, container: str) -> int:
        """Return the process ID of a running container.

        Raises
        ------
        LookupError
            It is not running.
        """
        with self._changed:
            state = self._containers[container]
            if state.process is None or state.known != "RUNNING":
                raise LookupError(f"{container} is not running.")
            return state.process.pid

    def process_environment(self, container: str) -> Mapping[str, str]:
        """Return the environment that a container's process gets; the secrets are in it."""
        return self._environment(self._containers[container])

    def volume(self, name: str) -> Path:
        """Return the directory of a volume."""
        return self._workdir / "volumes" / name

    def output(self, container: str) -> str:
        """Return what a container has written so far."""
        return "\n".join(line.text for line in list(self.logs) if line.container == container)

    def since_start(self) -> float:
        """Return the seconds since the task was started."""
        return monotonic() - self._started

    # What is done to it -------------------------------------------------------------------------

    def start(self) -> Self:
        """Start the task, and return at once; it comes up by itself.

        Whatever interrupts this, be it an error or Ctrl-C, closes the task.

        Raises
        ------
        UnsupportedMachineError
            This is not Linux, or has no address to give.
        RuntimeError
            It has been started before.
        """
        if self._started:
            raise RuntimeError("The task has been started already, and starts only once.")
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def _start(self) -> None:
        self._started = monotonic()
        self._started_at = datetime.now(UTC)
        self._address = self._stack.enter_context(free_task_address())
        for directory in (
            *(self.volume(name) for name in self.definition.volumes),
            *(self._home(name) for name in self._containers),
        ):
            directory.mkdir(parents=True)
        try:
            self._secrets = pulled(self.definition, self._resolve)
        except SecretUnavailableError as error:
            self._fail_to_start(str(error))
            return
        self._metadata = MetadataServer(
            self._address, task=self._described, container=self._described_container
        )
        self._stack.callback(self._metadata.stop)
        self._metadata.start()
        self._status = "PENDING"
        for state in self._containers.values():
            self._spawn(self._supervise, state)
        self._spawn(self._finish)

    def stop(self, reason: str = "Task stopped by user", code: str = "UserInitiated") -> None:
        """Ask for the end, and return at once. Only the first reason counts."""
        with self._changed:
            self._stop(reason, code)

    def wait_for(
        self,
        what: Callable[[LocalTask], bool],
        *,
        within: float = _LONG_ENOUGH,
        meaning: str = "a condition",
    ) -> None:
        """Wait until a condition of the task holds; it is asked again whenever anything changes.

        Raises
        ------
        TimeoutError
            It does not, after so many seconds; the message has what happened instead.
        """
        deadline = monotonic() + within
        with self._changed:
            while not what(self):
                if not self._changed.wait(deadline - monotonic()) and monotonic() >= deadline:
                    happened = "; ".join(
                        f"{e.seconds:.1f} {e.container or 'task'} {e.what}" for e in self.events
                    )
                    raise TimeoutError(
                        f"Not within {within:g} s: {meaning}. The task is {self._status} "
                        f"({self.stopped_reason}). {happened}"
                    )

    def wait_until_event(self, container: str, what: str, *, within: float = _LONG_ENOUGH) -> Event:
        """Wait for an event, if it has not happened yet, and return the first such.

        Raises
        ------
        TimeoutError
            It does not happen in time.
        """
        self.wait_for(
            lambda task: task.event(container, what) is not None,
            within=within,
            meaning=f"{container or 'the task'} {what}",
        )
        event = self.event(container, what)
        if event is None:  # pragma: no cover - it has just been there, and nothing removes it
            raise TimeoutError
        return event

    def event(self, container: str, what: str) -> Event | None:
        """Return the first event of a kind, if there is one."""
        with self._changed:
            found = (e for e in self.events if (e.container, e.what) == (container, what))
            return next(found, None)

    def wait_until_running(self, *, within: float = _LONG_ENOUGH) -> None:
        """Wait until the task is RUNNING: each container has started.

        Raises
        ------
        TimeoutError
            It is not in time; or never will be, because it has stopped.
        """
        self.wait_for(
            lambda task: task.status in {"RUNNING", "STOPPED"}, within=within, meaning="RUNNING"
        )
        if self.status == "STOPPED":
            raise TimeoutError(f"The task has stopped: {self.stopped_reason}")

    def wait_until_stopped(self, *, within: float = _LONG_ENOUGH) -> None:
        """Wait until the task is STOPPED.

        Raises
        ------
        TimeoutError
            It is not in time.
        """
        self.wait_for(lambda task: task.status == "STOPPED", within=within, meaning="STOPPED")

    def close(self) -> None:
        """End all that is left of it at once, with SIGKILL."""
        with self._changed:
            if not self._started:
                return
            self._stop("The local task was closed", "UserInitiated")
            for state in self._containers.values():
                if state.process is not None and state.known == "RUNNING":
                    state.process.send(signal.SIGKILL)
        try:
            self._end_threads()
        finally:
            self._stack.close()

    def _end_threads(self) -> None:
        # A thread that is in the middle of a start sees the stop, and ends what it has started; the
        # list has those at its end that others still start.
        for thread in self._threads:
            while thread.is_alive():
                with self._changed:
                    for state in self._containers.values():
                        if state.process is not None and state.known == "RUNNING":
                            state.process.send(signal.SIGKILL)
                    for probe in self._probes:
                        probe.kill()
                thread.join(0.05)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # The life of a container ---------------------------------------------------------------------

    def _spawn(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _supervise(self, state: _Container) -> None:
        """Bring one container up, and down again."""
        name = state.definition.name
        obstacle = self._wait_for_dependencies(state)
        if obstacle is None:
            obstacle = self._start_process(state)
        with self._changed:
            if obstacle is not None:
                self._record(name, f"not started: {obstacle}")
                self._end(state, None if self._stopping else _SIGTERM_EXIT)
                return
            self._changed.wait_for(lambda: state.known == "STOPPED" or self._may_be_stopped(state))
            if state.known == "RUNNING" and state.process is not None:
                self._record(name, "stopping")
                state.process.send(signal.SIGTERM)
                timeout = state.definition.stop_timeout
                if not self._changed.wait_for(lambda: state.known == "STOPPED", timeout):
                    self._record(name, "killed")
                    state.process.send(signal.SIGKILL)
            self._changed.wait_for(lambda: state.known == "STOPPED")

    def _wait_for_dependencies(self, state: _Container) -> str | None:
        """Wait until a container may start; returns why it must not, if it must not."""
        others = [(self._containers[d.container], d) for d in state.definition.depends_on]
        with self._changed:
            while not self._stopping:
                waiting = [(other, d) for other, d in others if not other.has(d.condition)]
                if not waiting:
                    return None
                for other, dependency in waiting:
                    if not other.can_still_have(dependency.condition):
                        return (
                            f"{dependency.container} is not {dependency.condition} and never will "
                            f"be: it has exited with {other.exit_code}"
                        )
                left = [self._seconds_left(other) for other, _ in waiting]
                if any(seconds <= 0 for seconds in left):
                    return "a dependency has not got so far within its start timeout"
                self._changed.wait(min(left))
            return "the task is being stopped"

    def _seconds_left(self, other: _Container) -> float:
        """The rest of a running dependency's start timeout."""
        timeout = other.definition.start_timeout
        if timeout is None or other.known != "RUNNING":
            return threading.TIMEOUT_MAX
        return other.started_seconds + timeout - self.since_start()

    def _start_process(self, state: _Container) -> str | None:
        definition = state.definition
        image = self._images[definition.image]
        # An entry point of the definition takes the place of the image's command as well.
        default = () if definition.entry_point else image.command
        entry = definition.entry_point or image.entry_point
        command = [*entry, *(definition.command or default)]
        if not command:
            return "CannotStartContainerError: no command specified"
        translation = self._translation(definition)
        with self._changed:
            if self._stopping:
                return "the task is being stopped"
            try:
                state.process = Process(
                    translation.texts(command),
                    environment=self._environment(state),
                    confinement=self._confinement(definition),
                    on_line=lambda stream, text: self._log(definition.name, stream, text),
                    on_exit=lambda code: self._on_exit(state, code),
                )
            except CannotStartError as error:
                return f"CannotStartContainerError: {error}"
            state.known = "RUNNING"
            state.started_at = datetime.now(UTC)
            state.started_seconds = self.since_start()
            self._record(definition.name, "started")
            if self._status == "PENDING" and all(
                each.known != "NONE" for each in self._containers.values()
            ):
                self._status = "RUNNING"
        if definition.health_check is not None:
            self._spawn(self._watch_health, state, translation)
        return None

    def _on_exit(self, state: _Container, code: int) -> None:
        with self._changed:
            self._record(state.definition.name, f"exited {code}")
            self._end(state, code)

    def _end(self, state: _Container, code: int | None) -> None:
        state.known = "STOPPED"
        state.exit_code = code
        state.finished_at = datetime.now(UTC)
        state.ended.set()
        if state.definition.essential:
            self._stop("Essential container in task exited", "EssentialContainerExited")
        self._changed.notify_all()

    def _may_be_stopped(self, state: _Container) -> bool:
        return self._stopping and all(
            self._containers[name].known == "STOPPED"
            for name in self.definition.dependents(state.definition.name)
        )

    def _stop(self, reason: str, code: str) -> None:
        if self._stopping:
            return
        self._stopping = True
        self.stopped_reason, self.stop_code = reason, code
        self._status = "DEPROVISIONING"
        self._record("", f"stopping: {reason}")
        self._changed.notify_all()

    def _finish(self) -> None:
        """Stop the task when its last container has ended."""
        with self._changed:
            self._changed.wait_for(
                lambda: all(state.known == "STOPPED" for state in self._containers.values())
            )
            # A task whose containers all end well, none of them essential, cannot be.
            self._status = "STOPPED"
            self._record("", "stopped")

    def _fail_to_start(self, reason: str) -> None:
        with self._changed:
            self._stopping = True
            self._status = "STOPPED"
            self.stopped_reason, self.stop_code = reason, "TaskFailedToStart"
            self._record("", "stopped")

    # What a container gets -----------------------------------------------------------------------

    def _home(self, container: str) -> Path:
        return self._workdir / "containers" / container

    def _translation(self, definition: ContainerDefinition) -> Translation:
        mounts = {mount.path: self.volume(mount.volume) for mount in definition.mounts}
        return Translation(self._address, mounts)

    def _environment(self, state: _Container) -> dict[str, str]:
        definition = state.definition
        image = self._images[definition.image]
        translation = self._translation(definition)
        # The image's own addresses are this machine's already, its paths are not.
        given = {name: translation.path(value) for name, value in image.environment.items()}
        given |= {name: translation.text(value) for name, value in definition.environment.items()}
        given |= self._secrets.get(definition.name, {})
        path = given.get("PATH", Image.DEFAULT_PATH)
        metadata = self._metadata
        return {
            "HOME": str(self._home(definition.name)),
            "TMPDIR": str(self._home(definition.name)),
            "HOSTNAME": f"ip-{self._address.replace('.', '-')}",
            "AWS_EXECUTION_ENV": "AWS_ECS_FARGATE",
            "CONSUL_HTTP_ADDR": f"http://{self._address}:8500",
            "CONSUL_GRPC_ADDR": f"{self._address}:8502",
            **({"ECS_CONTAINER_METADATA_URI_V4": metadata.uri(state.id)} if metadata else {}),
            **given,
            "PATH": f"{image.programs}{os.pathsep}{path}" if image.programs else path,
        }

    def _confinement(self, definition: ContainerDefinition) -> Confinement:
        programs = self._images[definition.image].programs
        home = self._home(definition.name)
        readable = [self.volume(mount.volume) for mount in definition.mounts if mount.read_only]
        writable = [self.volume(mount.volume) for mount in definition.mounts if not mount.read_only]
        readable += [home] if definition.read_only_root else []
        writable += [] if definition.read_only_root else [home]
        return Confinement(
            home=home,
            hidden=self._workdir,
            readable=[*readable, *([programs] if programs else [])],
            writable=writable,
        )

    # Health --------------------------------------------------------------------------------------

    def _watch_health(self, state: _Container, translation: Translation) -> None:
        check = state.definition.health_check
        if check is None:
            return
        kind, *rest = translation.texts(check.command)
        command = ["/bin/sh", "-c", " ".join(rest)] if kind == "CMD-SHELL" else rest

        def probe(timeout: float) -> tuple[int, str]:
            return self._run_probe(state, command, timeout)

        def report(health: Health) -> None:
            with self._changed:
                if state.known == "RUNNING":
                    state.health = health
                    self._record(state.definition.name, health.status.lower())

        watch(check, probe, ended=state.ended, report=report)

    def _run_probe(
        self, state: _Container, command: Sequence[str], timeout: float
    ) -> tuple[int, str]:
        confinement = self._confinement(state.definition)
        environment = self._environment(state)
        with self._changed:
            if state.known != "RUNNING":
                return _NO_COMMAND_EXIT, ""
            running = confinement.start(command, environment, stderr=subprocess.STDOUT)
            self._probes.add(running)
        try:
            output, _ = running.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)  # it has not been waited for: the ID is its own
            running.communicate()
            output = f"Health check exceeded timeout ({timeout:g}s)"
        finally:
            with self._changed:
                self._probes.discard(running)
        return running.returncode, output

    # What it tells -------------------------------------------------------------------------------

    def _record(self, container: str, what: str) -> None:
        self.events.append(Event(self.since_start(), container, what))
        self._changed.notify_all()

    def _log(self, container: str, stream: Literal["stdout", "stderr"], text: str) -> None:
        with self._changed:
            self.logs.append(LogLine(self.since_start(), container, stream, text))
            self._changed.notify_all()

    def _described(self) -> Mapping[str, Any]:
        with self._changed:
            started = [state for state in self._containers.values() if state.started_at]
            return {
                "Cluster": self.cluster,
                "TaskARN": self.arn,
                "Family": self.definition.family,
                "Revision": str(self.definition.revision),
                "DesiredStatus": "STOPPED" if self._stopping else "RUNNING",
                "KnownStatus": self._status,
                "Containers": [self._describe(state) for state in started],
                "LaunchType": "FARGATE",
                "AvailabilityZone": "us-east-1a",
            }

    def _described_container(self, container_id: str) -> Mapping[str, Any] | None:
        with self._changed:
            found = (s for s in self._containers.values() if s.id == container_id)
            state = next(found, None)
            return None if state is None else self._describe(state)

    def _describe(self, state: _Container) -> Mapping[str, Any]:
        definition = state.definition
        described: dict[str, Any] = {
            "DockerId": state.id,
            "Name": definition.name,
            "DockerName": definition.name,
            "Image": definition.image,
            "ImageID": f"sha256:{_digest(definition.image)}",
            "Labels": {
                "com.amazonaws.ecs.cluster": self.cluster,
                "com.amazonaws.ecs.container-name": definition.name,
                "com.amazonaws.ecs.task-arn": self.arn,
                "com.amazonaws.ecs.task-definition-family": self.definition.family,
                "com.amazonaws.ecs.task-definition-version": str(self.definition.revision),
            },
            "DesiredStatus": "STOPPED" if self._stopping else "RUNNING",
            "KnownStatus": state.known,
            "Type": "NORMAL",
            "Networks": [{"NetworkMode": "awsvpc", "IPv4Addresses": [self._address]}],
        }
        for name, moment in (("StartedAt", state.started_at), ("FinishedAt", state.finished_at)):
            if moment is not None:
                described[name] = moment.isoformat()
        if state.known == "STOPPED" and state.exit_code is not None:
            described["ExitCode"] = state.exit_code
        if definition.health_check is not None:
            described["Health"] = {
                "status": state.health.status,
                "statusSince": state.health.since.isoformat(),
                "output": state.health.output,
            }
            if state.health.exit_code is not None:
                described["Health"]["exitCode"] = state.health.exit_code
        return described


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:10]
