"""Consul has the state of the snapshot afterwards, or the one that it had before."""

from __future__ import annotations

import io
import json
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from urllib3 import HTTPResponse

from handlers import (
    bootstrap_acls,
    create_policy,
    create_token,
    publish_secret,
    restore_snapshot,
    save_snapshot,
    store_secret,
)
from handlers.clients import aws
from handlers.core import deployment, environment, names
from handlers.core.errors import (
    AwsAccessDenied,
    AwsUnavailable,
    ClusterNotBootstrapped,
    ConsulPermissionDenied,
    ConsulTokenRejected,
    ConsulUnavailable,
    InvalidEvent,
    InvalidSnapshot,
    InvalidStepInput,
    SnapshotNotFound,
    SnapshotOfAnotherConsul,
)
from local.consul import EmbeddedConsul, Fault
from tests.unit.aws_state import CLUSTER_ARN, PREFIX, SecretsState, answering
from tests.unit.conftest import MANAGEMENT_TOKEN
from tests.unit.consul_state import ConsulState
from tests.unit.snapshot_state import (
    BUCKET,
    SnapshotsState,
    archive_of,
    key_of,
    open_files_in,
    parts_of,
)
from tests.unit.snapshot_state import PREFIX as FOLDER
from tests.unit.steps import Steps

SELF = "consul:GET /v1/acl/token/self"
SERVERS = "consul:GET /v1/catalog/service/:name"
RAFT = "consul:GET /v1/operator/raft/configuration"
DEREGISTER = "consul:PUT /v1/catalog/deregister"
PUT = "consul:PUT /v1/snapshot"
BOOTSTRAP = "consul:PUT /v1/acl/bootstrap"
GET = "s3:GetObject"
LIST = "s3:ListObjectsV2"
SECRET = "secretsmanager:GetSecretValue"


@pytest.fixture(autouse=True)
def _nothing_stays_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    assert (list(tmp_path.iterdir()), open_files_in(tmp_path)) == ([], [])


@pytest.fixture
def taken(embedded: ConsulState, snapshots: SnapshotsState, steps: Steps) -> str:
    """The key of a snapshot in which there is the token "before"."""
    del snapshots
    embedded.create_token(Description="before")
    key: str = steps.run(save_snapshot, {})["key"]
    return key


def descriptions(consul: ConsulState, token: str | None = None) -> list[str]:
    """Return the descriptions of the tokens that tests have made."""
    tokens = consul.call("GET", "/v1/acl/tokens", token=token) or []
    mine = ("before", "after", "theirs")
    return sorted(each["Description"] for each in tokens if each["Description"] in mine)


def use(server: EmbeddedConsul, monkeypatch: pytest.MonkeyPatch, new_process: Any) -> ConsulState:
    """Let the handlers use another server, in new processes."""
    monkeypatch.setenv(environment.CONSUL_HTTP_ADDR, server.address)
    new_process()
    return ConsulState(server, MANAGEMENT_TOKEN)


# --- into the same Consul ------------------------------------------------------------------------


def test_what_was_made_since_is_gone_and_what_was_deleted_is_there_again(
    embedded: ConsulState, taken: str, steps: Steps
) -> None:
    (before,) = [t for t in embedded.call("GET", "/v1/acl/tokens") if t["Description"] == "before"]
    embedded.call("DELETE", f"/v1/acl/token/{before['AccessorID']}")
    embedded.create_token(Description="after")

    result = steps.run(restore_snapshot, {"event": {"snapshot": taken}})

    index = int(taken.rpartition("-")[2].removesuffix(".snap"))
    assert result == {"key": taken, "index": index, "bootstrapped": False, "forgotten": []}
    assert descriptions(embedded) == ["before"]
    assert embedded.knows(before["SecretID"])
    to_consul = {SELF: 2, PUT: 1, SERVERS: 1, RAFT: 1}
    assert steps.remote_calls == {**to_consul, GET: 1, LIST: 1, SECRET: 1}


