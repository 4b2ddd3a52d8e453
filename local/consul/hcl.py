"""A parser for HCL 1, the language of Consul's ACL rules.

Consul reads rules with version 1 of HCL, of which version 2 is not a superset: several blocks may
stand on one line, and a whole document may be JSON instead. Rules use a small part of the
language (blocks with up to one label, strings, comments), so the parser is small as well.

The result is what the JSON form of the same document would be: nested dictionaries. A block
``service "web" { policy = "read" }`` is ``{"service": {"web": {"policy": "read"}}}``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

Value: TypeAlias = "str | int | float | bool | list[Value] | dict[str, Value] | None"


class HclError(Exception):
    """The document is not HCL; the message is Consul's, with line and column."""


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    line: int
    column: int


_TOKEN = re.compile(
    r"""
      (?P<skip>\s+|\#[^\n]*|//[^\n]*|/\*.*?\*/)
    | (?P<STRING>"(?:\\.|[^"\\\n])*")
    | (?P<HEREDOC><<-?(?P<mark>\w+)\n(?P<doc>.*?)\n[ \t]*(?P=mark)(?=\n|$))
    | (?P<NUMBER>-?\d+(?:\.\d+)?)
    | (?P<IDENT>[A-Za-z_][\w.-]*)
    | (?P<LBRACE>\{) | (?P<RBRACE>\}) | (?P<LBRACK>\[) | (?P<RBRACK>\])
    | (?P<ASSIGN>=) | (?P<COMMA>,)
    """,
    re.VERBOSE | re.DOTALL,
)
_KINDS = (
    "STRING", "HEREDOC", "NUMBER", "IDENT", "LBRACE", "RBRACE", "LBRACK", "RBRACK", "ASSIGN",
    "COMMA",
)  # fmt: skip


def parse(source: str) -> dict[str, Value]:
    """Parse a document, HCL or JSON.

    Raises
    ------
    HclError
        With Consul's position and wording as far as they are known.
    """
    if source.lstrip().startswith("{"):
        return _parse_json(source)
    return _Parser(source).document()


def _parse_json(source: str) -> dict[str, Value]:
    try:
        parsed = json.loads(source)
    except json.JSONDecodeError as error:
        raise HclError(f"At {error.lineno}:{error.colno}: {error.msg}") from None
    merged: dict[str, Value] = {}
    _merge(merged, parsed)
    return merged


def _merge(into: dict[str, Value], more: dict[str, Value]) -> None:
    """Merge a document into another: a block given twice has the contents of both."""
    for key, value in more.items():
        present = into.get(key)
        if isinstance(present, dict) and isinstance(value, dict):
            _merge(present, value)
        else:
            into[key] = value


class _Parser:
    """Recursive descent over the tokens of one HCL document."""

    def __init__(self, source: str) -> None:
        self._tokens = list(self._scan(source))
        self._at = 0

    @staticmethod
    def _scan(source: str) -> Iterator[_Token]:
        at, line, line_start = 0, 1, 0
        while at < len(source):
            match = _TOKEN.match(source, at)
            column = at - line_start + 1
            if match is None:
                raise HclError(f"At {line}:{column}: illegal character")
            kind = next((k for k in _KINDS if match[k] is not None), None)
            if kind is not None:
                text = match["doc"] if kind == "HEREDOC" else match[0]
                yield _Token(kind, text, line, column)
            newlines = match[0].count("\n")
            if newlines:
                line += newlines
                line_start = at + match[0].rindex("\n") + 1
            at = match.end()
        # Consul's scanner reports the end of the text one column further on than it is.
        yield _Token("EOF", "", line, at - line_start + 2)

    def document(self) -> dict[str, Value]:
        """Parse everything up to the end of the text."""
        result = self._items(until="EOF")
        self._take("EOF")
        return result

    def _items(self, until: str) -> dict[str, Value]:
        result: dict[str, Value] = {}
        while self._peek().kind in {"IDENT", "STRING"}:
            _merge(result, self._item())
            if self._peek().kind == "COMMA":
                self._at += 1
        if self._peek().kind != until:
            found = self._peek()
            self._fail(found, f"object expected closing {until} got: {found.kind}")
        return result

    def _item(self) -> dict[str, Value]:
        keys = []
        while self._peek().kind in {"IDENT", "STRING"}:
            keys.append(_unquote(self._next()))
        if self._peek().kind == "ASSIGN":
            self._at += 1
            value = self._value()
        elif self._peek().kind == "LBRACE":
            value = self._block()
        else:
            found = self._peek()
            self._fail(found, f"key '{' '.join(keys)}' expected start of object ('{{') or "
                              "assignment ('=')")  # fmt: skip
        for key in reversed(keys[1:]):
            value = {key: value}
        return {keys[0]: value}

    def _value(self) -> Value:
        token = self._peek()
        match token.kind:
            case "LBRACE":
                return self._block()
            case "LBRACK":
                return self._list()
            case "NUMBER":
                return float(self._next().text) if "." in token.text else int(self._next().text)
            case "IDENT" if token.text in {"true", "false"}:
                return self._next().text == "true"
            case "STRING" | "HEREDOC":
                return _unquote(self._next())
        return self._fail(token, f"Unknown token: {token.kind} {token.text}")

    def _block(self) -> dict[str, Value]:
        self._take("LBRACE")
        result = self._items(until="RBRACE")
        self._take("RBRACE")
        return result

    def _list(self) -> list[Value]:
        self._take("LBRACK")
        result = []
        while self._peek().kind != "RBRACK":
            result.append(self._value())
            if self._peek().kind == "COMMA":
                self._at += 1
        self._take("RBRACK")
        return result

    def _peek(self) -> _Token:
        return self._tokens[self._at]

    def _next(self) -> _Token:
        token = self._tokens[self._at]
        self._at += 1
        return token

    def _take(self, kind: str) -> None:
        token = self._next()
        if token.kind != kind:
            self._fail(token, f"expected {kind} got: {token.kind}")

    @staticmethod
    def _fail(token: _Token, message: str) -> NoReturn:
        raise HclError(f"At {token.line}:{token.column}: {message}")


def _unquote(token: _Token) -> str:
    if token.kind != "STRING":
        return token.text
    escapes = {"n": "\n", "t": "\t", "r": "\r"}
    return re.sub(r"\\(.)", lambda match: escapes.get(match[1], match[1]), token.text[1:-1])
