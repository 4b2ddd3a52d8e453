"""A server always finds a certificate that is valid, whenever it looks and whatever happened."""

from __future__ import annotations

import json
import logging
import ssl
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509 import verification

from handlers import issue_ca_certificate, issue_server_certificate
from handlers.clients import aws
from handlers.clients.secrets_manager import derived_version_id
from handlers.core.errors import (
    AwsRequestRefused,
    AwsThrottled,
    AwsUnavailable,
    InvalidConfiguration,
    InvalidSecret,
    InvalidStepInput,
    StepError,
)
from tests.unit.aws_state import SecretsState, answering
from tests.unit.certificates import (
    API,
    CA,
    EVERY_SERVER,
    NAMES,
    SERVER,
    Certificates,
    Identity,
    before_each,
)
from tests.unit.mesh_state import Clock
from tests.unit.steps import Steps, at_the_same_time
from tests.unit.tls import Party, shake_hands

GET = "secretsmanager:GetSecretValue"
DESCRIBE = "secretsmanager:DescribeSecret"
PUT = "secretsmanager:PutSecretValue"
PUBLISH = "secretsmanager:UpdateSecretVersionStage"
KEY, PAIR, SIGN = "kms:GetPublicKey", "kms:GenerateDataKeyPair", "kms:Sign"


@pytest.fixture(autouse=True)
def _datacenter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSUL_DATACENTER", "dc1")


@pytest.fixture
def issued(certificates: Certificates, clock: Clock, steps: Steps) -> Certificates:
    """A CA that has its certificate, and a server without one."""
    del clock  # stands still
    steps.run(issue_ca_certificate, certificates.for_ca())
    return certificates


def text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def names_of(certificate: x509.Certificate) -> list[str]:
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in found]


def is_valid(pem: str, *, ca: str, at: datetime) -> bool:
    """Whether a server and a client of it take a certificate, by the rules of the web."""
    store = verification.Store([x509.load_pem_x509_certificate(ca.encode())])
    builder = verification.PolicyBuilder().store(store).time(at)
    leaf = x509.load_pem_x509_certificate(pem.encode())
    try:
        builder.build_server_verifier(x509.DNSName(EVERY_SERVER)).verify(leaf, [])
        builder.build_client_verifier().verify(leaf, [])
    except verification.VerificationError:
        return False
    return True


# --- issuing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, "{}", " "], ids=repr)
def test_the_first_certificate_has_a_key_pair_of_its_own(
    issued: Certificates, secrets: SecretsState, steps: Steps, clock: Clock, value: str | None
) -> None:
    if value is not None:
        secrets.put(SERVER, value)

    result = steps.run(issue_server_certificate, issued.for_server())

    found = issued.server
    assert result == {
        "arn": issued.server_arn,
        "version_id": secrets.current_id(SERVER),
        "expires": text(clock.moment + timedelta(days=90)),
        "issued": True,
    }
    assert found.not_valid_after_utc == clock.moment + timedelta(days=90)
    assert found.not_valid_before_utc == clock.ago(minutes=5)
    assert found.subject.rfc4514_string() == f"CN={EVERY_SERVER}"
    assert names_of(found) == NAMES
    assert found.public_key() != issued.ca.public_key()
    assert is_valid(issued.identity()[0], ca=secrets.current(CA), at=clock.moment)
    calls = {GET: 3, KEY: 1, PAIR: 1, SIGN: 1, PUT: 1, PUBLISH: 1}
    assert steps.remote_calls == (calls | {PUT: 2, DESCRIBE: 1} if value is None else calls)


def test_a_certificate_that_is_good_stays_and_takes_two_calls(
    issued: Certificates, secrets: SecretsState, steps: Steps, clock: Clock
) -> None:
    first = steps.run(issue_server_certificate, issued.for_server())
    before = secrets.versions(SERVER)
    for _ in range(4):
        result = steps.run(issue_server_certificate, issued.for_server())
        assert result == {**first, "issued": False}
        assert steps.remote_calls == {GET: 2}
        clock.let_pass(days=14)
    assert secrets.versions(SERVER) == before


