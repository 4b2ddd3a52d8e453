"""Secrets in Secrets Manager: read, write ahead, publish.

A secret's value gets new IDs in three steps (rules 2 and 3 of docs/how-it-works.md): the value is
written as the AWSPENDING version, the token is made in Consul, the version becomes AWSCURRENT,
which is what tasks pull. The ID of the pending version is derived from the version that it
replaces, so of any number of writers who read the same version exactly one wins.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from botocore.exceptions import ClientError

from handlers.clients import aws
from handlers.core.errors import (
    AwsUnavailable,
    InvalidSecret,
    SecretMarkedForDeletion,
    StepError,
)
from handlers.core.paging import batches
from handlers.core.step_input import take
from handlers.core.token_secret import EMPTY

CURRENT = "AWSCURRENT"
PENDING = "AWSPENDING"
PREVIOUS = "AWSPREVIOUS"
_SECRETS_A_CALL = 20  # BatchGetSecretValue (Secrets Manager API reference)


@dataclass(frozen=True)
class SecretVersion:
    """One version of a secret, as it was read or written."""

    arn: str
    version_id: str
    value: str = field(repr=False)
    stages: frozenset[str] = field(default=frozenset(), compare=False)
    """The staging labels that it had when it was read; of one that was written, not told."""
    created_at: datetime | None = field(default=None, compare=False)
    """When it was written; of one that was written by this step, not told."""


@dataclass(frozen=True)
class StoredVersion:
    """Where the IDs of a token were stored, as `store_secret` tells the steps after it."""

    arn: str
    version_id: str
    replaces_version_id: str
    """What was current when it was written; itself, if it was current already."""

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> StoredVersion:
        """Read a state's `secret`: `{"arn": …, "version_id": …, "replaces_version_id": …}`.

        Raises:
            InvalidStepInput: if it is something else.

        """
        return cls(
            **{name: take(state, f"secret.{name}", str) for name in cls.__dataclass_fields__}
        )

    @property
    def is_public(self) -> bool:
        """Whether tasks pulled it already when it was stored."""
        return self.version_id == self.replaces_version_id


class SecretsManager:
    """The calls that the steps make. `client` is a boto3 Secrets Manager client."""

    def __init__(self, client: Any | None = None) -> None:
        self._client = client if client is not None else aws.client("secretsmanager")

    def current(self, secret_id: str) -> SecretVersion | None:
        """Read what tasks pull; `secret_id` is a name or an ARN.

        Returns None if there is no such secret, or if it has no value yet.

        Raises:
            SecretMarkedForDeletion: if it is in its recovery window.
            InvalidSecret: if the value is binary.

        """
        return self._value(f"Reading the secret {secret_id}", secret_id)

    def version(self, secret_id: str, version_id: str) -> SecretVersion:
        """Read one version of a secret, whatever its stages.

        Raises:
            AwsUnavailable: if the secret or the version is not there (yet).
            InvalidSecret: if the value is binary.

        """
        with _errors(f"Reading the version {version_id} of the secret {secret_id}", secret_id):
            answer = self._client.get_secret_value(SecretId=secret_id, VersionId=version_id)
            return _version(answer, secret_id)

    def stored(self, stored: StoredVersion) -> SecretVersion | None:
        """Read what was stored before, unless it has been superseded.

        It has not, if it is what tasks pull, or if it can become that: if the version that it is to
        replace is what they pull. Its labels say so mostly, and a second call says so for sure.

        Raises:
            AwsUnavailable: if the secret or the version is not there (yet).
            InvalidSecret: if the value is binary.

        """
        version = self.version(stored.arn, stored.version_id)
        if CURRENT in version.stages:
            return version
        if stored.is_public:
            return None
        if PENDING in version.stages and PREVIOUS not in version.stages:
            return version
        # Another writer has taken the label, perhaps one who is late himself; or it was current.
        current = self.current(stored.arn)
        replaceable = current is not None and current.version_id == stored.replaces_version_id
        return version if replaceable else None

    def currents(self, secret_ids: Sequence[str]) -> Iterator[SecretVersion | StepError | None]:
        """Read what tasks pull from many secrets, 20 a call; yield one result for each, in order.

        None is for a secret that is absent or has no value yet, an error for one that cannot be
        read: SecretMarkedForDeletion, InvalidSecret, AwsAccessDenied (such as to its key) and so
        on. It is not raised, for the others can be read all the same.
        """
        for some in batches(secret_ids, _SECRETS_A_CALL):
            with aws.translated_errors("Reading secrets"):
                answer = self._client.batch_get_secret_value(SecretIdList=some)
                found: dict[str, SecretVersion | StepError | None] = {}
                for value in answer["SecretValues"]:
                    # Asked for by the one or the other.
                    found[value["Name"]] = found[value["ARN"]] = _version_or_error(value)
                for error in answer.get("Errors", []):
                    found[error["SecretId"]] = _batch_error(error)
            for secret_id in some:
                yield found.get(secret_id)

    def pending(self, current: SecretVersion) -> SecretVersion | None:
        """Return the version that has been written to replace a current one, or None."""
        version_id = derived_version_id(current.arn, current.version_id)
        what = f"Reading the version {version_id} of the secret {current.arn}"
        return self._value(what, current.arn, VersionId=version_id)

    def _value(self, what: str, secret_id: str, **which: str) -> SecretVersion | None:
        """Read a value; None if there is none."""
        with _errors(what, secret_id):
            try:
                answer = self._client.get_secret_value(SecretId=secret_id, **which)
            except ClientError as error:
                if aws.error_code(error) == "ResourceNotFoundException":
                    return None
                raise
            return _version(answer, secret_id)

    def create_empty(
        self,
        name: str,
        *,
        description: str,
        tags: Mapping[str, str],
        kms_key_id: str | None = None,
    ) -> SecretVersion:
        """Make sure that a secret exists and has a value; a new one holds `{}`.

        Without a key the account's own encrypts it. One that exists keeps the key that it has. Of
        several callers one creates it, and the others read what is there.

        Raises:
            AwsUnavailable: if it exists but cannot be read yet.

        """
        with _errors(f"Creating the secret {name}", name):
            try:
                answer = self._client.create_secret(
                    Name=name,
                    Description=description,
                    SecretString=EMPTY,
                    Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
                    **({"KmsKeyId": kms_key_id} if kms_key_id else {}),
                )
            except ClientError as error:
                if aws.error_code(error) != "ResourceExistsException":
                    raise
            else:
                return SecretVersion(
                    aws.member(answer, "ARN", str), aws.member(answer, "VersionId", str), EMPTY
                )
        existing = self.current(name)
        return existing if existing is not None else self.initialize(name)

    def initialize(self, secret_id: str) -> SecretVersion:
        """Give a secret that has no version its first one, `{}`.

        The first version becomes AWSCURRENT whatever stage is asked for, so it must not be the one
        with the IDs in it.
        """
        with _errors(f"Reading the versions of the secret {secret_id}", secret_id):
            described = self._client.describe_secret(SecretId=secret_id)
            arn = aws.member(described, "ARN", str)
        if described.get("VersionIdsToStages"):
            # It has one, and a stale read did not show it. Writing now would overwrite it.
            message = f"The secret {secret_id} exists but its value cannot be read yet."
            raise AwsUnavailable(message)
        version_id = derived_version_id(arn, "first")
        with _errors(f"Writing the first value of the secret {secret_id}", secret_id):
            self._client.put_secret_value(
                SecretId=arn, ClientRequestToken=version_id, SecretString=EMPTY
            )
        return SecretVersion(arn, version_id, EMPTY)

    def write_ahead(self, replaces: SecretVersion, new_value: Callable[[], str]) -> SecretVersion:
        """Write a value as the AWSPENDING version that is to replace a version.

        Returns the version that won: ours, or the one that another writer who read the same
        version wrote before, whether he is still at work or died.
        """
        version_id = derived_version_id(replaces.arn, replaces.version_id)
        return self._write_pending(replaces.arn, version_id, new_value())

    def keep(self, current: SecretVersion, *, version_id: str) -> bool:
        """Make it impossible that what was written to replace a current version ever does so.

        The value stays what it is, under another version ID: whoever still wants to publish the
        pending version finds that the one that it replaces is current no more.

        Returns whether the value has stayed. False: another version became current meanwhile.
        """
        self._write_pending(current.arn, version_id, current.value)
        return self.publish(current.arn, version_id, replaces_version_id=current.version_id)

    def _write_pending(self, arn: str, version_id: str, value: str) -> SecretVersion:
        """Write a pending version, or return what another writer wrote under its ID."""
        with _errors(f"Writing the pending value of the secret {arn}", arn):
            try:
                self._client.put_secret_value(
                    SecretId=arn,
                    ClientRequestToken=version_id,
                    SecretString=value,
                    VersionStages=[PENDING],
                )
            except ClientError as error:
                if aws.error_code(error) != "ResourceExistsException":
                    raise
            else:
                return SecretVersion(arn, version_id, value)
        return self.version(arn, version_id)

    def publish(self, arn: str, version_id: str, *, replaces_version_id: str) -> bool:
        """Make a version AWSCURRENT, if the version that it replaces still is.

        Returns whether `version_id` is AWSCURRENT now. False: another one became so meanwhile, and
        nothing was changed.

        Raises:
            AwsUnavailable: if Secrets Manager contradicts itself: it refuses to move the label from
                a version, and shows it there. What it shows may be a moment old.

        """
        with _errors(f"Publishing the secret {arn}", arn):
            try:
                self._client.update_secret_version_stage(
                    SecretId=arn,
                    VersionStage=CURRENT,
                    MoveToVersionId=version_id,
                    RemoveFromVersionId=replaces_version_id,
                )
            except ClientError as error:
                if aws.error_code(error) != "InvalidParameterException":
                    raise
                stages = self._client.describe_secret(SecretId=arn)["VersionIdsToStages"]
                if CURRENT in stages.get(replaces_version_id, []):
                    text = error.response["Error"].get("Message", "")
                    message = f"Publishing the secret {arn} was refused for no reason seen: {text}"
                    raise AwsUnavailable(message) from None
                return CURRENT in stages.get(version_id, [])
        return True

    def put_current(self, arn: str, value: str) -> None:
        """Write a value that tasks and steps see at once."""
        with _errors(f"Writing the secret {arn}", arn):
            self._client.put_secret_value(SecretId=arn, SecretString=value)


def derived_version_id(arn: str, replaced_version_id: str) -> str:
    """Return the one ID that any writer gives to the successor of a version."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{arn}#{replaced_version_id}"))


