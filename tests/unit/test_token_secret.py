"""What a token's secret may hold, and that no error ever repeats it."""

from __future__ import annotations

import json
import traceback
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.core.errors import InvalidSecret
from handlers.core.token_secret import EMPTY, TokenIds, parse_acl_token

ACCESSOR_ID = "b1a7f5d2-3c4e-4f60-8a9b-0c1d2e3f4a5b"
SECRET_ID = "e8d7c6b5-a493-4281-9f0e-1d2c3b4a5968"


def document(accessor_id: object = ACCESSOR_ID, token: object = SECRET_ID, **more: object) -> str:
    return json.dumps({"accessor_id": accessor_id, "token": token, **more})


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(document(), id="as HashiCorp's controller writes it"),
        pytest.param(document(comment="mine"), id="with another key"),
        pytest.param(f" {document()}\n", id="with white space around it"),
    ],
)
def test_a_pair_of_ids_is_read(value: str) -> None:
    assert TokenIds.parse(value, where="s") == TokenIds(ACCESSOR_ID, SECRET_ID)


def test_ids_are_taken_as_they_are_written() -> None:
    # Consul compares them without regard to case, but finds a secret ID only as it was stored.
    ids = TokenIds.parse(document(ACCESSOR_ID.upper(), SECRET_ID.upper()), where="s")
    assert ids == TokenIds(ACCESSOR_ID.upper(), SECRET_ID.upper())


def test_an_empty_object_waits_for_ids() -> None:
    assert TokenIds.parse(EMPTY, where="s") is None
    with pytest.raises(InvalidSecret, match=r"^s: there are no IDs in it yet"):
        TokenIds.require(EMPTY, where="s")


NOT_A_PAIR = {
    "not JSON": ("hunter2-hunter2", "the value is not JSON"),
    "empty": ("", "the value is not JSON"),
    "JSON cut off": (document()[:-1], "the value is not JSON"),
    "nested too deeply": ("[" * 200_000, "the value is nested too deeply"),
    "a string": (json.dumps(SECRET_ID), "the value is not a JSON object"),
    "a list": (json.dumps([ACCESSOR_ID, SECRET_ID]), "the value is not a JSON object"),
    "null": ("null", "the value is not a JSON object"),
    "no accessor ID": (json.dumps({"token": SECRET_ID}), '"accessor_id" is missing'),
    "no token": (json.dumps({"accessor_id": ACCESSOR_ID}), '"token" is missing'),
    "another key only": (json.dumps({"x": SECRET_ID}), '"accessor_id" is missing'),
    "token null": (document(token=None), '"token" is missing'),
    "accessor ID no UUID": (document(accessor_id="web"), '"accessor_id" is not a UUID'),
    "token no UUID": (document(token="hunter2-hunter2"), '"token" is not a UUID'),
    "token empty": (document(token=""), '"token" is not a UUID'),
    "token a number": (document(token=7), '"token" is not a UUID'),
    "token in braces": (document(token=f"{{{SECRET_ID}}}"), '"token" is not a UUID'),
    "token with a line end": (document(token=f"{SECRET_ID}\n"), '"token" is not a UUID'),
    "reserved accessor ID": (
        document(accessor_id="00000000-0000-0000-0000-000000000002"),
        '"accessor_id" is a UUID that Consul reserves',
    ),
    "reserved token": (
        document(token="00000000-0000-0000-0000-0000000000ff"),
        '"token" is a UUID that Consul reserves',
    ),
    "the same twice": (document(token=ACCESSOR_ID), "are the same UUID"),
    "the same twice in another case": (document(token=ACCESSOR_ID.upper()), "are the same UUID"),
}


@pytest.mark.parametrize(("value", "complaint"), NOT_A_PAIR.values(), ids=NOT_A_PAIR)
def test_anything_else_is_refused_without_repeating_it(value: str, complaint: str) -> None:
    with pytest.raises(InvalidSecret) as caught:
        TokenIds.parse(value, where="The secret acme-web")
    text = str(caught.value)
    assert text.startswith("The secret acme-web: ")
    assert complaint in text
    assert "Put a valid pair there, or {} to have new IDs made." in text
    shown = "".join(traceback.format_exception(caught.value))
    for secret in ("hunter2", SECRET_ID, SECRET_ID.upper(), ACCESSOR_ID.upper()):
        assert secret not in shown


@given(st.text())
def test_no_text_makes_the_parser_fail_otherwise(value: str) -> None:
    for parse in (TokenIds.parse, parse_acl_token):
        try:
            parse(value, where="s")
        except InvalidSecret as error:
            assert error.__cause__ is None  # noqa: PT017 - either outcome is fine
            assert error.__suppress_context__ or error.__context__ is None  # noqa: PT017


def test_new_ids_are_random_and_can_be_read_back() -> None:
    ids, others = TokenIds.new(), TokenIds.new()
    assert len({ids.accessor_id, ids.secret_id, others.accessor_id, others.secret_id}) == 4
    assert uuid.UUID(ids.secret_id).version == 4
    assert TokenIds.require(ids.to_secret_string(), where="s") == ids
    assert list(json.loads(ids.to_secret_string())) == ["accessor_id", "token"]


def test_the_secret_id_is_not_shown_by_accident() -> None:
    assert SECRET_ID not in f"{TokenIds(ACCESSOR_ID, SECRET_ID)!r}"


@pytest.mark.parametrize(
    ("value", "token"),
    [
        pytest.param(SECRET_ID, SECRET_ID, id="bare, as HashiCorp's modules store it"),
        pytest.param(f"{SECRET_ID}\n", SECRET_ID, id="with a line end, as an editor leaves it"),
        pytest.param(json.dumps({"token": SECRET_ID}), SECRET_ID, id="JSON"),
        pytest.param(json.dumps({"token": f" {SECRET_ID} "}), SECRET_ID, id="JSON, with spaces"),
        pytest.param(document(), SECRET_ID, id="a token's secret"),
        pytest.param("not-a-uuid!", "not-a-uuid!", id="Consul takes other words as well"),
        pytest.param("", None, id="empty"),
        pytest.param("  \n", None, id="blank"),
        pytest.param("{}", None, id="an empty object"),
        pytest.param('{"token": ""}', None, id="an empty token"),
    ],
)
def test_the_token_to_authenticate_with_is_read(value: str, token: str | None) -> None:
    assert parse_acl_token(value, where="s") == token


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(f'"{SECRET_ID}"', id="quoted"),
        pytest.param(f"{SECRET_ID}\r\nX-Consul-Namespace: a", id="a header smuggled in"),
        pytest.param("hunter2 hunter2", id="two words"),
        pytest.param("hünter2-hunter2", id="not ASCII"),
        pytest.param('{"SecretID": "hunter2"}', id="another key"),
        pytest.param('{"token": 7, "x": "hunter2"}', id="a number"),
        pytest.param('{"token": "hunter2"', id="JSON cut off"),
    ],
)
def test_what_cannot_be_a_header_is_no_token(value: str) -> None:
    with pytest.raises(InvalidSecret, match=r"^The secret s: ") as caught:
        parse_acl_token(value, where="The secret s")
    shown = "".join(traceback.format_exception(caught.value))
    assert "hunter2" not in shown
    assert SECRET_ID not in shown
