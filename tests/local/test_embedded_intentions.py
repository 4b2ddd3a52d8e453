"""Intentions of the embedded Consul, as Consul's source has them: the recording has none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from local.consul import EmbeddedConsul
from tests.local.test_embedded_consul import MANAGEMENT, Client

EXACT = "/v1/connect/intentions/exact"
CHECK = "/v1/connect/intentions/check"


@pytest.fixture
def consul() -> Iterator[EmbeddedConsul]:
    with EmbeddedConsul(initial_management=MANAGEMENT) as server:
        yield server


@pytest.fixture
def management(consul: EmbeddedConsul) -> Client:
    return Client(consul)


def pair(source: str, destination: str, path: str = EXACT) -> str:
    return f"{path}?source={source}&destination={destination}"


def put(client: Client, source: str, destination: str, **body: Any) -> requests.Response:
    return client.put(pair(source, destination), {"Action": "allow", **body})


def allowed(client: Client, source: str, destination: str) -> bool:
    answer: bool = client.get(pair(source, destination, CHECK))["Allowed"]
    return answer


def holder_of(management: Client, rules: str) -> Client:
    name = "of-the-holder"
    management.put("/v1/acl/policy", {"Name": name, "Rules": rules}).raise_for_status()
    return management.as_holder_of(Policies=[{"Name": name}])


def test_an_intention_is_written_read_replaced_and_deleted(management: Client) -> None:
    answer = management.ask("GET", pair("a", "b"))
    assert (answer.status_code, answer.text) == (404, "Intention not found")
    # Other than elsewhere, a read tells nothing of the leader or of an index.
    assert "X-Consul-Knownleader" not in answer.headers

    assert put(management, "a", "b", Description="why").json() is True
    first = management.get(pair("a", "b"))
    assert first == {
        "SourceNS": "default",
        "SourceName": "a",
        "DestinationNS": "default",
        "DestinationName": "b",
        "SourceType": "consul",
        "Action": "allow",
        "Description": "why",
        "Precedence": 9,
        "CreateIndex": first["ModifyIndex"],
        "ModifyIndex": first["ModifyIndex"],
    }

    # What is left out is dropped.
    assert put(management, "a", "b", Action="deny").json() is True
    second = management.get(pair("a", "b"))
    assert second["Action"] == "deny"
    assert "Description" not in second
    assert second["CreateIndex"] == first["CreateIndex"] < second["ModifyIndex"]

    put(management, "c", "b")
    for _ in range(2):  # to delete what is absent is no error
        assert management.ask("DELETE", pair("a", "b")).json() is True
        assert management.ask("GET", pair("a", "b")).status_code == 404
    assert management.get(pair("c", "b"))["CreateIndex"] == first["CreateIndex"]


@pytest.mark.parametrize(
    ("query", "body", "status", "text"),
    [
        ("source=a", {}, 500, "required query parameter 'destination' not set"),
        ("destination=a", {}, 500, "required query parameter 'source' not set"),
        ("source=a&source=b&destination=c", {}, 500, "required query parameter 'source' not set"),
        ("source=a&destination=b", {"Action": "Allow"}, 500,
         "Sources[0].Action must be set to 'allow' or 'deny'"),
        ("source=a&destination=b", {"Description": "d" * 513}, 500,
         "Sources[0].Description exceeds maximum length 512"),
        ("source=a*&destination=b", {}, 500,
         "Sources[0].Name: wildcard character '*' cannot be used with partial values"),
        ("source=a&destination=b*", {}, 500,
         "Name: wildcard character '*' cannot be used with partial values"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused(
    management: Client, query: str, body: dict[str, Any], status: int, text: str
) -> None:
    answer = management.put(f"{EXACT}?{query}", {"Action": "allow", **body})
    assert (answer.status_code, answer.text) == (status, text)


def test_a_body_that_cannot_be_read_is_refused(management: Client) -> None:
    answer = management.put(pair("a", "b"), {"Action": 7})
    assert answer.status_code == 400
    assert answer.text.startswith("Request decode failed: ")


# --- permissions ---------------------------------------------------------------------------------

WRITES_B = 'service "b" { policy = "read" intentions = "write" }'
WRITES_ALL = 'service_prefix "" { policy = "read" intentions = "write" }'


@pytest.mark.parametrize(
    ("rules", "source", "destination", "may"),
    [
        (WRITES_B, "a", "b", True),
        (WRITES_B, "*", "b", True),
        (WRITES_B, "b", "a", False),  # that is up to the called one
        (WRITES_ALL, "a", "b", True),
        (WRITES_ALL, "*", "*", True),
        (f'{WRITES_ALL} service "b" {{ policy = "read" intentions = "deny" }}', "a", "b",
         False),
        (f'{WRITES_ALL} service "b" {{ policy = "read" intentions = "deny" }}', "a", "*",
         False),
        # The right to write a service is one to read its intentions only.
        ('service_prefix "" { policy = "write" }', "a", "b", False),
        ('service_prefix "" { policy = "write" }', "a", "*", False),
        ('acl = "write"', "a", "b", False),
        ('acl = "write"', "a", "*", False),
    ],
)  # fmt: skip
def test_who_may_write_the_intentions_of_the_called_service_may_write_it(
    management: Client, rules: str, source: str, destination: str, *, may: bool
) -> None:
    client = holder_of(management, rules)
    for answer in (
        put(client, source, destination),
        client.ask("DELETE", pair(source, destination)),
    ):
        assert (answer.status_code, answer.text) == (
            (200, "true") if may else (403, "Permission denied")
        )


@pytest.mark.parametrize(
    ("rules", "may"),
    [
        ('service "a" { policy = "read" }', True),
        ('service "b" { policy = "write" }', True),
        ('service "c" { policy = "write" }', False),
        ('service "b" { policy = "read" intentions = "deny" }', False),
        ('service_prefix "" { policy = "deny" }', False),
        ('acl = "write"', False),
    ],
)
def test_who_may_read_the_intentions_of_either_service_may_read_it(
    management: Client, rules: str, *, may: bool
) -> None:
    put(management, "a", "b")
    client = holder_of(management, rules)
    assert client.ask("GET", pair("a", "b")).status_code == (200 if may else 403)
    # Of one that is absent everybody hears so who has a token.
    assert client.ask("GET", pair("a", "absent")).status_code == 404


def test_a_token_that_nobody_knows_is_refused(consul: EmbeddedConsul, management: Client) -> None:
    put(management, "a", "b")
    stranger = Client(consul, "e3e4f0d1-0000-4000-8000-00000000dead")
    for method in ("GET", "PUT", "DELETE"):
        answer = stranger.ask(method, pair("a", "b"), {"Action": "allow"})
        assert (answer.status_code, answer.text) == (403, "ACL not found")


def test_a_server_that_is_not_ready_refuses(consul: EmbeddedConsul, management: Client) -> None:
    consul.state = "no_leader"
    answer = put(management, "a", "b")
    assert (answer.status_code, answer.text) == (500, "No cluster leader")


# --- what they mean ------------------------------------------------------------------------------


def test_nobody_may_call_anybody_until_an_intention_says_so(management: Client) -> None:
    assert not allowed(management, "a", "b")
    put(management, "a", "b")
    assert allowed(management, "a", "b")
    assert not allowed(management, "b", "a")
    assert not allowed(management, "a", "c")
    assert not allowed(management, "c", "b")


@pytest.mark.parametrize("acl", ["allow", "disabled"])
def test_where_everything_is_allowed_an_intention_denies(acl: Any) -> None:
    with EmbeddedConsul(acl=acl) as server:
        client = Client(server, "")
        assert allowed(client, "a", "b")
        put(client, "a", "b", Action="deny").raise_for_status()
        assert not allowed(client, "a", "b")


def test_the_most_specific_intention_decides_and_first_of_all_the_called_service(
    management: Client,
) -> None:
    for source, destination, action, precedence in (
        ("*", "*", "allow", 5),
        ("a", "*", "deny", 6),
        ("*", "b", "allow", 8),
        ("a", "b", "deny", 9),
    ):
        put(management, source, destination, Action=action)
        assert management.get(pair(source, destination))["Precedence"] == precedence
        assert allowed(management, "a", "b") is (action == "allow")


def test_the_intentions_about_a_services_callers_come_in_the_order_in_which_they_decide(
    management: Client,
) -> None:
    for source, destination in (("*", "*"), ("c", "*"), ("a", "b"), ("a", "x"), ("*", "b")):
        put(management, source, destination)
    path = "/v1/connect/intentions/match?by=destination&name=b"

    found = management.get(path)

    assert [(each["SourceName"], each["DestinationName"]) for each in found["b"]] == [
        ("a", "b"),
        ("*", "b"),
        ("c", "*"),
        ("*", "*"),
    ]
    client = holder_of(management, 'service "b" { policy = "read" }')
    assert client.get(path) == found
    assert client.ask("GET", path.replace("name=b", "name=c")).status_code == 403


def test_whether_a_call_is_allowed_may_know_who_may_read_the_called_service(
    management: Client,
) -> None:
    client = holder_of(management, 'service "b" { policy = "read" }')
    assert not allowed(client, "a", "b")
    assert client.ask("GET", pair("b", "a", CHECK)).status_code == 403