def test_without_a_name_it_is_the_newest(
    embedded: ConsulState, taken: str, snapshots: SnapshotsState, steps: Steps
) -> None:
    del embedded
    content = snapshots.content(taken)
    snapshots.put(key_of("20250101T000000Z", 1), b"old")
    snapshots.put(f"{FOLDER}/notes.txt", b"none")
    snapshots.put(f"{FOLDER}-2/20990101T000000Z-99.snap", b"of another")
    newest = snapshots.put(key_of("20980101T000000Z", 10**6), content)

    assert steps.run(restore_snapshot, {"event": {}})["key"] == newest


def test_the_newest_is_found_among_thousands(
    embedded: ConsulState, taken: str, snapshots: SnapshotsState, steps: Steps
) -> None:
    del embedded
    content = snapshots.content(taken)
    client = aws.client("s3")

    def one_a_page(params: dict[str, Any], **_: Any) -> None:
        params["MaxKeys"] = 1

    for number in range(3):
        snapshots.put(key_of(f"2098010{number + 1}T000000Z", 10**6 + number), content)
    client.meta.events.register("before-parameter-build.s3.ListObjectsV2", one_a_page)
    try:
        result = steps.run(restore_snapshot, {"event": {}})
    finally:
        client.meta.events.unregister("before-parameter-build.s3.ListObjectsV2", one_a_page)
    assert result["key"] == key_of("20980103T000000Z", 10**6 + 2)
    assert steps.remote_calls[LIST] == 4


def test_two_of_the_same_second_are_told_apart_by_their_index(
    embedded: ConsulState, taken: str, snapshots: SnapshotsState, steps: Steps
) -> None:
    del embedded
    content = snapshots.content(taken)
    newest = snapshots.put(key_of("20980101T000000Z", 1000), content)
    snapshots.put(key_of("20980101T000000Z", 999), b"before it")

    assert steps.run(restore_snapshot, {"event": {}})["key"] == newest


def test_the_newest_is_not_taken_if_it_may_be_of_a_new_consul(
    embedded: ConsulState, taken: str, snapshots: SnapshotsState, steps: Steps
) -> None:
    newest = snapshots.put(key_of("20980101T000000Z", 2), snapshots.content(taken))
    embedded.create_token(Description="after")

    error = steps.fail(restore_snapshot, {"event": {}}, InvalidEvent)

    assert str(error) == (
        f"The newest snapshot, {newest}, has a lower index than {taken}, so it may be of a new and "
        'empty Consul. Say which one is meant: {"snapshot": "<its key>"}.'
    )
    assert descriptions(embedded) == ["after", "before"]
    assert steps.run(restore_snapshot, {"event": {"snapshot": newest}})["key"] == newest


# --- into a new Consul ---------------------------------------------------------------------------


@pytest.fixture
def new_server(embedded: ConsulState) -> Iterator[EmbeddedConsul]:
    """A Consul whose ACL system nobody has bootstrapped."""
    flavour = embedded.embedded._api._flavour
    with EmbeddedConsul(flavour=flavour) as server:
        yield server


def test_a_new_consul_is_bootstrapped_and_has_all_tokens_afterwards(  # noqa: PLR0917
    embedded: ConsulState,
    taken: str,
    new_server: EmbeddedConsul,
    steps: Steps,
    secrets: SecretsState,
    monkeypatch: pytest.MonkeyPatch,
    new_process: Any,
) -> None:
    web = embedded.create_token(Description="before")["SecretID"]
    taken = steps.run(save_snapshot, {})["key"]
    versions = secrets.versions(names.controller_secret_name(PREFIX))
    embedded.embedded.stop()
    consul = use(new_server, monkeypatch, new_process)

    result = steps.run(restore_snapshot, {"event": {}})

    assert (result["key"], result["bootstrapped"]) == (taken, True)
    assert result["forgotten"] == ["srv1"]
    assert consul.knows(MANAGEMENT_TOKEN)
    assert consul.knows(web)
    assert descriptions(consul) == ["before", "before"]
    # The token of the bootstrap is neither in Consul nor in the secret.
    tokens = consul.call("GET", "/v1/acl/tokens")
    assert [t["Description"] for t in tokens if "Bootstrap" in t["Description"]] == []
    assert secrets.versions(names.controller_secret_name(PREFIX)) == versions
    to_consul = {SELF: 2, BOOTSTRAP: 1, PUT: 1, SERVERS: 1, RAFT: 1, DEREGISTER: 1}
    assert steps.remote_calls == {**to_consul, GET: 1, LIST: 1, SECRET: 1}


