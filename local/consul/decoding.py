"""Decoding request bodies the way Go's ``encoding/json`` does, which is what clients notice.

Consul's handlers decode the first JSON value of the body into a struct and refuse fields that the
struct lacks. Field names match in any case; null is the zero value; what follows the first value
is ignored; broken UTF-8 becomes U+FFFD. Wrong input is reported in Go's words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeAlias


class DecodeError(Exception):
    """The body is not what was expected; the message is Go's."""


@dataclass(frozen=True)
class Scalar:
    """A string, bool or number; ``go`` is Go's name of the type."""

    go: str


@dataclass(frozen=True)
class ListOf:
    """A list of one kind of value."""

    item: Schema


@dataclass(frozen=True)
class MapOf:
    """A map from strings to one kind of value."""

    value: Schema


@dataclass(frozen=True)
class Struct:
    """An object with known fields; ``go`` is Go's name of the type."""

    go: str
    fields: Mapping[str, Schema]


@dataclass(frozen=True)
class Anything:
    """A value that the handler interprets itself."""


Schema: TypeAlias = Scalar | ListOf | MapOf | Struct | Anything

STRING = Scalar("string")
BOOL = Scalar("bool")
INT = Scalar("int")
UINT64 = Scalar("uint64")
STRINGS = ListOf(STRING)
ANYTHING = Anything()


def decode(body: bytes, schema: Struct) -> dict[str, Any]:
    """Decode a body into the fields of a struct, under their canonical names; nulls are left out.

    Raises
    ------
    DecodeError
        In Go's words.
    """
    text = body.decode("utf-8", errors="replace")
    start = len(text) - len(text.lstrip())
    if start == len(text):
        raise DecodeError("EOF")
    try:
        value, _ = json.JSONDecoder(strict=False).raw_decode(text, start)
    except json.JSONDecodeError as error:
        raise DecodeError(_syntax_error(text, error)) from None
    return {} if value is None else _struct(value, schema, [])


def _syntax_error(text: str, error: json.JSONDecodeError) -> str:
    if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated"):
        return "unexpected EOF"
    return f"invalid character {text[error.pos]!r} looking for beginning of value"


def _struct(value: Any, schema: Struct, path: Sequence[str], owner: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        _mismatch(value, schema.go, path, owner)
    # The root of a body is decoded through an anonymous struct, hence the name before the dot.
    name = schema.go.rpartition(".")[2] if path else ""
    canonical = {field.lower(): field for field in schema.fields}
    result = {}
    for key, member in value.items():
        field = canonical.get(key.lower())
        if field is None:
            raise DecodeError(f'json: unknown field "{key}"')
        if member is not None:
            result[field] = _value(member, schema.fields[field], [*path, field], name)
    return result


def _value(value: Any, schema: Schema, path: Sequence[str], owner: str) -> Any:
    match schema:
        case Struct():
            return _struct(value, schema, path, owner)
        case ListOf(item):
            if not isinstance(value, list):
                _mismatch(value, f"[]{_go_name(item)}", path, owner)
            return [_value(each, item, path, owner) for each in value if each is not None]
        case MapOf(item):
            if not isinstance(value, dict):
                _mismatch(value, f"map[string]{_go_name(item)}", path, owner)
            return {key: _value(each, item, path, owner) for key, each in value.items()}
        case Scalar(go):
            if _kind(value) != {"string": "string", "bool": "bool"}.get(go, "number"):
                _mismatch(value, go, path, owner)
    return value


def _mismatch(value: Any, go: str, path: Sequence[str], owner: str) -> None:
    where = f"Go struct field {owner}.{'.'.join(path)}" if path else "Go value"
    raise DecodeError(f"json: cannot unmarshal {_kind(value)} into {where} of type {go}")


def _kind(value: Any) -> str:
    match value:
        case bool():
            return "bool"
        case str():
            return "string"
        case dict():
            return "object"
        case list():
            return "array"
    return "number"


def _go_name(schema: Schema) -> str:
    match schema:
        case Scalar(go) | Struct(go):
            return go
        case ListOf(item):
            return f"[]{_go_name(item)}"
        case MapOf(item):
            return f"map[string]{_go_name(item)}"
    return "interface {}"


_UNITS = {
    "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600,
}  # fmt: skip
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


def parse_duration(value: Any) -> timedelta:
    """Read a duration as Consul accepts it: Go's notation (``1h30m``) or nanoseconds.

    Raises
    ------
    DecodeError
        In Go's words, if it is neither.
    """
    if isinstance(value, int | float):
        return timedelta(microseconds=value / 1000)
    text = str(value)
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if digits == "0":
        return timedelta(0)
    parts = _PART.findall(digits)
    if not parts or "".join(number + unit for number, unit in parts) != digits:
        raise DecodeError(f'time: invalid duration "{text}"')
    return sign * timedelta(seconds=sum(float(number) * _UNITS[unit] for number, unit in parts))


def format_duration(duration: timedelta) -> str:
    """Write a duration in Go's notation, to the second: ``24h0m1s``, ``1m0s``, ``59s``."""
    seconds = round(duration.total_seconds())
    sign = "-" if seconds < 0 else ""
    minutes, rest = divmod(abs(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{sign}{hours}h{minutes}m{rest}s"
    return f"{sign}{minutes}m{rest}s" if minutes else f"{sign}{rest}s"
