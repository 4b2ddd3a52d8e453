"""KMS: asymmetric keys as AWS keeps them.

moto has keys that sign, but makes only symmetric ones for a template, makes no key pairs, uses a
key that is disabled or waits for its deletion, and gives a private RSA key, which takes its time,
also to symmetric keys. What is made here follows
https://docs.aws.amazon.com/kms/latest/APIReference/API_GenerateDataKeyPair.html,
https://docs.aws.amazon.com/kms/latest/developerguide/key-state.html and
https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-kms-key.html.
"""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from moto.core.exceptions import JsonRESTError
from moto.kms import models
from moto.kms.exceptions import InvalidKeyUsageException, ValidationException
from moto.kms.models import Key, KmsBackend, kms_backends
from moto.kms.responses import KmsResponse

from local.cloud.patching import replaced

_CURVES: dict[str, ec.EllipticCurve] = {
    "ECC_NIST_P256": ec.SECP256R1(),
    "ECC_NIST_P384": ec.SECP384R1(),
    "ECC_NIST_P521": ec.SECP521R1(),
    "ECC_SECG_P256K1": ec.SECP256K1(),
}
_WINDOW_DAYS = 30


@contextmanager
def corrected_kms() -> Iterator[None]:
    """Make moto's KMS have asymmetric keys as AWS does, within the context.

    Works around a moto server, and in or around ``mock_aws()``.
    """
    with ExitStack() as patches:
        for owner, name, value in (
            (KmsResponse, "generate_data_key_pair", _generate_data_key_pair),
            (KmsBackend, "sign", _with_usable_key(KmsBackend.sign)),
            (KmsBackend, "get_public_key", _with_usable_key(KmsBackend.get_public_key)),
            (models, "generate_private_key", _private_key(vars(models)["generate_private_key"])),
            (Key, "create_from_cloudformation_json", classmethod(_create_key)),
            (Key, "update_from_cloudformation_json", classmethod(_update_key)),
            (Key, "delete", _delete_key),
        ):
            patches.enter_context(replaced(owner, name, value))
        yield


def _generate_data_key_pair(self: KmsResponse) -> str:
    key_id, spec = self._get_param("KeyId"), self._get_param("KeyPairSpec")
    self._validate_key_id(key_id)
    if spec not in _CURVES:
        raise ValidationException(
            f"1 validation error detected: Value '{spec}' at 'keyPairSpec' failed to satisfy "
            f"constraint: the local cloud has {sorted(_CURVES)}"
        )
    key = _usable(self.kms_backend, key_id)
    if key.key_spec != "SYMMETRIC_DEFAULT":
        raise InvalidKeyUsageException
    pair = ec.generate_private_key(_CURVES[spec])
    private = pair.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    public = pair.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    context = self._get_param("EncryptionContext", {})
    encrypted, arn = self.kms_backend.encrypt(key.id, private, context)
    return json.dumps(
        {
            "KeyId": arn,
            "KeyPairSpec": spec,
            "PrivateKeyCiphertextBlob": base64.b64encode(encrypted).decode(),
            "PrivateKeyPlaintext": base64.b64encode(private).decode(),
            "PublicKey": base64.b64encode(public).decode(),
        }
    )


def _with_usable_key(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(self: KmsBackend, key_id: str, *args: Any, **kwargs: Any) -> Any:
        key = _usable(self, key_id)
        if key.private_key is None:
            raise InvalidKeyUsageException
        return original(self, key.id, *args, **kwargs)

    return call


def _private_key(original: Callable[[str], Any]) -> Callable[[str], Any]:
    def generate(spec: str) -> Any:
        return original(spec) if spec.startswith(("RSA", "ECC", "SM2")) else None

    return generate


def _usable(backend: KmsBackend, key_id: str) -> Key:
    """Return a key that can be used now."""
    key = backend.keys[backend.any_id_to_key_id(key_id)]
    if key.key_state == "PendingDeletion":
        raise JsonRESTError("KMSInvalidStateException", f"{key.arn} is pending deletion.")
    if not key.enabled:
        raise JsonRESTError("DisabledException", f"{key.arn} is disabled.")
    return key


# Of a template.


def _create_key(
    cls: type[Key],  # noqa: ARG001 - a class method
    /,
    resource_name: str,  # noqa: ARG001 - the parameters are moto's
    cloudformation_json: dict[str, Any],
    account_id: str,
    region_name: str,
    **_: Any,
) -> Key:
    properties = cloudformation_json["Properties"]
    key = kms_backends[account_id][region_name].create_key(
        policy=_policy(properties),
        key_usage=properties.get("KeyUsage", "ENCRYPT_DECRYPT"),
        key_spec=properties.get("KeySpec", "SYMMETRIC_DEFAULT"),
        description=properties.get("Description", ""),
        tags=_tags(properties),
    )
    _set_up(key, properties)
    return key


def _update_key(  # noqa: PLR0917 - moto's signature
    cls: type[Key],
    /,
    original_resource: Key,
    new_resource_name: str,
    cloudformation_json: dict[str, Any],
    account_id: str,
    region_name: str,
) -> Key:
    properties = cloudformation_json["Properties"]
    wanted = (
        properties.get("KeySpec", "SYMMETRIC_DEFAULT"),
        properties.get("KeyUsage", "ENCRYPT_DECRYPT"),
    )
    if (original_resource.key_spec, original_resource.key_usage) != wanted:
        _delete_key(original_resource, account_id, region_name)
        return _create_key(cls, new_resource_name, cloudformation_json, account_id, region_name)
    original_resource.description = properties.get("Description", "")
    original_resource.policy = _policy(properties) or original_resource.policy
    _set_up(original_resource, properties)
    return original_resource


def _delete_key(self: Key, account_id: str, region_name: str) -> None:
    backend = kms_backends[account_id][region_name]
    backend.schedule_key_deletion(self.id, _WINDOW_DAYS)


def _set_up(key: Key, properties: dict[str, Any]) -> None:
    key.key_rotation_status = _flag(properties.get("EnableKeyRotation", False))
    key.enabled = _flag(properties.get("Enabled", True))


def _flag(value: object) -> bool:
    return str(value).lower() == "true"


def _policy(properties: dict[str, Any]) -> str | None:
    policy = properties.get("KeyPolicy")
    return json.dumps(policy) if isinstance(policy, dict) else policy


def _tags(properties: dict[str, Any]) -> list[dict[str, str]]:
    return [{"TagKey": tag["Key"], "TagValue": tag["Value"]} for tag in properties.get("Tags", [])]
