"""The controller with one of its rules switched off: the exploration has to notice each of them."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from handlers import create_token, delete_unused, retire_tokens, store_secret
from handlers.clients import ecs, secrets_manager
from handlers.core.token_secret import TokenIds
from local.cloud.patching import replaced
from tests.faults.template import Template


@dataclass(frozen=True)
class Mutation:
    """One rule that does not hold any more.

    Args:
        rule: what does not hold.
        scenarios: where that shows.
        applied: switches it off within the context, and returns the template to run then.
        shown_by: a schedule that shows it, where that is too rare to be found by chance.

    """

    rule: str
    scenarios: tuple[str, ...]
    applied: Callable[[Template], AbstractContextManager[Template]]
    shown_by: str = ""


def _definition(
    workflow: str, change: Callable[[dict[str, Any]], None]
) -> Callable[[Template], AbstractContextManager[Template]]:
    """Return a mutation of the states of a workflow."""

    @contextmanager
    def applied(template: Template) -> Iterator[Template]:
        definitions = dict(template.definitions)
        arn = template.machines[workflow]
        definitions[arn] = copy.deepcopy(dict(definitions[arn]))
        change(definitions[arn]["States"])
        yield replace(template, definitions=definitions)

    return applied


def _code(
    owner: Any, name: str, value: Any
) -> Callable[[Template], AbstractContextManager[Template]]:
    """Return a mutation of a name in a module or a class."""

    @contextmanager
    def applied(template: Template) -> Iterator[Template]:
        with replaced(owner, name, value):
            yield template

    return applied


def _publish_before_create(states: dict[str, Any]) -> None:
    after_store = states["Store secret"]["Next"]
    states["Store secret"]["Next"] = "Is the secret public?"
    for choice in states["Is the secret public?"]["Choices"]:
        choice["Next"] = after_store
    ready = states["Publish secret"]["Next"]
    states["Publish secret"]["Next"] = after_store
    states["Create token"]["Next"] = ready


def _no_third_look(states: dict[str, Any]) -> None:
    states["Wait until ECS shows new tasks"]["Next"] = "Report"


class _NothingIsValid(TokenIds):
    """Takes no IDs in a secret for valid."""

    @classmethod
    def parse(cls, secret_string: str, *, where: str) -> TokenIds | None:
        del secret_string, where
        return None

    @classmethod
    def require(cls, secret_string: str, *, where: str) -> TokenIds:
        return TokenIds.require(secret_string, where=where)


def _only_running(self: ecs.Ecs, cluster_arn: str) -> Iterator[ecs.Task]:
    return (task for task in _live_tasks(self, cluster_arn) if task.desired_status == "RUNNING")


_live_tasks = ecs.Ecs.live_tasks

MUTATIONS = {
    "2": Mutation(
        "a secret is published before its token is made",
        ("starts",),
        _definition("TaskProvisioning", _publish_before_create),
    ),
    "3": Mutation(
        "each writer gives the version that he writes an ID of his own",
        ("starts",),
        _code(secrets_manager, "derived_version_id", lambda *_: str(uuid.uuid4())),
    ),
    "4-secret": Mutation(
        "valid IDs in a secret are overwritten",
        ("starts",),
        _code(store_secret, "TokenIds", _NothingIsValid),
    ),
    "4-consul": Mutation(
        "Consul is not brought in line with the secret",
        ("edited-secret-id",),
        _code(create_token, "_bring_in_line", lambda *_, **__: "none"),
    ),
    "6-second-look": Mutation(
        "what seemed unused is deleted without a second look",
        ("start-delete",),
        _code(delete_unused, "may_go", lambda *_: True),
    ),
    "6-third-look": Mutation(
        "nobody looks once more after a deletion",
        ("delete-start",),
        _definition("Reconciliation", _no_third_look),
    ),
    "6-draining": Mutation(
        "tasks that drain do not count",
        ("drain",),
        _code(ecs.Ecs, "live_tasks", _only_running),
    ),
    "mark": Mutation(
        "a superseded token counts as out of reach at once",
        ("start-rotation", "all-rotations"),
        _code(retire_tokens, "_MARGIN", timedelta(seconds=-60)),
    ),
    "fence": Mutation(
        "a rotation is given up, and its token deleted, while another one can still publish it",
        ("rotations",),
        _code(secrets_manager.SecretsManager, "keep", lambda *_, **__: True),
        shown_by="rotations 7:first=TokenRotation-2 12:denied",
    ),
}
