"""There is a management token afterwards, and its secret holds it, whatever happened before.

The situations are those of consul-k8s's ACL bootstrap job, and a death at each point in between.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from handlers import bootstrap_acls
from handlers.clients import aws
from handlers.clients.consul import ConsulClient
from handlers.core import environment
from handlers.core.errors import (
    AwsThrottled,
    AwsUnavailable,
    ConsulAclDisabled,
    ConsulAlreadyBootstrapped,
    ConsulRequestInvalid,
    ConsulTokenRejected,
    ConsulUnavailable,
    InvalidSecret,
    SecretMarkedForDeletion,
)
from handlers.core.token_secret import EMPTY
from local.consul import EmbeddedConsul, Fault
from local.consul.api import Flavour
from tests.unit.aws_state import SecretsState, answering
from tests.unit.conftest import FLAVOURS
from tests.unit.consul_state import be_impatient
from tests.unit.steps import Steps, at_the_same_time

NAME = "acme/consul-bootstrap-token"
SELF = "consul:GET /v1/acl/token/self"
BOOTSTRAP = "consul:PUT /v1/acl/bootstrap"
GET = "secretsmanager:GetSecretValue"
PUT = "secretsmanager:PutSecretValue"
PUBLISH = "secretsmanager:UpdateSecretVersionStage"


class NewConsul:
    """A server whose ACL system waits to be bootstrapped, and the secret for its token."""

    def __init__(self, server: EmbeddedConsul, secrets: SecretsState, flavour: Flavour) -> None:
        self.server = server
        self.flavour = flavour
        self.secret_arn = secrets.create(NAME, EMPTY)
        self._secrets = secrets

    def client(self) -> ConsulClient:
        return ConsulClient(self.server.address)

    def is_management_token(self, secret_id: str) -> bool:
        client = ConsulClient(self.server.address, token=_Token(secret_id))
        return client.read_policy("global-management") is not None

    def bootstrap_by_hand(self) -> str:
        """Bootstrap as an operator would, without storing the token."""
        return self.client().bootstrap(str(uuid.uuid4()))

    @property
    def stored_token(self) -> str:
        """What the secret holds."""
        return self._secrets.current(NAME)


class _Token:
    def __init__(self, secret_id: str) -> None:
        self._secret_id = secret_id

    def value(self) -> str:
        return self._secret_id

    read_again = value


@pytest.fixture(params=FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> Flavour:
    found: Flavour = request.param
    return found


@pytest.fixture
def new_consul(
    secrets: SecretsState, monkeypatch: pytest.MonkeyPatch, flavour: Flavour
) -> Iterator[NewConsul]:
    with EmbeddedConsul(flavour=flavour) as server:
        new = NewConsul(server, secrets, flavour)
        monkeypatch.setenv(environment.CONSUL_HTTP_ADDR, server.address)
        monkeypatch.setenv(environment.CONSUL_TOKEN_SECRET_ARN, new.secret_arn)
        yield new


# --- a new ACL system ----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [EMPTY, " ", None], ids=["empty object", "blank", "no value"])
def test_a_new_acl_system_is_bootstrapped_and_its_token_stored(
    new_consul: NewConsul,
    secrets: SecretsState,
    steps: Steps,
    monkeypatch: pytest.MonkeyPatch,
    value: str | None,
) -> None:
    monkeypatch.setenv(environment.CONSUL_TOKEN_SECRET_ARN, secrets.create("mine", value))
    assert steps.run(bootstrap_acls, {}) == {"bootstrapped": True}
    assert new_consul.is_management_token(secrets.current("mine"))


def test_the_token_is_ours_where_consul_takes_it_and_the_servers_where_not(
    new_consul: NewConsul, secrets: SecretsState, steps: Steps
) -> None:
    steps.run(bootstrap_acls, {})
    stages = secrets.stages(NAME)
    if new_consul.flavour == "current":
        assert stages == {
            "AWSPENDING": new_consul.stored_token,
            "AWSCURRENT": new_consul.stored_token,
            "AWSPREVIOUS": EMPTY,
        }
        assert steps.remote_calls == {BOOTSTRAP: 1, GET: 1, PUT: 1, PUBLISH: 1}
    else:
        assert stages["AWSCURRENT"] != stages["AWSPENDING"]
        assert not new_consul.client().knows_token(stages["AWSPENDING"])
        assert steps.remote_calls == {BOOTSTRAP: 1, GET: 1, PUT: 2}


def test_a_second_run_finds_the_token_and_changes_nothing(
    new_consul: NewConsul, secrets: SecretsState, steps: Steps
) -> None:
    del new_consul
    steps.run(bootstrap_acls, {})
    before = secrets.versions(NAME)
    assert steps.run(bootstrap_acls, {}) == {"bootstrapped": False}
    assert secrets.versions(NAME) == before
    assert steps.remote_calls == {SELF: 1, GET: 1}


# --- a token that is there -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(lambda token: token, id="plain text, as HashiCorp's modules store it"),
        pytest.param(lambda token: f"{token}\n", id="with a line end"),
        pytest.param(lambda token: json.dumps({"token": token}), id="JSON"),
        pytest.param(lambda token: json.dumps({"token": token, "accessor_id": str(uuid.uuid4())}),
                     id="JSON with another key"),
    ],
)  # fmt: skip
def test_a_token_that_somebody_stored_is_taken(
    new_consul: NewConsul, secrets: SecretsState, steps: Steps, written: Callable[[str], str]
) -> None:
    secrets.put(NAME, written(new_consul.bootstrap_by_hand()))
    before = secrets.versions(NAME)
    assert steps.run(bootstrap_acls, {}) == {"bootstrapped": False}
    assert secrets.versions(NAME) == before
    assert steps.remote_calls == {SELF: 1, GET: 1}


@pytest.mark.parametrize("acls", ["bootstrapped", "new"])
def test_a_token_that_consul_does_not_know_is_neither_used_nor_overwritten(
    new_consul: NewConsul, secrets: SecretsState, steps: Steps, acls: str
) -> None:
    if acls == "bootstrapped":
        new_consul.bootstrap_by_hand()
    wrong = str(uuid.uuid4())
    secrets.put(NAME, wrong)
    before = secrets.versions(NAME)
    error = steps.fail(bootstrap_acls, {}, ConsulTokenRejected)
    assert str(error) == (
        f"Consul does not know the token in the secret {new_consul.secret_arn}. Put a management "
        "token of this Consul there; or, if Consul is new, put {} there to have it bootstrapped."
    )
    assert secrets.versions(NAME) == before


@pytest.mark.parametrize(
    "value", ["two words here", '{"SecretID": "hunter2-hunter2"}', '{"token": "hunter2-hun'],
    ids=["two words", "another key", "JSON cut off"],
)  # fmt: skip
def test_a_secret_that_holds_something_else_is_not_overwritten(
    new_consul: NewConsul, secrets: SecretsState, steps: Steps, value: str
) -> None:
    secrets.put(NAME, value)
    before = secrets.versions(NAME)
    error = steps.fail(bootstrap_acls, {}, InvalidSecret)
    assert str(error).startswith(f"The secret {new_consul.secret_arn}: ")
    assert secrets.versions(NAME) == before
    assert new_consul.server.requests == []


# --- bootstrapped already ------------------------------------------------------------------------


def test_if_nobody_stored_the_token_the_operator_learns_what_to_do(
    new_consul: NewConsul, secrets: SecretsState, steps: Steps
) -> None:
    token = new_consul.bootstrap_by_hand()
    text = str(steps.fail(bootstrap_acls, {}, ConsulAlreadyBootstrapped))
    number = text.partition("write ")[2].partition(" to")[0]
    assert number.isdecimal()
    assert text == (
        f"The ACL system of Consul at {new_consul.server.address} is bootstrapped already. To "
        f"reset it, write {number} to the file acl-bootstrap-reset in the data directory of the "
        "leader, then run ClusterBootstrap again. If somebody still has a management token, put "
        f"it into the secret {new_consul.secret_arn} instead, which is empty. "
        "An earlier deployment's secret may still have it: it has the tag "
        "consul.hashicorp.com/cluster."
    )
    assert secrets.current(NAME) == EMPTY
    # The operator does it, and the next run goes through.
    secrets.put(NAME, token)
    assert steps.run(bootstrap_acls, {}) == {"bootstrapped": False}


def test_a_server_that_names_no_reset_index_has_it_in_its_log(
    new_consul: NewConsul, steps: Steps
) -> None:
    refusal = Fault.answer(403, "Permission denied: ACL bootstrap no longer allowed")
    new_consul.server.on_request = lambda method, _: refusal if method == "PUT" else None
    error = steps.fail(bootstrap_acls, {}, ConsulAlreadyBootstrapped)
    assert "write the reset index from the server's log to the file" in str(error)


# --- deaths in between ---------------------------------------------------------------------------


def test_a_run_that_died_after_it_stored_the_pending_token_is_finished(
    new_consul: NewConsul, secrets: SecretsState, steps: Steps
) -> None:
    new_consul.server.state = "starting"
    steps.fail(bootstrap_acls, {}, ConsulUnavailable)
    pending = secrets.stages(NAME)["AWSPENDING"]
    assert secrets.current(NAME) == EMPTY
    new_consul.server.state = "ready"
    assert steps.run(bootstrap_acls, {}) == {"bootstrapped": True}
    assert new_consul.is_management_token(new_consul.stored_token)
    assert (new_consul.stored_token == pending) == (new_consul.flavour == "current")


@pytest.mark.parametrize("flavour", ["current"])
@pytest.mark.parametrize("answer", ["lost", "read"])
def test_a_run_that_died_before_it_published_loses_nothing(
    new_consul: NewConsul, secrets: SecretsState, steps: Steps, answer: str
) -> None:
    if answer == "lost":
        new_consul.server.on_request = lambda *_: Fault.drop_after()
        steps.fail(bootstrap_acls, {}, ConsulUnavailable)
        new_consul.server.on_request = None
    else:
        client = aws.client("secretsmanager")
        with answering(client, "UpdateSecretVersionStage", status=400, code="ThrottlingException"):
            steps.fail(bootstrap_acls, {}, AwsThrottled)
    assert secrets.current(NAME) == EMPTY
    pending = secrets.stages(NAME)["AWSPENDING"]
    assert steps.run(bootstrap_acls, {}) == {"bootstrapped": True}
    assert new_consul.stored_token == pending
    assert new_consul.is_management_token(pending)


@pytest.mark.parametrize("flavour", ["1.10"])
def test_the_answer_of_an_old_server_is_the_only_copy_of_its_token(
    new_consul: NewConsul, secrets: SecretsState, steps: Steps
) -> None:
    new_consul.server.on_request = lambda *_: Fault.drop_after()
    steps.fail(bootstrap_acls, {}, ConsulUnavailable)
    new_consul.server.on_request = None
    error = steps.fail(bootstrap_acls, {}, ConsulAlreadyBootstrapped)
    assert "acl-bootstrap-reset" in str(error)
    assert secrets.current(NAME) == EMPTY


def test_a_bootstrap_is_not_sent_twice_over_a_connection_that_broke(
    new_consul: NewConsul, steps: Steps
) -> None:
    # The second one would be refused by the first one's success, whose answer is still to come.
    new_consul.server.on_request = lambda *_: Fault.drop_after()
    steps.fail(bootstrap_acls, {}, ConsulUnavailable)
    assert steps.remote_calls[BOOTSTRAP] == 1


@pytest.mark.parametrize("situation", ["no_leader", "starting"])
def test_a_server_that_is_not_ready_is_unavailable_and_tried_again(
    new_consul: NewConsul, steps: Steps, situation: Any
) -> None:
    new_consul.server.state = situation
    for _ in range(3):
        steps.fail(bootstrap_acls, {}, ConsulUnavailable)
    new_consul.server.state = "ready"
    assert steps.run(bootstrap_acls, {}) == {"bootstrapped": True}


def test_a_server_that_is_not_there_yet_is_unavailable_and_tried_again(
    new_consul: NewConsul, steps: Steps
) -> None:
    new_consul.server.stop()
    steps.fail(bootstrap_acls, {}, ConsulUnavailable)
    new_consul.server.start()
    assert steps.run(bootstrap_acls, {}) == {"bootstrapped": True}


def test_a_slow_server_gets_the_time_it_needs(
    new_consul: NewConsul, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With the time-out of other calls, this one would give up before it is answered.
    be_impatient(monkeypatch)
    new_consul.server.on_request = lambda method, _: Fault.delay(0.2) if method == "PUT" else None
    assert steps.run(bootstrap_acls, {}) == {"bootstrapped": True}


# --- two at once ---------------------------------------------------------------------------------


def test_of_two_runs_at_once_no_token_is_lost(new_consul: NewConsul, secrets: SecretsState) -> None:
    results = at_the_same_time([lambda: bootstrap_acls.handler({}, None)] * 2)
    errors = [result for result in results if isinstance(result, Exception)]
    if new_consul.flavour == "current":
        assert errors == []
    else:
        # The winner may not have stored its token yet; the workflow tries this again.
        assert all(isinstance(error, ConsulAlreadyBootstrapped) for error in errors)
        assert len(errors) <= 1
    assert {"bootstrapped": True} in results
    assert new_consul.is_management_token(new_consul.stored_token)
    assert bootstrap_acls.handler({}, None) == {"bootstrapped": False}
    assert secrets.current(NAME) == new_consul.stored_token


def test_a_token_that_another_run_stores_meanwhile_is_taken(
    new_consul: NewConsul, secrets: SecretsState, steps: Steps
) -> None:
    token = new_consul.bootstrap_by_hand()

    def store(method: str, path: str) -> None:
        if (method, path) == ("GET", "/v1/acl/token/self"):
            new_consul.server.on_request = None
            secrets.put(NAME, token)

    new_consul.server.on_request = store
    assert steps.run(bootstrap_acls, {}) == {"bootstrapped": False}
    assert secrets.current(NAME) == token


@pytest.mark.parametrize("flavour", ["current"])
def test_a_wrong_token_that_somebody_stores_meanwhile_does_not_hide_the_error(
    new_consul: NewConsul, secrets: SecretsState, steps: Steps
) -> None:
    new_consul.bootstrap_by_hand()

    def store(method: str, path: str) -> None:
        if (method, path) == ("GET", "/v1/acl/token/self"):
            new_consul.server.on_request = None
            secrets.put(NAME, str(uuid.uuid4()))

    new_consul.server.on_request = store
    steps.fail(bootstrap_acls, {}, ConsulAlreadyBootstrapped)


# --- other failures ------------------------------------------------------------------------------


def test_a_server_without_acls_says_what_to_do(
    secrets: SecretsState, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmbeddedConsul(acl="disabled") as server:
        monkeypatch.setenv(environment.CONSUL_HTTP_ADDR, server.address)
        monkeypatch.setenv(environment.CONSUL_TOKEN_SECRET_ARN, secrets.create(NAME, EMPTY))
        error = steps.fail(bootstrap_acls, {}, ConsulAclDisabled)
    assert str(error).endswith("answered 401 'ACL support disabled'. Enable acl on the servers.")


def test_a_wrong_reset_index_is_passed_on(new_consul: NewConsul, steps: Steps) -> None:
    text = "Invalid bootstrap reset index (specified 7, reset index: 9)"
    new_consul.server.on_request = lambda method, _: (
        Fault.answer(500, text) if method == "PUT" else None
    )
    error = steps.fail(bootstrap_acls, {}, ConsulRequestInvalid)
    assert text in str(error)


@pytest.mark.parametrize(
    "answer", ["[]", "{}", '{"SecretID": 7}', '{"SecretID": "hunter2-hunter2"'],
    ids=["a list", "empty", "a number", "cut off"],
)  # fmt: skip
def test_an_answer_that_is_not_consuls_is_not_stored(
    new_consul: NewConsul, secrets: SecretsState, steps: Steps, answer: str
) -> None:
    new_consul.server.on_request = lambda *_: Fault.answer(200, answer)
    error = steps.fail(bootstrap_acls, {}, ConsulUnavailable)
    assert str(error) == (
        "Bootstrapping the ACL system: the answer from "
        f"{new_consul.server.address} is not Consul's. Is it the address?"
    )
    assert "hunter2" not in "".join(steps.outputs)
    assert secrets.current(NAME) == EMPTY


def test_a_refusal_that_repeats_the_chosen_token_does_not_pass_it_on(
    new_consul: NewConsul, secrets: SecretsState, steps: Steps
) -> None:
    def repeat(method: str, _path: str) -> Fault | None:
        pending = secrets.stages(NAME)["AWSPENDING"]
        return Fault.answer(500, f"Invalid token {pending}") if method == "PUT" else None

    new_consul.server.on_request = repeat
    error = steps.fail(bootstrap_acls, {}, ConsulRequestInvalid)
    assert "'Invalid token <secret>'" in str(error)


@pytest.mark.parametrize("flavour", ["1.10"])
def test_the_only_copy_of_a_token_is_stored_with_more_patience(
    new_consul: NewConsul, steps: Steps
) -> None:
    patient = aws.client("secretsmanager", attempts=8)
    assert patient.meta.config.retries["total_max_attempts"] == 8
    with answering(patient, "PutSecretValue", status=400, code="ThrottlingException"):
        # It is this client that stores it: the other one, which stored the pending token, works.
        steps.fail(bootstrap_acls, {}, AwsThrottled)
    assert BOOTSTRAP in steps.remote_calls
    assert new_consul.stored_token == EMPTY


def test_a_secret_in_its_recovery_window_says_how_to_get_it_back(
    new_consul: NewConsul, secrets: SecretsState, steps: Steps
) -> None:
    secrets.client.delete_secret(SecretId=NAME, RecoveryWindowInDays=7)
    steps.fail(bootstrap_acls, {}, SecretMarkedForDeletion)
    assert new_consul.server.requests == []
    secrets.client.restore_secret(SecretId=NAME)


def test_a_secret_that_is_not_there_is_named(
    new_consul: NewConsul, secrets: SecretsState, steps: Steps
) -> None:
    secrets.client.delete_secret(SecretId=NAME, ForceDeleteWithoutRecovery=True)
    error = steps.fail(bootstrap_acls, {}, AwsUnavailable)
    assert new_consul.secret_arn in str(error)
    assert new_consul.server.requests == []
