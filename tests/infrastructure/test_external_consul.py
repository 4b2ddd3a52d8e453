"""Servers that somebody else runs: which addresses are taken, and what is said about others."""

from __future__ import annotations

import re
from typing import Any

import pytest
from aws_cdk import Token

from infrastructure.external_consul import ExternalConsul

GIVEN = {"http_address": "https://consul.internal:8501", "retry_join": ["consul.internal"]}


def servers(**changes: Any) -> ExternalConsul:
    return ExternalConsul(**{**GIVEN, **changes})


def test_addresses_are_enough() -> None:
    made = servers()

    assert (made.datacenter, made.ca_secret, made.gossip_key_secret) == ("dc1", None, None)


@pytest.mark.parametrize(
    "entry",
    [
        *("consul.internal", "consul", "10.0.0.1", "10.0.0.1:8301", "fd00::1", "[fd00::1]:8301"),
        "provider=aws tag_key=consul tag_value=server",
        "tag_key=consul tag_value=server addr_type=private_v4 provider=aws region=eu-west-1",
        'provider=k8s label_selector="app=consul,component=server"',
    ],
)
def test_agents_join_addresses_and_what_cloud_auto_join_finds(entry: str) -> None:
    assert servers(retry_join=[entry]).retry_join == (entry,)


def test_who_made_the_list_cannot_change_it_afterwards() -> None:
    given = ["consul.internal"]
    made = servers(retry_join=given)
    given.append("")

    assert made.retry_join == ("consul.internal",)


def test_what_another_resource_will_be_is_taken_as_it_is() -> None:
    host = Token.as_string({"Ref": "Balancer"})

    made = servers(
        http_address=f"https://{host}:8501", retry_join=[host, f"{host}:8301"], datacenter=host
    )

    assert made.http_address == f"https://{host}:8501"


JOIN = (
    "the address of a Consul server, with a port unless it is 8301 (consul.internal, "
    "10.0.0.1:8301), or a text for Consul's cloud auto-join (provider=aws tag_key=… tag_value=…)"
)
HTTP = (
    "http:// or https://, a host and, unless it is 80 or 443, a port: http://consul.internal:8500"
)
DATACENTER = "the name of Consul's datacenter: lower-case letters, digits, '-' and '_'"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"http_address": "consul.internal:8501"},
            f"http_address must be {HTTP}. It is the text 'consul.internal:8501'.",
        ),
        (
            {"http_address": "https://consul.internal:8501/ui"},
            (
                f"http_address must be {HTTP}. "
                "It is the text 'https://consul.internal:8501/ui': leave "
                "out everything after the host and the port, a final '/' too."
            ),
        ),
        (
            {"http_address": "https://ops:hunter2@consul.internal:8501"},
            (
                f"http_address must be {HTTP}. "
                "It is a value that looks like a secret (not shown): leave "
                "out the user and the password."
            ),
        ),
        ({"http_address": None}, f"http_address must be {HTTP}. It is of the type NoneType."),
        (
            {"retry_join": "consul.internal"},
            "retry_join must be a list of addresses. It is of the type str.",
        ),
        (
            {"retry_join": None},
            "retry_join must be a list of addresses. It is of the type NoneType.",
        ),
        (
            {"retry_join": ["consul", ""]},
            (
                f"retry_join[1] must be {JOIN}. "
                "It is an empty text: the host is neither an IP address "
                "nor a DNS name."
            ),
        ),
        (
            {"retry_join": ["https://consul.internal:8501"]},
            (
                f"retry_join[0] must be {JOIN}. "
                "It is the text 'https://consul.internal:8501': leave out "
                "the scheme: agents join with a protocol of their own."
            ),
        ),
        (
            {"retry_join": ["consul.internal:0"]},
            (
                f"retry_join[0] must be {JOIN}. "
                "It is the text 'consul.internal:0': the port must be 1 to "
                "65535."
            ),
        ),
        (
            {"retry_join": ["provider=aws secret_access_key=wJalrXUtnFEMI tag_key=consul"]},
            (
                f"retry_join[0] must be {JOIN}. "
                "It is a value that looks like a secret (not shown): leave "
                "the credentials out: the role of the tasks is asked for them."
            ),
        ),
        ({"retry_join": [7]}, f"retry_join[0] must be {JOIN}. It is of the type int."),
        (
            {"datacenter": "DC1"},
            f"datacenter must be {DATACENTER}. It is the text 'DC1': Consul knows it as 'dc1'.",
        ),
        ({"datacenter": ""}, f"datacenter must be {DATACENTER}. It is an empty text."),
    ],
)
def test_what_cannot_be_right_is_refused_by_its_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(f'ExternalConsul: {message}')}$"):
        servers(**changes)


def test_the_scheme_has_to_be_known_at_synthesis() -> None:
    with pytest.raises(ValueError, match="write the scheme before it"):
        servers(http_address=Token.as_string({"Ref": "Balancer"}))
