"""Secrets Manager in a few dictionaries: the calls that the handlers make, and AWS's rules.

Held to the same contract as the one of local/cloud by tests/faults/test_fakes.py, where the sources
of the rules are given.
"""

# ruff: noqa: N803 - the names of arguments are boto3's

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NoReturn

from botocore.exceptions import ClientError

from tests.faults import aws_failures
from tests.faults.history import History, View
from tests.faults.kinds import Fault, RemoteCall
from tests.faults.network import Network
from tests.faults.virtual_time import VirtualClock

_CURRENT, _PREVIOUS = "AWSCURRENT", "AWSPREVIOUS"
_MARKED = "You can't perform this operation on the secret because it was marked for deletion."
_LONGEST_BATCH = 20


@dataclass(frozen=True)
class Version:
    """One version of a secret. Its value never changes."""

    value: str = field(repr=False)
    created: datetime
    stages: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Secret:
    """A secret with all its versions, as it is at one moment."""

    arn: str
    name: str
    description: str | None = None
    tags: tuple[tuple[str, str], ...] = ()
    versions: Mapping[str, Version] = field(default_factory=dict)
    deleted: bool = False

    def holder(self, stage: str) -> str | None:
        """Return the ID of the version that has a stage."""
        return next((id_ for id_, one in self.versions.items() if stage in one.stages), None)


class SecretsStore:
    """What is in Secrets Manager: now, and a moment ago."""

    def __init__(self, clock: VirtualClock, arn_prefix: str) -> None:
        self.clock = clock
        self._arn_prefix = arn_prefix
        self.secrets: dict[str, Secret] = {}
        self._history: History[dict[str, Secret]] = History()

    def as_of(self, view: View) -> Mapping[str, Secret]:
        """Return the secrets as a reader sees them."""
        return self._history.seen(view, self.secrets, now=self.clock.now())

    def put(self, secret: Secret) -> None:
        """Keep a new state of a secret."""
        self._history.remember(self.secrets, until=self.clock.now())
        self.secrets = {**self.secrets, secret.name: secret}

    def new_arn(self, name: str) -> str:
        """Return the ARN of a new secret."""
        # AWS appends six random characters.
        return f"{self._arn_prefix}{name}-{uuid.uuid5(uuid.NAMESPACE_URL, name).hex[:6]}"

    def write_by_hand(self, secret: Secret, value: str) -> None:
        """Write a value that is current at once, as the console does."""
        version_id = str(uuid.uuid4())
        version = Version(value, self.clock.now())
        written = replace(secret, versions={**secret.versions, version_id: version})
        self.put(_attached(written, _CURRENT, version_id))

    def mark_for_deletion(self, name: str) -> None:
        """Begin the recovery window of a secret."""
        self.put(replace(self.secrets[name], deleted=True))

    def values(self) -> Iterable[str]:
        """Yield every value that has ever been in a secret: versions are never removed here."""
        for secret in self.secrets.values():
            for version in secret.versions.values():
                yield version.value

    def current(self, name: str) -> str | None:
        """Return what a task pulls."""
        secret = self.secrets.get(name)
        holder = secret.holder(_CURRENT) if secret else None
        return secret.versions[holder].value if secret and holder else None


