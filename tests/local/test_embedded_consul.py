"""The embedded Consul beyond the recording: enforcement, newer versions, states, faults, threads.

``tests/contract`` holds single answers against a real server's; here is what they add up to.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import logging
import socket
import tarfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from local.consul import EmbeddedConsul, Fault, RecordedRequest, State

MANAGEMENT = "e3e4f0d1-0000-4000-8000-00000000aaaa"
ACCESSOR = "e3e4f0d1-0000-4000-8000-000000000001"
SECRET = "e3e4f0d1-0000-4000-8000-000000000002"
ABSENT = "e3e4f0d1-0000-4000-8000-00000000dead"


class Client:
    """Asks one server, over one connection, with one token."""

    def __init__(self, server: EmbeddedConsul, token: str = MANAGEMENT) -> None:
        self._server = server
        self._token = token
        self.session = requests.Session()

    def ask(self, method: str, path: str, body: Any = None) -> requests.Response:
        return self.session.request(
            method,
            self._server.address + path,
            json=body,
            headers={"X-Consul-Token": self._token},
            timeout=10,
        )

    def get(self, path: str) -> Any:
        response = self.ask("GET", path)
        response.raise_for_status()
        return response.json()

    def put(self, path: str, body: Any = None) -> requests.Response:
        return self.ask("PUT", path, body)

    def as_holder_of(self, **token: Any) -> Client:
        """Create a token and be its holder."""
        created = self.put("/v1/acl/token", token)
        created.raise_for_status()
        return Client(self._server, created.json()["SecretID"])


@pytest.fixture
def consul() -> Iterator[EmbeddedConsul]:
    with EmbeddedConsul(initial_management=MANAGEMENT) as server:
        yield server


@pytest.fixture
def management(consul: EmbeddedConsul) -> Client:
    return Client(consul)


def _service_token(client: Client, name: str) -> Client:
    return client.as_holder_of(ServiceIdentities=[{"ServiceName": name}])


# Enforcement ------------------------------------------------------------------------------------


def test_a_service_identity_registers_its_service_and_its_sidecar_and_no_other(
    management: Client,
) -> None:
    web = _service_token(management, "web")
    sidecar = {
        "Name": "web-sidecar-proxy",
        "Kind": "connect-proxy",
        "Port": 20000,
        "Proxy": {"DestinationServiceName": "web"},
    }
    assert web.put("/v1/agent/service/register", {"Name": "web"}).status_code == 200
    assert web.put("/v1/agent/service/register", sidecar).status_code == 200
    other = web.put("/v1/agent/service/register", {"Name": "api"})
    assert (other.status_code, other.text) == (
        403,
        "Permission denied: Missing service:write on api",
    )


def test_catalog_reads_show_a_service_token_everything_and_a_stranger_nothing(
    consul: EmbeddedConsul, management: Client
) -> None:
    management.put("/v1/agent/service/register", {"Name": "web", "Tags": ["blue"]})
    management.put("/v1/agent/service/register", {"ID": "web-2", "Name": "web", "Tags": ["red"]})
    api = _service_token(management, "api")
    assert api.get("/v1/catalog/services") == {"consul": [], "web": ["blue", "red"]}
    assert len(api.get("/v1/catalog/service/web")) == 2
    assert len(api.get("/v1/catalog/nodes")) == 1
    anonymous = Client(consul, "")
    assert anonymous.get("/v1/catalog/services") == {}
    assert anonymous.get("/v1/catalog/service/web") == []
    assert anonymous.get("/v1/catalog/nodes") == []
    assert anonymous.get("/v1/health/service/web") == []


@pytest.mark.parametrize(
    ("rules", "may", "may_not"),
    [
        ('service "web" { policy = "write" }', ["web"], ["web2", "we"]),
        ('service_prefix "web" { policy = "write" }', ["web", "web2"], ["we"]),
        (
            'service_prefix "" { policy = "write" } service_prefix "web" { policy = "read" }',
            ["api"],
            ["web", "web2"],
        ),
        (
            'service_prefix "" { policy = "deny" }\nservice "web" { policy = "write" }',
            ["web"],
            ["api"],
        ),
        ('# all\nservice_prefix "" {\n  policy = "write"\n}', ["web"], []),
        ('{"service": {"web": {"policy": "write"}}}', ["web"], ["api"]),
        ('{"service": [{"web": [{"policy": "write"}]}]}', ["web"], ["api"]),
        ('key_prefix "" { policy = "list" } operator = "read"', [], ["web"]),
        ("", [], ["web"]),
        (
            """
            /* Nothing of this
               concerns services. */
            unknown = [1, 2.5, true, { "a" = -1, b = <<END
            text
            END
            }]
            // But this:
            service "web" { policy = "write", intentions = "read" }
            """,
            ["web"],
            ["api"],
        ),
    ],
)
def test_the_most_specific_rule_decides(
    management: Client, rules: str, may: list[str], may_not: list[str]
) -> None:
    policy = management.put("/v1/acl/policy", {"Name": "p", "Rules": rules}).json()
    holder = management.as_holder_of(Policies=[{"ID": policy["ID"]}])
    for name in may:
        assert holder.put("/v1/agent/service/register", {"Name": name}).status_code == 200
    for name in may_not:
        assert holder.put("/v1/agent/service/register", {"Name": name}).status_code == 403


def test_of_two_policies_the_one_that_denies_wins(management: Client) -> None:
    for name, level in (("yes", "write"), ("no", "deny")):
        rules = f'service "web" {{ policy = "{level}" }}'
        management.put("/v1/acl/policy", {"Name": name, "Rules": rules})
    holder = management.as_holder_of(Policies=[{"Name": "yes"}, {"Name": "no"}])
    assert holder.put("/v1/agent/service/register", {"Name": "web"}).status_code == 403


def test_a_policy_or_identity_for_another_datacenter_grants_nothing(management: Client) -> None:
    rules = 'service "web" { policy = "write" }'
    management.put("/v1/acl/policy", {"Name": "p", "Rules": rules, "Datacenters": ["dc2"]})
    for token in (
        {"Policies": [{"Name": "p"}]},
        {"ServiceIdentities": [{"ServiceName": "web", "Datacenters": ["dc2"]}]},
        {"NodeIdentities": [{"NodeName": "srv1", "Datacenter": "dc2"}]},
    ):
        holder = management.as_holder_of(**token)
        assert holder.put("/v1/agent/service/register", {"Name": "web"}).status_code == 403
        assert holder.get("/v1/catalog/services") == {}


def test_a_broken_rule_is_refused_with_its_position(management: Client) -> None:
    for rules, text in (
        ('service "x" {', "Failed to parse ACL rules: At 1:15: object expected closing RBRACE"),
        ('acl = "sudo"', 'Invalid acl policy: "sudo"'),
        ('node "n" {}', 'Invalid node policy: &acl.NodeRule{Name:"n", Policy:"",'),
        ('service "x" = ', "Failed to parse ACL rules: At 1:16: Unknown token: EOF"),
        ('service "x" ?', "Failed to parse ACL rules: At 1:13: illegal character"),
        ("{", "Failed to parse ACL rules: At 1:2:"),
    ):
        response = management.put("/v1/acl/policy", {"Name": "p", "Rules": rules})
        assert response.status_code == 500
        assert response.text.startswith(text)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (
            b'{"Description": 5}',
            "cannot unmarshal number into Go struct field .Description of type",
        ),
        (b'{"Local": "x"}', "cannot unmarshal string into Go struct field .Local of type bool"),
        (b'{"Policies": true}', "cannot unmarshal bool into Go struct field .Policies of type []"),
        (
            b'{"ServiceIdentities": [{"ServiceName": []}]}',
            "array into Go struct field ACLServiceIdentity.ServiceIdentities.ServiceName of type",
        ),
        (b'{"Description": "unterminated', "unexpected EOF"),
        (b'{"Description": oops}', "invalid character 'o' looking for beginning of value"),
        (b'{"ExpirationTime": "noon"}', 'parsing time "noon"'),
    ],
)
def test_a_body_that_cannot_be_decoded_is_refused_in_the_words_of_go(
    consul: EmbeddedConsul, body: bytes, text: str
) -> None:
    response = requests.put(f"{consul.address}/v1/acl/token", data=body, timeout=10)
    assert response.status_code == 400
    assert response.text.startswith("Bad request: Token decoding failed: ")
    assert text in response.text


def test_a_token_cannot_end_before_it_starts_or_at_two_times(management: Client) -> None:
    for body, text in (
        ({"ExpirationTime": "2001-01-01T00:00:00Z"}, "ExpirationTime cannot be before CreateTime"),
        (
            {"ExpirationTime": "2101-01-01T00:00:00Z", "ExpirationTTL": "1h"},
            "Token Expiration TTL and Expiration Time cannot both be set",
        ),
    ):
        response = management.put("/v1/acl/token", body)
        assert (response.status_code, response.text) == (500, text)


def test_a_policy_takes_effect_and_loses_it_on_existing_tokens_at_once(
    management: Client,
) -> None:
    policy = management.put("/v1/acl/policy", {"Name": "p", "Rules": 'acl = "read"'}).json()
    holder = management.as_holder_of(Policies=[{"Name": "p"}])
    assert holder.ask("GET", "/v1/acl/tokens").status_code == 200
    management.put(f"/v1/acl/policy/{policy['ID']}", {"Name": "p", "Rules": ""})
    assert holder.ask("GET", "/v1/acl/tokens").status_code == 403


def test_a_service_whose_token_is_gone_stays_in_the_catalog_when_it_is_deregistered(
    management: Client,
) -> None:
    created = management.put(
        "/v1/acl/token", {"AccessorID": ACCESSOR, "ServiceIdentities": [{"ServiceName": "web"}]}
    ).json()
    web = Client(management._server, created["SecretID"])
    web.put("/v1/agent/service/register", {"Name": "web"}).raise_for_status()
    management.ask("DELETE", f"/v1/acl/token/{ACCESSOR}").raise_for_status()
    assert web.put("/v1/agent/service/deregister/web").status_code == 403
    assert management.put("/v1/agent/service/deregister/web").status_code == 200
    assert management.get("/v1/agent/services") == {}
    assert len(management.get("/v1/catalog/service/web")) == 1


def test_health_follows_what_a_client_reports(management: Client) -> None:
    checks = [{"CheckID": "alive", "TTL": "1m"}, {"CheckID": "probe", "TCP": "127.0.0.1:1"}]
    service = {"Name": "web", "Tags": ["blue"], "Checks": checks[:1]}
    management.put("/v1/agent/service/register", service).raise_for_status()
    assert management.get("/v1/health/service/web?passing") == []
    for report, status in (("pass", "passing"), ("warn", "warning"), ("fail", "critical")):
        management.put(f"/v1/agent/check/{report}/alive?note=n").raise_for_status()
        (instance,) = management.get("/v1/health/service/web")
        check = instance["Checks"][1]
        assert (check["Status"], check["Output"], check["ServiceTags"]) == (status, "n", ["blue"])
    service["Checks"] = checks[1:]
    path = "/v1/agent/service/register?replace-existing-checks=true"
    management.put(path, service).raise_for_status()
    (instance,) = management.get("/v1/health/service/web")
    assert [check["CheckID"] for check in instance["Checks"]] == ["serfHealth", "probe"]
    refused = management.put("/v1/agent/check/pass/probe")
    assert (refused.status_code, refused.text) == (
        500,
        'CheckID "probe" does not have associated TTL',
    )


def test_a_token_stops_working_at_its_expiration_time(
    consul: EmbeddedConsul, management: Client
) -> None:
    start = datetime(2030, 1, 1, tzinfo=UTC)
    consul.clock = lambda: start
    holder = management.as_holder_of(ExpirationTTL="1h")
    assert holder.get("/v1/acl/token/self")["ExpirationTime"] == "2030-01-01T01:00:00Z"
    consul.clock = lambda: start + timedelta(hours=1)
    assert holder.ask("GET", "/v1/acl/token/self").status_code == 403
    assert len(management.get("/v1/acl/tokens")) == 2


# Absent, or refused? ----------------------------------------------------------------------------


def test_on_consul_1_10_only_a_header_tells_an_absent_object_from_an_unknown_caller(
    consul: EmbeddedConsul, management: Client
) -> None:
    stranger = Client(consul, ABSENT)
    for path in (f"/v1/acl/token/{ABSENT}", "/v1/acl/policy/name/nope"):
        absent, refused = management.ask("GET", path), stranger.ask("GET", path)
        assert (absent.status_code, absent.text) == (403, "ACL not found")
        assert (refused.status_code, refused.text) == (403, "ACL not found")
        assert absent.headers["X-Consul-Knownleader"] == "true"
        assert refused.headers["X-Consul-Knownleader"] == "false"


@pytest.fixture
def current() -> Iterator[EmbeddedConsul]:
    with EmbeddedConsul(flavour="current", version="1.21.0") as server:
        yield server


def test_a_newer_consul_says_404_to_what_is_absent(current: EmbeddedConsul) -> None:
    secret = current_management(current)
    client, stranger = Client(current, secret), Client(current, ABSENT)
    token, policy = f"/v1/acl/token/{ABSENT}", f"/v1/acl/policy/{ABSENT}"
    for method, path, text in (
        ("GET", token, "Requested token not found: ACL not found"),
        ("GET", policy, "Requested policy not found: ACL not found"),
        ("GET", "/v1/acl/policy/name/nope", "Requested policy not found: ACL not found"),
        ("DELETE", token, "Cannot find token to delete"),
        ("DELETE", policy, "Cannot find policy to delete"),
    ):
        response = client.ask(method, path)
        assert (response.status_code, response.text) == (404, text)
    assert stranger.ask("GET", token).status_code == 403
    # Not a slip: it takes the caller's own unknown token for the absent object.
    assert stranger.ask("DELETE", token).status_code == 404


def current_management(server: EmbeddedConsul, secret: str = SECRET) -> str:
    response = requests.put(
        f"{server.address}/v1/acl/bootstrap", json={"BootstrapSecret": secret}, timeout=10
    )
    response.raise_for_status()
    return str(response.json()["SecretID"])


def test_only_a_newer_consul_takes_the_bootstrap_secret_that_one_chooses(
    current: EmbeddedConsul,
) -> None:
    assert current_management(current) == SECRET
    with EmbeddedConsul() as old:
        assert current_management(old) != SECRET


def test_only_a_newer_consul_filters_tokens_by_service(
    current: EmbeddedConsul, management: Client
) -> None:
    newer = Client(current, current_management(current))
    for client, expected in ((newer, 1), (management, 3)):
        _service_token(client, "web")
        assert len(client.get("/v1/acl/tokens?servicename=web")) == expected


# States and faults ------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["starting", "no_leader"])
def test_a_server_that_is_not_ready_refuses_everything_and_recovers(
    consul: EmbeddedConsul, management: Client, state: State
) -> None:
    consul.state = state
    assert management.get("/v1/status/leader") == ""
    tokens = management.ask("GET", "/v1/acl/tokens")
    assert (tokens.status_code, tokens.text) == (
        500,
        "The ACL system is currently in legacy mode.",
    )
    agent = management.ask("GET", "/v1/agent/self")
    assert (agent.status_code, agent.text) == (403, "ACL not found")
    catalog = management.ask("GET", "/v1/catalog/services")
    assert (catalog.status_code, catalog.text) == (500, "No cluster leader")
    consul.state = "ready"
    assert management.get("/v1/agent/self")["Config"]["Version"] == "1.10.1"


def test_a_server_without_acls_says_so_and_serves_everybody() -> None:
    with EmbeddedConsul(acl="disabled") as server:
        client = Client(server, "")
        refused = client.put("/v1/acl/token", {})
        assert (refused.status_code, refused.text) == (401, "ACL support disabled")
        assert client.put("/v1/agent/service/register", {"Name": "web"}).status_code == 200
        assert client.get("/v1/catalog/services") == {"consul": [], "web": []}


def test_a_management_token_without_acls_is_a_contradiction() -> None:
    with pytest.raises(ValueError, match="ACLs disabled"):
        EmbeddedConsul(acl="disabled", initial_management=MANAGEMENT)


def test_a_fault_answers_instead_of_the_server(consul: EmbeddedConsul, management: Client) -> None:
    consul.on_request = lambda method, _: (
        Fault.answer(500, "rpc error: No cluster leader") if method == "PUT" else None
    )
    response = management.put("/v1/acl/token", {"AccessorID": ACCESSOR})
    assert (response.status_code, response.text) == (500, "rpc error: No cluster leader")
    assert management.ask("GET", f"/v1/acl/token/{ACCESSOR}").status_code == 403


@pytest.mark.parametrize(
    ("fault", "created"), [(Fault.drop_before(), False), (Fault.drop_after(), True)]
)
def test_a_dropped_connection_has_had_its_effect_or_not(
    consul: EmbeddedConsul, management: Client, *, fault: Fault, created: bool
) -> None:
    faults = [fault]
    consul.on_request = lambda *_: faults.pop() if faults else None
    with pytest.raises(requests.ConnectionError):
        management.put("/v1/acl/token", {"AccessorID": ACCESSOR})
    status = management.ask("GET", f"/v1/acl/token/{ACCESSOR}").status_code
    assert status == (200 if created else 403)
    assert [request.status for request in consul.requests] == [None, status]


def test_a_delayed_answer_comes_late(consul: EmbeddedConsul, management: Client) -> None:
    consul.on_request = lambda *_: Fault.delay(0.1)
    before = time.monotonic()
    assert management.get("/v1/status/peers") == ["127.0.0.1:8300"]
    assert time.monotonic() - before >= 0.1


def test_a_delayed_request_holds_up_neither_others_nor_the_end_of_the_server(
    consul: EmbeddedConsul, management: Client
) -> None:
    delayed = threading.Event()

    def fault(method: str, _: str) -> Fault | None:
        if method != "PUT":
            return None
        delayed.set()
        return Fault.delay(60)

    consul.on_request = fault
    with ThreadPoolExecutor() as pool:
        late = pool.submit(Client(consul).put, "/v1/acl/token", {"AccessorID": ACCESSOR})
        assert delayed.wait(10)
        management.get("/v1/status/leader")
        assert not late.done()
        consul.stop()
        assert isinstance(late.exception(10), requests.ConnectionError)
    consul.start()
    assert management.ask("GET", f"/v1/acl/token/{ACCESSOR}").status_code == 403


# The server -------------------------------------------------------------------------------------


def test_every_request_is_recorded_by_the_template_of_its_path(
    consul: EmbeddedConsul, management: Client
) -> None:
    management.session.headers["User-Agent"] = "step/1"
    management.put("/v1/acl/token", {"AccessorID": ACCESSOR})
    management.ask("DELETE", f"/v1/acl/token/{ACCESSOR}")
    management.ask("GET", f"/v1/acl/info/{SECRET}")
    assert consul.requests == [
        RecordedRequest("PUT", "/v1/acl/token", "step/1", 200),
        RecordedRequest("DELETE", "/v1/acl/token/:accessor_id", "step/1", 200),
        RecordedRequest("GET", "(unknown path)", "step/1", 501),
    ]
    consul.requests.clear()
    management.get("/v1/status/leader")
    assert [request.path for request in consul.requests] == ["/v1/status/leader"]


def test_stopping_leaves_no_thread_and_no_socket_even_with_idle_clients() -> None:
    threads = threading.active_count()
    server = EmbeddedConsul(initial_management=MANAGEMENT).start()
    clients = [Client(server) for _ in range(5)]
    for client in clients:
        client.get("/v1/status/leader")
    where = urlsplit(server.address)
    server.stop()
    server.stop()
    assert threading.active_count() == threads
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((where.hostname, where.port), timeout=1)
    for client in clients:
        client.session.close()


def test_a_server_that_is_started_again_has_its_address_and_its_data() -> None:
    server = EmbeddedConsul(initial_management=MANAGEMENT)
    with pytest.raises(RuntimeError, match="start"):
        _ = server.address
    with server:
        address = server.address
        Client(server).put("/v1/acl/token", {"AccessorID": ACCESSOR}).raise_for_status()
    with server:
        assert server.address == address
        assert Client(server).get(f"/v1/acl/token/{ACCESSOR}")["AccessorID"] == ACCESSOR


def test_of_many_who_create_the_same_token_exactly_one_wins(consul: EmbeddedConsul) -> None:
    count = 16
    barrier = threading.Barrier(count)

    def create(number: int) -> tuple[int, str]:
        client = Client(consul)
        barrier.wait()
        body = {"AccessorID": ACCESSOR, "SecretID": SECRET, "Description": str(number)}
        response = client.put("/v1/acl/token", body)
        client.session.close()
        return response.status_code, "" if response.ok else response.text

    with ThreadPoolExecutor(count) as pool:
        answers = sorted(pool.map(create, range(count)))
    assert answers[0] == (200, "")
    assert answers[1:] == [(500, "Invalid Token: AccessorID is already in use")] * (count - 1)


def test_no_secret_is_logged_or_shown(
    consul: EmbeddedConsul, management: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    body = {"AccessorID": ACCESSOR, "SecretID": SECRET}
    management.put("/v1/acl/token", body).raise_for_status()
    management.put("/v1/acl/token", body)
    management.ask("GET", f"/v1/acl/tokens?token={SECRET}")
    management.ask("GET", f"/v1/acl/info/{SECRET}")
    own = "\n".join(r.getMessage() for r in caplog.records if r.name.startswith("local."))
    stored = consul._api._acl.token_by_accessor(ACCESSOR)
    shown = f"{consul!r} {consul.requests!r} {stored!r} {consul._api._acl.tokens()!r}"
    assert "/v1/acl/token" in own
    for secret in (SECRET, MANAGEMENT):
        assert secret not in own
        assert secret not in shown


def test_a_body_without_a_length_is_refused(consul: EmbeddedConsul) -> None:
    response = requests.put(f"{consul.address}/v1/acl/token", data=iter([b"{}"]), timeout=10)
    assert response.status_code == 411


def test_an_endpoint_that_only_a_real_consul_has_says_so(management: Client) -> None:
    assert management.ask("GET", "/v1/kv/x").status_code == 501
    assert management.ask("GET", "/v1/no/such/thing").status_code == 404


# Snapshots --------------------------------------------------------------------------------------


def _archive(content: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(content)), mode="r:") as parts:
        found = {each.name: parts.extractfile(each) for each in parts}
    return {name: part.read() for name, part in found.items() if part is not None}


def _restore(server: EmbeddedConsul, token: str, content: bytes) -> requests.Response:
    headers = {"X-Consul-Token": token}
    return requests.put(f"{server.address}/v1/snapshot", content, headers=headers, timeout=10)


def _everything(client: Client) -> dict[str, Any]:
    """What a snapshot has to bring back."""
    paths = ("acl/tokens", "acl/policies", "catalog/services", "health/service/web")
    return {path: client.get(f"/v1/{path}") for path in paths}


def test_a_snapshot_has_the_outer_form_of_consuls(management: Client) -> None:
    management.as_holder_of(ServiceIdentities=[{"ServiceName": "web"}])

    answer = management.ask("GET", "/v1/snapshot")

    parts = _archive(answer.content)
    assert list(parts) == ["meta.json", "state.bin", "SHA256SUMS"]
    meta = json.loads(parts["meta.json"])
    assert (meta["Version"], meta["Size"]) == (1, len(parts["state.bin"]))
    assert answer.headers["X-Consul-Index"] == str(meta["Index"])
    assert answer.headers["X-Consul-Knownleader"] == "true"
    assert parts["SHA256SUMS"].decode() == "".join(
        f"{hashlib.sha256(parts[name]).hexdigest()}  {name}\n"
        for name in ("meta.json", "state.bin")
    )


def test_a_new_server_has_everything_of_the_snapshot_and_nothing_of_its_own(
    consul: EmbeddedConsul, management: Client
) -> None:
    web = _service_token(management, "web")
    check = {"Name": "ready", "TTL": "30s", "Status": "passing"}
    web.put("/v1/agent/service/register", {"Name": "web", "Check": check}).raise_for_status()
    policy = {"Name": "mine", "Rules": 'acl = "read"'}
    management.put("/v1/acl/policy", policy).raise_for_status()
    intention = "/v1/connect/intentions/exact?source=web&destination=api"
    management.put(intention, {"Action": "allow"}).raise_for_status()
    before, of_web = _everything(management), management.get(intention)
    snapshot = management.ask("GET", "/v1/snapshot").content
    consul.stop()

    with EmbeddedConsul(initial_management=ABSENT) as server:
        other = Client(server, ABSENT)
        other.put("/v1/acl/policy", {"Name": "other"}).raise_for_status()
        restored = _restore(server, ABSENT, snapshot)

        assert (restored.status_code, restored.content) == (200, b"")
        assert other.ask("GET", "/v1/acl/tokens").status_code == 403
        after = Client(server)
        assert _without_node(_everything(after)) == _without_node(before)
        assert after.get(intention) == of_web
        assert Client(server, web._token).ask("GET", "/v1/acl/token/self").ok
        refusal = after.put("/v1/acl/bootstrap").text
        assert refusal.startswith("Permission denied: ACL bootstrap no longer allowed")


def _without_node(found: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is a server's own: its node."""
    for entry in found["health/service/web"]:
        del entry["Node"]
        entry["Checks"] = [check for check in entry["Checks"] if check["CheckID"] != "serfHealth"]
    return found


