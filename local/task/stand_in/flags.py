"""Command-line flags as Go has them: ``-name value``, ``-name=value``, and ``-name`` for a bool."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


class FlagError(ValueError):
    """A flag that there is not, or that lacks its value."""


def parse_flags(
    arguments: Sequence[str], *, texts: frozenset[str], bools: frozenset[str] = frozenset()
) -> dict[str, str]:
    """Return the values of flags by their names; that of a bool is ``true``.

    Raises
    ------
    FlagError
        In Go's words.
    """
    found: dict[str, str] = {}
    rest: Iterator[str] = iter(arguments)
    for argument in rest:
        name, is_given, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-") or name not in texts | bools:
            raise FlagError(f"flag provided but not defined: -{name}")
        if name in bools:
            found[name] = value if is_given else "true"
        elif is_given:
            found[name] = value
        else:
            following = next(rest, None)
            if following is None:
                raise FlagError(f"flag needs an argument: -{name}")
            found[name] = following
    return found
