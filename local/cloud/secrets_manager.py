"""Secrets Manager: versions and staging labels as AWS keeps them.

The controller relies on Secrets Manager to let exactly one of two writers win, on versions that
never change once written, and on the rules by which labels move. moto gets these wrong: it
overwrites a version labelled AWSPENDING, loses labels of the version that stops being current,
goes on serving the old value after ``UpdateSecretVersionStage``, checks and writes in two steps,
and does not answer ``BatchGetSecretValue`` if one of the secrets has no value. The rules below
follow
https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_PutSecretValue.html,
https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_UpdateSecretVersionStage.html and
https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_BatchGetSecretValue.html.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

from moto.secretsmanager import models
from moto.secretsmanager.exceptions import (
    InvalidParameterException,
    InvalidRequestException,
    OperationNotPermittedOnReplica,
    ResourceExistsException,
    ResourceNotFoundException,
    SecretNotFoundException,
    SecretsManagerClientError,
    SecretStageVersionMismatchException,
    ValidationException,
)
from moto.secretsmanager.models import FakeSecret, ReplicaSecret, SecretsManagerBackend
from moto.secretsmanager.responses import SecretsManagerResponse

from local.cloud.clock import CloudClock
from local.cloud.patching import locked, replaced

_CURRENT = "AWSCURRENT"
_PREVIOUS = "AWSPREVIOUS"
_MARKED = "You can't perform this operation on the secret because it was marked for deletion."

# Reads and writes of one call belong together: of two racing writers exactly one may win.
_lock = threading.RLock()

# Stands in for the module ``time``, here and in moto.
_time = SimpleNamespace(time=time.time)


@contextmanager
def corrected_secrets_manager(clock: CloudClock | None = None) -> Iterator[None]:
    """Make moto's Secrets Manager keep versions and labels as AWS does, within the context.

    Works around a moto server, and in or around ``mock_aws()``. Without a ``clock`` the time is
    ours.
    """
    clock = clock or CloudClock()
    replacements: dict[str, Callable[..., Any]] = {
        "batch_get_secret_value": _batch_get_secret_value(
            SecretsManagerBackend.batch_get_secret_value
        ),
        "create_secret": _create_secret,
        "get_secret_value": _get_secret_value,
        "list_secret_version_ids": _list_secret_version_ids,
        "put_secret_value": _put_secret_value,
        "update_secret": _update_secret,
        "update_secret_version_stage": _update_secret_version_stage,
    }
    # Correct as they are, but not to be interleaved with the ones above. (RotateSecret is: it waits
    # for a function that writes the secret in its turn.)
    for name in ("delete_secret", "describe_secret", "list_secrets", "restore_secret"):
        replacements[name] = getattr(SecretsManagerBackend, name)
    with ExitStack() as patches:
        for name, function in replacements.items():
            patches.enter_context(replaced(SecretsManagerBackend, name, locked(_lock, function)))
        patches.enter_context(
            replaced(FakeSecret, "_form_version_ids_to_stages", _labelled_versions)
        )
        patches.enter_context(
            replaced(SecretsManagerResponse, "list_secret_version_ids", _answer_with_versions)
        )
        patches.enter_context(replaced(_time, "time", clock.time))
        patches.enter_context(replaced(models, "time", _time))
        yield


# Operations. The parameters are moto's.


def _create_secret(  # noqa: PLR0917 - moto's signature
    self: SecretsManagerBackend,
    name: str,
    secret_string: str | None,
    secret_binary: str | None,
    description: str | None,
    tags: list[dict[str, str]] | None,
    kms_key_id: str | None,
    client_request_token: str | None,
    replica_regions: list[dict[str, str]],
    force_overwrite: bool,  # noqa: FBT001 - moto's signature
) -> str:
    existing = self.secrets.get(name)
    if existing is not None:
        existing = _primary(existing)
        if existing.is_deleted():
            raise InvalidRequestException(
                "You can't create this secret because a secret with this name is already "
                "scheduled for deletion."
            )
        version = existing.versions.get(client_request_token or "")
        if version is None or not _has_value(version, secret_string, secret_binary):
            raise ResourceExistsException(
                f"The operation failed because the secret {name} already exists."
            )
        return existing.to_short_dict()
    secret, new_version = self._add_secret(
        name,
        secret_string=secret_string,
        secret_binary=secret_binary,
        description=description,
        tags=tags,
        kms_key_id=kms_key_id,
        version_id=client_request_token,
        replica_regions=replica_regions,
        force_overwrite=force_overwrite,
    )
    return secret.to_short_dict(include_version_id=new_version)


def _put_secret_value(  # noqa: PLR0917 - moto's signature
    self: SecretsManagerBackend,
    secret_id: str,
    secret_string: str | None,
    secret_binary: str | None,
    client_request_token: str | None,
    version_stages: list[str],
) -> str:
    secret = _usable(self, secret_id)
    version_id = self._from_client_request_token(client_request_token)
    _write_version(secret, version_id, secret_string, secret_binary, version_stages)
    return secret.to_short_dict(include_version_stages=True, version_id=version_id)


def _update_secret(  # noqa: PLR0917 - moto's signature
    self: SecretsManagerBackend,
    secret_id: str,
    secret_string: str | None = None,
    secret_binary: str | None = None,
    client_request_token: str | None = None,
    kms_key_id: str | None = None,
    description: str | None = None,
) -> str:
    secret = _usable(self, secret_id)
    has_value = secret_string is not None or secret_binary is not None
    if has_value:
        version_id = self._from_client_request_token(client_request_token)
        _write_version(secret, version_id, secret_string, secret_binary, [_CURRENT])
    secret.update(
        description=secret.description if description is None else description,
        tags=secret.tags,
        kms_key_id=kms_key_id,
        last_changed_date=int(_time.time()),
    )
    return secret.to_short_dict(include_version_id=has_value)


def _get_secret_value(
    self: SecretsManagerBackend,
    secret_id: str,
    version_id: str | None,
    version_stage: str | None,
) -> dict[str, Any]:
    found = self.secrets.get(secret_id)
    if found is None:
        raise SecretNotFoundException
    if found.is_deleted():
        raise InvalidRequestException(_MARKED)
    if version_id:
        version, wanted = found.versions.get(version_id), f"VersionId: {version_id}"
        if version is not None and version_stage and version_stage not in _labels(version):
            raise SecretStageVersionMismatchException
    else:
        label = version_stage or _CURRENT
        holder = _holder(found, label)
        version = found.versions[holder] if holder else None
        wanted = f"staging label: {label}"
    if version is None or not _is_written(version):
        raise ResourceNotFoundException(
            f"Secrets Manager can't find the specified secret value for {wanted}"
        )
    answer = {
        "ARN": found.arn,
        "Name": found.name,
        "VersionId": version["version_id"],
        "VersionStages": list(_labels(version)),
        "CreatedDate": version["createdate"],
    }
    for key, name in (("secret_string", "SecretString"), ("secret_binary", "SecretBinary")):
        if version.get(key) is not None:
            answer[name] = version[key]
    return answer


def _update_secret_version_stage(
    self: SecretsManagerBackend,
    secret_id: str,
    version_stage: str,
    remove_from_version_id: str | None,
    move_to_version_id: str | None,
) -> tuple[str, str]:
    secret = _usable(self, secret_id)
    for version_id in (remove_from_version_id, move_to_version_id):
        if version_id and version_id not in secret.versions:
            raise ResourceNotFoundException(
                f"Secrets Manager can't find the specified secret version: {version_id}."
            )
    holder = _holder(secret, version_stage)
    if remove_from_version_id and remove_from_version_id != holder:
        raise InvalidParameterException(
            f"The staging label {version_stage} isn't attached to version {remove_from_version_id}."
        )
    if holder and move_to_version_id not in (None, holder) and not remove_from_version_id:
        raise InvalidParameterException(
            "The parameter RemoveFromVersionId can't be empty. Staging label "
            f"{version_stage} is currently attached to version {holder}, so you must "
            "explicitly reference that version in RemoveFromVersionId."
        )
    if not move_to_version_id and version_stage == _CURRENT:
        raise InvalidParameterException(
            "You can only move staging label AWSCURRENT to a different secret version. "
            "It can't be completely removed."
        )
    if move_to_version_id:
        _attach(secret, version_stage, move_to_version_id)
    elif remove_from_version_id:
        _labels(secret.versions[remove_from_version_id]).remove(version_stage)
    return secret.arn, secret.name


_MOST_SECRETS = 20


def _batch_get_secret_value(for_filters: Callable[..., Any]) -> Callable[..., Any]:
    """Return the operation for a list of secrets; moto's own does for filters."""

    def batch_get_secret_value(
        self: SecretsManagerBackend,
        secret_id_list: list[str] | None = None,
        filters: list[dict[str, Any]] | None = None,
        max_results: int | None = None,
        next_token: str | None = None,
    ) -> Any:
        if not secret_id_list or filters or max_results:
            return for_filters(self, secret_id_list, filters, max_results, next_token)
        if len(secret_id_list) > _MOST_SECRETS:
            raise ValidationException(
                "1 validation error detected: Value at 'secretIdList' failed to satisfy "
                f"constraint: Member must have length less than or equal to {_MOST_SECRETS}"
            )
        values: list[dict[str, Any]] = []
        errors: list[dict[str, str]] = []
        for secret_id in secret_id_list:
            try:
                values.append(_get_secret_value(self, secret_id, None, None))
            except SecretsManagerClientError as error:
                errors.append(
                    {
                        "SecretId": secret_id,
                        "ErrorCode": str(error.error_type),
                        "Message": str(error.message),
                    }
                )
        return values, errors, None

    return batch_get_secret_value


