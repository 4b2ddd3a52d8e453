"""Keeps secrets out of what is logged."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

Redact = Callable[[str], str]

_PLACEHOLDER: Final = "<redacted>"
_TELLTALE: Final = re.compile(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|_KEY", re.IGNORECASE)
# A shorter value is no secret, and to remove "1" from every line would help nobody.
_SHORTEST: Final = 8


def redactor(environment: Mapping[str, str]) -> Redact:
    """Return a function that takes the values of secret variables out of a text.

    A variable is secret if its name says so. Apply it before a text is cut: what is left of a
    secret at the end of a cut text would not be recognised.
    """
    values = {
        value
        for name, value in environment.items()
        if _TELLTALE.search(name) and len(value) >= _SHORTEST
    }
    if not values:
        return str
    # The longest first: one secret may contain another.
    longest_first = sorted(values, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE)
    return lambda text: pattern.sub(_PLACEHOLDER, text)
