"""JSON that is wrong: of any shape, or almost right."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias

from hypothesis import strategies as st

Path: TypeAlias = tuple[str | int, ...]
Edit: TypeAlias = tuple[int, str, Any]


def _nested(depth: int, *, objects: bool) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value} if objects else [value]
    return value


ODD_TEXTS: Final = (
    *(
        "",
        " ",
        "\n",
        "\t x",
        "\x00",
        "\x1b[31mred",
        "\u202egnp",
        "\u2028",
        "ﬀ",
        "Ⅷ",
        "٣",
        "\U0001d518",
    ),
    *("\ud800", "a\udfffb", "e\u0301", "İ", "ß", "\ufeff{}", "'", '"', "\\", "%", "%2e%2e", "{}"),
    *("null", "true", "NaN", "-1", "1e400", "..", "../..", "a/b", "a b", "<script>", "${x}", "$.x"),
    *("x" * 2000, "y" * 66_000, "é" * 20_000, "web" * 100, "0" * 5000),
)
ODD_NUMBERS: Final = (0, -1, 1, 2**31, 2**63, 10**30, -(10**30), 0.5, 1e308)
NO_NUMBERS: Final = (math.nan, math.inf, -math.inf)
ODD_OTHERS: Final[tuple[Any, ...]] = (
    *(None, True, False, [], {}, [None], [[]], [""], [1], {"": None}, {"a": 1}),
    *(_nested(100, objects=False), _nested(100, objects=True), ["x"] * 3000),
)
ODD_VALUES: Final = (*ODD_TEXTS, *ODD_NUMBERS, *NO_NUMBERS, *ODD_OTHERS)


def odd(*likely: str) -> st.SearchStrategy[Any]:
    """Return odd values, and texts that are likely to be taken for the right ones."""
    made_up = st.text(max_size=20) | st.integers() | st.floats()
    choices = [st.sampled_from(ODD_VALUES), made_up]
    return st.one_of(*choices, st.sampled_from(likely)) if likely else st.one_of(*choices)


ANY_JSON: Final[st.SearchStrategy[Any]] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


def edits(
    values: st.SearchStrategy[Any],
    kinds: Sequence[str] = ("replace", "remove", "rename", "repeat", "copy"),
) -> st.SearchStrategy[list[Edit]]:
    """Return changes of JSON, for `edited`."""
    replaced = st.tuples(st.integers(0, 10_000), st.just("replace"), values)
    others = [kind for kind in kinds if kind != "replace"]
    if not others:
        return st.lists(replaced, min_size=1, max_size=3)
    moved = st.tuples(st.integers(0, 10_000), st.sampled_from(others), st.integers(0, 10_000))
    either = replaced | moved if "replace" in kinds else moved
    return st.lists(either, min_size=1, max_size=3)


def edited(
    value: Any, changes: Iterable[Edit], *, may: Callable[[Path, Any, Any], bool] | None = None
) -> Any:
    """Return a copy of JSON with changes, each at a place that its number chooses.

    Args:
        value: what is changed.
        changes: what is done, where.
        may: whether the value at a path may be replaced by another one; removing is to replace by
            `REMOVED`.

    """
    root = copy.deepcopy(value)
    for number, kind, new in changes:
        places = paths(root)[1:]
        if not places:
            break
        path = places[number % len(places)]
        parent = _at(root, path[:-1])
        if kind == "copy":  # from another place
            kind, new = "replace", _at(root, places[new % len(places)])  # noqa: PLW2901
        old, replacement = parent[path[-1]], REMOVED if kind in {"remove", "rename"} else new
        if may is None or may(path, old, replacement):
            _edit(parent, path[-1], kind, new)
    return root


class _Removed:
    def __repr__(self) -> str:
        return "REMOVED"


REMOVED: Final = _Removed()


def _edit(parent: Any, key: str | int, kind: str, new: Any) -> None:
    if kind == "replace":
        parent[key] = copy.deepcopy(new)
    elif kind == "remove":
        del parent[key]
    elif kind == "rename":
        value = parent.pop(key)
        if isinstance(parent, dict):
            parent[f"{key}X" if key else "x"] = value
        else:
            parent.insert(0, {"x": value})
    elif isinstance(parent, list):
        parent.extend([parent[int(key)]] * 3)
    else:
        parent[key] = [parent[key], parent[key]]


def paths(value: Any) -> list[Path]:
    """Return the paths of all values in JSON, the whole first."""
    found: list[Path] = [()]
    entries: Iterable[tuple[str | int, Any]] = ()
    if isinstance(value, dict):
        entries = value.items()
    elif isinstance(value, list):
        entries = enumerate(value[:50])
    for key, inner in entries:
        found += [(key, *path) for path in paths(inner)]
    return found


def _at(value: Any, path: Path) -> Any:
    for key in path:
        value = value[key]
    return value


def kind_of(value: Any) -> str:
    """Return the kind of JSON that a value is."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "text"
        case list():
            return "list"
        case _:
            return "object"