def _list_secret_version_ids(
    self: SecretsManagerBackend,
    secret_id: str,
    include_deprecated: bool = False,  # noqa: FBT001, FBT002 - as moto has flags
) -> str:
    found = self.secrets.get(secret_id)
    if found is None:
        raise SecretNotFoundException
    versions = [
        {
            "CreatedDate": version["createdate"],
            "VersionId": version_id,
            # One that is deprecated has none, and AWS leaves the field out.
            **({"VersionStages": list(_labels(version))} if _labels(version) else {}),
        }
        for version_id, version in found.versions.items()
        if _labels(version) or include_deprecated
    ]
    return json.dumps({"ARN": found.arn, "Name": found.name, "Versions": versions})


def _answer_with_versions(self: SecretsManagerResponse) -> str:
    # moto does not read the flag from the request.
    deprecated = bool(self._get_param("IncludeDeprecated"))
    with _lock:
        return _list_secret_version_ids(self.backend, self._get_param("SecretId"), deprecated)


def _labelled_versions(self: FakeSecret) -> dict[str, list[str]]:
    return {
        id_: list(_labels(version)) for id_, version in self.versions.items() if _labels(version)
    }


# Versions and labels.


def _write_version(
    secret: FakeSecret,
    version_id: str,
    secret_string: str | None,
    secret_binary: str | None,
    labels: list[str],
) -> None:
    version = secret.versions.get(version_id)
    # RotateSecret leaves a version without a value, which the rotation then writes.
    if version is not None and _is_written(version):
        if _has_value(version, secret_string, secret_binary):
            return  # The same request again; it changes nothing, not even labels.
        raise ResourceExistsException(
            f"You can't use ClientRequestToken {version_id} because that value is already in use "
            f"for a version of secret {secret.arn}."
        )
    # The first version of a secret becomes current whatever labels were asked for.
    first = not any(_is_written(other) for other in secret.versions.values())
    version = secret.versions.setdefault(
        version_id,
        {"createdate": int(_time.time()), "version_id": version_id, "version_stages": []},
    )
    for key, value in (("secret_string", secret_string), ("secret_binary", secret_binary)):
        if value is not None:
            version[key] = value
    for label in [*labels, *([_CURRENT] if first and _CURRENT not in labels else [])]:
        _attach(secret, label, version_id)
    secret.last_changed_date = int(_time.time())


