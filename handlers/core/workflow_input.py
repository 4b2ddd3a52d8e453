"""What a person, a deployment or a schedule starts a workflow with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handlers.core import names
from handlers.core.errors import InvalidEvent, InvalidServiceName
from handlers.core.subjects import CLIENT, CONTROLLER, Subject

_SHARED = {subject.token: subject for subject in (CLIENT, CONTROLLER)}


def named_subject(event: Mapping[str, Any]) -> Subject | None:
    """Return whose token the input names: `{"service": name}`, `{"token": "client"}`; else None.

    Raises:
        InvalidEvent: if it names none that there can be, or more than one thing.
        InvalidServiceName: if Consul would not take the service's name.

    """
    given = [key for key in ("service", "token", "services", "detail", "after") if key in event]
    if not {"service", "token"} & set(given):
        return None
    if len(given) > 1:
        message = f'The input has both "{given[0]}" and "{given[1]}". Give one of them.'
        raise InvalidEvent(message)
    if "service" in event:
        return Subject(service=_service_name(event["service"]))
    token = event["token"]
    if not isinstance(token, str) or token not in _SHARED:
        message = f'token must be "client" or "controller"; it is {token!r:.200}.'
        raise InvalidEvent(message)
    return _SHARED[token]


def _service_name(name: Any) -> str:
    if not isinstance(name, str):
        message = f"service must be the name of a service, a text; it is {name!r:.200}."
        raise InvalidEvent(message)
    if not names.is_valid_service_name(name):
        message = (
            f"The input asks for the service {name!r:.300}, which is no valid service name. "
            f"Allowed: {names.SERVICE_NAME_RULE}."
        )
        raise InvalidServiceName(message)
    return name
