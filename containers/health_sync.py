"""health-sync: tells Consul how ECS judges the health of the application's containers.

It asks ECS every second and writes to Consul what has changed. ECS ends the task when it ends, so
it ends only when it is told to, or when it is started wrong: while ECS or Consul cannot be reached,
or Consul refuses the token, the last known health stands, which is better than no application.

When ECS stops the task, it marks everything critical, so that nobody is sent to an instance that is
going; and never anything passing after that.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from containers.consul_agent import ConsulAgent
from containers.errors import MetadataUnavailable, Passing, RequestRefused, TaskError
from containers.program import read_config
from containers.registration import synced_checks
from containers.stopping import Stop
from containers.task_config import TaskConfig, TaskConfigError
from containers.task_metadata import Task, TaskMetadata

_LOG: Final = logging.getLogger(__name__)

INTERVAL_SECONDS: Final = 1.0
WRITE_TIMEOUT_SECONDS: Final = 2.0
"""For each step of a write. When the task stops, a write that is under way is let finish and then
every check is written once; ECS kills after 30 s."""

PASSING: Final = "passing"
CRITICAL: Final = "critical"
_HEALTHY: Final = "HEALTHY"


@dataclass(frozen=True)
class Report:
    """What is written to a check."""

    status: str
    output: str


def report(task: Task, container: str) -> Report:
    """Return what the health of a container, as ECS sees it, means to Consul.

    Only HEALTHY passes: not UNKNOWN, which is what ECS says until the first check has been made,
    and not a container that ECS does not list (yet).
    """
    if container not in task.health:
        return Report(CRITICAL, f"ECS lists no container {container} in this task.")
    health = task.health[container]
    if not health:
        return Report(CRITICAL, f"ECS reports no health for the container {container}.")
    return Report(
        PASSING if health == _HEALTHY else CRITICAL,
        f"ECS reports the container {container} as {health}.",
    )


class Trouble:
    """Says once that something fails, again if it fails differently, and when it has passed."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._told: str | None = None

    def say(self, error: TaskError) -> None:
        """Take note of a failure."""
        if str(error) != self._told:
            self._told = str(error)
            _LOG.error("%s; trying on. %s", self._what, error)

    def over(self) -> None:
        """Take note of a success."""
        if self._told is not None:
            self._told = None
            _LOG.info("%s: that is over.", self._what)


class HealthSync:
    """The checks of one task.

    Args:
        config: of the task.
        metadata: where ECS tells about the task.
        agent: where the checks are.
        stop: how to pause, and whether to go on.

    """

    def __init__(
        self, config: TaskConfig, metadata: TaskMetadata, agent: ConsulAgent, stop: Stop
    ) -> None:
        self._config = config
        self._metadata = metadata
        self._agent = agent
        self._stop = stop
        self._checks: dict[str, str] = {}
        self._written: dict[str, Report] = {}
        self._metadata_trouble = Trouble("ECS does not tell the containers' health")
        self._write_trouble = {
            name: Trouble(f"Consul does not take the health of the container {name}")
            for name in config.health_sync_containers
        }

    def run(self) -> None:
        """Report what changes until the task is stopped, then that it stops."""
        while not self._stop.requested:
            self.tick()
            self._stop.pause(INTERVAL_SECONDS)
        self._mark_all_critical()

    def tick(self) -> None:
        """Ask ECS once, and write what has changed."""
        try:
            task = self._metadata.read()
        except MetadataUnavailable as error:
            self._metadata_trouble.say(error)
            return
        self._metadata_trouble.over()
        self._checks = synced_checks(self._config, task)
        for container, check_id in self._checks.items():
            # Asked before every single write: from the moment of the signal on, nothing may pass.
            if self._stop.requested:
                return
            current = report(task, container)
            if current != self._written.get(container):
                self._write(container, check_id, current)

    def _write(self, container: str, check_id: str, current: Report) -> None:
        trouble = self._write_trouble[container]
        try:
            self._agent.update_check(
                check_id, current.status, current.output, timeout=WRITE_TIMEOUT_SECONDS
            )
        except (Passing, RequestRefused) as error:
            # Whether it has arrived is not known, so whatever ECS says next is news.
            self._written.pop(container, None)
            trouble.say(error)
            return
        trouble.over()
        self._written[container] = current
        _LOG.info("%s is %s. %s", check_id, current.status, current.output)

    def _mark_all_critical(self) -> None:
        """Write every check once more, whatever comes of it: there is no time to try again."""
        _LOG.info("The task is being stopped: marking its checks critical.")
        for container, check_id in self._checks.items():
            self._write(container, check_id, Report(CRITICAL, "The task is being stopped."))


def run(environment: Mapping[str, str], stop: Stop) -> None:
    """Report the health of the containers that the configuration names, until the task is stopped.

    Raises:
        Permanent: if the environment or the configuration is wrong. Nothing else ends it.

    """
    config = read_config(environment)
    agent = ConsulAgent.from_environment(environment)
    metadata = TaskMetadata.from_environment(environment)
    if not config.health_sync_containers:
        raise TaskConfigError(
            "healthSyncContainers names no container, so there is nothing to report. Name those "
            "whose health decides on the service's, or leave this container out of the task."
        )
    HealthSync(config, metadata, agent, stop).run()