@pytest.mark.parametrize("lifetime_days", [1, 90, 365])
def test_it_is_renewed_with_another_key_when_half_of_its_lifetime_is_over(
    issued: Certificates, steps: Steps, clock: Clock, lifetime_days: int
) -> None:
    wanted = issued.for_server(lifetime_days=lifetime_days)
    steps.run(issue_server_certificate, wanted)
    first = issued.server
    clock.let_pass(days=lifetime_days / 2, minutes=-10)
    assert not steps.run(issue_server_certificate, wanted)["issued"]
    clock.let_pass(minutes=11)

    result = steps.run(issue_server_certificate, wanted)

    assert result["issued"]
    assert result["expires"] == text(clock.moment + timedelta(days=lifetime_days))
    second = issued.server
    assert second.public_key() != first.public_key()
    assert second.serial_number != first.serial_number
    assert not steps.run(issue_server_certificate, wanted)["issued"]


def test_it_never_outlasts_the_ca(
    certificates: Certificates, secrets: SecretsState, steps: Steps, clock: Clock
) -> None:
    steps.run(issue_ca_certificate, certificates.for_ca(lifetime_days=60))

    result = steps.run(issue_server_certificate, certificates.for_server())

    assert result["expires"] == text(clock.moment + timedelta(days=60))
    assert not steps.run(issue_server_certificate, certificates.for_server())["issued"]
    assert is_valid(certificates.identity()[0], ca=secrets.current(CA), at=clock.moment)


@pytest.mark.parametrize(
    "changed",
    [
        {"dns_names": []},
        {"dns_names": [API, "consul.example.com"]},
        {"dns_names": ["consul.example.com"]},
        {"name": "consul-server-2"},
    ],
)
def test_other_names_take_another_certificate(
    issued: Certificates, steps: Steps, changed: dict[str, Any]
) -> None:
    steps.run(issue_server_certificate, issued.for_server())

    assert steps.run(issue_server_certificate, issued.for_server(**changed))["issued"]

    name = changed.get("name", "consul-server-1")
    names = [EVERY_SERVER, f"{name}.{EVERY_SERVER}", *changed.get("dns_names", [API]), *NAMES[-2:]]
    assert names_of(issued.server) == names
    assert not steps.run(issue_server_certificate, issued.for_server(**changed))["issued"]


def test_names_in_another_order_or_twice_are_the_same(
    issued: Certificates, secrets: SecretsState, steps: Steps
) -> None:
    two = issued.for_server(dns_names=[API, "b.example.com", "localhost", API])
    steps.run(issue_server_certificate, two)
    assert sorted(names_of(issued.server)) == sorted([*NAMES, "b.example.com"])
    before = secrets.versions(SERVER)

    other = issued.for_server(dns_names=["b.example.com", API])
    assert not steps.run(issue_server_certificate, other)["issued"]
    assert secrets.versions(SERVER) == before


def test_a_certificate_of_another_ca_is_replaced(
    issued: Certificates, secrets: SecretsState, steps: Steps, clock: Clock
) -> None:
    steps.run(issue_server_certificate, issued.for_server())
    issued.ca_key = issued.new_ca_key()
    secrets.put(CA, "{}")
    steps.run(issue_ca_certificate, issued.for_ca())
    assert not is_valid(issued.identity()[0], ca=secrets.current(CA), at=clock.moment)

    assert steps.run(issue_server_certificate, issued.for_server())["issued"]
    assert is_valid(issued.identity()[0], ca=secrets.current(CA), at=clock.moment)


def test_a_certificate_under_another_name_of_the_ca_is_replaced(
    issued: Certificates, secrets: SecretsState, steps: Steps, clock: Clock
) -> None:
    steps.run(issue_server_certificate, issued.for_server())
    secrets.put(CA, "{}")
    steps.run(issue_ca_certificate, issued.for_ca(common_name="Another"))

    assert steps.run(issue_server_certificate, issued.for_server())["issued"]
    assert is_valid(issued.identity()[0], ca=secrets.current(CA), at=clock.moment)


