"""Which tokens are to be rotated, and what each of them has to be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handlers.clients.consul import Json
from handlers.clients.consul_connection import consul
from handlers.core.deployment import Deployment
from handlers.core.errors import InvalidEvent, SecretNameCollision
from handlers.core.paging import Room
from handlers.core.step import step
from handlers.core.step_input import take
from handlers.core.subjects import CONTROLLER, Subject, owned_subject
from handlers.core.workflow_input import named_subject

# An execution may take a year. With a pause of a day after each service, which may itself take a
# day to be redeployed, so many take less.
_ROOM = Room(most=100, most_bytes=60_000)


@step
def handler(state: Mapping[str, Any]) -> dict[str, Any]:
    """Read the input of TokenRotation.

    Input: `{"event": …, "service_rules": {service name: HCL}}`. The event is `{"service": name}`,
    `{"token": "client"}` or `{"token": "controller"}` for one token; `{"services": "all"}` for all
    services that have a token, with `"after": name` to go on after a part of them.

    Result for one token: `{"one": true, "subject": …, "secret": …, "token": …, "has_tasks": bool}`,
    as `store_secret` and `create_token` take them; tasks hold all but the controller's own. For all
    services: `{"one": false, "services": [subject, …], "next": event or {}}`.

    Raises:
        InvalidEvent, InvalidServiceName, SecretNameCollision: for other inputs.

    """
    event = take(state, "event", dict)
    rules = take(state, "service_rules", dict)
    deployment = Deployment.from_environment()
    subject = named_subject(event)
    if subject is None:
        return _all_services(event, deployment)
    if subject.service and deployment.is_reserved(subject.service):
        message = (
            f"The secret {deployment.secret_id(subject)} is the controller's own. To rotate what "
            'is in it, start with {"token": "client"} or {"token": "controller"}.'
        )
        raise SecretNameCollision(message)
    wanted = deployment.wanted(subject, rules)
    return {
        "one": True,
        "subject": subject.to_state(),
        "secret": wanted["secret"],
        "token": wanted["token"],
        "has_tasks": subject != CONTROLLER,
    }


def _all_services(event: Mapping[str, Any], deployment: Deployment) -> dict[str, Any]:
    after = event.get("after", "")
    if event.get("services") != "all" or not isinstance(after, str):
        message = (
            'Start the workflow with {"service": "…"}, {"services": "all"}, {"token": "client"} or '
            '{"token": "controller"}.'
        )
        raise InvalidEvent(message)

    def keep(token: Json) -> Subject | None:
        subject = owned_subject(token, deployment.cluster_arn)
        return subject if subject is not None and subject.service > after else None

    services = sorted(set(consul().list_tokens(keep)))
    some, _ = _ROOM.take([subject.to_state() for subject in services])
    more = len(some) < len(services)
    return {
        "one": False,
        "services": some,
        "next": {"services": "all", "after": some[-1]["service"]} if more else {},
    }