def test_of_a_new_consul_nothing_is_asked_before_the_snapshot_is_found_whole(  # noqa: PLR0917
    snapshots: SnapshotsState,
    embedded: ConsulState,
    new_server: EmbeddedConsul,
    steps: Steps,
    monkeypatch: pytest.MonkeyPatch,
    new_process: Any,
) -> None:
    del embedded
    key = snapshots.put(key_of("20260105T201001Z"), archive_of(parts_of())[:-1])
    use(new_server, monkeypatch, new_process)
    error = steps.fail(restore_snapshot, {"event": {"snapshot": key}}, InvalidSnapshot)
    assert str(error) == (
        f"s3://{BUCKET}/{key} is not a whole snapshot: it cannot be unpacked: EOFError. Nothing "
        "was changed. Restore another one."
    )
    assert new_server.requests == []


@pytest.mark.parametrize("answer", ["refused", "lost"])
def test_a_restore_whose_answer_is_bad_is_done_again(  # noqa: PLR0917
    embedded: ConsulState,
    taken: str,
    new_server: EmbeddedConsul,
    steps: Steps,
    monkeypatch: pytest.MonkeyPatch,
    new_process: Any,
    answer: str,
) -> None:
    old = embedded.embedded._api._flavour == "1.10"
    consul = use(new_server, monkeypatch, new_process)
    fault = Fault.drop_after() if answer == "lost" else Fault.answer(500, "No cluster leader")
    new_server.on_request = lambda _, path: fault if path == "/v1/snapshot" else None
    steps.fail(restore_snapshot, {"event": {}}, ConsulUnavailable)
    assert steps.remote_calls[PUT] == 1
    new_server.on_request = None

    if old and answer == "refused":
        # The token that this Consul has chosen is gone, and with it an empty Consul.
        error = steps.fail(restore_snapshot, {"event": {}}, ConsulTokenRejected)
        assert "acl-bootstrap-reset" in str(error)
        return
    result = steps.run(restore_snapshot, {"event": {}})
    assert result["key"] == taken
    assert descriptions(consul) == ["before"]


# --- the servers in the catalog ------------------------------------------------------------------


def registered(consul: ConsulState) -> dict[str, str]:
    """Return the IDs of the servers in the catalog, by their names."""
    entries = consul.call("GET", "/v1/catalog/service/consul")
    return {entry["Node"]: entry["ID"] for entry in entries}


def own_id(consul: ConsulState) -> str:
    """Return the ID of the server that answers."""
    (server,) = consul.call("GET", "/v1/operator/raft/configuration")["Servers"]
    return str(server["ID"])


def register(consul: ConsulState, service: str) -> None:
    """Register a service with the agent of the server."""
    requests.put(
        f"{consul.server.address}/v1/agent/service/register",
        json={"Name": service},
        headers={"X-Consul-Token": MANAGEMENT_TOKEN},
        timeout=10,
    ).raise_for_status()


def test_new_servers_take_the_names_of_the_old_ones(  # noqa: PLR0917
    embedded: ConsulState,
    snapshots: SnapshotsState,
    new_server: EmbeddedConsul,
    steps: Steps,
    monkeypatch: pytest.MonkeyPatch,
    new_process: Any,
) -> None:
    del snapshots
    others = {"consul-server-2": str(uuid.uuid4()), "consul-server-3": str(uuid.uuid4())}
    embedded.embedded._api._catalog.servers.update(others)
    steps.run(save_snapshot, {})
    old = registered(embedded)
    consul = use(new_server, monkeypatch, new_process)
    new = new_server._api._catalog.node_id

    result = steps.run(restore_snapshot, {"event": {}})

    assert old == {"srv1": own_id(embedded), **others}
    assert result["forgotten"] == ["consul-server-2", "consul-server-3", "srv1"]
    assert registered(consul) == {"srv1": new}
    assert own_id(consul) == new != old["srv1"]
    assert steps.remote_calls[DEREGISTER] == 3