def test_a_certificate_with_the_private_key_of_another_is_replaced(
    issued: Certificates, secrets: SecretsState, steps: Steps
) -> None:
    other = secrets.create("acme/consul-server-2")
    steps.run(issue_server_certificate, issued.for_server())
    steps.run(issue_server_certificate, issued.for_server(secret_id=other))
    theirs = json.loads(secrets.current("acme/consul-server-2"))["private_key"]
    mixed = {**json.loads(secrets.current(SERVER)), "private_key": theirs}
    secrets.put(SERVER, json.dumps(mixed))

    assert steps.run(issue_server_certificate, issued.for_server())["issued"]
    issued.identity()


# --- over time -----------------------------------------------------------------------------------


def test_whoever_is_late_has_a_valid_certificate_all_the_time(
    certificates: Certificates, secrets: SecretsState, steps: Steps, clock: Clock
) -> None:
    # A server starts again, and a client looks for a new CA, within four days. The CA is renewed in
    # this time, too.
    wanted_ca = certificates.for_ca(lifetime_days=60)
    wanted = certificates.for_server(lifetime_days=10)
    published: list[tuple[str, str]] = []
    for day in range(65):
        steps.run(issue_ca_certificate, wanted_ca)
        steps.run(issue_server_certificate, wanted)
        published.append((certificates.identity()[0], secrets.current(CA)))
        known = {published[day], published[max(0, day - 4)]}
        for certificate in {one for one, _ in known}:
            for ca in {one for _, one in known}:
                assert is_valid(certificate, ca=ca, at=clock.moment), day
        clock.let_pass(days=1)

    assert [len(set(one)) for one in zip(*published, strict=True)] == [13, 3]


def test_without_a_run_for_longer_than_its_lifetime_the_next_one_puts_it_right(
    issued: Certificates, secrets: SecretsState, steps: Steps, clock: Clock
) -> None:
    steps.run(issue_server_certificate, issued.for_server())
    clock.let_pass(days=400)
    assert not is_valid(issued.identity()[0], ca=secrets.current(CA), at=clock.moment)

    assert steps.run(issue_server_certificate, issued.for_server())["issued"]
    assert is_valid(issued.identity()[0], ca=secrets.current(CA), at=clock.moment)


# --- deaths, races, other hands ------------------------------------------------------------------

CALLS = [
    ("kms", "GetPublicKey"),
    ("kms", "GenerateDataKeyPair"),
    ("kms", "Sign"),
    ("secretsmanager", "PutSecretValue"),
    ("secretsmanager", "UpdateSecretVersionStage"),
]


@pytest.mark.parametrize(("service", "operation"), CALLS)
@pytest.mark.parametrize("there", ["nothing", "an old one"])
def test_a_run_that_died_leaves_what_there_was_and_is_finished_by_the_next(  # noqa: PLR0917
    issued: Certificates,
    secrets: SecretsState,
    steps: Steps,
    clock: Clock,
    service: str,
    operation: str,
    there: str,
) -> None:
    secrets.put(SERVER, "{}")
    if there == "an old one":
        steps.run(issue_server_certificate, issued.for_server())
        clock.let_pass(days=60)
    before = secrets.current(SERVER)
    with answering(aws.client(service), operation, status=400, code="ThrottlingException"):
        steps.fail(issue_server_certificate, issued.for_server(), AwsThrottled)
    assert secrets.current(SERVER) == before
    pending = secrets.stages(SERVER).get("AWSPENDING")

    assert steps.run(issue_server_certificate, issued.for_server())["issued"]

    if operation == "UpdateSecretVersionStage":
        assert secrets.current(SERVER) == pending
        assert steps.remote_calls == {GET: 3, PUBLISH: 1}
    assert is_valid(issued.identity()[0], ca=secrets.current(CA), at=clock.moment)


