"""Names and descriptions are HashiCorp's, and an owner is recognized by whole lines."""

from __future__ import annotations

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
