"""A snapshot is in the bucket if it is whole; otherwise there is nothing in the bucket."""

from __future__ import annotations

import io
import json
import logging
import os
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from handlers import save_snapshot
from handlers.clients import aws
from handlers.clients.consul import ConsulClient
from handlers.core import environment, names
from handlers.core.errors import (
    AwsAccessDenied,
    AwsRequestRefused,
    AwsThrottled,
    ClusterNotBootstrapped,
    ConsulPermissionDenied,
    ConsulTokenRejected,
    ConsulUnavailable,
    InvalidConfiguration,
    SnapshotTooLarge,
)
from handlers.core.snapshot_archive import CHUNK_BYTES, verified_index
from local.consul import EmbeddedConsul, Fault
from tests.unit.aws_state import PREFIX, SecretsState, answering
from tests.unit.conftest import MANAGEMENT_TOKEN
from tests.unit.consul_state import ACL_READ_RULES, ConsulState
from tests.unit.loopback import Answer, LoopbackServer, Received
from tests.unit.mesh_state import Clock
from tests.unit.snapshot_state import (
    BUCKET,
    SnapshotsState,
    archive_of,
    key_of,
    open_files_in,
    parts_of,
)
from tests.unit.steps import Steps

GET = "consul:GET /v1/snapshot"
PUT = "s3:PutObject"
SECRET = "secretsmanager:GetSecretValue"
ARCHIVE = archive_of(parts_of(os.urandom(3 * CHUNK_BYTES)))

Given = Callable[[Callable[[Received], Answer]], LoopbackServer]


@pytest.fixture(autouse=True)
def _nothing_stays_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshots: SnapshotsState
) -> Any:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    assert (list(tmp_path.iterdir()), open_files_in(tmp_path)) == ([], [])
    assert snapshots.uploads() == []


@pytest.fixture
def moment(clock: Clock) -> str:
    """The time that it is, as keys tell it."""
    clock.moment = datetime(2026, 1, 5, 20, 10, 1, tzinfo=UTC)
    return "20260105T201001Z"


@pytest.fixture
def given(secrets: SecretsState, monkeypatch: pytest.MonkeyPatch) -> Given:
    """Return a function that makes the server which is taken for Consul."""
    secrets.create(names.controller_secret_name(PREFIX), json.dumps({"token": MANAGEMENT_TOKEN}))

    def make(respond: Callable[[Received], Answer]) -> LoopbackServer:
        server = LoopbackServer(respond)
        monkeypatch.setenv(environment.CONSUL_HTTP_ADDR, server.address)
        arn = secrets.arn(names.controller_secret_name(PREFIX))
        monkeypatch.setenv(environment.CONSUL_TOKEN_SECRET_ARN, arn)
        return server

    return make


# --- all is well ---------------------------------------------------------------------------------


def test_a_snapshot_is_stored_under_its_time_and_its_index(
    embedded: ConsulState, snapshots: SnapshotsState, steps: Steps, moment: str
) -> None:
    embedded.create_token(Description="web")
    index = int(embedded.call("GET", "/v1/acl/tokens")[0]["ModifyIndex"])

    result = steps.run(save_snapshot, {})

    content = snapshots.content(result["key"])
    assert verified_index(io.BytesIO(content)) == result["index"] >= index
    assert result == {
        "key": key_of(moment, result["index"]),
        "bytes": len(content),
        "index": result["index"],
    }
    assert snapshots.keys() == [result["key"]]
    assert steps.remote_calls == {GET: 1, PUT: 1, SECRET: 1}


def test_what_consul_sent_is_stored_byte_by_byte_and_without_being_compressed_again(
    given: Given, snapshots: SnapshotsState, steps: Steps, moment: str
) -> None:
    with given(lambda _: Answer(200, ARCHIVE)) as server:
        assert steps.run(save_snapshot, {}) == {
            "key": key_of(moment, 16),
            "bytes": len(ARCHIVE),
            "index": 16,
        }
    (request,) = server.requests
    assert (request.method, request.path) == ("GET", "/v1/snapshot")
    assert request.headers["X-Consul-Token"] == MANAGEMENT_TOKEN
    assert request.headers["Accept-Encoding"] == "identity"
    assert snapshots.content(key_of(moment, 16)) == ARCHIVE


def test_its_size_is_a_metric_of_the_cluster(
    given: Given,
    steps: Steps,
    moment: str,
    log: Callable[[], list[logging.LogRecord]],
) -> None:
    del moment
    with given(lambda _: Answer(200, ARCHIVE)):
        steps.run(save_snapshot, {})
    (record,) = [vars(record) for record in log() if record.getMessage() == "Metrics"]
    assert (record["Cluster"], record["SnapshotBytes"]) == ("mesh", len(ARCHIVE))