def test_a_server_that_has_left_is_forgotten_and_what_is_on_other_nodes_stays(
    embedded: ConsulState, snapshots: SnapshotsState, steps: Steps
) -> None:
    del snapshots
    mine = registered(embedded)
    embedded.embedded._api._catalog.servers["consul-server-2"] = str(uuid.uuid4())
    register(embedded, "web")
    steps.run(save_snapshot, {})
    register(embedded, "later")

    assert steps.run(restore_snapshot, {"event": {}})["forgotten"] == ["consul-server-2"]
    assert registered(embedded) == mine
    assert set(embedded.call("GET", "/v1/catalog/services")) == {"consul", "web", "later"}
    # What is gone from the catalog comes back with the snapshot, and goes again.
    assert steps.run(restore_snapshot, {"event": {}})["forgotten"] == ["consul-server-2"]


def test_a_node_without_an_id_is_left_alone(
    embedded: ConsulState, snapshots: SnapshotsState, steps: Steps
) -> None:
    del snapshots
    embedded.embedded._api._catalog.servers["by-hand"] = ""
    steps.run(save_snapshot, {})

    assert steps.run(restore_snapshot, {"event": {}})["forgotten"] == []
    assert registered(embedded)["by-hand"] == ""


@pytest.mark.parametrize("answer", ["refused", "lost"])
@pytest.mark.parametrize(
    "path",
    ["/v1/catalog/service/consul", "/v1/operator/raft/configuration", "/v1/catalog/deregister"],
)
def test_old_servers_that_could_not_be_forgotten_are_with_the_next_attempt(  # noqa: PLR0917
    embedded: ConsulState,
    snapshots: SnapshotsState,
    new_server: EmbeddedConsul,
    steps: Steps,
    monkeypatch: pytest.MonkeyPatch,
    new_process: Any,
    answer: str,
    path: str,
) -> None:
    del snapshots
    embedded.embedded._api._catalog.servers["consul-server-2"] = str(uuid.uuid4())
    steps.run(save_snapshot, {})
    consul = use(new_server, monkeypatch, new_process)
    fault = Fault.drop_after() if answer == "lost" else Fault.answer(500, "No cluster leader")
    new_server.on_request = lambda _, asked: fault if asked == path else None
    steps.fail(restore_snapshot, {"event": {}}, ConsulUnavailable)
    new_server.on_request = None

    result = steps.run(restore_snapshot, {"event": {}})

    assert (result["bootstrapped"], result["forgotten"]) == (False, ["consul-server-2", "srv1"])
    assert registered(consul) == {"srv1": own_id(consul)}


@pytest.mark.parametrize(
    ("path", "method", "needs"),
    [
        ("/v1/catalog/service/consul", "GET", "service:read and node:read"),
        ("/v1/operator/raft/configuration", "GET", "operator:read"),
        ("/v1/catalog/deregister", "PUT", "node:write of it"),
    ],
)
def test_a_token_that_may_not_forget_servers_is_told_of(  # noqa: PLR0917
    embedded: ConsulState,
    snapshots: SnapshotsState,
    steps: Steps,
    path: str,
    method: str,
    needs: str,
) -> None:
    del snapshots
    embedded.embedded._api._catalog.servers["consul-server-2"] = str(uuid.uuid4())
    steps.run(save_snapshot, {})
    denied = Fault.answer(403, f"Permission denied: {MANAGEMENT_TOKEN} may not")
    embedded.embedded.on_request = lambda _, asked: denied if asked == path else None

    error = steps.fail(restore_snapshot, {"event": {}}, ConsulPermissionDenied)

    which = ' of the node "consul-server-2"' if method == "PUT" else ""
    assert str(error) == (
        f"{method} {path}{which}: Consul at {embedded.server.address} answered 403 "
        f"'Permission denied: <secret> may not'. The token needs {needs}."
    )


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/v1/catalog/service/consul", "{}"),
        ("/v1/catalog/service/consul", '[{"ServiceName": "web", "Node": "n", "ID": "i"}]'),
        ("/v1/catalog/service/consul", '[{"ServiceName": "consul", "Node": "", "ID": "i"}]'),
        ("/v1/catalog/service/consul", '[{"ServiceName": "consul", "Node": "n"}]'),
        ("/v1/operator/raft/configuration", '{"Servers": []}'),
        ("/v1/operator/raft/configuration", '{"Servers": [{"ID": ""}]}'),
        ("/v1/operator/raft/configuration", "[]"),
    ],
)
def test_nobody_is_forgotten_because_of_an_answer_that_is_not_consuls(
    embedded: ConsulState, taken: str, steps: Steps, path: str, text: str
) -> None:
    mine = registered(embedded)
    strange = Fault.answer(200, text)
    embedded.embedded.on_request = lambda _, asked: strange if asked == path else None

    error = steps.fail(restore_snapshot, {"event": {"snapshot": taken}}, ConsulUnavailable)

    assert "is not Consul's. Is it the address?" in str(error)
    assert DEREGISTER not in steps.remote_calls
    embedded.embedded.on_request = None
    assert registered(embedded) == mine


