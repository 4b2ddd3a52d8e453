"""Which tasks use which tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from handlers.clients.ecs import Task
from handlers.core import mesh_tasks, names
from handlers.core.deployment import Deployment
from handlers.core.subjects import CLIENT, Subject

_UNKNOWN = datetime.min.replace(tzinfo=UTC)


def subjects_of(task: Task, deployment: Deployment) -> Iterator[Subject]:
    """Yield whose tokens a task uses: none if it is not in the mesh, or misconfigured."""
    if mesh_tasks.reason_not_in_the_mesh(task.tags) or mesh_tasks.unsupported_tenancy_tag(
        task.tags
    ):
        return
    service, _ = mesh_tasks.service_name(task.tags, task.family)
    if names.is_valid_service_name(service) and not deployment.is_reserved(service):
        yield Subject(service=service)
        yield CLIENT


def oldest_tasks(tasks: Iterable[Task], deployment: Deployment) -> dict[Subject, datetime]:
    """Return when the oldest task that uses each subject's token was made.

    A subject without any task is not in it. A task of which ECS does not say when it was made
    counts as older than all others.
    """
    oldest: dict[Subject, datetime] = {}
    for task in tasks:
        made = task.created_at or _UNKNOWN
        for subject in subjects_of(task, deployment):
            oldest[subject] = min(oldest.get(subject, made), made)
    return oldest