def test_every_snapshot_is_kept(
    embedded: ConsulState, snapshots: SnapshotsState, steps: Steps, clock: Clock
) -> None:
    del embedded
    keys = []
    for _ in range(3):
        keys.append(steps.run(save_snapshot, {})["key"])
        clock.let_pass(hours=1)
    assert snapshots.keys() == sorted(keys) == keys


# --- what is not whole ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        (b"", "it cannot be unpacked: ReadError"),
        (ARCHIVE[:-1], "it cannot be unpacked: EOFError"),
        (ARCHIVE[: len(ARCHIVE) // 2], "it cannot be unpacked: EOFError"),
        (ARCHIVE[:-400] + b"rpc error: lost leadership", "it cannot be unpacked: "),
        (b"<html>Welcome</html>", "it cannot be unpacked: BadGzipFile"),
        (
            archive_of({**parts_of(), "state.bin": b"other"}),
            "its content is not what its SHA256SUMS say",
        ),
    ],
    ids=["empty", "a byte short", "half", "an error in it", "a page", "other content"],
)
def test_what_is_not_whole_is_not_stored(
    given: Given, snapshots: SnapshotsState, steps: Steps, sent: bytes, problem: str
) -> None:
    with given(lambda _: Answer(200, sent)):
        error = steps.fail(save_snapshot, {}, ConsulUnavailable)
    assert str(error).startswith(f"What Consul sent is not a whole snapshot: {problem}")
    assert str(error).endswith(". Nothing was stored.")
    assert snapshots.keys() == []


def test_a_connection_that_breaks_is_made_again_once_and_what_came_before_is_forgotten(
    given: Given, snapshots: SnapshotsState, steps: Steps, moment: str
) -> None:
    shorter = archive_of(parts_of())
    answers = [Answer(200, ARCHIVE[:-5000], length=len(ARCHIVE)), Answer(200, shorter)]
    with given(lambda _: answers.pop(0)):
        steps.run(save_snapshot, {})
    assert snapshots.content(key_of(moment, 16)) == shorter
    assert steps.remote_calls[GET] == 2


def test_a_connection_that_breaks_twice_is_left_to_the_workflow(
    given: Given, snapshots: SnapshotsState, steps: Steps
) -> None:
    with given(lambda _: Answer(200, ARCHIVE[:-5000], length=len(ARCHIVE))):
        error = steps.fail(save_snapshot, {}, ConsulUnavailable)
    assert "/v1/snapshot: no answer from Consul" in str(error)
    assert steps.remote_calls == {GET: 2, SECRET: 1}
    assert snapshots.keys() == []


def test_a_large_snapshot_goes_through_in_pieces(
    given: Given, monkeypatch: pytest.MonkeyPatch, steps: Steps, moment: str
) -> None:
    """What a function holds in memory does not grow with the snapshot."""
    del moment

    class Watched(io.BytesIO):
        largest = 0

        def writelines(self, lines: Any) -> None:
            for line in lines:
                Watched.largest = max(Watched.largest, len(line))
                self.write(line)

    bodies: list[Any] = []
    monkeypatch.setattr(tempfile, "TemporaryFile", Watched)
    client = aws.client("s3")

    def note(params: dict[str, Any], **_: Any) -> None:
        bodies.append(params["Body"])

    client.meta.events.register_first("before-parameter-build.s3.PutObject", note)
    try:
        with given(lambda _: Answer(200, ARCHIVE)):
            steps.run(save_snapshot, {})
    finally:
        client.meta.events.unregister("before-parameter-build.s3.PutObject", note)
    assert 0 < Watched.largest <= CHUNK_BYTES < len(ARCHIVE)
    assert [type(body) for body in bodies] == [Watched]  # botocore reads it while it sends


# --- refusals ------------------------------------------------------------------------------------


def test_a_token_that_may_only_read_acls_is_not_enough(
    embedded: ConsulState, secrets: SecretsState, steps: Steps
) -> None:
    embedded.create_policy(Name="reads", Rules=ACL_READ_RULES)
    token = embedded.create_token(Policies=[{"Name": "reads"}])["SecretID"]
    secrets.put(names.controller_secret_name(PREFIX), token)
    error = steps.fail(save_snapshot, {}, ConsulPermissionDenied)
    assert str(error) == (
        f"GET /v1/snapshot: Consul at {embedded.server.address} answered 403 'Permission denied'. "
        "The token needs acl:write."
    )


