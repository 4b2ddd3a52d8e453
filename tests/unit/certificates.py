"""A CA and its servers, as their secrets and KMS have them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.unit.aws_state import SecretsState

CA, SERVER = "acme/ca", "acme/consul-server-1"
API = "server.consul.internal"
EVERY_SERVER = "server.dc1.consul"
NAMES = [EVERY_SERVER, f"consul-server-1.{EVERY_SERVER}", API, "localhost", "127.0.0.1"]

Identity = tuple[str, str]
"""A certificate and its private key, PEM."""


class Certificates:
    """The secrets and keys, without a value at first."""

    def __init__(self, secrets: SecretsState, kms: Any) -> None:
        self.secrets = secrets
        self.kms = kms
        self.ca_key = self.new_ca_key()
        self.encryption_key: str = kms.create_key()["KeyMetadata"]["Arn"]
        self.ca_arn = secrets.create(CA)
        self.server_arn = secrets.create(SERVER)

    def new_ca_key(self) -> str:
        """Make another key like the CA's."""
        created = self.kms.create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")
        return str(created["KeyMetadata"]["Arn"])

    # --- inputs of the steps ---------------------------------------------------------------------

    def for_ca(self, **changed: Any) -> dict[str, Any]:
        return {
            "ca": {
                "secret_id": self.ca_arn,
                "key_id": self.ca_key,
                "common_name": "Consul CA dc1",
                "lifetime_days": 3650,
                **changed,
            }
        }

    def for_server(self, **changed: Any) -> dict[str, Any]:
        return {
            "server": {
                "name": "consul-server-1",
                "secret_id": self.server_arn,
                "dns_names": [API],
                "lifetime_days": 90,
                **changed,
            },
            "ca": {"secret_id": self.ca_arn, "key_id": self.ca_key},
            "key_pair_key_id": self.encryption_key,
        }

    # --- what is there ---------------------------------------------------------------------------

    @property
    def ca(self) -> x509.Certificate:
        """The CA's certificate that is current."""
        return x509.load_pem_x509_certificate(self.secrets.current(CA).encode())

    @property
    def server(self) -> x509.Certificate:
        """The server's certificate that is current."""
        return x509.load_pem_x509_certificate(self.identity()[0].encode())

    def identity(self) -> Identity:
        """Return what the server would start with now; the key is the certificate's."""
        value = json.loads(self.secrets.current(SERVER))
        assert set(value) == {"certificate", "private_key"}
        certificate = x509.load_pem_x509_certificate(value["certificate"].encode())
        key = serialization.load_pem_private_key(value["private_key"].encode(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        assert isinstance(key.curve, ec.SECP256R1)
        assert key.public_key() == certificate.public_key()
        return value["certificate"], value["private_key"]


@contextmanager
def before_each(client: Any, operation: str, do: Any) -> Iterator[None]:
    """Do something before each call of an operation, which is made all the same."""
    event = f"before-call.{client.meta.service_model.service_id.hyphenize()}.{operation}"

    def call(**_: Any) -> None:
        client.meta.events.unregister(event, call)  # what is done may make the same call
        do()
        client.meta.events.register(event, call)

    client.meta.events.register(event, call)
    try:
        yield
    finally:
        client.meta.events.unregister(event, call)
