"""What happened to a task, and when: events, lines of output, and the milestones of a start."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from containers import layout

CONSUL_CLIENT = layout.CONSUL_CLIENT_CONTAINER
MESH_INIT = layout.MESH_INIT_CONTAINER
SIDECAR = layout.SIDECAR_PROXY_CONTAINER
HEALTH_SYNC = layout.HEALTH_SYNC_CONTAINER


@dataclass(frozen=True)
class Event:
    """Something that happened to a container, or (without one) to the task."""

    seconds: float
    """Since the task was started."""
    container: str
    what: str
    """``started``, ``healthy``, ``unhealthy``, ``stopping`` (SIGTERM was sent), ``killed``,
    ``exited 0``, ``not started: why``; of the task ``stopping: why`` and ``stopped``."""


@dataclass(frozen=True)
class LogLine:
    """A line that a container wrote."""

    seconds: float
    container: str
    stream: Literal["stdout", "stderr"]
    text: str = field(repr=False)


@dataclass(frozen=True)
class Milestones:
    """The moments of a mesh task's start, in seconds since it was started.

    Attributes
    ----------
    t0
        consul-client and mesh-init have started.
    t1
        mesh-init has ended well, and the sidecar proxy has started.
    t2
        The sidecar proxy is healthy: the app starts.
    apps
        All containers of the app have started.
    """

    t0: float
    t1: float
    t2: float
    apps: float


def milestones(events: Iterable[Event], apps: Sequence[str]) -> Milestones:
    """Derive the milestones of a start from its events.

    Raises
    ------
    LookupError
        The start has not come so far.
    """
    first: dict[tuple[str, str], float] = {}
    for event in events:
        first.setdefault((event.container, event.what), event.seconds)
    try:
        return Milestones(
            t0=max(first[name, "started"] for name in (CONSUL_CLIENT, MESH_INIT)),
            t1=first[SIDECAR, "started"],
            t2=first[SIDECAR, "healthy"],
            apps=max(first[name, "started"] for name in apps),
        )
    except KeyError as error:
        container, what = error.args[0]
        raise LookupError(f"{container} has not {what} (yet).") from None