@pytest.mark.parametrize("why", ["too old", "other names", "another CA"])
@pytest.mark.parametrize("there", ["nothing", "an old one"])
def test_what_a_run_that_died_wrote_is_not_published_once_it_is_not_good(  # noqa: PLR0917
    issued: Certificates,
    secrets: SecretsState,
    steps: Steps,
    clock: Clock,
    why: str,
    there: str,
) -> None:
    secrets.put(SERVER, "{}")
    if there == "an old one":
        steps.run(issue_server_certificate, issued.for_server())
        clock.let_pass(days=60)
    client = aws.client("secretsmanager")
    with answering(client, "UpdateSecretVersionStage", status=400, code="ThrottlingException"):
        steps.fail(issue_server_certificate, issued.for_server(), AwsThrottled)
    pending = secrets.stages(SERVER)["AWSPENDING"]
    wanted = issued.for_server()
    if why == "too old":
        clock.let_pass(days=46)
    elif why == "other names":
        wanted = issued.for_server(dns_names=["consul.example.com"])
    else:
        issued.ca_key = issued.new_ca_key()
        secrets.put(CA, "{}")
        steps.run(issue_ca_certificate, issued.for_ca())
        wanted = issued.for_server()
    current: list[str] = []

    def look() -> None:
        current.append(secrets.current(SERVER))

    with before_each(client, "UpdateSecretVersionStage", look):
        assert steps.run(issue_server_certificate, wanted)["issued"]

    assert set(current) == {current[0]}, "nothing else was current meanwhile"
    assert secrets.current(SERVER) not in {pending, current[0]}
    assert is_valid(issued.identity()[0], ca=secrets.current(CA), at=clock.moment)
    # The one that died comes back, and cannot publish any more.
    before = secrets.versions(SERVER)
    assert not steps.run(issue_server_certificate, wanted)["issued"]
    assert secrets.versions(SERVER) == before


@pytest.mark.parametrize("there", ["nothing", "an old one"])
def test_of_eight_runs_at_once_all_find_the_same(
    issued: Certificates, secrets: SecretsState, steps: Steps, clock: Clock, there: str
) -> None:
    secrets.put(SERVER, "{}")
    if there == "an old one":
        steps.run(issue_server_certificate, issued.for_server())
        clock.let_pass(days=60)
    wanted = issued.for_server()

    results = at_the_same_time([lambda: issue_server_certificate.handler(wanted, None)] * 8)

    found = {
        "arn": issued.server_arn,
        "version_id": secrets.current_id(SERVER),
        "expires": text(issued.server.not_valid_after_utc),
    }
    assert all(result in [{**found, "issued": i} for i in (True, False)] for result in results)
    assert is_valid(issued.identity()[0], ca=secrets.current(CA), at=clock.moment)


def test_who_lost_drops_the_key_pair_that_he_has_made(
    issued: Certificates, secrets: SecretsState, steps: Steps
) -> None:
    secrets.put(SERVER, "{}")
    won: list[Identity] = []

    def other() -> None:
        if not won:
            won.append(("", ""))
            issue_server_certificate.handler(issued.for_server(), None)
            won[0] = issued.identity()

    with before_each(aws.client("secretsmanager"), "PutSecretValue", other):
        result = steps.run(issue_server_certificate, issued.for_server())

    assert issued.identity() == won[0]
    assert result["version_id"] == secrets.current_id(SERVER)
    assert len(secrets.versions(SERVER)) == 2


