"""Reading a long JSON array of objects while it arrives, one object at a time."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

_MAX_OBJECT_CHARACTERS = 1024 * 1024
_SPACE = re.compile(r"[ \t\r\n]*")
# What may follow each sign outside of objects; nothing but space follows the end.
_FOLLOWING = {"[": "{]", ",": "{", "]": ""}
_AFTER_AN_OBJECT = ",]"


def json_objects(chunks: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON array that arrives in pieces, cut anywhere.

    No more is held than one piece and one object.

    Raises:
        ValueError: if it is no array of objects, or ends in the middle; never repeats any of it.

    """
    decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
    parse = json.JSONDecoder().raw_decode
    text, allowed = "", "["
    for chunk in chunks:
        text += decode(chunk)
        position = 0
        while (position := _after_space(text, position)) < len(text):
            sign = text[position]
            if sign not in allowed:
                raise _unreadable("it is not an array of objects")
            if sign != "{":
                position, allowed = position + 1, _FOLLOWING[sign]
                continue
            try:
                found, position = parse(text, position)
            except json.JSONDecodeError:
                break  # not all of it is here yet
            except RecursionError:
                raise _unreadable("an object is nested too deeply") from None
            yield found
            allowed = _AFTER_AN_OBJECT
        text = text[position:]
        if len(text) > _MAX_OBJECT_CHARACTERS:
            raise _unreadable("an object has no end")
    if allowed:
        raise _unreadable("it has no end")


def _after_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _unreadable(reason: str) -> ValueError:
    return ValueError(f"The JSON is not what was expected: {reason}.")
