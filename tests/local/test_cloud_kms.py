"""KMS in the local cloud keeps keys that sign, and makes key pairs, as AWS does."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    load_der_private_key,
    load_der_public_key,
)
from moto import mock_aws

from local.cloud import LocalCloud
from local.cloud.kms import corrected_kms


@pytest.fixture
def kms() -> Iterator[Any]:
    with mock_aws(), corrected_kms():
        yield boto3.client("kms", region_name="us-east-1")


def new_key(kms: Any, **wanted: str) -> str:
    return str(kms.create_key(**wanted)["KeyMetadata"]["Arn"])


def error_of(call: Callable[..., Any], **arguments: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return str(caught.value.response["Error"]["Code"])


SIGNS = {"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"}
MESSAGE = b"m" * 4096
SIGNED: dict[str, Any] = {
    "Message": MESSAGE,
    "MessageType": "RAW",
    "SigningAlgorithm": "ECDSA_SHA_256",
}


@pytest.mark.parametrize("part", ["the ARN", "the ID"])
def test_a_signature_is_der_and_verified_by_the_public_key(kms: Any, part: str) -> None:
    key = new_key(kms, **SIGNS)
    key_id = key if part == "the ARN" else key.rpartition("/")[2]

    answer = kms.get_public_key(KeyId=key_id)
    signature = kms.sign(KeyId=key_id, **SIGNED)["Signature"]

    public = load_der_public_key(answer["PublicKey"])
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert isinstance(public.curve, ec.SECP256R1)
    public.verify(signature, MESSAGE, ec.ECDSA(hashes.SHA256()))
    assert answer["KeyUsage"] == "SIGN_VERIFY"
    assert answer["SigningAlgorithms"] == ["ECDSA_SHA_256"]


@pytest.mark.parametrize("spec", ["ECC_NIST_P256", "ECC_NIST_P384"])
def test_a_key_pair_is_one_and_its_encrypted_copy_is_the_private_key(kms: Any, spec: str) -> None:
    key = new_key(kms)

    pair = kms.generate_data_key_pair(KeyId=key, KeyPairSpec=spec)

    private = load_der_private_key(pair["PrivateKeyPlaintext"], None)
    assert private.public_key() == load_der_public_key(pair["PublicKey"])
    decrypted = kms.decrypt(CiphertextBlob=pair["PrivateKeyCiphertextBlob"])
    assert (decrypted["Plaintext"], decrypted["KeyId"]) == (pair["PrivateKeyPlaintext"], key)
    assert (pair["KeyId"], pair["KeyPairSpec"]) == (key, spec)
    other = kms.generate_data_key_pair(KeyId=key, KeyPairSpec=spec)
    assert other["PublicKey"] != pair["PublicKey"]


def test_a_key_does_only_what_it_is_for(kms: Any) -> None:
    signing, encrypting = new_key(kms, **SIGNS), new_key(kms)

    pair = {"KeyPairSpec": "ECC_NIST_P256"}
    refused = "InvalidKeyUsageException"
    assert error_of(kms.generate_data_key_pair, KeyId=signing, **pair) == refused
    assert error_of(kms.get_public_key, KeyId=encrypting) == refused
    assert error_of(kms.sign, KeyId=encrypting, **SIGNED) == refused
    absent = f"{signing}0"
    assert error_of(kms.generate_data_key_pair, KeyId=absent, **pair) == "NotFoundException"
    other = {"KeyPairSpec": "RSA_2048"}
    assert error_of(kms.generate_data_key_pair, KeyId=encrypting, **other) == "ValidationException"


@pytest.mark.parametrize(
    ("change", "refused"),
    [("disable_key", "DisabledException"), ("schedule_key_deletion", "KMSInvalidStateException")],
)
def test_a_key_that_is_disabled_or_to_be_deleted_does_nothing(
    kms: Any, change: str, refused: str
) -> None:
    signing, encrypting = new_key(kms, **SIGNS), new_key(kms)
    for key in (signing, encrypting):
        getattr(kms, change)(KeyId=key.rpartition("/")[2])

    assert error_of(kms.sign, KeyId=signing, **SIGNED) == refused
    assert error_of(kms.get_public_key, KeyId=signing) == refused
    pair = {"KeyPairSpec": "ECC_NIST_P256"}
    assert error_of(kms.generate_data_key_pair, KeyId=encrypting, **pair) == refused


def test_without_it_moto_is_as_it_was() -> None:
    with mock_aws():
        with corrected_kms():
            pass
        kms = boto3.client("kms", region_name="us-east-1")
        key = new_key(kms, **SIGNS)
        kms.disable_key(KeyId=key.rpartition("/")[2])
        kms.sign(KeyId=key, **SIGNED)
        with pytest.raises(NotImplementedError):
            kms.generate_data_key_pair(KeyId=key, KeyPairSpec="ECC_NIST_P256")


# --- in a template -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    with LocalCloud(workdir=tmp_path_factory.mktemp("cloud")) as cloud:
        yield cloud


def key(**properties: Any) -> dict[str, Any]:
    policy = {"Version": "2012-10-17", "Statement": []}
    return {"Type": "AWS::KMS::Key", "Properties": {"KeyPolicy": policy, **properties}}


def deploy(cloud: LocalCloud, ca: dict[str, Any]) -> dict[str, str]:
    """Deploy two keys; return their ARNs by their logical IDs."""
    template = {
        "Resources": {"Ca": ca, "Encryption": key(EnableKeyRotation=True)},
        "Outputs": {
            name: {"Value": {"Fn::GetAtt": [name, "Arn"]}} for name in ("Ca", "Encryption")
        },
    }
    client = cloud.client("cloudformation")
    try:
        client.create_stack(StackName="keys", TemplateBody=json.dumps(template))
    except client.exceptions.AlreadyExistsException:
        client.update_stack(StackName="keys", TemplateBody=json.dumps(template))
    (stack,) = client.describe_stacks(StackName="keys")["Stacks"]
    assert stack["StackStatus"] in {"CREATE_COMPLETE", "UPDATE_COMPLETE"}
    return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}


def described(cloud: LocalCloud, arn: str) -> dict[str, Any]:
    found: dict[str, Any] = cloud.client("kms").describe_key(KeyId=arn)["KeyMetadata"]
    return found


def test_a_stack_has_keys_of_the_kind_that_its_template_names(cloud: LocalCloud) -> None:
    client = cloud.client("kms")
    first = deploy(cloud, key(**SIGNS, Description="CA", Tags=[{"Key": "a", "Value": "b"}]))

    ca, encryption = described(cloud, first["Ca"]), described(cloud, first["Encryption"])
    assert (ca["KeySpec"], ca["KeyUsage"], ca["Description"]) == (*SIGNS.values(), "CA")
    assert (encryption["KeySpec"], encryption["KeyUsage"]) == (
        "SYMMETRIC_DEFAULT",
        "ENCRYPT_DECRYPT",
    )
    tags = client.list_resource_tags(KeyId=first["Ca"])["Tags"]
    assert tags == [{"TagKey": "a", "TagValue": "b"}]
    status = client.get_key_rotation_status(KeyId=ca["KeyId"])
    assert status["KeyRotationEnabled"] is False
    assert client.get_key_rotation_status(KeyId=encryption["KeyId"])["KeyRotationEnabled"] is True
    client.sign(KeyId=first["Ca"], **SIGNED)

    # An update keeps the key; another kind of key is another key.
    assert deploy(cloud, key(**SIGNS, Description="The CA")) == first
    assert described(cloud, first["Ca"])["Description"] == "The CA"
    second = deploy(cloud, key(**{**SIGNS, "KeySpec": "ECC_NIST_P384"}))
    assert second["Ca"] != first["Ca"]
    assert second["Encryption"] == first["Encryption"]

    # What a stack leaves behind waits for its deletion.
    cloud.client("cloudformation").delete_stack(StackName="keys")
    for arn in (first["Ca"], *second.values()):
        assert described(cloud, arn)["KeyState"] == "PendingDeletion"
        assert described(cloud, arn)["DeletionDate"].timestamp() > time.time() + 29 * 86_400