def test_an_old_certificate_that_somebody_makes_current_again_is_replaced_by_the_one_there_is(
    issued: Certificates, secrets: SecretsState, steps: Steps, clock: Clock
) -> None:
    old = steps.run(issue_server_certificate, issued.for_server())["version_id"]
    clock.let_pass(days=60)
    new = steps.run(issue_server_certificate, issued.for_server())
    secrets.client.update_secret_version_stage(
        SecretId=SERVER,
        VersionStage="AWSCURRENT",
        MoveToVersionId=old,
        RemoveFromVersionId=new["version_id"],
    )

    assert steps.run(issue_server_certificate, issued.for_server()) == new
    assert PAIR not in steps.remote_calls


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (value, 'not a JSON object with the keys "certificate" and "private_key"')
        for value in ("hunter2-hunter2", '["a"]', '{"certificate": "x"}', "{" * 5000,
                      '{"certificate": "x", "private_key": 7}')
    ]
    + [('{"certificate": "x", "private_key": "hunter2-hunter2"}', "not a certificate (PEM)")],
)  # fmt: skip
@pytest.mark.parametrize("stage", ["AWSCURRENT", "AWSPENDING"])
def test_what_is_something_else_is_refused_and_stays(  # noqa: PLR0917 - a table
    issued: Certificates, secrets: SecretsState, steps: Steps, value: str, what: str, stage: str
) -> None:
    secrets.put(SERVER, value if stage == "AWSCURRENT" else "{}")
    if stage == "AWSPENDING":
        secrets.client.put_secret_value(
            SecretId=SERVER,
            SecretString=value,
            ClientRequestToken=derived_version_id(secrets.arn(SERVER), secrets.current_id(SERVER)),
            VersionStages=[stage],
        )
    before = secrets.versions(SERVER)

    error = steps.fail(issue_server_certificate, issued.for_server(), InvalidSecret)

    assert str(error) == (
        f"The secret {issued.server_arn}: {what}. Put {{}} there to have a certificate issued."
    )
    assert "hunter2" not in "".join(steps.outputs)
    assert secrets.versions(SERVER) == before


def test_a_certificate_with_something_else_for_a_private_key_is_refused(
    issued: Certificates, secrets: SecretsState, steps: Steps
) -> None:
    steps.run(issue_server_certificate, issued.for_server())
    value = {**json.loads(secrets.current(SERVER)), "private_key": "hunter2-hunter2"}
    secrets.put(SERVER, json.dumps(value))

    error = steps.fail(issue_server_certificate, issued.for_server(), InvalidSecret)
    assert "not a private key (PEM, PKCS #8)" in str(error)
    assert "hunter2" not in "".join(steps.outputs)


@pytest.mark.parametrize("value", [None, "{}", "ended"], ids=repr)
def test_without_a_ca_it_waits_and_makes_no_key_pair(
    certificates: Certificates,
    secrets: SecretsState,
    steps: Steps,
    clock: Clock,
    value: str | None,
) -> None:
    if value == "ended":
        steps.run(issue_ca_certificate, certificates.for_ca(lifetime_days=10))
        clock.let_pass(days=10)
    elif value is not None:
        secrets.put(CA, value)

    error = steps.fail(issue_server_certificate, certificates.for_server(), AwsUnavailable)

    assert str(error) == (
        f"The secret {certificates.ca_arn} has no valid certificate of the CA, or not yet."
    )
    assert steps.remote_calls == {GET: 1}
    assert secrets.versions(SERVER) == {}


def test_what_is_no_ca_signs_nothing(
    issued: Certificates, secrets: SecretsState, steps: Steps
) -> None:
    steps.run(issue_server_certificate, issued.for_server())
    before = secrets.versions(SERVER)
    for value in ("hunter2-hunter2", issued.identity()[0]):
        secrets.put(CA, value)
        error = steps.fail(issue_server_certificate, issued.for_server(), InvalidSecret)
        assert str(error).startswith(f"The secret {issued.ca_arn}: ")
        assert str(error).endswith(" Put {} there to have one issued.")
    assert secrets.versions(SERVER) == before


def test_a_key_that_is_not_the_cas_signs_nothing(
    issued: Certificates, secrets: SecretsState, steps: Steps
) -> None:
    ours, issued.ca_key = issued.ca_key, issued.new_ca_key()

    error = steps.fail(issue_server_certificate, issued.for_server(), InvalidSecret)

    assert str(error) == (
        f"The secret {issued.ca_arn}: the certificate of a CA, but not of the one whose key "
        f"{issued.ca_key} is. Put {{}} there to have that issued."
    )
    assert PAIR not in steps.remote_calls
    assert secrets.current(SERVER) == "{}"
    issued.ca_key = ours
    assert steps.run(issue_server_certificate, issued.for_server())["issued"]


NO_DNS_NAME = (
    "A certificate cannot be for the name {!r}: it is no DNS name. It comes from "
    '"server.name" and "server.dns_names" in the input of the step, and from the datacenter.'
)


