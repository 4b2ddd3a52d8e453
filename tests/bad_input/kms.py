"""KMS in memory: two keys, and a key pair that is always the same, so that runs can be repeated."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from botocore.exceptions import ClientError
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from handlers.core import x509
from handlers.core.server_secrets import ServerIdentity
from tests.bad_input.wire import REGION
from tests.faults.virtual_time import BEGINNING

CA_KEY: Final = f"arn:aws:kms:{REGION}:123456789012:key/0b3c5d7e-1f2a-4b6c-8d9e-0a1b2c3d4e5f"
ENCRYPTION_KEY: Final = (
    f"arn:aws:kms:{REGION}:123456789012:key/7f6e5d4c-3b2a-4190-8f7e-6d5c4b3a2918"
)
DNS_NAMES: Final = ("server.consul.internal",)
NAMES: Final = (
    *("server.dc1.consul", "consul-server-1.server.dc1.consul", *DNS_NAMES),
    *("localhost", "127.0.0.1"),
)

_CA: Final = ec.derive_private_key(0xCA, ec.SECP256R1())
_SERVER: Final = ec.derive_private_key(0x5E, ec.SECP256R1())
_BACK: Final = timedelta(minutes=5)


def kms(operation: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """Answer a call; raises the refusal of a key that is not there, or not for this."""
    match operation, arguments["KeyId"]:
        case "GetPublicKey", key if key == CA_KEY:
            return {"KeyId": key, "PublicKey": _text(_public(_CA))}
        case "Sign", key if key == CA_KEY:
            signature = _signed(base64.b64decode(arguments["Message"]))
            return {"KeyId": key, "Signature": _text(signature)}
        case "GenerateDataKeyPair", key if key == ENCRYPTION_KEY:
            return {
                "KeyId": key,
                "PublicKey": _text(_public(_SERVER)),
                "PrivateKeyPlaintext": _text(_private(_SERVER)),
                "PrivateKeyCiphertextBlob": _text(b"encrypted"),
            }
        case _, key:
            known = key in {CA_KEY, ENCRYPTION_KEY}
            code = "InvalidKeyUsageException" if known else "NotFoundException"
            raise ClientError({"Error": {"Code": code, "Message": "As on AWS."}}, operation)


def ca_certificate(*, days: int = 3650) -> str:
    """Return the CA's certificate, of the beginning of all runs."""
    unsigned = x509.unsigned_ca(
        name=x509.ca_name("Consul CA dc1"),
        public_key=_public(_CA),
        not_before=BEGINNING - _BACK,
        not_after=BEGINNING + timedelta(days=days),
    )
    return unsigned.signed(_signed(unsigned.to_be_signed))


def server_identity() -> ServerIdentity:
    """Return a server's certificate and its private key, of the beginning of all runs."""
    public_key = _public(_SERVER)
    unsigned = x509.unsigned_server(
        names=NAMES,
        public_key=public_key,
        ca=x509.Certificate.read(ca_certificate()),
        not_before=BEGINNING - _BACK,
        not_after=BEGINNING + timedelta(days=90),
    )
    return ServerIdentity(
        unsigned.signed(_signed(unsigned.to_be_signed)),
        x509.private_key_pem(_private(_SERVER), public_key=public_key),
    )


def _signed(message: bytes) -> bytes:
    return _CA.sign(message, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))


def _public(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def _text(blob: bytes) -> str:
    return base64.b64encode(blob).decode()
