"""Make sure that there is a certificate of the servers' CA, and that it lasts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from handlers.clients import secret_values
from handlers.clients.kms import Kms
from handlers.clients.secrets_manager import SecretsManager, SecretVersion
from handlers.core import clock, server_secrets, x509
from handlers.core.errors import InvalidSecret
from handlers.core.issued_certificate import BACKDATED, report, take_lifetime
from handlers.core.step import step
from handlers.core.step_input import take

_RENEWED_BEFORE_END = timedelta(days=730)


@step
def handler(state: Mapping[str, Any]) -> dict[str, Any]:
    """Leave a certificate alone that lasts; issue one, signed by the CA's own key, otherwise.

    A new certificate is of the same key and the same name: what the CA has signed is valid under
    the old certificate and the new one. It is issued when less than two years are left, or less
    than half of the lifetime.

    Input: `{"ca": {"secret_id": …, "key_id": of its key in KMS, "common_name": …,
    "lifetime_days": …}}`.

    Result: `{"arn": …, "version_id": …, "expires": …, "issued": bool}`: the version that is current
    now, and whether it became so by this call.

    Remote calls, if there is nothing to do: 2, one each to Secrets Manager and KMS.

    Raises:
        InvalidSecret: if the secret holds something else, such as the certificate of another key;
            nothing is overwritten.

    """
    secret_id, key_id = take(state, "ca.secret_id", str), take(state, "ca.key_id", str)
    common_name = take(state, "ca.common_name", str)
    lifetime = take_lifetime(state, "ca.lifetime_days")
    kms, now = Kms(), clock.now()
    public_key = kms.public_key(key_id)

    def read(version: SecretVersion) -> x509.Certificate | None:
        found = _read(version, public_key=public_key, key_id=key_id)
        return found if found is not None and _lasts(found, now) else None

    def issue(replaced: SecretVersion) -> str:
        old = _read(replaced, public_key=public_key, key_id=key_id)
        unsigned = x509.unsigned_ca(
            name=x509.ca_name(common_name) if old is None else old.subject,
            public_key=public_key,
            not_before=now - BACKDATED,
            not_after=now + lifetime,
        )
        return unsigned.signed(kms.sign(key_id, unsigned.to_be_signed))

    made = secret_values.make_sure(SecretsManager(), secret_id, read=read, new_value=issue)
    return report(
        arn=made.version.arn,
        version_id=made.version.version_id,
        not_after=made.content.not_after,
        now=now,
        issued=made.is_new,
    )


def _read(version: SecretVersion, *, public_key: bytes, key_id: str) -> x509.Certificate | None:
    if server_secrets.is_empty(version.value):
        return None
    where = f"The secret {version.arn}"
    try:
        found = x509.Certificate.read(version.value)
    except x509.UnreadableError as error:
        message = f"{where}: {error}. Put {{}} there to have the CA's certificate issued."
        raise InvalidSecret(message) from None
    if not found.is_ca or found.public_key != public_key:
        message = (
            f"{where}: a certificate, but not that of the CA whose key {key_id} is. Put {{}} there "
            "to have that issued; servers and clients then have to be started again."
        )
        raise InvalidSecret(message)
    return found


def _lasts(certificate: x509.Certificate, now: datetime) -> bool:
    half = (certificate.not_after - certificate.not_before) / 2
    return certificate.not_after - now >= min(half, _RENEWED_BEFORE_END)