def test_a_restored_server_was_bootstrapped_when_the_saved_one_was() -> None:
    def refusal(server: EmbeddedConsul) -> str:
        return Client(server).put("/v1/acl/bootstrap").text

    with EmbeddedConsul() as first:
        token = Client(first).put("/v1/acl/bootstrap").json()["SecretID"]
        snapshot = Client(first, token).ask("GET", "/v1/snapshot").content
        expected = refusal(first)
    with EmbeddedConsul(initial_management=MANAGEMENT) as second:
        assert refusal(second) != expected
        _restore(second, MANAGEMENT, snapshot).raise_for_status()
        assert refusal(second) == expected
        assert "(reset index: " in expected


def test_writes_go_on_behind_the_index_of_the_snapshot(
    consul: EmbeddedConsul, management: Client
) -> None:
    for _ in range(20):
        management.as_holder_of()
    snapshot = management.ask("GET", "/v1/snapshot")
    index = int(snapshot.headers["X-Consul-Index"])
    del consul

    with EmbeddedConsul(initial_management=MANAGEMENT) as server:
        _restore(server, MANAGEMENT, snapshot.content).raise_for_status()
        client = Client(server)
        assert int(client.ask("GET", "/v1/acl/tokens").headers["X-Consul-Index"]) > index
        created = client.put("/v1/acl/token", {}).json()
        assert created["CreateIndex"] > index + 1


