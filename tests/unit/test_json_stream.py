"""A long array of objects, read while it arrives, wherever it is cut."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.clients.json_stream import json_objects

MIB = 1024 * 1024
OBJECTS: list[dict[str, Any]] = [
    {"Description": 'a "quoted" ] } , [ { text with ünïcode, 日本, 🙂 and \\ and \n'},
    {},
    {"Policies": [{"ID": "1", "Name": "x"}, []], "Local": False, "Hash": None, "Index": -1.5e3},
]
TEXTS = {
    "as Consul writes it": json.dumps(OBJECTS, separators=(",", ":"), ensure_ascii=False),
    "escaped": json.dumps(OBJECTS),
    "pretty": f"\r\n\t {json.dumps(OBJECTS, indent=4, ensure_ascii=False)} \n",
}


def read(*chunks: bytes) -> list[dict[str, Any]]:
    return list(json_objects(chunks))


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_objects_are_the_same_wherever_the_text_is_cut_in_two(text: str) -> None:
    body = text.encode()
    for cut in range(len(body) + 1):
        assert read(body[:cut], body[cut:]) == OBJECTS


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64 * 1024])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_objects_are_the_same_in_pieces_of_any_size(text: str, size: int) -> None:
    body = text.encode()
    assert read(*(body[at : at + size] for at in range(0, len(body), size))) == OBJECTS


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)


@settings(deadline=None, max_examples=50)
@given(
    objects=st.lists(st.dictionaries(st.text(), json_values, max_size=3), max_size=4),
    cuts=st.lists(st.integers(0, 300), max_size=6),
    ascii_only=st.booleans(),
)
def test_any_objects_arrive_as_they_were_sent(
    objects: list[dict[str, Any]], cuts: list[int], *, ascii_only: bool
) -> None:
    # A lone surrogate is no text, but may be escaped.
    text = json.dumps(objects, ensure_ascii=ascii_only)
    body = text.encode(errors="surrogatepass")
    edges = [0, *sorted(cuts), len(body)]
    chunks = [body[start:end] for start, end in pairwise(edges)]
    assert read(*chunks) == objects


@pytest.mark.parametrize("chunks", [[b"[]"], [b"[", b"]"], [b" [", b"", b" \n ] \t"]])
def test_an_empty_array_has_no_objects(chunks: list[bytes]) -> None:
    assert read(*chunks) == []


def test_an_object_is_there_before_the_next_one_has_arrived() -> None:
    arrived: list[str] = []

    def chunks() -> Iterator[bytes]:
        for chunk in (b'[{"a":1},{"b"', b":2},", b'{"c":3}', b"]"):
            arrived.append(chunk.decode())
            yield chunk

    objects = json_objects(chunks())
    assert next(objects) == {"a": 1}
    assert len(arrived) == 1
    assert next(objects) == {"b": 2}
    assert len(arrived) == 2
    assert list(objects) == [{"c": 3}]


# --- what is refused -----------------------------------------------------------------------------

NOT_AN_ARRAY = "The JSON is not what was expected: it is not an array of objects."
NO_END = "The JSON is not what was expected: it has no end."
ENDLESS = "The JSON is not what was expected: an object has no end."

WRONG = {
    "nothing": ("", NO_END),
    "space": ("  \n", NO_END),
    "null": ("null", NOT_AN_ARRAY),
    "an object": ('{"a": 1}', NOT_AN_ARRAY),
    "HTML": ("<html>", NOT_AN_ARRAY),
    "a byte order mark": ("\ufeff[]", NOT_AN_ARRAY),
    "not begun": ("]", NOT_AN_ARRAY),
    "numbers": ("[1, 2]", NOT_AN_ARRAY),
    "a number after an object": ('[{"a": 1}, 2]', NOT_AN_ARRAY),
    "an array in the array": ("[[]]", NOT_AN_ARRAY),
    "null in the array": ("[null]", NOT_AN_ARRAY),
    "a comma first": ("[,{}]", NOT_AN_ARRAY),
    "two commas": ("[{},,{}]", NOT_AN_ARRAY),
    "a comma last": ("[{},]", NOT_AN_ARRAY),
    "no comma": ("[{}{}]", NOT_AN_ARRAY),
    "something after it": ("[{}] x", NOT_AN_ARRAY),
    "a second array": ("[][]", NOT_AN_ARRAY),
    "cut off before it begins": ("[", NO_END),
    "cut off in an object": ('[{"SecretID": "hunter2', NO_END),
    "cut off after an object": ('[{"SecretID": "hunter2"}', NO_END),
    "cut off after a comma": ('[{"SecretID": "hunter2"},', NO_END),
    "an object that is none": ('[{"SecretID": hunter2}]', NO_END),
    "an object without a value": ('[{"hunter2"}]', NO_END),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("size", [1, 1000])
def test_anything_else_is_refused_without_repeating_any_of_it(
    text: str, message: str, size: int
) -> None:
    body = text.encode()
    with pytest.raises(ValueError, match=r".") as caught:
        read(*(body[at : at + size] for at in range(0, len(body), size)))
    assert str(caught.value) == message
    assert "hunter2" not in str(vars(caught.value))


@pytest.mark.parametrize("deep", ['[{"a":' + "[" * 100_000, "[" + '{"a":' * 100_000])
def test_an_object_that_is_nested_too_deeply_is_refused(deep: str) -> None:
    with pytest.raises(ValueError, match=r"nested too deeply|has no end"):
        read(deep.encode())


def test_bytes_that_are_no_text_do_no_harm() -> None:
    (found,) = read(b'[{"Description": "\xff\xfe \xc3", "AccessorID": "a"}]')
    assert found == {"Description": "\ufffd\ufffd \ufffd", "AccessorID": "a"}


# --- size ----------------------------------------------------------------------------------------


def pieces(body: bytes, size: int = 64 * 1024) -> Iterator[bytes]:
    for at in range(0, len(body), size):
        yield body[at : at + size]


def test_an_object_of_almost_a_mebibyte_is_read() -> None:
    found = {"Description": "x" * (MIB - 100)}
    assert list(json_objects(pieces(json.dumps([found, {}]).encode()))) == [found, {}]


def test_an_object_without_an_end_is_not_waited_for() -> None:
    arrived = 0

    def chunks() -> Iterator[bytes]:
        nonlocal arrived
        yield b'[{"Description": "'
        while True:
            arrived += 64 * 1024
            yield b"x" * 64 * 1024

    with pytest.raises(ValueError, match=r".") as caught:
        list(json_objects(chunks()))
    assert str(caught.value) == ENDLESS
    assert arrived == MIB


def test_a_long_array_of_small_objects_has_no_limit() -> None:
    one = json.dumps({"AccessorID": "a" * 36, "Description": "x" * 200}).encode()
    body = b"[" + b",".join([one] * 40_000) + b"]"
    assert len(body) > 10 * MIB
    assert sum(1 for _ in json_objects(pieces(body))) == 40_000


def test_endless_space_is_not_kept() -> None:
    chunks = [b"[", *[b" " * 64 * 1024] * 40, b"{}", *[b"\n" * 64 * 1024] * 40, b"]"]
    assert read(*chunks) == [{}]