def _attach(secret: FakeSecret, label: str, version_id: str) -> None:
    """Move ``label`` to that version; AWSPREVIOUS follows to the one that loses AWSCURRENT."""
    holder = _holder(secret, label)
    if holder == version_id:
        return
    if holder is not None:
        _labels(secret.versions[holder]).remove(label)
    _labels(secret.versions[version_id]).append(label)
    if label == _CURRENT:
        # moto names the current version here, and answers with it.
        secret.set_default_version_id(version_id)
        if _PREVIOUS in _labels(secret.versions[version_id]):
            _labels(secret.versions[version_id]).remove(_PREVIOUS)
        if holder is not None:
            _attach(secret, _PREVIOUS, holder)


def _usable(backend: SecretsManagerBackend, secret_id: str) -> FakeSecret:
    found = backend.secrets.get(secret_id)
    if found is None:
        raise SecretNotFoundException
    secret = _primary(found)
    if secret.is_deleted():
        raise InvalidRequestException(_MARKED)
    return secret


def _primary(secret: FakeSecret | ReplicaSecret) -> FakeSecret:
    if isinstance(secret, ReplicaSecret):
        raise OperationNotPermittedOnReplica
    return secret


def _holder(secret: FakeSecret | ReplicaSecret, label: str) -> str | None:
    return next(
        (id_ for id_, version in secret.versions.items() if label in _labels(version)), None
    )


def _labels(version: dict[str, Any]) -> list[str]:
    labels: list[str] = version["version_stages"]
    return labels


def _is_written(version: dict[str, Any]) -> bool:
    return version.get("secret_string") is not None or version.get("secret_binary") is not None


def _has_value(
    version: dict[str, Any], secret_string: str | None, secret_binary: str | None
) -> bool:
    same_string = version.get("secret_string") == secret_string
    return same_string and version.get("secret_binary") == secret_binary
