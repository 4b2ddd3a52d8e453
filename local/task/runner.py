"""Runs the tasks of the local cloud for real: those whose images are all known here."""

from __future__ import annotations

import copy
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from local.consul.binary import version_of
from local.task.images import (
    Image,
    consul_image,
    envoy_image,
    mesh_init_image,
    missing_programs,
    python_image,
)
from local.task.secrets import secrets_from
from local.task.stand_in.server import VERSION
from local.task.task import LocalTask

# The names of the images that the constructs have by themselves, whatever the registry and tag.
_CONSUL, _ENVOY, _MESH_INIT, _PYTHON = (
    re.compile(rf"(?:[^/]+/)*{name}(?::[^/]+)?")
    for name in ("consul", "envoy", "consul-ecs-mesh-init", "python")
)
_STOPPED_BY_ECS = "Stopped by the scheduler of the local cloud"


def why_tasks_do_not_run() -> str | None:
    """Return why tasks of a mesh cannot be run for real on this machine; none if they can."""
    if not sys.platform.startswith("linux"):
        return "tasks need addresses of their own, which only Linux has"
    if lacking := missing_programs():
        return f"the containers of a mesh task need {', '.join(lacking)}"
    return None


@contextmanager
def running_tasks(
    client: Callable[[str], Any],
    hosts_file: Path,
    *,
    workdir: Path,
    check_interval: float | None = None,
    ignore_dates: bool = False,
) -> Iterator[LocalTaskRunner]:
    """Provide a runner, and leave no process behind.

    Parameters
    ----------
    client
        Makes clients of the cloud, whose secrets the containers get.
    hosts_file
        The cloud's private names.
    workdir
        Where images and tasks go. A short path, for tasks have sockets in it.
    check_interval
        How far apart all health checks are, in place of what the definitions say.
    ignore_dates
        Whether certificates are taken whatever their dates, which are of a faster clock.
    """
    runner = LocalTaskRunner(
        client,
        hosts_file=hosts_file,
        workdir=workdir,
        check_interval=check_interval,
        ignore_dates=ignore_dates,
    )
    try:
        yield runner
    finally:
        runner.close()


class LocalTaskRunner:
    """The tasks that run for real; see :func:`running_tasks`.

    Attributes
    ----------
    consul
        The ``consul`` that is on the PATH; none where the stand-in takes its place.
    consul_version
        Its version, or that of the stand-in as a server.
    """

    def __init__(
        self,
        client: Callable[[str], Any],
        *,
        hosts_file: Path,
        workdir: Path,
        check_interval: float | None,
        ignore_dates: bool,
    ) -> None:
        self._client = client
        self._workdir = workdir
        self._check_interval = check_interval
        found = shutil.which("consul")
        self.consul = Path(found) if found else None
        self.consul_version = version_of(self.consul) if self.consul else VERSION
        self._hosts_file = hosts_file
        directory = workdir / "images"
        self._images: Mapping[re.Pattern[str], Image] = {
            _CONSUL: consul_image(
                directory / "consul",
                hosts_file=hosts_file,
                ignore_dates=ignore_dates,
                executable=self.consul,
            ),
            _ENVOY: envoy_image(directory / "envoy"),
            _MESH_INIT: mesh_init_image(directory / "mesh-init"),
            _PYTHON: python_image(directory / "python"),
        }
        self._tasks: dict[str, LocalTask] = {}
        self._watchers: list[threading.Thread] = []
        self._closing = threading.Lock()

    # What the local cloud asks for -----------------------------------------------------------

    def runs(self, definition: Mapping[str, Any]) -> bool:
        """Whether all images are known, so that the task can run for real."""
        return all(self._image(each) is not None for each in _image_names(definition))

    def start(
        self,
        definition: Mapping[str, Any],
        *,
        task_arn: str,
        cluster_arn: str,
        ended: Callable[[str, str], None],
    ) -> str:
        """Start the containers of a task, and return its address.

        ``ended`` is told why, and with which code of ECS, when they have ended by themselves.
        """
        images = {name: self._image(name) for name in _image_names(definition)}
        task = LocalTask(
            self._adapted(definition),
            images={name: image for name, image in images.items() if image is not None},
            resolve_secret=secrets_from(self._client("secretsmanager")),
            workdir=self._directory(task_arn),
            task_arn=task_arn,
            cluster=cluster_arn,
        )
        self._tasks[task_arn] = task
        task.start()
        watcher = threading.Thread(target=self._watch, args=(task, ended), daemon=True)
        self._watchers.append(watcher)
        watcher.start()
        return task.address

    def stop(self, task_arn: str) -> None:
        """Ask the containers of a task to end, if there are any."""
        if task_arn in self._tasks:
            self._tasks[task_arn].stop(_STOPPED_BY_ECS, "ServiceSchedulerInitiated")

    def is_running(self, task_arn: str) -> bool:
        """Whether a task still has containers."""
        return task_arn in self._tasks and self._tasks[task_arn].status != "STOPPED"

    # What others ask for ----------------------------------------------------------------------

    def tasks(self) -> list[LocalTask]:
        """Return the tasks that run for real and have not stopped yet."""
        return [task for task in list(self._tasks.values()) if task.status != "STOPPED"]

    def close(self) -> None:
        """End all tasks at once."""
        for task in list(self._tasks.values()):
            self._close(task)
        for watcher in self._watchers:
            watcher.join()

    # ------------------------------------------------------------------------------------------

    def _watch(self, task: LocalTask, ended: Callable[[str, str], None]) -> None:
        task.wait_until_stopped(within=threading.TIMEOUT_MAX / 2)
        if task.stopped_reason != _STOPPED_BY_ECS:
            ended(str(task.stopped_reason), str(task.stop_code))
        self._close(task)
        shutil.rmtree(self._directory(task.arn), ignore_errors=True)

    def _close(self, task: LocalTask) -> None:
        """Give back what a task has besides its processes, such as its address."""
        with self._closing:
            task.close()

    def _directory(self, task_arn: str) -> Path:
        # Short, for a socket's path may have about a hundred characters.
        return self._workdir / task_arn.rpartition("/")[2][:8]

    def _image(self, name: str) -> Image | None:
        found = (image for pattern, image in self._images.items() if pattern.fullmatch(name))
        return next(found, None)

    def _adapted(self, definition: Mapping[str, Any]) -> dict[str, Any]:
        changed = copy.deepcopy(dict(definition))
        for container in changed["containerDefinitions"]:
            if self._check_interval is not None and container.get("healthCheck"):
                container["healthCheck"]["interval"] = self._check_interval
            if self.consul is not None:
                # A real one asks this machine's resolver, which does not know private names.
                for variable in container["environment"]:
                    variable["value"] = self._with_addresses(variable["value"])
        return changed

    def _with_addresses(self, text: str) -> str:
        for line in self._hosts_file.read_text(encoding="utf-8").splitlines():
            address, name = line.split()
            text = text.replace(name, address)
        return text


def _image_names(definition: Mapping[str, Any]) -> list[str]:
    return [container["image"] for container in definition["containerDefinitions"]]