# --- whose token ---------------------------------------------------------------------------------


def test_a_bootstrapped_consul_that_does_not_know_the_token_is_left_as_it_is(
    embedded: ConsulState, taken: str, secrets: SecretsState, steps: Steps
) -> None:
    secrets.put(names.controller_secret_name(PREFIX), str(uuid.uuid4()))
    embedded.create_token(Description="after")
    error = steps.fail(restore_snapshot, {"event": {"snapshot": taken}}, ConsulTokenRejected)
    arn = secrets.arn(names.controller_secret_name(PREFIX))
    assert str(error).startswith(
        f"Consul does not know the token in the secret {arn}, with which the snapshot is restored. "
        "Put a management token of this Consul there. Nothing was changed. The ACL system of "
    )
    assert descriptions(embedded) == ["after", "before"]


def test_a_secret_without_a_token_changes_nothing(
    embedded: ConsulState, taken: str, secrets: SecretsState, steps: Steps
) -> None:
    secrets.put(names.controller_secret_name(PREFIX), "{}")
    before = len(embedded.embedded.requests)
    error = steps.fail(restore_snapshot, {"event": {"snapshot": taken}}, ClusterNotBootstrapped)
    assert "holds no token yet. ClusterBootstrap puts it there" in str(error)
    assert len(embedded.embedded.requests) == before


def test_after_a_snapshot_of_another_consul_the_operator_learns_what_to_do(  # noqa: PLR0917
    embedded: ConsulState,
    taken: str,
    steps: Steps,
    secrets: SecretsState,
    monkeypatch: pytest.MonkeyPatch,
    new_process: Any,
) -> None:
    del embedded
    theirs = str(uuid.uuid4())
    with EmbeddedConsul(initial_management=theirs, flavour="current") as other:
        consul = use(other, monkeypatch, new_process)
        name = names.controller_secret_name(PREFIX)
        secrets.put(name, theirs)
        error = steps.fail(
            restore_snapshot, {"event": {"snapshot": taken}}, SnapshotOfAnotherConsul
        )
        assert str(error) == (
            f"s3://{BUCKET}/{taken} was restored, and Consul does not know the token in the secret "
            f"{secrets.arn(name)} any more. Put the management token of that time there, which an "
            "earlier version of the secret may hold, and start SnapshotRestore again; or reset the "
            "ACL system (docs/operations.md), and start ClusterBootstrap, then Reconciliation."
        )
        assert descriptions(consul, MANAGEMENT_TOKEN) == ["before"]
        # The operator does it, and ClusterBootstrap goes through.
        secrets.put(name, MANAGEMENT_TOKEN)
        assert steps.run(bootstrap_acls, {}) == {"bootstrapped": False}


# --- the input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event",
    [
        {"snapshot": ""},
        {"snapshot": None},
        {"snapshot": 5},
        {"snapshot": ["a"]},
        {"key": "a"},
        {"snapshot": "a", "more": 1},
    ],
)
def test_another_input_is_refused(
    embedded: ConsulState, snapshots: SnapshotsState, steps: Steps, event: Any
) -> None:
    del embedded, snapshots
    error = steps.fail(restore_snapshot, {"event": event}, InvalidEvent)
    assert str(error) == (
        'SnapshotRestore is started with {"snapshot": "<the key of a snapshot>"}, or with {} for '
        "the newest one."
    )
    assert steps.remote_calls == {}


