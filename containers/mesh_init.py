"""mesh-init: registers the service and its proxy, and writes what Envoy starts from. Then it ends.

ECS starts the proxy, health-sync and the application once this has ended with status 0. So it does
not end before all of it is done, and not with 0 unless it is. What it does can be done again: a
second run leaves the same state.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import Final

from containers.consul_agent import ConsulAgent
from containers.envoy_bootstrap import (
    check_writable,
    find_consul,
    make_bootstrap,
    write_bootstrap,
)
from containers.errors import Passing, Refused, TokenRefused, WaitedTooLong
from containers.layout import CONSUL_INJECT_DIR
from containers.program import read_config
from containers.registration import proxy_registration, service_registration
from containers.stopping import Stop, Stopped
from containers.task_config import TaskConfig, proxy_id, service_id
from containers.task_metadata import Task, TaskMetadata

_LOG: Final = logging.getLogger(__name__)

DEADLINE_SECONDS: Final = 300
"""How long all of it may take. An agent joins within seconds, and servers elect a leader within
half a minute; five minutes also outlast a restart of all servers. ECS has no limit of its own here
unless the container has a `startTimeout`. A task that ends is seen and started again; one that
waits for ever is not."""

REFUSAL_SECONDS: Final = 45
"""How long a 403 must last before it counts. An agent refuses a token for 30 s after it has once
asked for it in vain, and a right for 30 s after it was given; the rest is for the servers."""

FIRST_PAUSE_SECONDS: Final = 0.2
LONGEST_PAUSE_SECONDS: Final = 2.0

Jitter = Callable[[], float]
"""A number from 0 to 1, another one each time."""


class Waiting:
    """Repeats something until it succeeds, fails for good, or has taken too long.

    Args:
        stop: how to pause, and whether to go on.
        clock: seconds, as `time.monotonic` counts them.
        jitter: how much of a pause's second half to wait.

    """

    def __init__(
        self,
        stop: Stop,
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Jitter = random.random,
    ) -> None:
        self._stop = stop
        self._clock = clock
        self._jitter = jitter
        self._started = clock()
        self._refused_since: float | None = None
        self._told = ""

    def until(self, attempt: Callable[[], None]) -> None:
        """Make attempts until one succeeds.

        Raises:
            Permanent: if an attempt fails in a way that does not pass.
            TokenRefused: if the token is refused for longer than any cache remembers.
            WaitedTooLong: if time is up.
            Stopped: if ECS stops the task.

        """
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                attempt()
            except Passing as error:
                self._bear(error)
            else:
                return
            self._stop.pause(pause / 2 + pause / 2 * self._jitter())
            if self._stop.requested:
                raise Stopped
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _bear(self, error: Passing) -> None:
        """Go on after an error, or raise what it has become by lasting."""
        now = self._clock()
        if not isinstance(error, Refused):
            # Whatever was refused before may have been so because of this.
            self._refused_since = None
        elif self._refused_since is None:
            self._refused_since = now
        elif now - self._refused_since >= REFUSAL_SECONDS:
            raise TokenRefused(
                f"Refused for {REFUSAL_SECONDS} s, longer than any cache remembers. {error}"
            ) from error
        if now - self._started >= DEADLINE_SECONDS:
            raise WaitedTooLong(f"Gave up after {DEADLINE_SECONDS} s. {error}") from error
        if str(error) != self._told:
            self._told = str(error)
            _LOG.info("Waiting. %s", error)


def run(
    environment: Mapping[str, str],
    stop: Stop,
    *,
    clock: Callable[[], float] = time.monotonic,
    jitter: Jitter = random.random,
    inject_dir: str = CONSUL_INJECT_DIR,
) -> None:
    """Do all of it, or raise an error that says what is in the way.

    Everything that can be checked without the agent is checked before anything is registered.

    Args:
        environment: the container's.
        stop: how to pause, and whether to go on.
        clock: seconds, as `time.monotonic` counts them.
        jitter: see `Waiting`.
        inject_dir: where the consul-client container puts the `consul` binary.

    Raises:
        Permanent: see `Waiting.until` and `containers.errors`.
        Stopped: if ECS stops the task.

    """
    config = read_config(environment)
    agent = ConsulAgent.from_environment(environment)
    metadata = TaskMetadata.from_environment(environment)
    check_writable(config.bootstrap_dir)

    waiting = Waiting(stop, clock=clock, jitter=jitter)
    task = _found_task(metadata, waiting)
    waiting.until(lambda: _start(config, task, agent, environment, inject_dir))


def _found_task(metadata: TaskMetadata, waiting: Waiting) -> Task:
    found: list[Task] = []
    waiting.until(lambda: found.append(metadata.read()))
    return found[0]


def _start(
    config: TaskConfig,
    task: Task,
    agent: ConsulAgent,
    environment: Mapping[str, str],
    inject_dir: str,
) -> None:
    """Do all of it once. An agent that has lost its state between two attempts gets it again."""
    agent.check_ready()
    consul = find_consul(environment, inject_dir)
    if agent.has_token and not agent.check_token():
        _LOG.warning("Consul has its ACLs turned off, so the service's token is not needed.")
    service = service_registration(config, task)
    agent.register(service)
    _LOG.info("Registered the service %s.", service["ID"])
    proxy = proxy_registration(config, task)
    agent.register(proxy)
    _LOG.info("Registered its proxy %s.", proxy["ID"])
    instance = service_id(config.service.name, task.id)
    bootstrap = make_bootstrap(consul, proxy_id(instance), environment, config.bootstrap_dir)
    path = write_bootstrap(config.bootstrap_dir, bootstrap)
    _LOG.info("Wrote the proxy's configuration to %s.", path)
