"""The servers' CA has a certificate that lasts, always of the one key that KMS keeps."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from handlers import issue_ca_certificate
from handlers.clients import aws
from handlers.clients.secrets_manager import derived_version_id
from handlers.core.errors import (
    AwsAccessDenied,
    AwsRequestRefused,
    AwsThrottled,
    AwsUnavailable,
    InvalidConfiguration,
    InvalidSecret,
    InvalidStepInput,
    StepError,
)
from tests.unit.aws_state import SecretsState, answering
from tests.unit.certificates import CA, Certificates, before_each
from tests.unit.mesh_state import Clock
from tests.unit.steps import Steps, at_the_same_time

GET = "secretsmanager:GetSecretValue"
DESCRIBE = "secretsmanager:DescribeSecret"
PUT = "secretsmanager:PutSecretValue"
PUBLISH = "secretsmanager:UpdateSecretVersionStage"
KEY = "kms:GetPublicKey"
SIGN = "kms:Sign"
TEN_YEARS = timedelta(days=3650)


def text(moment: Any) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


# --- issuing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, "{}", " "], ids=repr)
def test_the_first_certificate_is_signed_by_the_key_itself(
    certificates: Certificates,
    secrets: SecretsState,
    steps: Steps,
    clock: Clock,
    value: str | None,
) -> None:
    if value is not None:
        secrets.put(CA, value)

    result = steps.run(issue_ca_certificate, certificates.for_ca())

    found = certificates.ca
    assert result == {
        "arn": certificates.ca_arn,
        "version_id": secrets.current_id(CA),
        "expires": text(clock.moment + TEN_YEARS),
        "issued": True,
    }
    assert found.not_valid_after_utc == clock.moment + TEN_YEARS
    assert found.not_valid_before_utc == clock.ago(minutes=5)
    assert found.subject.rfc4514_string() == "CN=Consul CA dc1"
    found.verify_directly_issued_by(found)
    public = certificates.kms.get_public_key(KeyId=certificates.ca_key)["PublicKey"]
    assert found.public_key() == serialization.load_der_public_key(public)
    calls = {GET: 2, KEY: 1, SIGN: 1, PUT: 1, PUBLISH: 1}
    assert steps.remote_calls == (calls | {PUT: 2, DESCRIBE: 1} if value is None else calls)


def test_a_certificate_that_lasts_stays_and_takes_two_calls(
    certificates: Certificates, secrets: SecretsState, steps: Steps, clock: Clock
) -> None:
    first = steps.run(issue_ca_certificate, certificates.for_ca())
    before = secrets.versions(CA)
    for _ in range(3):
        assert steps.run(issue_ca_certificate, certificates.for_ca()) == {**first, "issued": False}
        assert steps.remote_calls == {GET: 1, KEY: 1}
        clock.let_pass(days=900)
    assert secrets.versions(CA) == before


@pytest.mark.parametrize(
    ("lifetime_days", "renewed_after_days"), [(3650, 2920), (1460, 730), (100, 50), (1, 0.5)]
)
def test_it_is_renewed_two_years_before_its_end_or_at_half_of_it(
    certificates: Certificates,
    steps: Steps,
    clock: Clock,
    lifetime_days: int,
    renewed_after_days: float,
) -> None:
    wanted = certificates.for_ca(lifetime_days=lifetime_days)
    steps.run(issue_ca_certificate, wanted)
    first = certificates.ca
    clock.let_pass(days=renewed_after_days, minutes=-10)
    assert not steps.run(issue_ca_certificate, wanted)["issued"]
    clock.let_pass(minutes=11)

    result = steps.run(issue_ca_certificate, wanted)

    assert result["issued"]
    assert result["expires"] == text(clock.moment + timedelta(days=lifetime_days))
    assert not steps.run(issue_ca_certificate, wanted)["issued"]
    second = certificates.ca
    assert second.public_key() == first.public_key()
    assert second.subject == first.subject
    assert second.serial_number != first.serial_number


def test_a_renewed_one_has_the_name_of_the_first_and_the_lifetime_of_today(
    certificates: Certificates, steps: Steps, clock: Clock
) -> None:
    steps.run(issue_ca_certificate, certificates.for_ca(lifetime_days=100))
    changed = certificates.for_ca(common_name="Another", lifetime_days=300)
    assert not steps.run(issue_ca_certificate, changed)["issued"]
    clock.let_pass(days=60)

    assert steps.run(issue_ca_certificate, changed)["issued"]
    assert certificates.ca.subject.rfc4514_string() == "CN=Consul CA dc1"
    assert certificates.ca.not_valid_after_utc == clock.moment + timedelta(days=300)


def test_one_that_has_ended_long_ago_is_renewed(
    certificates: Certificates, steps: Steps, clock: Clock
) -> None:
    steps.run(issue_ca_certificate, certificates.for_ca(lifetime_days=10))
    clock.let_pass(days=100)

    assert steps.run(issue_ca_certificate, certificates.for_ca())["issued"]


# --- deaths, races, other hands ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("service", "operation"),
    [
        ("kms", "GetPublicKey"),
        ("kms", "Sign"),
        ("secretsmanager", "PutSecretValue"),
        ("secretsmanager", "UpdateSecretVersionStage"),
    ],
)
@pytest.mark.parametrize("there", ["nothing", "an old one"])
def test_a_run_that_died_is_finished_by_the_next(  # noqa: PLR0917 - a table
    certificates: Certificates,
    secrets: SecretsState,
    steps: Steps,
    clock: Clock,
    service: str,
    operation: str,
    there: str,
) -> None:
    secrets.put(CA, "{}")
    if there == "an old one":
        steps.run(issue_ca_certificate, certificates.for_ca())
        clock.let_pass(days=3000)
    before = secrets.current(CA)
    with answering(aws.client(service), operation, status=400, code="ThrottlingException"):
        steps.fail(issue_ca_certificate, certificates.for_ca(), AwsThrottled)
    assert secrets.current(CA) == before
    pending = secrets.stages(CA).get("AWSPENDING")

    assert steps.run(issue_ca_certificate, certificates.for_ca())["issued"]
    if operation == "UpdateSecretVersionStage":
        assert secrets.current(CA) == pending
        assert SIGN not in steps.remote_calls
    certificates.ca.verify_directly_issued_by(certificates.ca)


def test_what_a_run_wrote_that_died_years_ago_is_not_published(
    certificates: Certificates, secrets: SecretsState, steps: Steps, clock: Clock
) -> None:
    secrets.put(CA, "{}")
    client = aws.client("secretsmanager")
    with answering(client, "UpdateSecretVersionStage", status=400, code="ThrottlingException"):
        steps.fail(issue_ca_certificate, certificates.for_ca(), AwsThrottled)
    old = secrets.stages(CA)["AWSPENDING"]
    clock.let_pass(days=3000)

    result = steps.run(issue_ca_certificate, certificates.for_ca())

    assert result["expires"] == text(clock.moment + TEN_YEARS)
    assert secrets.current(CA) != old
    before = secrets.versions(CA)
    assert not steps.run(issue_ca_certificate, certificates.for_ca())["issued"]
    assert secrets.versions(CA) == before


def test_of_eight_runs_at_once_all_find_the_same(
    certificates: Certificates, secrets: SecretsState
) -> None:
    secrets.put(CA, "{}")
    wanted = certificates.for_ca()

    results = at_the_same_time([lambda: issue_ca_certificate.handler(wanted, None)] * 8)

    found = {
        "arn": certificates.ca_arn,
        "version_id": secrets.current_id(CA),
        "expires": text(certificates.ca.not_valid_after_utc),
    }
    assert all(result in [{**found, "issued": i} for i in (True, False)] for result in results)


def test_what_another_run_publishes_meanwhile_is_taken(
    certificates: Certificates, steps: Steps
) -> None:
    def other() -> None:
        issue_ca_certificate.handler(certificates.for_ca(), None)

    with before_each(aws.client("secretsmanager"), "UpdateSecretVersionStage", _once(other)):
        result = steps.run(issue_ca_certificate, certificates.for_ca())

    assert result["expires"] == text(certificates.ca.not_valid_after_utc)


def _once(do: Callable[[], None]) -> Callable[[], None]:
    left = [do]
    return lambda: left.pop()() if left else None


def test_a_person_who_puts_something_there_meanwhile_is_not_overwritten(
    certificates: Certificates, secrets: SecretsState, steps: Steps
) -> None:
    secrets.put(CA, "{}")

    def put() -> None:
        secrets.put(CA, "theirs")

    with before_each(aws.client("secretsmanager"), "UpdateSecretVersionStage", _once(put)):
        steps.fail(issue_ca_certificate, certificates.for_ca(), InvalidSecret)
    assert secrets.current(CA) == "theirs"


def test_an_old_certificate_that_somebody_makes_current_again_is_replaced_by_the_one_there_is(
    certificates: Certificates, secrets: SecretsState, steps: Steps, clock: Clock
) -> None:
    old = steps.run(issue_ca_certificate, certificates.for_ca())["version_id"]
    clock.let_pass(days=3000)
    new = steps.run(issue_ca_certificate, certificates.for_ca())
    secrets.client.update_secret_version_stage(
        SecretId=CA,
        VersionStage="AWSCURRENT",
        MoveToVersionId=old,
        RemoveFromVersionId=new["version_id"],
    )

    assert steps.run(issue_ca_certificate, certificates.for_ca()) == new
    assert SIGN not in steps.remote_calls


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["hunter2-hunter2", '{"ca": "x"}', "-----BEGIN CERTIFICATE-----"])
@pytest.mark.parametrize("stage", ["AWSCURRENT", "AWSPENDING"])
def test_what_is_no_certificate_is_refused_and_stays(
    certificates: Certificates, secrets: SecretsState, steps: Steps, value: str, stage: str
) -> None:
    if stage == "AWSCURRENT":
        secrets.put(CA, value)
    else:
        secrets.put(CA, "{}")
        _write_ahead(secrets, value)
    before = secrets.versions(CA)

    error = steps.fail(issue_ca_certificate, certificates.for_ca(), InvalidSecret)

    assert str(error) == (
        f"The secret {certificates.ca_arn}: not a certificate (PEM). Put {{}} there to have the "
        "CA's certificate issued."
    )
    assert secrets.versions(CA) == before


def _write_ahead(secrets: SecretsState, value: str) -> None:
    secrets.client.put_secret_value(
        SecretId=CA,
        SecretString=value,
        ClientRequestToken=derived_version_id(secrets.arn(CA), secrets.current_id(CA)),
        VersionStages=["AWSPENDING"],
    )


def test_the_certificate_of_another_key_is_refused_and_stays(
    certificates: Certificates, secrets: SecretsState, steps: Steps
) -> None:
    steps.run(issue_ca_certificate, certificates.for_ca())
    before = secrets.versions(CA)
    other = certificates.new_ca_key()

    error = steps.fail(issue_ca_certificate, certificates.for_ca(key_id=other), InvalidSecret)

    assert str(error) == (
        f"The secret {certificates.ca_arn}: a certificate, but not that of the CA whose key "
        f"{other} is. Put {{}} there to have that issued; servers and clients then have to be "
        "started again."
    )
    assert secrets.versions(CA) == before
    # The operator does it.
    secrets.put(CA, "{}")
    assert steps.run(issue_ca_certificate, certificates.for_ca(key_id=other))["issued"]


@pytest.mark.parametrize(
    ("changed", "needs"),
    [
        ({"secret_id": None}, '"ca.secret_id", a string'),
        ({"key_id": 7}, '"ca.key_id", a string'),
        ({"common_name": []}, '"ca.common_name", a string'),
        ({"lifetime_days": "90"}, '"ca.lifetime_days", a number'),
        ({"lifetime_days": 0}, '"ca.lifetime_days", from 1 to 36500 days'),
        ({"lifetime_days": 36501}, '"ca.lifetime_days", from 1 to 36500 days'),
    ],
)
def test_an_input_that_is_not_as_documented_is_the_workflows_fault(
    certificates: Certificates, steps: Steps, changed: dict[str, Any], needs: str
) -> None:
    error = steps.fail(issue_ca_certificate, certificates.for_ca(**changed), InvalidStepInput)

    assert str(error) == f"The input of the step needs {needs}."
    assert steps.remote_calls == {}


@pytest.mark.parametrize(
    ("operation", "status", "code", "kind"),
    [
        ("GetPublicKey", 400, "NotFoundException", AwsUnavailable),
        ("Sign", 400, "NotFoundException", AwsUnavailable),
        ("Sign", 400, "DisabledException", AwsRequestRefused),
        ("Sign", 400, "KMSInvalidStateException", AwsRequestRefused),
        ("GetPublicKey", 400, "AccessDeniedException", AwsAccessDenied),
        ("Sign", 400, "ThrottlingException", AwsThrottled),
        ("Sign", 500, "KMSInternalException", AwsUnavailable),
        ("GetPublicKey", 500, "DependencyTimeoutException", AwsUnavailable),
    ],
)
def test_what_kms_refuses_is_one_of_our_errors(  # noqa: PLR0917 - a table
    certificates: Certificates,
    secrets: SecretsState,
    steps: Steps,
    operation: str,
    status: int,
    code: str,
    kind: type[StepError],
) -> None:
    with answering(aws.client("kms"), operation, status=status, code=code):
        error = steps.fail(issue_ca_certificate, certificates.for_ca(), kind)

    assert certificates.ca_key in str(error)
    assert "AWSPENDING" not in secrets.stages(CA)


def test_a_key_that_is_to_be_deleted_signs_nothing(
    certificates: Certificates, steps: Steps
) -> None:
    certificates.kms.schedule_key_deletion(
        KeyId=certificates.ca_key.rpartition("/")[2], PendingWindowInDays=7
    )

    error = steps.fail(issue_ca_certificate, certificates.for_ca(), AwsRequestRefused)
    assert "is pending deletion. (KMSInvalidStateException)" in str(error)


# --- the metric ----------------------------------------------------------------------------------


def test_each_run_publishes_how_many_days_are_left(
    certificates: Certificates,
    steps: Steps,
    clock: Clock,
    log: Callable[[], list[logging.LogRecord]],
) -> None:
    for _ in range(2):
        steps.run(issue_ca_certificate, certificates.for_ca())
        clock.let_pass(days=10, hours=1)

    published = [vars(record) for record in log() if hasattr(record, "_aws")]
    assert [(one["Cluster"], one["CertificateDaysLeft"]) for one in published] == [
        ("mesh", 3650),
        ("mesh", 3639),
    ]
    (directive,) = published[0]["_aws"]["CloudWatchMetrics"]
    assert directive == {
        "Namespace": "ConsulOnEcs",
        "Dimensions": [["Cluster"]],
        "Metrics": [{"Name": "CertificateDaysLeft", "Unit": "Count"}],
    }


def test_a_function_that_does_not_know_its_cluster_says_so(
    certificates: Certificates, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLUSTER_ARN")

    steps.fail(issue_ca_certificate, certificates.for_ca(), InvalidConfiguration)


def test_no_certificate_has_anything_of_a_private_key(
    certificates: Certificates, secrets: SecretsState, steps: Steps
) -> None:
    steps.run(issue_ca_certificate, certificates.for_ca())

    (pem,) = x509.load_pem_x509_certificates(secrets.current(CA).encode())
    assert secrets.current(CA) == pem.public_bytes(serialization.Encoding.PEM).decode()