@pytest.mark.parametrize("state", [{}, {"event": "newest"}, {"event": None}])
def test_a_state_without_an_event_is_refused(
    embedded: ConsulState, snapshots: SnapshotsState, steps: Steps, state: Any
) -> None:
    del embedded, snapshots
    steps.fail(restore_snapshot, state, InvalidStepInput)


@pytest.mark.parametrize(
    "key",
    [
        key_of("20260105T201001Z", 99),
        key_of("20260105T201001Z", 99).removesuffix("9.snap"),
        "20260105T201001Z-1.snap",
        f"{FOLDER}/",
        f"{FOLDER}/notes.txt",
        f"{FOLDER}-2/20260105T201001Z-1.snap",
        "../secret",
        "x" * 3000,
    ],
)
def test_what_is_no_snapshot_of_ours_is_not_found(
    embedded: ConsulState, snapshots: SnapshotsState, steps: Steps, key: str
) -> None:
    snapshots.put(key_of("20260105T201001Z", 999), b"")
    snapshots.put(f"{FOLDER}/notes.txt", b"")
    snapshots.put(f"{FOLDER}-2/20260105T201001Z-1.snap", b"")
    before = len(embedded.embedded.requests)
    error = steps.fail(restore_snapshot, {"event": {"snapshot": key}}, SnapshotNotFound)
    assert f"There is no snapshot s3://{BUCKET}/{key}. " in str(error)
    assert f"aws s3 ls s3://{BUCKET}/{FOLDER}/`" in str(error)
    assert len(embedded.embedded.requests) == before


@pytest.mark.parametrize(
    "key",
    ["20260105T201001Z-1.snap", f"{FOLDER}-2/20260105T201001Z-1.snap", "../secret", "x" * 3000],
)
def test_what_the_role_may_not_look_for_is_not_found_either(
    embedded: ConsulState, snapshots: SnapshotsState, steps: Steps, key: str
) -> None:
    del embedded, snapshots
    with answering(aws.client("s3"), "ListObjectsV2", status=403, code="AccessDenied"):
        error = steps.fail(restore_snapshot, {"event": {"snapshot": key}}, SnapshotNotFound)
    assert f"A key looks like {FOLDER}/20261126T081500Z-1234.snap" in str(error)


def test_an_empty_bucket_has_no_newest_snapshot(
    embedded: ConsulState, snapshots: SnapshotsState, steps: Steps
) -> None:
    del embedded, snapshots
    error = steps.fail(restore_snapshot, {"event": {}}, SnapshotNotFound)
    assert str(error) == (
        f"There is no snapshot under s3://{BUCKET}/{FOLDER}/. ServerSnapshot takes one."
    )


@pytest.mark.parametrize("operation", ["ListObjectsV2", "GetObject"])
def test_a_bucket_that_may_not_be_read_is_named(
    embedded: ConsulState, taken: str, steps: Steps, operation: str
) -> None:
    del embedded
    with answering(aws.client("s3"), operation, status=403, code="AccessDenied"):
        error = steps.fail(restore_snapshot, {"event": {"snapshot": taken}}, AwsAccessDenied)
    assert f"s3://{BUCKET}/{taken}: " in str(error)


def test_an_answer_that_is_not_one_of_s3_is_left_to_the_workflow(
    embedded: ConsulState, taken: str, steps: Steps
) -> None:
    del embedded
    client = aws.client("s3")

    def page(request: Any, **_: Any) -> AWSResponse:
        # Of status 200 botocore knows that S3 may mean another one.
        body = HTTPResponse(io.BytesIO(b"Please log in"), preload_content=False)
        return AWSResponse(request.url, 203, HTTPHeaders(), body)

    client.meta.events.register_first("before-send.s3.ListObjectsV2", page)
    try:
        error = steps.fail(restore_snapshot, {"event": {"snapshot": taken}}, AwsUnavailable)
    finally:
        client.meta.events.unregister("before-send.s3.ListObjectsV2", page)
    assert "the answer is not one of AWS's (ResponseParserError)" in str(error)


