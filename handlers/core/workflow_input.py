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
        return Subject(service=service_name(event["service"], "service"))
    token = event["token"]
    if not isinstance(token, str) or token not in _SHARED:
        message = f'token must be "client" or "controller"; it is {token!r:.200}.'
        raise InvalidEvent(message)
    return _SHARED[token]


def service_name(name: Any, where: str, *, or_all: bool = False) -> str:
    """Return the name of a service that an input has somewhere; with `or_all`, "*" is one, too.

    Raises:
        InvalidEvent: if it is no text.
        InvalidServiceName: if Consul would not take it.

    """
    if not isinstance(name, str):
        message = f"{where} must be the name of a service, a text; it is {name!r:.200}."
        raise InvalidEvent(message)
    is_valid = names.is_valid_in_intention if or_all else names.is_valid_service_name
    if not is_valid(name):
        what = 'neither a valid service name nor "*"' if or_all else "no valid service name"
        message = f"{where} is {name!r:.300}, which is {what}. Allowed: {names.SERVICE_NAME_RULE}."
        raise InvalidServiceName(message)
    return name
