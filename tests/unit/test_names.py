"""Names and descriptions are HashiCorp's, and an owner is recognized by whole lines."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers import task_config
from handlers.core import names

CLUSTER_ARN = "arn:aws:ecs:us-east-1:123456789012:cluster/prod"


@pytest.mark.parametrize(
    "name", ["a", "0", "web", "web-2", "a_b", "1-1", "a" * 256, "a" + "-" * 254 + "a"]
)
def test_consul_takes_these_service_names(name: str) -> None:
    assert names.is_valid_service_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", "Web", "my.web", "-web", "web-", "_web", "web_", "wéb", "we b", "web\n", "a/b", "²"),
        "a" * 257,
    ],
    ids=repr,
)
def test_consul_refuses_these_service_names(name: str) -> None:
    assert not names.is_valid_service_name(name)


@given(st.text(alphabet="ab01-_", min_size=1, max_size=12))
def test_a_service_name_begins_and_ends_with_a_letter_or_digit(name: str) -> None:
    assert names.is_valid_service_name(name) == (name[0] in "ab01" and name[-1] in "ab01")


def test_the_description_of_a_service_token_has_hashicorps_two_lines() -> None:
    description = names.service_token_description("web", CLUSTER_ARN)
    assert description == (
        "Token for web service\n"
        "consul.hashicorp.com/cluster: arn:aws:ecs:us-east-1:123456789012:cluster/prod"
    )
    assert names.described_service(description) == "web"
    assert names.owning_cluster(description) == CLUSTER_ARN


@pytest.mark.parametrize(
    ("description", "owner"),
    [
        pytest.param("", None, id="empty"),
        pytest.param("made by hand", None, id="no line"),
        pytest.param(f"x\nconsul.hashicorp.com/cluster: {CLUSTER_ARN}-2", f"{CLUSTER_ARN}-2",
                     id="a cluster whose name begins the same"),
        pytest.param(f"not consul.hashicorp.com/cluster: {CLUSTER_ARN}", None,
                     id="inside of a line"),
        pytest.param(f"consul.hashicorp.com/cluster:{CLUSTER_ARN}", None, id="without the space"),
        pytest.param(f"consul.hashicorp.com/cluster: {CLUSTER_ARN}\nmore", CLUSTER_ARN,
                     id="followed by a line"),
        pytest.param(f"x\r\nconsul.hashicorp.com/cluster: {CLUSTER_ARN}\r\n", CLUSTER_ARN,
                     id="edited on Windows"),
    ],
)  # fmt: skip
def test_the_owner_is_whom_a_whole_line_names(description: str, owner: str | None) -> None:
    assert names.owning_cluster(description) == owner


@pytest.mark.parametrize(
    ("description", "service"),
    [
        ("Token for web service\nmore", "web"),
        ("Token for two words service", None),
        ("A Token for web service", None),
        ("ECS Consul client Token", None),
    ],
)
def test_only_a_service_tokens_description_names_a_service(
    description: str, service: str | None
) -> None:
    assert names.described_service(description) == service


def test_names_are_those_that_hashicorps_modules_look_for() -> None:
    assert names.service_secret_name("acme", "web") == "acme-web"
    assert names.client_secret_name("acme") == "acme-consul-client-token"
    assert names.client_policy_name("acme") == "acme-consul-client-policy"
    assert names.controller_policy_name("acme") == "acme-consul-controller-policy"
    assert names.MESH_TAG == "consul.hashicorp.com/mesh"
    assert names.SERVICE_NAME_TAG == "consul.hashicorp.com/service-name"
    assert names.ANONYMOUS_POLICY_NAME == "anonymous-token-policy"


@given(
    st.text(alphabet="abzAZ09-_. /é", max_size=6)
    | st.integers(250, 260).map(lambda length: "a" * length)
)
def test_the_programs_in_a_task_have_the_same_rule_for_service_names(name: str) -> None:
    # They may not import the handlers, so the rule is written twice.
    assert task_config.SERVICE_NAME_RULE == names.SERVICE_NAME_RULE
    assert task_config.is_valid_service_name(name) is names.is_valid_service_name(name)


# --- the mark of a token that no new task can have -----------------------------------------------

EVENING = datetime(2026, 1, 5, 20, 10, 1, tzinfo=UTC)
LATER = datetime(2026, 1, 6, 0, 0, 0, tzinfo=UTC)
MARK = "consul-on-ecs/not-pulled-since: 2026-01-05T20:10:01Z"
DESCRIPTION = f"Token for web service\nconsul.hashicorp.com/cluster: {CLUSTER_ARN}"


@pytest.mark.parametrize(
    ("description", "marked"),
    [
        pytest.param(DESCRIPTION, f"{DESCRIPTION}\n{MARK}", id="one more line"),
        pytest.param(f"{DESCRIPTION}\n", f"{DESCRIPTION}\n{MARK}", id="after a line end"),
        pytest.param(f"{DESCRIPTION}\n{MARK}", f"{DESCRIPTION}\n{MARK}", id="the same once more"),
        pytest.param(f"{DESCRIPTION}\nconsul-on-ecs/not-pulled-since: 2020-01-01T00:00:00Z",
                     f"{DESCRIPTION}\n{MARK}", id="in the place of an earlier one"),
        pytest.param(f"{DESCRIPTION}\nconsul-on-ecs/not-pulled-since: soon",
                     f"{DESCRIPTION}\n{MARK}", id="in the place of one that is none"),
        pytest.param(f"{MARK}\n{DESCRIPTION}\nconsul-on-ecs/not-pulled-since:",
                     f"{DESCRIPTION}\n{MARK}", id="in the place of several"),
        pytest.param(f"{DESCRIPTION}\nedited", f"{DESCRIPTION}\nedited\n{MARK}",
                     id="what else is there stays"),
        pytest.param(DESCRIPTION.replace("\n", "\r\n"), f"{DESCRIPTION}\n{MARK}",
                     id="edited on Windows"),
        pytest.param("", MARK, id="empty"),
    ],
)  # fmt: skip
def test_a_mark_is_the_last_line_of_a_description(description: str, marked: str) -> None:
    assert names.with_not_pulled_since(description, EVENING) == marked
    assert names.not_pulled_since(marked) == EVENING


def test_a_mark_leaves_the_owner_and_the_service_as_they_are() -> None:
    marked = names.with_not_pulled_since(DESCRIPTION, EVENING)
    assert names.owning_cluster(marked) == CLUSTER_ARN
    assert names.described_service(marked) == "web"


@pytest.mark.parametrize(
    ("description", "moment"),
    [
        pytest.param("", None, id="empty"),
        pytest.param(DESCRIPTION, None, id="no mark"),
        pytest.param(f"{DESCRIPTION}\nnot {MARK}", None, id="inside of a line"),
        pytest.param(f"{DESCRIPTION}\n{MARK.replace(': ', ':')}", None, id="without the space"),
        pytest.param(f"{DESCRIPTION}\n{MARK.replace('Z', '')}", None, id="without an offset"),
        pytest.param(f"{DESCRIPTION}\n{MARK} or so", None, id="followed by something"),
        pytest.param(f"{DESCRIPTION}\nconsul-on-ecs/not-pulled-since: soon", None, id="no time"),
        pytest.param(f"{DESCRIPTION}\nconsul-on-ecs/not-pulled-since: ", None, id="nothing"),
        pytest.param(f"{DESCRIPTION}\nconsul-on-ecs/not-pulled-since-2: 2026-01-05T20:10:01Z",
                     None, id="another key"),
        pytest.param(f"{DESCRIPTION}\r\n{MARK}\r\n", EVENING, id="edited on Windows"),
        pytest.param(f"{MARK}\n{DESCRIPTION}", EVENING, id="another place"),
        pytest.param(f"{DESCRIPTION}\nconsul-on-ecs/not-pulled-since: 2026-01-06T05:30:00+05:30",
                     LATER, id="another offset"),
    ],
)  # fmt: skip
def test_a_mark_is_read_only_if_it_is_a_whole_line_with_a_time(
    description: str, moment: datetime | None
) -> None:
    assert names.not_pulled_since(description) == moment
