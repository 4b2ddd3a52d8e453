"""Consul is brought in line with the secret, and what is not ours is left alone."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from handlers import create_token
from handlers.core import environment
from handlers.core.errors import (
    AwsUnavailable,
    ClusterNotBootstrapped,
    ConsulAclDisabled,
    ConsulObjectGone,
    ConsulPermissionDenied,
    ConsulRequestInvalid,
    ConsulTokenRejected,
    ConsulUnavailable,
    ForeignObject,
    InvalidSecret,
    InvalidStepInput,
    SecretNameCollision,
)
from handlers.core.token_secret import TokenIds
from local.consul import EmbeddedConsul, Fault
from tests.unit.aws_state import CLUSTER_ARN, SecretsState
from tests.unit.consul_state import ACL_READ_RULES, ConsulState
from tests.unit.steps import Steps, at_the_same_time

NAME = "acme-web"
CONTROLLER_SECRET = "acme-consul-controller-token"
DESCRIPTION = (
    "Token for web service\n"
    "consul.hashicorp.com/cluster: arn:aws:ecs:us-east-1:123456789012:cluster/mesh"
)
READ = "consul:GET /v1/acl/token/:accessor_id"
CREATE = "consul:PUT /v1/acl/token"
UPDATE = "consul:PUT /v1/acl/token/:accessor_id"
DELETE = "consul:DELETE /v1/acl/token/:accessor_id"
SECRET = "secretsmanager:GetSecretValue"


@dataclass(frozen=True)
class Stored:
    """A secret with IDs, and what a workflow passes to the step for them."""

    ids: TokenIds
    arn: str
    state: dict[str, Any]


@pytest.fixture
def stored(secrets: SecretsState) -> Stored:
    ids = TokenIds.new()
    arn = secrets.create(NAME, ids.to_secret_string())
    version_id = secrets.current_id(NAME)
    secret = {"arn": arn, "version_id": version_id, "replaces_version_id": version_id}
    token = {"description": DESCRIPTION, "service_identities": ["web"], "policies": []}
    return Stored(ids, arn, {"secret": secret, "token": token})


def wanted(stored: Stored, **changes: Any) -> dict[str, Any]:
    """The token as it should be afterwards."""
    return {
        "AccessorID": stored.ids.accessor_id,
        "SecretID": stored.ids.secret_id,
        "Description": DESCRIPTION,
        "Policies": [],
        "ServiceIdentities": [{"ServiceName": "web"}],
    } | changes


def existing(consul: ConsulState, stored: Stored, **changes: Any) -> None:
    """A token that is there already: as it should be, but for some changes."""
    fields = wanted(stored) | changes
    consul.create_token(**{key: value for key, value in fields.items() if value is not None})


# --- absent, the same ----------------------------------------------------------------------------


def test_an_absent_token_is_created_with_the_ids_of_the_secret(
    consul: ConsulState, stored: Stored, steps: Steps
) -> None:
    assert steps.run(create_token, stored.state) == {"change": "created"}
    assert consul.token(stored.ids.accessor_id) == wanted(stored)
    assert consul.knows(stored.ids.secret_id)
    # A cold process reads its own token, too.
    assert steps.remote_calls == {READ: 1, CREATE: 1, SECRET: 2}


def test_a_pending_version_is_enough(
    consul: ConsulState, secrets: SecretsState, stored: Stored, steps: Steps
) -> None:
    pending = TokenIds.new()
    version_id = secrets.client.put_secret_value(
        SecretId=NAME, SecretString=pending.to_secret_string(), VersionStages=["AWSPENDING"]
    )["VersionId"]
    stored.state["secret"]["version_id"] = version_id
    assert steps.run(create_token, stored.state) == {"change": "created"}
    assert consul.token(pending.accessor_id) == wanted(
        stored, AccessorID=pending.accessor_id, SecretID=pending.secret_id
    )
    assert consul.token(stored.ids.accessor_id) is None


def test_a_token_can_carry_policies_instead_of_identities(
    consul: ConsulState, stored: Stored, steps: Steps
) -> None:
    consul.create_policy(Name="acme-a", Rules="")
    consul.create_policy(Name="acme-b", Rules="")
    stored.state["token"] |= {"service_identities": [], "policies": ["acme-b", "acme-a"]}
    expected = wanted(stored, Policies=["acme-a", "acme-b"], ServiceIdentities=[])
    for change in ("created", "none"):
        assert steps.run(create_token, stored.state) == {"change": change}
        assert consul.token(stored.ids.accessor_id) == expected


def test_a_token_that_is_right_is_not_written_again(
    consul: ConsulState, stored: Stored, steps: Steps
) -> None:
    existing(consul, stored)
    before = consul.modify_index(stored.ids.accessor_id)
    assert steps.run(create_token, stored.state) == {"change": "none"}
    assert consul.modify_index(stored.ids.accessor_id) == before
    assert steps.remote_calls == {READ: 1, SECRET: 2}


def test_a_warm_process_does_not_read_its_own_token_again(
    consul: ConsulState,
    stored: Stored,
    steps: Steps,
    new_process: Callable[[], None],
) -> None:
    del consul
    for change, calls in (
        ("created", {READ: 1, CREATE: 1, SECRET: 2}),
        ("none", {READ: 1, SECRET: 1}),
        ("none", {READ: 1, SECRET: 1}),
    ):
        assert steps.run(create_token, stored.state) == {"change": change}
        assert steps.remote_calls == calls
    new_process()
    steps.run(create_token, stored.state)
    assert steps.remote_calls == {READ: 1, SECRET: 2}


# --- another version meanwhile -------------------------------------------------------------------


def rotate(secrets: SecretsState) -> TokenIds:
    """Let a person put other IDs into the secret."""
    ids = TokenIds.new()
    secrets.put(NAME, ids.to_secret_string())
    return ids


@pytest.mark.parametrize("exists", [False, True])
def test_a_version_that_was_superseded_is_not_made_again_but_what_tasks_pull_is(
    consul: ConsulState, secrets: SecretsState, stored: Stored, steps: Steps, *, exists: bool
) -> None:
    ids = rotate(secrets)
    if exists:
        existing(consul, stored, AccessorID=ids.accessor_id, SecretID=ids.secret_id)
    assert steps.run(create_token, stored.state) == {"change": "superseded"}
    assert consul.token(stored.ids.accessor_id) is None
    assert consul.token(ids.accessor_id) == wanted(
        stored, AccessorID=ids.accessor_id, SecretID=ids.secret_id
    )
    assert steps.remote_calls[SECRET] == 3


def test_a_version_that_was_superseded_by_one_without_ids_leaves_nothing_to_make(
    consul: ConsulState, secrets: SecretsState, stored: Stored, steps: Steps
) -> None:
    secrets.put(NAME, "{}")
    assert steps.run(create_token, stored.state) == {"change": "superseded"}
    assert consul.token(stored.ids.accessor_id) is None
    assert steps.remote_calls == {SECRET: 2}


def test_a_pending_version_whose_predecessor_was_replaced_is_superseded(
    consul: ConsulState, secrets: SecretsState, stored: Stored, steps: Steps
) -> None:
    pending = TokenIds.new()
    version_id = secrets.client.put_secret_value(
        SecretId=NAME, SecretString=pending.to_secret_string(), VersionStages=["AWSPENDING"]
    )["VersionId"]
    stored.state["secret"]["version_id"] = version_id
    ids = TokenIds.new()
    secrets.client.put_secret_value(
        SecretId=NAME,
        SecretString=ids.to_secret_string(),
        VersionStages=["AWSCURRENT", "AWSPENDING"],
    )
    assert steps.run(create_token, stored.state) == {"change": "superseded"}
    assert consul.token(pending.accessor_id) is None
    assert consul.token(ids.accessor_id) is not None


def test_a_pending_version_that_can_still_be_published_is_made_whoever_has_its_label(
    consul: ConsulState, secrets: SecretsState, stored: Stored, steps: Steps
) -> None:
    pending = TokenIds.new()
    version_id = secrets.client.put_secret_value(
        SecretId=NAME, SecretString=pending.to_secret_string(), VersionStages=["AWSPENDING"]
    )["VersionId"]
    stored.state["secret"]["version_id"] = version_id
    secrets.client.put_secret_value(SecretId=NAME, SecretString="{}", VersionStages=["AWSPENDING"])
    assert steps.run(create_token, stored.state) == {"change": "created"}
    assert consul.token(pending.accessor_id) is not None


def test_a_superseded_version_does_not_make_what_holds_no_ids_an_error_of_its_own(
    consul: ConsulState, secrets: SecretsState, stored: Stored, steps: Steps
) -> None:
    del consul
    secrets.put(NAME, "hunter2-hunter2")
    error = steps.fail(create_token, stored.state, InvalidSecret)
    assert str(error).startswith(f"The secret {stored.arn}: the value is not JSON.")


def test_a_mark_goes_when_a_token_is_brought_in_line(
    consul: ConsulState, stored: Stored, steps: Steps
) -> None:
    # Somebody has made a superseded token current again.
    mark = "consul-on-ecs/not-pulled-since: 2026-01-05T20:10:01Z"
    existing(consul, stored, Description=f"{DESCRIPTION}\n{mark}")
    assert steps.run(create_token, stored.state) == {"change": "updated"}
    assert consul.token(stored.ids.accessor_id) == wanted(stored)


# --- drifted -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "drift",
    [
        pytest.param({"ServiceIdentities": [{"ServiceName": "web-2"}]}, id="another identity"),
        pytest.param({"ServiceIdentities": [{"ServiceName": "web"}, {"ServiceName": "x"}]},
                     id="one identity more"),
        pytest.param({"ServiceIdentities": None}, id="no identity"),
        pytest.param({"ServiceIdentities": [{"ServiceName": "web", "Datacenters": ["dc1"]}]},
                     id="an identity in one datacenter only"),
        pytest.param({"Policies": [{"Name": "global-management"}]}, id="a policy more"),
        pytest.param({"NodeIdentities": [{"NodeName": "n", "Datacenter": "dc1"}]},
                     id="a node identity"),
        pytest.param({"Description": f"{DESCRIPTION}\nedited"}, id="another description"),
        pytest.param({"Description": DESCRIPTION.replace("\n", "\r\n")}, id="other line ends"),
    ],
)  # fmt: skip
def test_a_token_that_drifted_is_updated(
    consul: ConsulState, stored: Stored, steps: Steps, drift: dict[str, Any]
) -> None:
    existing(consul, stored, **drift)
    assert steps.run(create_token, stored.state) == {"change": "updated"}
    assert consul.token(stored.ids.accessor_id) == wanted(stored)
    assert steps.remote_calls == {READ: 1, UPDATE: 1, SECRET: 2}
    assert steps.run(create_token, stored.state) == {"change": "none"}


def test_a_role_that_somebody_attached_is_dropped(
    embedded: ConsulState, stored: Stored, steps: Steps
) -> None:
    existing(embedded, stored)
    # The embedded server has no roles: let it say that the token has one.
    token = embedded.call("GET", f"/v1/acl/token/{stored.ids.accessor_id}")
    with_role = json.dumps(token | {"Roles": [{"ID": str(uuid.UUID(int=1)), "Name": "admin"}]})
    embedded.embedded.on_request = lambda method, _: (
        Fault.answer(200, with_role) if method == "GET" else None
    )
    assert steps.run(create_token, stored.state) == {"change": "updated"}
    embedded.embedded.on_request = None
    assert embedded.token(stored.ids.accessor_id) == wanted(stored)


@pytest.mark.parametrize(
    ("fixed", "shown"),
    [
        pytest.param({"Local": True}, {"Local": True}, id="local"),
        pytest.param({"ExpirationTTL": "1h"}, None, id="expiring"),
    ],
)
def test_an_update_repeats_what_consul_does_not_let_it_change(
    consul: ConsulState,
    stored: Stored,
    steps: Steps,
    fixed: dict[str, Any],
    shown: dict[str, Any] | None,
) -> None:
    existing(consul, stored, Description=f"{DESCRIPTION}\nedited", **fixed)
    before = consul.token(stored.ids.accessor_id)
    assert before is not None
    assert steps.run(create_token, stored.state) == {"change": "updated"}
    assert consul.token(stored.ids.accessor_id) == before | {"Description": DESCRIPTION} | (
        shown or {}
    )


def test_a_token_with_another_secret_is_replaced(
    consul: ConsulState, stored: Stored, steps: Steps
) -> None:
    other = str(uuid.uuid4())
    existing(consul, stored, SecretID=other)
    assert steps.run(create_token, stored.state) == {"change": "replaced"}
    assert consul.token(stored.ids.accessor_id) == wanted(stored)
    assert consul.knows(stored.ids.secret_id)
    assert not consul.knows(other)
    assert steps.remote_calls == {READ: 1, DELETE: 1, CREATE: 1, SECRET: 2}


def test_a_deleted_token_comes_back_with_the_same_ids(
    consul: ConsulState, secrets: SecretsState, stored: Stored, steps: Steps
) -> None:
    steps.run(create_token, stored.state)
    before = secrets.versions(NAME)
    consul.call("DELETE", f"/v1/acl/token/{stored.ids.accessor_id}")
    assert steps.run(create_token, stored.state) == {"change": "created"}
    assert consul.token(stored.ids.accessor_id) == wanted(stored)
    assert secrets.versions(NAME) == before


# --- whose is it? --------------------------------------------------------------------------------


def test_a_token_that_hashicorps_controller_made_is_used_as_it_is(
    consul: ConsulState, stored: Stored, steps: Steps
) -> None:
    existing(consul, stored)  # their description is ours, and so are the IDs in their secret
    assert steps.run(create_token, stored.state) == {"change": "none"}


def test_the_very_token_in_our_secret_is_ours_without_a_line_that_says_so(
    consul: ConsulState, stored: Stored, steps: Steps
) -> None:
    # HashiCorp's controller writes no cluster's line to the client token.
    description = f"ECS Consul client Token\nconsul.hashicorp.com/cluster: {CLUSTER_ARN}"
    existing(consul, stored, Description="ECS Consul client Token", ServiceIdentities=None)
    stored.state["token"] |= {"description": description, "service_identities": []}
    assert steps.run(create_token, stored.state) == {"change": "updated"}
    assert consul.token(stored.ids.accessor_id) == wanted(
        stored, Description=description, ServiceIdentities=[]
    )


FOREIGN = (
    "The accessor ID {accessor_id} in the secret {arn} is that of a Consul token that {whose}. "
    "Give each cluster a secrets.prefix of its own, or put {{}} into the secret to have new IDs "
    "made."
)


@pytest.mark.parametrize(
    ("changes", "whose"),
    [
        pytest.param({"Description": "made by hand", "SecretID": str(uuid.uuid4())}, "is not ours",
                     id="no line, another secret"),
        pytest.param({"Description": f"not {DESCRIPTION.splitlines()[1]}",
                      "SecretID": str(uuid.uuid4())}, "is not ours",
                     id="our line inside of another, another secret"),
        pytest.param({"Description": f"{DESCRIPTION}-2"},
                     f"belongs to the cluster {CLUSTER_ARN}-2",
                     id="a cluster whose name begins with ours"),
        pytest.param({"Description": DESCRIPTION[:-1]},
                     f"belongs to the cluster {CLUSTER_ARN[:-1]}",
                     id="a cluster with whose name ours begins"),
        pytest.param({"Description": f"{DESCRIPTION}-2", "SecretID": str(uuid.uuid4())},
                     f"belongs to the cluster {CLUSTER_ARN}-2",
                     id="another cluster, another secret"),
    ],
)  # fmt: skip
def test_a_foreign_token_is_refused_and_not_touched(
    consul: ConsulState, stored: Stored, steps: Steps, changes: dict[str, Any], whose: str
) -> None:
    existing(consul, stored, **changes)
    before = consul.modify_index(stored.ids.accessor_id), consul.token(stored.ids.accessor_id)
    error = steps.fail(create_token, stored.state, ForeignObject)
    assert str(error) == FOREIGN.format(
        accessor_id=stored.ids.accessor_id, arn=stored.arn, whose=whose
    )
    after = consul.modify_index(stored.ids.accessor_id), consul.token(stored.ids.accessor_id)
    assert after == before


@pytest.mark.parametrize("secret_id", ["the same", "another"])
def test_the_token_of_another_of_our_services_is_refused_and_not_touched(
    consul: ConsulState, stored: Stored, steps: Steps, secret_id: str
) -> None:
    other: dict[str, Any] = {"Description": DESCRIPTION.replace("web", "billing")}
    if secret_id == "another":
        other["SecretID"] = str(uuid.uuid4())
    existing(consul, stored, **other)
    before = consul.token(stored.ids.accessor_id)
    error = steps.fail(create_token, stored.state, SecretNameCollision)
    assert str(error) == (
        f'The secret {stored.arn} is to hold the token of the service "web", but holds that of '
        '"billing". Two services must not share a secret: give one of them another name, or each '
        "controller a secrets.prefix of its own."
    )
    assert consul.token(stored.ids.accessor_id) == before


def test_a_secret_id_that_another_token_has_is_refused(
    consul: ConsulState, stored: Stored, steps: Steps
) -> None:
    other = str(uuid.uuid4())
    existing(consul, stored, AccessorID=other)
    error = steps.fail(create_token, stored.state, ForeignObject)
    assert str(error) == (
        f"The token in the secret {stored.arn} is in use in Consul under another accessor ID. Put "
        "{} into the secret to have new IDs made."
    )
    assert consul.token(other) == wanted(stored, AccessorID=other)
    assert consul.token(stored.ids.accessor_id) is None


# --- several at once -----------------------------------------------------------------------------


def test_of_two_that_create_at_once_both_end_well(consul: ConsulState, stored: Stored) -> None:
    results = at_the_same_time([lambda: create_token.handler(stored.state, None)] * 2)
    assert {"change": "created"} in results
    assert all(result in ({"change": "created"}, {"change": "none"}) for result in results)
    assert consul.token(stored.ids.accessor_id) == wanted(stored)


def before_next(consul: ConsulState, method: str, act: Callable[[], object]) -> None:
    """Do something just before the server handles the next request with this method."""

    def on_request(found: str, _path: str) -> None:
        if found == method:
            consul.embedded.on_request = None
            act()

    consul.embedded.on_request = on_request


def test_a_token_that_somebody_creates_between_read_and_write_is_used(
    embedded: ConsulState, stored: Stored, steps: Steps
) -> None:
    before_next(embedded, "PUT", lambda: existing(embedded, stored))
    assert steps.run(create_token, stored.state) == {"change": "none"}
    assert embedded.token(stored.ids.accessor_id) == wanted(stored)
    assert steps.remote_calls == {READ: 2, CREATE: 1, SECRET: 2}


def test_a_token_that_somebody_creates_otherwise_between_read_and_write_is_corrected(
    embedded: ConsulState, stored: Stored, steps: Steps
) -> None:
    identities = [{"ServiceName": "old"}]
    before_next(embedded, "PUT", lambda: existing(embedded, stored, ServiceIdentities=identities))
    assert steps.run(create_token, stored.state) == {"change": "updated"}
    assert embedded.token(stored.ids.accessor_id) == wanted(stored)


def test_a_token_that_somebody_deletes_between_read_and_update_is_made_by_the_next_attempt(
    embedded: ConsulState, stored: Stored, steps: Steps
) -> None:
    existing(embedded, stored, ServiceIdentities=[{"ServiceName": "old"}])
    path = f"/v1/acl/token/{stored.ids.accessor_id}"
    before_next(embedded, "PUT", lambda: embedded.call("DELETE", path))
    error = steps.fail(create_token, stored.state, ConsulObjectGone)
    assert str(error) == (
        f"Somebody deleted {path} in Consul at {embedded.server.address} while it was updated. "
        "The next attempt makes it anew."
    )
    assert steps.run(create_token, stored.state) == {"change": "created"}
    assert embedded.token(stored.ids.accessor_id) == wanted(stored)


def test_of_two_that_replace_at_once_both_end_well(
    embedded: ConsulState, stored: Stored, steps: Steps
) -> None:
    existing(embedded, stored, SecretID=str(uuid.uuid4()))
    # The other one has deleted the old token and made the new one, just before ours does.
    before_next(embedded, "PUT", lambda: existing(embedded, stored))
    assert steps.run(create_token, stored.state) == {"change": "replaced"}
    assert embedded.token(stored.ids.accessor_id) == wanted(stored)


# --- the connection ------------------------------------------------------------------------------


@pytest.mark.parametrize("drop", [Fault.drop_before, Fault.drop_after])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize("before", ["absent", "drifted", "other secret"])
def test_a_connection_that_is_dropped_once_does_no_harm(  # noqa: PLR0917 - a table
    embedded: ConsulState,
    stored: Stored,
    steps: Steps,
    before: str,
    method: str,
    drop: Callable[[], Fault],
) -> None:
    if before == "drifted":
        existing(embedded, stored, ServiceIdentities=None)
    if before == "other secret":
        existing(embedded, stored, SecretID=str(uuid.uuid4()))
    faults = [drop()]
    embedded.embedded.on_request = lambda found, _: (
        faults.pop() if faults and found == method else None
    )
    result = steps.run(create_token, stored.state)
    embedded.embedded.on_request = None
    assert result["change"] in {"created", "updated", "replaced", "none"}
    assert embedded.token(stored.ids.accessor_id) == wanted(stored)


def test_a_server_that_drops_every_connection_is_unavailable(
    embedded: ConsulState, stored: Stored, steps: Steps
) -> None:
    embedded.embedded.on_request = lambda *_: Fault.drop_before()
    error = steps.fail(create_token, stored.state, ConsulUnavailable)
    path = f"/v1/acl/token/{stored.ids.accessor_id}"
    assert str(error).startswith(f"GET {embedded.server.address}{path}: no answer from Consul (")
    assert steps.remote_calls == {READ: 2, SECRET: 2}


@pytest.mark.parametrize("situation", ["no_leader", "starting"])
def test_a_server_that_is_not_ready_is_unavailable(
    embedded: ConsulState, stored: Stored, steps: Steps, situation: Any
) -> None:
    embedded.embedded.state = situation
    error = steps.fail(create_token, stored.state, ConsulUnavailable)
    assert "answered 500 'The ACL system is currently in legacy mode.'." in str(error)
    embedded.embedded.state = "ready"
    assert steps.run(create_token, stored.state) == {"change": "created"}


def test_a_server_that_fails_between_read_and_write_is_unavailable(
    embedded: ConsulState, stored: Stored, steps: Steps
) -> None:
    embedded.embedded.on_request = lambda method, _: (
        Fault.answer(500, "No cluster leader") if method == "PUT" else None
    )
    steps.fail(create_token, stored.state, ConsulUnavailable)
    embedded.embedded.on_request = None
    assert steps.run(create_token, stored.state) == {"change": "created"}


def test_a_server_without_acls_says_what_to_do(
    secrets: SecretsState, stored: Stored, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    arn = secrets.create(CONTROLLER_SECRET, str(uuid.uuid4()))
    monkeypatch.setenv(environment.CONSUL_TOKEN_SECRET_ARN, arn)
    with EmbeddedConsul(acl="disabled") as server:
        monkeypatch.setenv(environment.CONSUL_HTTP_ADDR, server.address)
        error = steps.fail(create_token, stored.state, ConsulAclDisabled)
    assert str(error).endswith("answered 401 'ACL support disabled'. Enable acl on the servers.")


# --- our own token -------------------------------------------------------------------------------


def test_an_own_token_that_was_rotated_is_read_again(
    consul: ConsulState, secrets: SecretsState, stored: Stored, steps: Steps
) -> None:
    management = [{"Name": "global-management"}]
    old = consul.create_token(Policies=management)
    secrets.put(CONTROLLER_SECRET, old["SecretID"])
    assert steps.run(create_token, stored.state) == {"change": "created"}

    new = consul.create_token(Policies=management)
    secrets.put(CONTROLLER_SECRET, json.dumps({"token": new["SecretID"]}))
    consul.call("DELETE", f"/v1/acl/token/{old['AccessorID']}")
    assert steps.run(create_token, stored.state) == {"change": "none"}
    assert steps.remote_calls == {READ: 2, SECRET: 2}
    assert steps.run(create_token, stored.state) == {"change": "none"}
    assert steps.remote_calls == {READ: 1, SECRET: 1}


def test_an_own_token_that_is_refused_before_a_write_is_read_again(
    embedded: ConsulState, secrets: SecretsState, stored: Stored, steps: Steps
) -> None:
    management = [{"Name": "global-management"}]
    old = embedded.create_token(Policies=management)
    secrets.put(CONTROLLER_SECRET, old["SecretID"])

    def rotate() -> None:
        new = embedded.create_token(Policies=management)
        secrets.put(CONTROLLER_SECRET, new["SecretID"])
        embedded.call("DELETE", f"/v1/acl/token/{old['AccessorID']}")

    before_next(embedded, "PUT", rotate)
    assert steps.run(create_token, stored.state) == {"change": "created"}
    assert embedded.token(stored.ids.accessor_id) == wanted(stored)


@pytest.mark.parametrize(
    "token", [str(uuid.uuid4()), json.dumps({"token": str(uuid.uuid4())})], ids=["bare", "in JSON"]
)
def test_an_own_token_that_consul_does_not_know_names_its_secret(
    consul: ConsulState, secrets: SecretsState, stored: Stored, steps: Steps, token: str
) -> None:
    secrets.put(CONTROLLER_SECRET, token)
    error = steps.fail(create_token, stored.state, ConsulTokenRejected)
    assert str(error) == (
        f"Consul at {consul.server.address} does not know the token in the secret "
        f"{secrets.arn(CONTROLLER_SECRET)}. If you manage that secret, put a valid token there; "
        "then start ClusterBootstrap, which makes the controller's own token anew."
    )
    # The same token again would be refused again: it is not sent.
    assert steps.remote_calls == {READ: 1, SECRET: 3}
    assert consul.token(stored.ids.accessor_id) is None


def the_controller_may_only_read_acls(consul: ConsulState, secrets: SecretsState) -> None:
    consul.create_policy(Name="acme-reader", Rules=ACL_READ_RULES)
    reader = consul.create_token(Policies=[{"Name": "acme-reader"}])
    secrets.put(CONTROLLER_SECRET, reader["SecretID"])


def test_an_own_token_that_may_only_read_acls_cannot_create(
    consul: ConsulState, secrets: SecretsState, stored: Stored, steps: Steps
) -> None:
    the_controller_may_only_read_acls(consul, secrets)
    error = steps.fail(create_token, stored.state, ConsulPermissionDenied)
    assert str(error) == (
        f"PUT /v1/acl/token: Consul at {consul.server.address} answered 403 'Permission denied'. "
        "The token needs acl:write."
    )


def test_an_own_token_that_may_only_read_acls_sees_no_secrets_to_compare(
    consul: ConsulState, secrets: SecretsState, stored: Stored, steps: Steps
) -> None:
    the_controller_may_only_read_acls(consul, secrets)
    existing(consul, stored)
    error = steps.fail(create_token, stored.state, ConsulPermissionDenied)
    assert str(error) == (
        "The controller's token may read ACL tokens but not write them. Give it acl:write."
    )
    assert consul.token(stored.ids.accessor_id) == wanted(stored)


def test_an_own_token_without_any_right_is_denied(
    consul: ConsulState, secrets: SecretsState, stored: Stored, steps: Steps
) -> None:
    nobody = consul.create_token()
    secrets.put(CONTROLLER_SECRET, nobody["SecretID"])
    steps.fail(create_token, stored.state, ConsulPermissionDenied)
    assert steps.remote_calls == {READ: 1, SECRET: 2}


@pytest.mark.parametrize("value", ["{}", "", None], ids=["empty object", "empty", "no value"])
def test_before_the_cluster_is_bootstrapped_there_is_no_own_token(
    secrets: SecretsState,
    stored: Stored,
    steps: Steps,
    monkeypatch: pytest.MonkeyPatch,
    value: str | None,
) -> None:
    arn = secrets.create("own", value or None)
    if value == "":
        # AWS takes no empty value, but a client may have stored blanks.
        secrets.put("own", " ")
    monkeypatch.setenv(environment.CONSUL_TOKEN_SECRET_ARN, arn)
    monkeypatch.setenv(environment.CONSUL_HTTP_ADDR, "http://127.0.0.1:9")
    error = steps.fail(create_token, stored.state, ClusterNotBootstrapped)
    assert str(error) == (
        f"The secret {arn} holds no token yet. ClusterBootstrap puts it there: start it, or look "
        "why its last execution failed."
    )


# --- input ---------------------------------------------------------------------------------------


def test_a_version_without_ids_is_refused_before_consul_is_asked(
    consul: ConsulState, secrets: SecretsState, stored: Stored, steps: Steps
) -> None:
    del consul
    stored.state["secret"]["version_id"] = secrets.put(NAME, "{}")
    error = steps.fail(create_token, stored.state, InvalidSecret)
    assert str(error).startswith(f"The secret {stored.arn}: there are no IDs in it yet.")
    assert steps.remote_calls == {SECRET: 1}


def test_a_version_that_is_not_there_yet_is_worth_another_try(
    consul: ConsulState, stored: Stored, steps: Steps
) -> None:
    del consul
    stored.state["secret"]["version_id"] = str(uuid.uuid4())
    steps.fail(create_token, stored.state, AwsUnavailable)


def test_a_policy_that_does_not_exist_is_named(
    consul: ConsulState, stored: Stored, steps: Steps
) -> None:
    stored.state["token"]["policies"] = ["acme-nope"]
    error = steps.fail(create_token, stored.state, ConsulRequestInvalid)
    assert 'No such ACL policy with name "acme-nope"' in str(error)
    assert consul.token(stored.ids.accessor_id) is None


@pytest.mark.parametrize("policies", [None, "acme-a", [7]])
def test_policies_that_are_no_names_are_the_workflows_fault(
    consul: ConsulState, stored: Stored, steps: Steps, policies: Any
) -> None:
    del consul
    stored.state["token"]["policies"] = policies
    error = steps.fail(create_token, stored.state, InvalidStepInput)
    assert 'needs "token.policies", a list' in str(error)


def test_ids_in_capitals_are_compared_as_consul_does(
    consul: ConsulState, secrets: SecretsState, stored: Stored, steps: Steps
) -> None:
    upper = TokenIds(stored.ids.accessor_id.upper(), stored.ids.secret_id.upper())
    stored.state["secret"]["version_id"] = secrets.put(NAME, upper.to_secret_string())
    assert steps.run(create_token, stored.state) == {"change": "created"}
    assert steps.run(create_token, stored.state) == {"change": "none"}
    assert consul.knows(upper.secret_id)


def test_the_log_tells_what_was_done_and_no_more(
    consul: ConsulState,
    stored: Stored,
    steps: Steps,
    log: Callable[[], list[logging.LogRecord]],
) -> None:
    del consul
    steps.run(create_token, stored.state | {"execution": "arn:of:the:execution"})
    (record,) = log()
    assert record.getMessage() == "Step finished"
    assert vars(record)["step"] == "create_token"
    assert vars(record)["execution"] == "arn:of:the:execution"
    assert vars(record)["remote_calls"] == {READ: 1, CREATE: 1, SECRET: 2}
    assert stored.ids.secret_id not in repr(vars(record))


def test_a_token_that_names_the_cluster_by_its_short_name_is_ours_if_it_is_the_very_one(
    consul: ConsulState, stored: Stored, steps: Steps
) -> None:
    # As HashiCorp's controller writes it on the EC2 launch type.
    short = wanted(stored)["Description"].replace(CLUSTER_ARN, CLUSTER_ARN.rpartition("/")[2])
    existing(consul, stored, Description=short)
    assert steps.run(create_token, stored.state) == {"change": "updated"}
    assert consul.token(stored.ids.accessor_id) == wanted(stored)


def test_a_token_that_names_the_cluster_by_its_short_name_is_foreign_with_another_secret_id(
    consul: ConsulState, stored: Stored, steps: Steps
) -> None:
    short = wanted(stored)["Description"].replace(CLUSTER_ARN, CLUSTER_ARN.rpartition("/")[2])
    existing(consul, stored, Description=short, SecretID=str(uuid.uuid4()))
    steps.fail(create_token, stored.state, ForeignObject)