@pytest.mark.parametrize(
    ("changed", "needs"),
    [
        ({"name": 7}, 'The input of the step needs "server.name", a string.'),
        ({"secret_id": None}, 'The input of the step needs "server.secret_id", a string.'),
        ({"dns_names": API}, 'The input of the step needs "server.dns_names", a list.'),
        ({"dns_names": [7]}, 'The input of the step needs "server.dns_names", a list of strings.'),
        (
            {"lifetime_days": 0},
            'The input of the step needs "server.lifetime_days", from 1 to 36500 days.',
        ),
        *(
            (
                {"dns_names": [name]},
                NO_DNS_NAME.format(name),
            )
            for name in ("", "a b", "a..b", ".a", "a.", "a\n", "b\u00fccher.de", "*", "a" * 64,
                         ".".join(["a" * 50] * 5), "https://a", "a.*.b")
        ),
    ],
)  # fmt: skip
def test_an_input_that_is_not_as_documented_is_the_workflows_fault(
    issued: Certificates, steps: Steps, changed: dict[str, Any], needs: str
) -> None:
    error = steps.fail(issue_server_certificate, issued.for_server(**changed), InvalidStepInput)

    assert str(error) == needs
    assert steps.remote_calls == {}


@pytest.mark.parametrize("name", ["*.consul.example.com", "10.0.0.7", "My-LB-1.elb.amazonaws.com"])
def test_other_names_that_certificates_take(issued: Certificates, steps: Steps, name: str) -> None:
    steps.run(issue_server_certificate, issued.for_server(dns_names=[name]))

    assert name in names_of(issued.server)
    assert not steps.run(issue_server_certificate, issued.for_server(dns_names=[name]))["issued"]


@pytest.mark.parametrize(
    ("operation", "code", "kind"),
    [
        ("GenerateDataKeyPair", "NotFoundException", AwsUnavailable),
        ("GenerateDataKeyPair", "DisabledException", AwsRequestRefused),
        ("Sign", "InvalidKeyUsageException", AwsRequestRefused),
    ],
)
def test_what_kms_refuses_is_one_of_our_errors(
    issued: Certificates, steps: Steps, operation: str, code: str, kind: type[StepError]
) -> None:
    with answering(aws.client("kms"), operation, status=400, code=code):
        error = steps.fail(issue_server_certificate, issued.for_server(), kind)
    key = issued.ca_key if operation == "Sign" else issued.encryption_key
    assert key in str(error)


@pytest.mark.parametrize("variable", ["CLUSTER_ARN", "CONSUL_DATACENTER"])
def test_a_function_that_is_not_told_where_it_is_says_so(
    issued: Certificates, steps: Steps, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.delenv(variable)

    error = steps.fail(issue_server_certificate, issued.for_server(), InvalidConfiguration)
    assert variable in str(error)


def test_each_run_publishes_how_many_days_are_left(
    issued: Certificates,
    steps: Steps,
    clock: Clock,
    log: Callable[[], list[logging.LogRecord]],
) -> None:
    for _ in range(2):
        steps.run(issue_server_certificate, issued.for_server())
        clock.let_pass(days=10, hours=1)

    published = [vars(record) for record in log() if hasattr(record, "_aws")]
    assert [(one["Cluster"], one["CertificateDaysLeft"]) for one in published] == [
        ("mesh", 90),
        ("mesh", 79),
    ]


# --- in use --------------------------------------------------------------------------------------


def test_servers_and_clients_meet_with_what_the_secrets_hold(
    issued: Certificates, secrets: SecretsState, steps: Steps, tmp_path: Path
) -> None:
    steps.run(issue_server_certificate, issued.for_server())
    certificate, private_key = issued.identity()
    ca = secrets.current(CA)
    server = Party(tmp_path, ca=ca, certificate=certificate, private_key=private_key)
    client = Party(tmp_path, ca=ca)

    for host in (EVERY_SERVER, API, "localhost", "127.0.0.1"):
        shake_hands(server.as_server(), client.as_client(), host=host)
        shake_hands(server.as_server(verifies_clients=True), server.as_client(), host=host)
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        shake_hands(server.as_server(), client.as_client(), host="server.dc2.consul")