class SecretsManagerClient:
    """The calls of a boto3 client that handlers make."""

    def __init__(self, store: SecretsStore, network: Network) -> None:
        self._store = store
        self._network = network

    # --- reading --------------------------------------------------------------------------------

    def get_secret_value(
        self, *, SecretId: str, VersionId: str | None = None, VersionStage: str | None = None
    ) -> dict[str, Any]:
        """Read a version: the one asked for, or the current one."""

        def serve(secrets: Mapping[str, Secret]) -> dict[str, Any]:
            secret = _find("GetSecretValue", secrets, SecretId)
            return _value("GetSecretValue", secret, VersionId, VersionStage)

        return self._read("GetSecretValue", serve)

    def batch_get_secret_value(self, *, SecretIdList: list[str]) -> dict[str, Any]:
        """Read the current versions of up to 20 secrets."""

        def serve(secrets: Mapping[str, Secret]) -> dict[str, Any]:
            if not 1 <= len(SecretIdList) <= _LONGEST_BATCH:
                raise aws_failures.refusal(
                    "BatchGetSecretValue", "ValidationException", "SecretIdList is too long."
                )
            found: list[dict[str, Any]] = []
            errors: list[dict[str, Any]] = []
            for secret_id in SecretIdList:
                try:
                    secret = _find("BatchGetSecretValue", secrets, secret_id)
                    found.append(_value("BatchGetSecretValue", secret, None, None))
                except ClientError as error:
                    told = error.response["Error"]
                    errors.append(
                        {
                            "SecretId": secret_id,
                            "ErrorCode": told["Code"],
                            "Message": told["Message"],
                        }
                    )
            return {"SecretValues": found, "Errors": errors}

        return self._read("BatchGetSecretValue", serve)

    def describe_secret(self, *, SecretId: str) -> dict[str, Any]:
        """Describe a secret, with the stages of its versions."""

        def serve(secrets: Mapping[str, Secret]) -> dict[str, Any]:
            secret = _find("DescribeSecret", secrets, SecretId, deleted_too=True)
            described: dict[str, Any] = {
                "ARN": secret.arn,
                "Name": secret.name,
                "Tags": [{"Key": key, "Value": value} for key, value in secret.tags],
            }
            if secret.description is not None:
                described["Description"] = secret.description
            stages = {id_: sorted(one.stages) for id_, one in secret.versions.items() if one.stages}
            if stages:
                described["VersionIdsToStages"] = stages
            return described

        return self._read("DescribeSecret", serve)

    def list_secret_version_ids(
        self, *, SecretId: str, IncludeDeprecated: bool = False
    ) -> dict[str, Any]:
        """List the versions that have a stage, or all."""

        def serve(secrets: Mapping[str, Secret]) -> dict[str, Any]:
            secret = _find("ListSecretVersionIds", secrets, SecretId, deleted_too=True)
            versions = [
                {
                    "VersionId": id_,
                    "VersionStages": sorted(one.stages),
                    "CreatedDate": one.created,
                }
                for id_, one in secret.versions.items()
                if one.stages or IncludeDeprecated
            ]
            return {"ARN": secret.arn, "Name": secret.name, "Versions": versions}

        return self._read("ListSecretVersionIds", serve)

    # --- writing --------------------------------------------------------------------------------

    def create_secret(
        self,
        *,
        Name: str,
        SecretString: str | None = None,
        Description: str | None = None,
        Tags: list[dict[str, str]] | None = None,
        KmsKeyId: str | None = None,
        ClientRequestToken: str | None = None,
    ) -> dict[str, Any]:
        """Create a secret, and its first version if there is a value."""
        del KmsKeyId  # nothing is encrypted here
        version_id = ClientRequestToken or str(uuid.uuid4())

        def serve() -> dict[str, Any]:
            operation = "CreateSecret"
            existing = self._store.secrets.get(Name)
            if existing is None:
                secret = Secret(
                    arn=self._store.new_arn(Name),
                    name=Name,
                    description=Description,
                    tags=tuple((tag["Key"], tag["Value"]) for tag in Tags or []),
                )
                if SecretString is not None:
                    secret = self._written(operation, secret, version_id, SecretString, [])
                self._store.put(secret)
                return _short(secret, version_id if SecretString is not None else None)
            if existing.deleted:
                raise aws_failures.refusal(
                    operation,
                    "InvalidRequestException",
                    "You can't create this secret because a secret with this name is already "
                    "scheduled for deletion.",
                )
            version = existing.versions.get(version_id)
            if version is None or version.value != SecretString:
                raise aws_failures.refusal(
                    operation,
                    "ResourceExistsException",
                    f"The operation failed because the secret {Name} already exists.",
                )
            return _short(existing, version_id)

        return self._write("CreateSecret", serve)

    def put_secret_value(
        self,
        *,
        SecretId: str,
        SecretString: str,
        ClientRequestToken: str | None = None,
        VersionStages: list[str] | None = None,
    ) -> dict[str, Any]:
        """Write a version: a new one, or the same once more, which changes nothing."""
        version_id = ClientRequestToken or str(uuid.uuid4())

        def serve() -> dict[str, Any]:
            operation = "PutSecretValue"
            secret = _find(operation, self._store.secrets, SecretId)
            written = self._written(
                operation, secret, version_id, SecretString, VersionStages or [_CURRENT]
            )
            if written is not secret:
                self._store.put(written)
            stages = sorted(written.versions[version_id].stages)
            return {**_short(written, version_id), "VersionStages": stages}

        return self._write("PutSecretValue", serve)

    def update_secret_version_stage(
        self,
        *,
        SecretId: str,
        VersionStage: str,
        MoveToVersionId: str | None = None,
        RemoveFromVersionId: str | None = None,
    ) -> dict[str, Any]:
        """Move a stage, if it is where the caller believes it to be."""

        def serve() -> dict[str, Any]:
            operation = "UpdateSecretVersionStage"
            secret = _find(operation, self._store.secrets, SecretId)
            for version_id in (RemoveFromVersionId, MoveToVersionId):
                if version_id and version_id not in secret.versions:
                    raise aws_failures.refusal(
                        operation,
                        "ResourceNotFoundException",
                        f"Secrets Manager can't find the specified secret version: {version_id}.",
                    )
            problem = _stage_problem(secret, VersionStage, MoveToVersionId, RemoveFromVersionId)
            if problem:
                raise aws_failures.refusal(operation, "InvalidParameterException", problem)
            if MoveToVersionId:
                moved = _attached(secret, VersionStage, MoveToVersionId)
            else:
                moved = _detached(secret, VersionStage)
            if moved != secret:
                self._store.put(moved)
            return {"ARN": secret.arn, "Name": secret.name}

        return self._write("UpdateSecretVersionStage", serve)

    def tag_resource(self, *, SecretId: str, Tags: list[dict[str, str]]) -> dict[str, Any]:
        """Add tags, or replace the values of some."""

        def serve() -> dict[str, Any]:
            secret = _find("TagResource", self._store.secrets, SecretId)
            tags = dict(secret.tags) | {tag["Key"]: tag["Value"] for tag in Tags}
            self._store.put(replace(secret, tags=tuple(tags.items())))
            return {}

        return self._write("TagResource", serve)

    # --- inside ---------------------------------------------------------------------------------

    def _read(
        self, operation: str, serve: Callable[[Mapping[str, Secret]], dict[str, Any]]
    ) -> dict[str, Any]:
        call = RemoteCall(
            "secretsmanager", operation, reads=True, patience=aws_failures.SDK_PATIENCE
        )
        return self._network.carry(
            call, lambda view: serve(self._store.as_of(view)), _fails(operation)
        )

    def _write(self, operation: str, serve: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        call = RemoteCall(
            "secretsmanager", operation, reads=False, patience=aws_failures.SDK_PATIENCE
        )
        return self._network.carry(call, lambda _: serve(), _fails(operation))

    def _written(
        self, operation: str, secret: Secret, version_id: str, value: str, stages: list[str]
    ) -> Secret:
        existing = secret.versions.get(version_id)
        if existing is not None:
            if existing.value == value:
                return secret  # the same request again; it changes nothing, not even stages
            raise aws_failures.refusal(
                operation,
                "ResourceExistsException",
                f"You can't use ClientRequestToken {version_id} because that value is already in "
                f"use for a version of secret {secret.arn}.",
            )
        # The first version of a secret becomes current whatever stages were asked for.
        first = [] if secret.versions or _CURRENT in stages else [_CURRENT]
        version = Version(value, self._store.clock.now())
        written = replace(secret, versions={**secret.versions, version_id: version})
        for stage in [*stages, *first]:
            written = _attached(written, stage, version_id)
        return written


def _fails(operation: str) -> Callable[[Fault], NoReturn]:
    def fails(fault: Fault) -> NoReturn:
        raise aws_failures.failure(fault, operation, server_error="InternalServiceError")

    return fails


def _find(
    operation: str, secrets: Mapping[str, Secret], secret_id: str, *, deleted_too: bool = False
) -> Secret:
    secret = secrets.get(secret_id)
    if secret is None:
        secret = next((one for one in secrets.values() if one.arn == secret_id), None)
    if secret is None:
        raise aws_failures.refusal(
            operation,
            "ResourceNotFoundException",
            "Secrets Manager can't find the specified secret.",
        )
    if secret.deleted and not deleted_too:
        raise aws_failures.refusal(operation, "InvalidRequestException", _MARKED)
    return secret


def _value(
    operation: str, secret: Secret, version_id: str | None, stage: str | None
) -> dict[str, Any]:
    found = version_id or secret.holder(stage or _CURRENT)
    version = secret.versions.get(found) if found else None
    if version is None or found is None:
        wanted = f"VersionId: {version_id}" if version_id else f"staging label: {stage or _CURRENT}"
        raise aws_failures.refusal(
            operation,
            "ResourceNotFoundException",
            f"Secrets Manager can't find the specified secret value for {wanted}",
        )
    if version_id and stage and stage not in version.stages:
        raise aws_failures.refusal(
            operation,
            "InvalidRequestException",
            "You provided a VersionStage that is not associated to the provided VersionId.",
        )
    return {
        "ARN": secret.arn,
        "Name": secret.name,
        "VersionId": found,
        "SecretString": version.value,
        "VersionStages": sorted(version.stages),
        "CreatedDate": version.created,
    }


def _short(secret: Secret, version_id: str | None) -> dict[str, Any]:
    short = {"ARN": secret.arn, "Name": secret.name}
    return short | ({"VersionId": version_id} if version_id else {})


def _stage_problem(
    secret: Secret, stage: str, move_to: str | None, remove_from: str | None
) -> str | None:
    holder = secret.holder(stage)
    if remove_from and remove_from != holder:
        return f"The staging label {stage} isn't attached to version {remove_from}."
    if holder and move_to not in {None, holder} and not remove_from:
        return (
            f"The parameter RemoveFromVersionId can't be empty. Staging label {stage} is currently "
            f"attached to version {holder}, so you must explicitly reference that version in "
            "RemoveFromVersionId."
        )
    if not move_to and stage == _CURRENT:
        return (
            "You can only move staging label AWSCURRENT to a different secret version. It can't "
            "be completely removed."
        )
    return None


def _attached(secret: Secret, stage: str, version_id: str) -> Secret:
    """Move a stage to a version; AWSPREVIOUS follows to the one that loses AWSCURRENT."""
    holder = secret.holder(stage)
    if holder == version_id:
        return secret
    secret = _detached(secret, stage)
    version = secret.versions[version_id]
    stages = version.stages | {stage}
    if stage == _CURRENT:
        stages -= {_PREVIOUS}
    secret = replace(
        secret, versions={**secret.versions, version_id: replace(version, stages=stages)}
    )
    if stage == _CURRENT and holder is not None:
        secret = _attached(secret, _PREVIOUS, holder)
    return secret


def _detached(secret: Secret, stage: str) -> Secret:
    holder = secret.holder(stage)
    if holder is None:
        return secret
    version = secret.versions[holder]
    without = replace(version, stages=version.stages - {stage})
    return replace(secret, versions={**secret.versions, holder: without})