def test_a_token_that_may_write_acls_is_enough(
    embedded: ConsulState, secrets: SecretsState, steps: Steps
) -> None:
    embedded.create_policy(Name="writes", Rules=names.CONTROLLER_POLICY_RULES)
    token = embedded.create_token(Policies=[{"Name": "writes"}])["SecretID"]
    secrets.put(names.controller_secret_name(PREFIX), token)
    assert steps.run(save_snapshot, {})["index"] > 0


def test_a_token_that_consul_does_not_know_is_read_again_and_rejected(
    embedded: ConsulState, secrets: SecretsState, steps: Steps
) -> None:
    # A snapshot's answer has no header that tells it from "there is no such object".
    secrets.put(names.controller_secret_name(PREFIX), "11111111-1111-4111-8111-111111111111")
    error = steps.fail(save_snapshot, {}, ConsulTokenRejected)
    assert "does not know the token in the secret" in str(error)
    assert steps.remote_calls == {GET: 1, SECRET: 2}
    secrets.put(names.controller_secret_name(PREFIX), embedded.management_token)
    assert steps.run(save_snapshot, {})["index"] > 0


def test_a_secret_without_a_token_is_waited_for(
    embedded: ConsulState, secrets: SecretsState, steps: Steps
) -> None:
    del embedded
    secrets.put(names.controller_secret_name(PREFIX), "{}")
    steps.fail(save_snapshot, {}, ClusterNotBootstrapped)


@pytest.mark.parametrize("situation", ["no_leader", "starting"])
def test_a_server_that_is_not_ready_is_unavailable(
    embedded: ConsulState, snapshots: SnapshotsState, steps: Steps, situation: Any
) -> None:
    embedded.embedded.state = situation
    steps.fail(save_snapshot, {}, ConsulUnavailable)
    assert snapshots.keys() == []


def test_without_acls_everybody_may_take_a_snapshot(
    secrets: SecretsState, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmbeddedConsul(acl="disabled") as server:
        monkeypatch.setenv(environment.CONSUL_HTTP_ADDR, server.address)
        arn = secrets.create("any", MANAGEMENT_TOKEN)
        monkeypatch.setenv(environment.CONSUL_TOKEN_SECRET_ARN, arn)
        assert steps.run(save_snapshot, {})["index"] > 0


def test_consul_has_time_to_write_its_state(
    embedded: ConsulState, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = ConsulClient._send.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "read_seconds", 0.05)
    embedded.embedded.on_request = lambda *_: Fault.delay(0.2)
    assert steps.run(save_snapshot, {})["index"] > 0


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (403, "AccessDenied", AwsAccessDenied),
        (503, "SlowDown", AwsThrottled),
        (404, "NoSuchBucket", AwsRequestRefused),
    ],
)
def test_a_refusal_of_the_bucket_names_the_snapshot(  # noqa: PLR0917 - a table
    given: Given,
    snapshots: SnapshotsState,
    steps: Steps,
    moment: str,
    status: int,
    code: str,
    kind: Any,
) -> None:
    client = aws.client("s3")
    with (
        given(lambda _: Answer(200, ARCHIVE)),
        answering(client, "PutObject", status=status, code=code),
    ):
        error = steps.fail(save_snapshot, {}, kind)
    assert str(error).startswith(f"Writing s3://{BUCKET}/{key_of(moment, 16)}: ")
    assert snapshots.keys() == []


def test_a_snapshot_that_does_not_fit_is_not_stored(
    given: Given, snapshots: SnapshotsState, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BytesIO):
        def writelines(self, lines: Any) -> None:
            next(iter(lines))
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    with given(lambda _: Answer(200, ARCHIVE)):
        error = steps.fail(save_snapshot, {}, SnapshotTooLarge)
    assert "does not fit into" in str(error)
    assert snapshots.keys() == []


@pytest.mark.parametrize("variable", [environment.SNAPSHOT_BUCKET, environment.SNAPSHOT_PREFIX])
def test_without_a_variable_nothing_is_sent(
    embedded: ConsulState, steps: Steps, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    del embedded
    monkeypatch.delenv(variable)
    error = steps.fail(save_snapshot, {}, InvalidConfiguration)
    assert variable in str(error)
    assert steps.remote_calls == {}


def test_a_client_without_a_token_takes_none(embedded: ConsulState) -> None:
    with pytest.raises(RuntimeError, match="GET /v1/snapshot needs a token"):
        ConsulClient(embedded.server.address).save_snapshot(io.BytesIO())
