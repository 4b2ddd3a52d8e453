"""What people write into settings files, and what becomes of files on their way."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, get_args

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel

from settings import Settings, SettingsError, load_settings
from tests.bad_input.mutations import Path as Place
from tests.bad_input.mutations import edited, edits, odd, paths
from tests.bad_input.profile import examples

ROOT: Final = Path(__file__).parents[2]
SECRETS: Final = (
    "6b1ef8a4-1c5f-4a43-b3a5-2f1f8b3a5a11",
    "pUqJrVyVRj5jsiYEkM/tFQYfWyJIv4s3XkvDwy7Cu5s=",
    "-----BEGIN EC PRIVATE KEY-----",
    "http://admin:hunter22hunter22@consul.internal:8500",
    "secret_access_key=wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLE",
)
_ARN: Final = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:consul/{}-AbC123"
COMPLETE: Final[dict[str, Any]] = {
    "ecs": {"cluster": "my-cluster"},
    "secrets": {
        "prefix": "consul",
        "kms_key_arn": (
            "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
        ),
    },
    "consul": {
        "http_address": "https://consul.internal:8501",
        "datacenter": "dc2",
        "retry_join": ["10.0.0.1", "provider=aws tag_key=consul"],
        "bootstrap_token_secret_arn": _ARN.format("bootstrap"),
        "client_token_secret_arn": _ARN.format("client"),
        "ca_secret_arn": _ARN.format("ca"),
        "gossip_key_secret_arn": _ARN.format("gossip"),
        "anonymous_policy": False,
    },
    "network": {
        "vpc_id": "vpc-01234567",
        "subnet_ids": ["subnet-01234567", "subnet-0123456789abcdef0"],
        "security_group_ids": ["sg-01234567"],
    },
    "services": {"web": {"rules": "web.hcl"}},
    "images": {"consul": "hashicorp/consul:1.15", "envoy": "envoy", "mesh_init": "mesh-init"},
    "reconciliation": {"every_minutes": 10, "grace_minutes": 30},
    "rotation": {
        "services_every_days": 30,
        "client_token_every_days": 90,
        "controller_token_every_days": 90,
        "concurrency": 2,
        "pause_minutes": 1,
        "stable_within_minutes": 30,
        "keep_ecs_services": ["legacy-web"],
    },
    "log_retention_days": 90,
    "tags": {"team": "platform"},
}
REQUIRED: Final = {("ecs",), ("ecs", "cluster"), ("secrets",), ("secrets", "prefix")} | {
    *{("consul",), ("consul", "http_address"), ("services", "web", "rules")},
    *{("network", "vpc_id"), ("network", "subnet_ids")},
}
OPEN: Final = {("services", "web"), ("tags", "team")}
"""Keys whose names are the user's to choose."""
PLACES: Final = [place for place in paths(COMPLETE) if place and isinstance(place[-1], str)]


Write = Callable[[bytes | Any], Path]


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """Return a function that writes a settings file, of bytes or of data."""
    folder = tmp_path_factory.mktemp("settings")
    (folder / "web.hcl").write_text('key_prefix "web/" {\n  policy = "write"\n}\n')

    def write_file(content: bytes | Any) -> Path:
        path = folder / "mesh.yaml"
        path.write_bytes(content if isinstance(content, bytes) else _yaml(content))
        return path

    return write_file


def _yaml(data: Any) -> bytes:
    # JSON is YAML, and has every text that Python has; of numbers it has some that YAML has not.
    return json.dumps(data, indent=1).encode()


def refusal(path: Path) -> str | None:
    """Return what is said about a file, or None if it is taken.

    Fails if anything but a SettingsError comes out, or one that does not say what to do where.
    """
    try:
        load_settings(path)
    except SettingsError as error:
        text = str(error)
    else:
        return None
    assert text.startswith(str(path))
    text = text.removeprefix(str(path))
    assert all(line.isprintable() for line in text.split("\n"))
    assert len(text) <= 50_000
    if not (problems := re.match(r": (\d+) problems?\n", text)):
        assert re.match(r"(, line \d+, column \d+)?: ", text)  # the file as a whole
        return text
    paragraphs = text.split("\n\n")[1:]
    if more := re.fullmatch(r"  and (\d+) more", paragraphs[-1]):
        paragraphs.pop()
    assert len(paragraphs) + int(more[1] if more else 0) == int(problems[1])
    for paragraph in paragraphs:
        assert re.match(r"  \S.*\n    found:   \S", paragraph)
        assert re.search(r"^    (allowed|note): +\S", paragraph, re.MULTILINE)
    return text