def kept_version_id(arn: str, version_id: str, why: str) -> str:
    """Return the ID under which `SecretsManager.keep` may write a version's value again.

    Who comes later sees by it for which of several reasons that was done.
    """
    return derived_version_id(arn, f"{version_id}#{why}")


def _version(answer: Mapping[str, Any], secret_id: str) -> SecretVersion:
    if "SecretBinary" in answer:
        message = f"The secret {secret_id} is binary; a string is needed."
        raise InvalidSecret(message)
    return SecretVersion(
        aws.member(answer, "ARN", str),
        aws.member(answer, "VersionId", str),
        aws.member(answer, "SecretString", str),
        stages=frozenset(answer.get("VersionStages", ())),
        created_at=aws.member(answer, "CreatedDate", datetime) if "CreatedDate" in answer else None,
    )


def _version_or_error(answer: Mapping[str, Any]) -> SecretVersion | StepError:
    try:
        return _version(answer, answer["ARN"])
    except InvalidSecret as error:
        return error


def _batch_error(error: Mapping[str, Any]) -> StepError | None:
    """Translate the error of one secret of a batch as that of a call for it alone."""
    secret_id, code = error["SecretId"], error.get("ErrorCode", "")
    if code == "ResourceNotFoundException":
        return None
    answer: Any = {"Error": {"Code": code, "Message": error.get("Message", "")}}
    if code == "InternalServiceError":  # which a call for it alone would answer with status 500
        answer["ResponseMetadata"] = {"HTTPStatusCode": 500}
    refusal = ClientError(answer, "BatchGetSecretValue")
    try:
        with _errors(f"Reading the secret {secret_id}", secret_id):
            raise refusal
    except StepError as translated:
        return translated


@contextmanager
def _errors(what: str, secret_id: str) -> Iterator[None]:
    with aws.translated_errors(what):
        try:
            yield
        except ClientError as error:
            code, message = aws.error_code(error), error.response["Error"].get("Message", "")
            if code == "ResourceNotFoundException":
                # Secrets Manager may not show at once what was written a moment ago.
                message = (
                    f"{what}: it is not there, or not yet. If it does not appear, somebody deleted "
                    "it. One of a service is made again: start the workflow again. If it belongs "
                    "to a stack, remove the stack and deploy it again."
                )
                raise AwsUnavailable(message) from None
            if code != "InvalidRequestException" or "delet" not in message:
                raise
            message = (
                f"The secret {secret_id} is marked for deletion. Restore it "
                f"(aws secretsmanager restore-secret --secret-id {secret_id}), or delete it for "
                "good (aws secretsmanager delete-secret --force-delete-without-recovery)."
            )
            raise SecretMarkedForDeletion(message) from None