def test_after_a_restore_the_agent_writes_its_own_services_anew(
    consul: EmbeddedConsul, management: Client
) -> None:
    web, api = _service_token(management, "web"), _service_token(management, "api")
    snapshot = management.ask("GET", "/v1/snapshot").content
    later = _service_token(management, "later")
    for client, name in ((web, "web"), (api, "api"), (later, "later")):
        client.put("/v1/agent/service/register", {"Name": name}).raise_for_status()

    _restore(consul, MANAGEMENT, snapshot).raise_for_status()

    # The token of the last one is not in the snapshot.
    assert management.get("/v1/catalog/services").keys() == {"consul", "web", "api"}


def test_a_new_server_is_in_the_catalog_once_the_old_one_of_its_name_is_not(
    consul: EmbeddedConsul, management: Client
) -> None:
    def servers(client: Client) -> dict[str, str]:
        found = client.get("/v1/catalog/service/consul")
        nodes = {entry["Node"]: entry["ID"] for entry in client.get("/v1/catalog/nodes")}
        assert nodes == {entry["Node"]: entry["ID"] for entry in found}
        return nodes

    _service_token(management, "web").put("/v1/agent/service/register", {"Name": "web"})
    old = servers(management)
    snapshot = management.ask("GET", "/v1/snapshot").content
    consul.stop()
    with EmbeddedConsul(initial_management=MANAGEMENT) as server:
        client = Client(server)
        client.put("/v1/agent/service/register", {"Name": "own"}).raise_for_status()
        new = servers(client)
        _restore(server, MANAGEMENT, snapshot).raise_for_status()
        assert servers(client) == old != new
        assert client.get("/v1/catalog/services").keys() == {"consul", "web", "own"}
        (raft,) = client.get("/v1/operator/raft/configuration")["Servers"]
        assert {raft["Node"]: raft["ID"]} == new

        node = {"Datacenter": "dc1", "Node": "srv1"}
        assert client.put("/v1/catalog/deregister", {**node, "ServiceID": "web"}).status_code == 501
        elsewhere = client.put("/v1/catalog/deregister", {**node, "Datacenter": "dc2"})
        assert (elsewhere.status_code, elsewhere.text) == (500, "No path to datacenter")
        assert servers(client) == old
        assert client.put("/v1/catalog/deregister", node).json() is True
        assert servers(client) == new
        # With a node goes what is on it; the agent writes its own services anew.
        assert client.get("/v1/catalog/services").keys() == {"consul", "own"}


