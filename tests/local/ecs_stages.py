"""Holding the tasks of a local cloud in the stage that they are in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from local.cloud import LocalCloud
from local.cloud.patching import replaced


@contextmanager
def standing_still(cloud: LocalCloud) -> Iterator[None]:
    """Let no task go on to its next stage meanwhile, except for a stage that has begun."""
    lifecycle = cloud._tasks
    assert lifecycle is not None
    held: list[Callable[[], None]] = []
    with replaced(lifecycle, "_later", held.append):
        yield
    for go_on in held:
        lifecycle._later(go_on)
