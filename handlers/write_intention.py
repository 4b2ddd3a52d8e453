"""Make sure that Consul allows, or denies, that one service calls another; or has no say in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from handlers.clients.consul import ConsulClient, Json
from handlers.clients.consul_connection import consul
from handlers.core import environment, names
from handlers.core.errors import ForeignObject, InvalidEvent
from handlers.core.step import step
from handlers.core.step_input import take
from handlers.core.workflow_input import service_name

_ACTIONS = ("allow", "deny")
_WANTED_BY = re.compile(r"[A-Za-z0-9-]{1,20}")


@step
def handler(state: Mapping[str, Any]) -> dict[str, Any]:
    """Write an intention, or remove it; leave everything foreign alone.

    Input: `{"event": the input of the workflow}`, which is::

        {"intention": {"source": …, "destination": …,    # services, or "*" for all
                       "action": "allow" | "deny"},      # not needed to remove it
         "remove": true,             # optional
         "wanted_by": …}             # optional: what in a deployment wants it

    One that several want is removed when the last of them does not want it any more: CloudFormation
    makes what replaces a resource before it deletes that. Without `wanted_by` it is removed at
    once. (Consul has no way to change one intention only if it is still what was read: that it has
    for all of a destination's at once. Of two that start to want the same at the same moment, one
    may be forgotten; and one that starts to in the moment in which the last other one stops may
    find it gone afterwards.)

    Result: `{"change": "created" | "updated" | "unchanged" | "removed" | "absent" | "still wanted"
    | "foreign kept"}`.

    Raises:
        ForeignObject: if the opposite is there already and does not carry our cluster's line.

    """
    wish = _Wish.from_event(take(state, "event", dict))
    client = consul()
    existing = client.read_intention(wish.source, wish.destination)
    if wish.removal:
        return {"change": _remove(client, existing, wish)}
    return {"change": _write(client, existing, wish)}


@dataclass(frozen=True)
class _Wish:
    source: str
    destination: str
    action: str | None
    """None for a removal."""
    wanted_by: str | None

    @property
    def removal(self) -> bool:
        return self.action is None

    @classmethod
    def from_event(cls, event: Mapping[str, Any]) -> _Wish:
        """Read what a person or a deployment starts the workflow with.

        Raises:
            InvalidEvent, InvalidServiceName: if it is something else.

        """
        intention = event.get("intention")
        if not isinstance(intention, dict):
            message = (
                'The input needs "intention", an object with "source", "destination" and "action".'
            )
            raise InvalidEvent(message)
        remove = event.get("remove", False)
        if not isinstance(remove, bool):
            message = f"remove must be true or false; it is {remove!r:.200}."
            raise InvalidEvent(message)
        action = intention.get("action")
        if not remove and action not in _ACTIONS:
            message = f'intention.action must be "allow" or "deny"; it is {action!r:.200}.'
            raise InvalidEvent(message)
        wanted_by = event.get("wanted_by")
        if wanted_by is not None and not (
            isinstance(wanted_by, str) and _WANTED_BY.fullmatch(wanted_by)
        ):
            message = (
                "wanted_by must be a text of up to 20 letters, digits and '-'; "
                f"it is {wanted_by!r:.200}."
            )
            raise InvalidEvent(message)
        return cls(
            source=service_name(intention.get("source"), "intention.source", or_all=True),
            destination=service_name(
                intention.get("destination"), "intention.destination", or_all=True
            ),
            action=None if remove else action,
            wanted_by=wanted_by,
        )

    def __str__(self) -> str:
        return f'The intention of "{self.source}" to "{self.destination}"'


def _write(client: ConsulClient, existing: Json | None, wish: _Wish) -> str:
    wanting = {wish.wanted_by} if wish.wanted_by else set()
    if existing is not None:
        description = _description(existing)
        if not _is_ours(description):
            return _agree(existing, wish)
        wanting |= names.wanted_by(description)
        if existing.get("Action") == wish.action and names.wanted_by(description) == wanting:
            return "unchanged"
    _put(client, wish, wish.action, wanting)
    return "created" if existing is None else "updated"


def _agree(existing: Json, wish: _Wish) -> str:
    """Find that somebody else's intention says the same."""
    says = existing.get("Action") or "that it depends on the request (it has permissions)"
    if says != wish.action:
        line = names.cluster_line(environment.required(environment.CLUSTER_ARN))
        message = (
            f"{wish} exists in Consul and is not ours: it says {says}, not {wish.action}, "
            f'and its description has no line "{line}". Delete it, or change what it says: '
            f"consul intention delete '{wish.source}' '{wish.destination}'."
        )
        raise ForeignObject(message)
    return "unchanged"


def _remove(client: ConsulClient, existing: Json | None, wish: _Wish) -> str:
    if existing is None:
        return "absent"
    description = _description(existing)
    if not _is_ours(description):
        return "foreign kept"
    wanting = names.wanted_by(description)
    others = wanting - {wish.wanted_by}
    if wish.wanted_by is None or not others:
        client.delete_intention(wish.source, wish.destination)
        return "removed"
    if others != wanting:
        _put(client, wish, existing.get("Action"), others)
    return "still wanted"


def _put(client: ConsulClient, wish: _Wish, action: Any, wanting: Any) -> None:
    description = names.intention_description(
        environment.required(environment.CLUSTER_ARN), wanting
    )
    intention = {"SourceType": "consul", "Action": action, "Description": description}
    client.write_intention(wish.source, wish.destination, intention)


def _description(existing: Json) -> str:
    return str(existing.get("Description") or "")


def _is_ours(description: str) -> bool:
    own = environment.required(environment.CLUSTER_ARN)
    return names.owning_cluster(description) == own