@pytest.mark.parametrize(
    ("rules", "may_read", "may_write"),
    [
        ('operator = "read"', True, False),
        ('node "srv1" { policy = "write" }', False, True),
        ('acl = "write" node_prefix "" { policy = "read" }', False, False),
    ],
)
def test_the_servers_are_shown_and_removed_with_permission_only(
    management: Client, rules: str, *, may_read: bool, may_write: bool
) -> None:
    management.put("/v1/acl/policy", {"Name": "mine", "Rules": rules}).raise_for_status()
    holder = management.as_holder_of(Policies=[{"Name": "mine"}])
    for answer, allowed in (
        (holder.ask("GET", "/v1/operator/raft/configuration"), may_read),
        (holder.put("/v1/catalog/deregister", {"Node": "srv1"}), may_write),
    ):
        assert answer.ok == allowed
        assert allowed or (answer.status_code, answer.text) == (403, "Permission denied")


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_snapshot_takes_the_permission_to_write_acls(management: Client, method: str) -> None:
    for rules, status in (('acl = "read"', 403), ('operator = "write"', 403)):
        management.put("/v1/acl/policy", {"Name": rules[:3], "Rules": rules}).raise_for_status()
        holder = management.as_holder_of(Policies=[{"Name": rules[:3]}])
        answer = holder.ask(method, "/v1/snapshot")
        assert (answer.status_code, answer.text) == (status, "Permission denied")
    unknown = Client(management._server, ABSENT).ask(method, "/v1/snapshot")
    assert (unknown.status_code, unknown.text) == (403, "ACL not found")