def test_a_snapshot_that_breaks_off_on_its_way_is_read_again_by_the_workflow(
    embedded: ConsulState, taken: str, steps: Steps
) -> None:
    client = aws.client("s3")

    def longer(parsed: dict[str, Any], **_: Any) -> None:
        parsed["Body"]._content_length = str(10**6)

    client.meta.events.register("after-call.s3.GetObject", longer)
    try:
        error = steps.fail(restore_snapshot, {"event": {"snapshot": taken}}, AwsUnavailable)
    finally:
        client.meta.events.unregister("after-call.s3.GetObject", longer)
    assert str(error) == f"Reading s3://{BUCKET}/{taken}: the answer broke off."
    assert descriptions(embedded) == ["before"]


# --- from the beginning to the end ---------------------------------------------------------------


def cluster_bootstrap(steps: Steps, secrets: SecretsState) -> dict[str, Any]:
    """Run ClusterBootstrap's steps one after the other; return what each changed."""
    changes: dict[str, Any] = steps.run(bootstrap_acls, {})
    for whose, needs, secret in (
        ("controller", deployment.controller_token, names.controller_secret_name),
        ("client", deployment.client_token, names.client_secret_name),
    ):
        wanted = needs(PREFIX, CLUSTER_ARN)
        made = steps.run(create_policy, {"policy": wanted["policy"]})
        changes[f"{whose} policy"] = made["change"]
        stored = steps.run(store_secret, {"secret": {"id": secrets.arn(secret(PREFIX))}})
        made = steps.run(create_token, {"secret": stored, "token": wanted["token"]})
        changes[f"{whose} token"] = made["change"]
        if not stored["public"]:
            steps.run(publish_secret, {"secret": stored})
    return changes


def test_after_all_servers_are_lost_a_task_goes_on_with_its_token_and_nothing_is_to_be_done(
    secrets: SecretsState,
    snapshots: SnapshotsState,
    steps: Steps,
    monkeypatch: pytest.MonkeyPatch,
    new_process: Any,
) -> None:
    del snapshots
    management = secrets.create("management", "{}")
    secrets.create(names.controller_secret_name(PREFIX), "{}")
    secrets.create(names.client_secret_name(PREFIX), "{}")
    monkeypatch.setenv(environment.CONSUL_TOKEN_SECRET_ARN, management)
    monkeypatch.setenv(environment.CONSUL_DATACENTER, "dc1")
    with EmbeddedConsul(flavour="current") as first:
        monkeypatch.setenv(environment.CONSUL_HTTP_ADDR, first.address)
        assert cluster_bootstrap(steps, secrets) == {
            "bootstrapped": True,
            "controller policy": "created",
            "controller token": "created",
            "client policy": "created",
            "client token": "created",
        }
        consul = ConsulState(first, secrets.current("management"))
        web = consul.create_token(ServiceIdentities=[{"ServiceName": "web"}])["SecretID"]
        # As the controller: with its own token.
        controller_arn = secrets.arn(names.controller_secret_name(PREFIX))
        monkeypatch.setenv(environment.CONSUL_TOKEN_SECRET_ARN, controller_arn)
        new_process()
        taken = steps.run(save_snapshot, {})["key"]

    with EmbeddedConsul(flavour="current") as second:
        monkeypatch.setenv(environment.CONSUL_HTTP_ADDR, second.address)
        monkeypatch.setenv(environment.CONSUL_TOKEN_SECRET_ARN, management)
        new_process()
        assert steps.run(restore_snapshot, {"event": {}})["key"] == taken
        consul = ConsulState(second, secrets.current("management"))
        # As its agent does, which asks the new servers from now on.
        again = requests.put(
            f"{second.address}/v1/agent/service/register",
            json={"Name": "web", "ID": "web-1", "Port": 80},
            headers={"X-Consul-Token": web},
            timeout=10,
        )
        assert again.ok
        assert consul.call("GET", "/v1/catalog/service/web", token=web)[0]["ServiceID"] == "web-1"
        for name in ("controller", "client"):
            secret = json.loads(secrets.current(f"{PREFIX}-consul-{name}-token"))
            assert consul.knows(secret["token"])
        assert cluster_bootstrap(steps, secrets) == {
            "bootstrapped": False,
            "controller policy": "none",
            "controller token": "none",
            "client policy": "none",
            "client token": "none",
        }
