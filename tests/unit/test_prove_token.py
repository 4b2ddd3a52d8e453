"""Consul is asked with the new token, before any task is."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from handlers import prove_token, store_secret
from handlers.core.errors import (
    AwsThrottled,
    AwsUnavailable,
    ConsulUnavailable,
    InvalidSecret,
    InvalidStepInput,
    TokenNotVisibleYet,
)
from local.consul import Fault
from tests.unit.aws_state import SecretsState, answering
from tests.unit.mesh_state import MeshState
from tests.unit.steps import Steps

NAME = "acme-web"
WEB = {"service": "web"}
SELF = "consul:GET /v1/acl/token/self"
SECRET = "secretsmanager:GetSecretValue"


@pytest.fixture
def stored(mesh: MeshState, steps: Steps) -> dict[str, Any]:
    """What `store_secret` returned: new IDs of a service are pending."""
    mesh.add_service("web")
    return steps.run(store_secret, {"secret": {"id": NAME}, "renew": WEB})


def test_a_token_that_consul_knows_is_proven_with_itself(
    mesh: MeshState, steps: Steps, stored: dict[str, Any], new_process: Callable[[], None]
) -> None:
    mesh.service_token("web", ids=mesh.pending_ids())
    new_process()
    assert steps.run(prove_token, {"secret": stored}) == {"proven": True}
    # Our own token is not used: the step needs none.
    assert steps.remote_calls == {SECRET: 1, SELF: 1}


def test_a_published_token_is_proven_too(
    mesh: MeshState, steps: Steps, stored: dict[str, Any]
) -> None:
    mesh.service_token("web", ids=mesh.pending_ids())
    mesh.secrets.client.update_secret_version_stage(
        SecretId=NAME,
        VersionStage="AWSCURRENT",
        MoveToVersionId=stored["version_id"],
        RemoveFromVersionId=stored["replaces_version_id"],
    )
    assert steps.run(prove_token, {"secret": stored}) == {"proven": True}


def test_a_token_that_consul_does_not_know_yet_is_waited_for(
    mesh: MeshState, steps: Steps, stored: dict[str, Any]
) -> None:
    new = mesh.pending_ids()
    error = steps.fail(prove_token, {"secret": stored}, TokenNotVisibleYet)
    assert str(error) == (
        f"Consul does not know the new token {new.accessor_id} of the secret {stored['arn']}. A "
        "server that is behind learns of it soon; if not, somebody has deleted it."
    )
    mesh.service_token("web", ids=new)
    assert steps.run(prove_token, {"secret": stored}) == {"proven": True}


def test_a_token_of_the_same_accessor_id_with_another_secret_proves_nothing(
    mesh: MeshState, steps: Steps, stored: dict[str, Any]
) -> None:
    mesh.consul.create_token(AccessorID=mesh.pending_ids().accessor_id)
    steps.fail(prove_token, {"secret": stored}, TokenNotVisibleYet)


def test_a_version_that_was_superseded_needs_no_proof(
    secrets: SecretsState, steps: Steps, mesh: MeshState, stored: dict[str, Any]
) -> None:
    del mesh
    secrets.client.put_secret_value(
        SecretId=NAME, SecretString="{}", VersionStages=["AWSCURRENT", "AWSPENDING"]
    )
    assert steps.run(prove_token, {"secret": stored}) == {"proven": False}
    assert SELF not in steps.remote_calls


def test_a_version_that_can_still_be_published_is_proven_whoever_has_its_label(
    mesh: MeshState, steps: Steps, stored: dict[str, Any]
) -> None:
    mesh.service_token("web", ids=mesh.pending_ids())
    mesh.secrets.client.put_secret_value(
        SecretId=NAME, SecretString="{}", VersionStages=["AWSPENDING"]
    )
    assert steps.run(prove_token, {"secret": stored}) == {"proven": True}


def test_a_server_that_fails_proves_nothing(embedded_mesh: MeshState, steps: Steps) -> None:
    mesh = embedded_mesh
    mesh.add_service("web")
    stored = steps.run(store_secret, {"secret": {"id": NAME}, "renew": WEB})
    mesh.consul.embedded.on_request = lambda *_: Fault.answer(500, "No cluster leader")
    steps.fail(prove_token, {"secret": stored}, ConsulUnavailable)


def test_a_version_without_ids_is_refused(
    mesh: MeshState, steps: Steps, stored: dict[str, Any]
) -> None:
    empty = mesh.secrets.put(NAME, "{}")
    secret = {**stored, "version_id": empty, "replaces_version_id": empty}
    steps.fail(prove_token, {"secret": secret}, InvalidSecret)
    assert SELF not in steps.remote_calls


def test_what_secrets_manager_does_not_answer_is_worth_another_try(
    mesh: MeshState, steps: Steps, stored: dict[str, Any]
) -> None:
    with answering(mesh.secrets.client, "GetSecretValue", status=400, code="ThrottlingException"):
        steps.fail(prove_token, {"secret": stored}, AwsThrottled)
    absent = {**stored, "version_id": str(uuid.uuid4())}
    steps.fail(prove_token, {"secret": absent}, AwsUnavailable)


@pytest.mark.parametrize("missing", ["arn", "version_id", "replaces_version_id"])
def test_an_input_without_one_of_its_parts_is_the_workflows_fault(
    steps: Steps, stored: dict[str, Any], missing: str
) -> None:
    del stored[missing]
    error = steps.fail(prove_token, {"secret": stored}, InvalidStepInput)
    assert str(error) == f'The input of the step needs "secret.{missing}", a string.'