def _damaged(content: bytes) -> list[tuple[bytes, str]]:
    parts = _archive(content)
    packed = gzip.decompress(content)
    other = packed.replace(b"global-management", b"GLOBAL-management")
    assert other != packed
    return [
        (b"", "failed to decompress snapshot: "),
        (content[:-10], "failed to decompress snapshot: "),
        (gzip.compress(b"no tar" * 200), "failed to read snapshot file: failed reading snapshot: "),
        (gzip.compress(other), "failed to read snapshot file: failed checking integrity of "),
        (pack_parts({**parts, "state.bin": b"msgpack"}), "Raft error when restoring snapshot: "),
    ]


def pack_parts(parts: dict[str, bytes]) -> bytes:
    """Pack parts, with sums that fit."""
    names = ("meta.json", "state.bin")
    sums = "".join(f"{hashlib.sha256(parts[name]).hexdigest()}  {name}\n" for name in names)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in {**parts, "SHA256SUMS": sums.encode()}.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return gzip.compress(packed.getvalue())


def test_what_is_no_snapshot_changes_nothing(consul: EmbeddedConsul, management: Client) -> None:
    content = management.ask("GET", "/v1/snapshot").content
    management.as_holder_of(Description="later")
    before = management.get("/v1/acl/tokens")
    for damaged, text in _damaged(content):
        answer = _restore(consul, MANAGEMENT, damaged)
        assert (answer.status_code, answer.text[: len(text)]) == (500, text)
    stale = management.ask("PUT", "/v1/snapshot?stale")
    assert (stale.status_code, stale.text) == (500, "stale not allowed for restore")
    assert management.get("/v1/acl/tokens") == before


@pytest.mark.parametrize("state", ["no_leader", "starting"])
def test_without_a_leader_there_is_no_snapshot(
    consul: EmbeddedConsul, management: Client, state: State
) -> None:
    consul.state = state
    for method in ("GET", "PUT"):
        answer = management.ask(method, "/v1/snapshot")
        assert (answer.status_code, answer.text) == (500, "No cluster leader")
