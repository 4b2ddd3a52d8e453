"""Keys in KMS: the CA's, whose private half stays there, and key pairs of servers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from handlers.clients import aws
from handlers.core import x509
from handlers.core.errors import AwsUnavailable


@dataclass(frozen=True)
class KeyPair:
    """A key pair that KMS has made, and does not keep."""

    public_key: bytes
    """A SubjectPublicKeyInfo in DER."""
    private_key: str = field(repr=False)
    """PEM."""


class Kms:
    """The calls that the steps make. `client` is a boto3 KMS client."""

    def __init__(self, client: Any | None = None) -> None:
        self._client = client if client is not None else aws.client("kms")

    def public_key(self, key_id: str) -> bytes:
        """Return the public half of a key, as a SubjectPublicKeyInfo in DER.

        Raises:
            AwsUnavailable: also if the key is not there (yet).

        """
        with _errors(f"Reading the public key of {key_id}", key_id):
            answer = self._client.get_public_key(KeyId=key_id)
            return x509.require_public_key(aws.member(answer, "PublicKey", bytes))

    def sign(self, key_id: str, message: bytes) -> bytes:
        """Sign up to 4096 bytes with a P-256 key; return the DER of the signature.

        Raises:
            AwsUnavailable: also if the key is not there (yet).

        """
        with _errors(f"Signing with the key {key_id}", key_id):
            answer = self._client.sign(
                KeyId=key_id,
                Message=message,
                MessageType="RAW",
                SigningAlgorithm="ECDSA_SHA_256",
            )
            return x509.require_signature(aws.member(answer, "Signature", bytes))

    def new_key_pair(self, key_id: str) -> KeyPair:
        """Have a P-256 key pair made. A copy encrypted by a symmetric key comes with it; dropped.

        Raises:
            AwsUnavailable: also if the key is not there (yet).

        """
        with _errors(f"Making a key pair with the key {key_id}", key_id):
            answer = self._client.generate_data_key_pair(KeyId=key_id, KeyPairSpec="ECC_NIST_P256")
            public_key = x509.require_public_key(aws.member(answer, "PublicKey", bytes))
            pkcs8 = aws.member(answer, "PrivateKeyPlaintext", bytes)
            return KeyPair(public_key, x509.private_key_pem(pkcs8, public_key=public_key))


@contextmanager
def _errors(what: str, key_id: str) -> Iterator[None]:
    with aws.translated_errors(what):
        try:
            yield
        except ClientError as error:
            if aws.error_code(error) != "NotFoundException":
                raise
            # KMS may not show everywhere at once what was made a moment ago.
            message = (
                f"{what}: it is not there, or not yet. If it does not appear, somebody deleted it: "
                f"aws kms describe-key --key-id {key_id}"
            )
            raise AwsUnavailable(message) from None