def shown(place: Place) -> str:
    """Return a place as it stands in messages."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return text.removeprefix(".")


def test_the_complete_file_has_every_key(write: Write) -> None:
    def keys(model: type[BaseModel], place: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
        for name, field in model.model_fields.items():
            yield (*place, name)
            for option in (field.annotation, *get_args(field.annotation)):
                if (
                    isinstance(option, type)
                    and issubclass(option, BaseModel)
                    and name != "services"
                ):
                    yield from keys(option, (*place, name))

    assert set(keys(Settings)) - set(PLACES) == set()
    assert refusal(write(COMPLETE)) is None


def secret_itself(text: str) -> str:
    """Return the secret part of one of the texts above."""
    return re.sub(r"^http://admin:|@.*|^secret_access_key=|-----", "", text)


# --- one key at a time ---------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES, ids=shown)
def test_a_key_that_is_left_out_has_a_default_or_is_asked_for(write: Write, place: Place) -> None:
    number = paths(COMPLETE).index(place) - 1

    text = refusal(write(edited(COMPLETE, [(number, "remove", None)])))

    assert (text is not None) == (place in REQUIRED)
    assert text is None or shown(place) in text


@pytest.mark.parametrize("place", PLACES, ids=shown)
def test_a_key_with_a_typing_error_is_named_with_the_right_one(write: Write, place: Place) -> None:
    number = paths(COMPLETE).index(place) - 1

    text = refusal(write(edited(COMPLETE, [(number, "rename", None)])))

    if place in OPEN:
        assert text is None or f"{shown(place)}X" in text
        return
    assert text is not None
    assert f"{shown(place)}X (line " in text
    assert f"did you mean {place[-1]!r}?" in text


@pytest.mark.parametrize("place", [place for place in paths(COMPLETE) if place], ids=shown)
@examples(10)
@given(value=odd(*SECRETS))
def test_a_wrong_value_is_named_with_what_is_allowed(
    write: Write, place: Place, value: Any
) -> None:
    number = paths(COMPLETE).index(place) - 1

    text = refusal(write(edited(COMPLETE, [(number, "replace", value)])))

    if text is not None and re.match(r": \d+ problem", text):
        assert shown(place) in text


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("place", [place for place in paths(COMPLETE) if place], ids=shown)
def test_a_secret_that_was_put_into_the_file_is_not_repeated(
    write: Write, place: Place, secret: str
) -> None:
    number = paths(COMPLETE).index(place) - 1

    text = refusal(write(edited(COMPLETE, [(number, "replace", secret)])))

    assert secret_itself(secret) not in f"{text}"


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_that_was_put_where_none_can_be_is_not_repeated(write: Write, secret: str) -> None:
    as_key = refusal(write({**COMPLETE, secret: 1}))
    as_inner_key = refusal(write({**COMPLETE, "network": {secret: [secret]}}))
    in_syntax = refusal(write(f"ecs: [{secret}\n{secret}: {{".encode()))
    as_tag = refusal(write(f"ecs: !{secret.split(maxsplit=1)[0]} x".encode()))

    assert None not in {as_key, as_inner_key, in_syntax, as_tag}
    assert secret_itself(secret) not in f"{as_key}{as_inner_key}{in_syntax}{as_tag}"


# --- several at once -----------------------------------------------------------------------------


@examples(250)
@given(changes=edits(odd(*SECRETS)))
def test_any_changes_of_a_valid_file_give_settings_or_an_error_for_people(
    write: Write, changes: list[Any]
) -> None:
    refusal(write(edited(COMPLETE, changes)))


# --- text ----------------------------------------------------------------------------------------

_TEXT: Final = yaml.safe_dump(COMPLETE, sort_keys=False)
_SNIPPETS: Final = (
    *(":", "-", " ", "  ", "\n", "\t", "#", "'", '"', "[", "]", "{", "}", "&a ", "*a", "!x ", "|"),
    *(
        ">",
        "%",
        "@",
        "`",
        "?",
        ",",
        "---",
        "...",
        "<<: *a",
        "\x00",
        "\x07",
        "\x85",
        "\u2028",
        "\ufeff",
    ),
    *("!!python/object:os.system ", "!!binary ", "!!timestamp ", "!!set ", "!!int ", "0x", "1_0"),
    *('"\\U7fffffff"', '"\\xZZ"', "2026-13-45", "12:30:45", ".nan", "-.inf", "~", "yes", "\r", "é"),
)


@examples(250)
@given(
    places=st.lists(
        st.tuples(st.floats(0, 1), st.sampled_from(_SNIPPETS), st.integers(0, 6)),
        min_size=1,
        max_size=3,
    )
)
def test_a_file_with_typing_errors_gives_settings_or_an_error_for_people(
    write: Write, places: list[tuple[float, str, int]]
) -> None:
    text = _TEXT
    for share, snippet, dropped in places:
        at = int(share * len(text))
        text = text[:at] + snippet + text[at + dropped :]

    refusal(write(text.encode()))


@examples(100)
@given(share=st.floats(0, 1))
def test_a_file_that_ends_early_gives_settings_or_an_error_for_people(
    write: Write, share: float
) -> None:
    refusal(write(_TEXT.encode()[: int(share * len(_TEXT))]))


@examples(150)
@given(
    share=st.floats(0, 1),
    broken=st.sampled_from(
        [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\x00", b"\xfe\xff", b"\x80"]
    ),
)
def test_a_file_with_a_broken_character_gives_settings_or_an_error_for_people(
    write: Write, share: float, broken: bytes
) -> None:
    content = _TEXT.encode()
    at = int(share * len(content))

    refusal(write(content[:at] + broken + content[at:]))


@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp037"],
)
def test_a_file_in_another_encoding_is_read_or_refused(write: Write, encoding: str) -> None:
    content = _TEXT.replace("platform", "größe").encode(encoding)

    text = refusal(write(content))

    # YAML may be UTF-16 if it says so (yaml.org, "Character Encodings").
    assert (text is None) == (encoding in {"utf-8", "utf-8-sig", "utf-16"})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"# only a comment\n",
        b"---\n---\n",
        b"null",
        b"[]",
        b"text",
        b"a: &a [*a]",
        b"? [a]\n: b",
        b"[" * 10_000,
        b"a: " * 10_000,
        b"- " * 10_000,
        b"{a: " * 2_000 + b"1" + b"}" * 2_000,
        b"a: " + b"x" * 3_000_000,
    ],
    ids=lambda content: repr(content[:20]),
)
def test_a_file_of_another_shape_is_refused(write: Write, content: bytes) -> None:
    assert refusal(write(content)) is not None


# --- rules ---------------------------------------------------------------------------------------


@examples(150)
@given(
    rules=st.sampled_from(
        [
            b"",
            b" ",
            b"{",
            b"{}",
            b"\x00",
            b"\xff\xfe",
            b"a" * 200_000,
            b"{" * 5_000,
            b'a "b" {' * 500,
        ]
    )
    | st.binary(max_size=30)
    | st.text(alphabet='ab {}="\n#/*<-E$%(),[]\\', max_size=40).map(str.encode)
)
@example(rules=b'key "a" { policy = "6b1ef8a4-1c5f-4a43-b3a5-2f1f8b3a5a11" ')
def test_any_rules_give_settings_or_an_error_for_people(write: Write, rules: bytes) -> None:
    path = write({**COMPLETE, "services": {"web": {"rules": "any.hcl"}}})
    (path.parent / "any.hcl").write_bytes(rules)

    text = refusal(path)

    assert text is None or "services.web.rules (line " in text
    assert SECRETS[0] not in (text or "")


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "/", "/dev/null", "no/such", "web.hcl/x", "a\x00b", "x" * 300, "~", "\ud800"],
)
def test_rules_in_a_file_that_is_none_are_refused(write: Write, name: str) -> None:
    text = refusal(write({**COMPLETE, "services": {"web": {"rules": name}}}))

    assert text is not None
    assert "services.web.rules (line " in text


def test_the_shipped_file_is_taken(tmp_path: Path) -> None:
    assert refusal(ROOT / "mesh.yaml") is None
