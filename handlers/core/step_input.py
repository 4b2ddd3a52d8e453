"""Reading what a state passes to its step."""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeVar

from handlers.core import clock
from handlers.core.errors import InvalidStepInput

T = TypeVar("T")

_KIND_NAMES = {
    str: "a string",
    int: "a number",
    list: "a list",
    dict: "an object",
    bool: "true or false",
}


def take(value: Any, path: str, kind: type[T]) -> T:
    """Return the entry at a dotted path of nested objects, checked for its type.

    A text has to be one: JSON can escape halves of characters, which nothing takes.

    >>> take({"secret": {"arn": "arn:…"}}, "secret.arn", str)
    'arn:…'

    Raises:
        InvalidStepInput: if it is absent or of another type; names the path, not the value.

    """
    found = value
    for key in path.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    if not isinstance(found, kind) or (isinstance(found, str) and not _is_text(found)):
        message = f'The input of the step needs "{path}", {_KIND_NAMES[kind]}.'
        raise InvalidStepInput(message)
    return found


def take_strings(value: Any, path: str) -> tuple[str, ...]:
    """Return the list of strings at a dotted path.

    Raises:
        InvalidStepInput: if it is not one.

    """
    found = take(value, path, list)
    if not all(isinstance(item, str) and _is_text(item) for item in found):
        message = f'The input of the step needs "{path}", a list of strings.'
        raise InvalidStepInput(message)
    return tuple(found)


def take_objects(value: Any, path: str) -> tuple[dict[str, Any], ...]:
    """Return the list of objects at a dotted path.

    Raises:
        InvalidStepInput: if it is not one.

    """
    found = take(value, path, list)
    if not all(isinstance(item, dict) for item in found):
        message = f'The input of the step needs "{path}", a list of objects.'
        raise InvalidStepInput(message)
    return tuple(found)


def take_time(value: Any, path: str) -> datetime:
    """Return the moment at a dotted path of nested objects.

    Raises:
        InvalidStepInput: if it is none.

    """
    try:
        return clock.from_text(take(value, path, str))
    except ValueError:
        message = f'The input of the step needs "{path}", a time such as 2026-01-05T20:10:01Z.'
        raise InvalidStepInput(message) from None


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
