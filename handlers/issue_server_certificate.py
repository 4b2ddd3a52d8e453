"""Make sure that a Consul server has a certificate and its private key, and that they last."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from handlers.clients import secret_values
from handlers.clients.kms import Kms
from handlers.clients.secrets_manager import SecretsManager, SecretVersion
from handlers.core import clock, environment, x509
from handlers.core.errors import AwsUnavailable, InvalidSecret, InvalidStepInput
from handlers.core.issued_certificate import BACKDATED, report, take_lifetime
from handlers.core.server_secrets import ServerIdentity, is_empty
from handlers.core.step import step
from handlers.core.step_input import take, take_strings

_LOCAL_NAMES = ("localhost", "127.0.0.1")
# Letters, digits, - and _ (which Consul allows in names); a first label may be a wildcard.
_DNS_NAME = re.compile(r"(\*\.)?[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*", re.ASCII)
_LONGEST_DNS_NAME = 253


@step
def handler(state: Mapping[str, Any]) -> dict[str, Any]:
    """Leave a certificate alone that is good; have a key pair made and sign a new one otherwise.

    A certificate is good if the CA has signed it, if it is for the names that are wanted, if its
    private key belongs to it, and if less than half of its lifetime is over. It never outlasts the
    CA's. Its names are `server.<datacenter>.consul`, by which servers know each other,
    `<name>.server.<datacenter>.consul`, those under which the API is reached, and the host's own.

    Input: `{"server": {"name": …, "secret_id": …, "dns_names": [of the API], "lifetime_days": …},
    "ca": {"secret_id": …, "key_id": of its key in KMS}, "key_pair_key_id": a symmetric key}`.

    Result: `{"arn": …, "version_id": …, "expires": …, "issued": bool}`: the version that is current
    now, and whether it became so by this call.

    Remote calls, if there is nothing to do: 2, to Secrets Manager.

    Raises:
        InvalidSecret: if one of the secrets holds something else; nothing is overwritten.
        AwsUnavailable: also if the CA has no valid certificate (yet).

    """
    wanted = _Wanted.from_state(state)
    kms, secrets, now = Kms(), SecretsManager(), clock.now()
    ca = _ca(secrets, wanted.ca_secret_id, now)

    def read(version: SecretVersion) -> x509.Certificate | None:
        return _read(version, wanted, ca, now)

    def issue(_: SecretVersion) -> str:
        if kms.public_key(wanted.ca_key_id) != ca.public_key:
            message = (
                f"The secret {wanted.ca_secret_id}: the certificate of a CA, but not of the one "
                f"whose key {wanted.ca_key_id} is. Put {{}} there to have that issued."
            )
            raise InvalidSecret(message)
        pair = kms.new_key_pair(wanted.key_pair_key_id)
        unsigned = x509.unsigned_server(
            names=wanted.names,
            public_key=pair.public_key,
            ca=ca,
            not_before=now - BACKDATED,
            not_after=min(now + wanted.lifetime, ca.not_after),
        )
        signature = kms.sign(wanted.ca_key_id, unsigned.to_be_signed)
        return ServerIdentity(unsigned.signed(signature), pair.private_key).to_secret_string()

    made = secret_values.make_sure(secrets, wanted.secret_id, read=read, new_value=issue)
    return report(
        arn=made.version.arn,
        version_id=made.version.version_id,
        not_after=made.content.not_after,
        now=now,
        issued=made.is_new,
    )


@dataclass(frozen=True)
class _Wanted:
    """What the state asks for."""

    secret_id: str
    names: tuple[str, ...]
    lifetime: timedelta
    ca_secret_id: str
    ca_key_id: str
    key_pair_key_id: str

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> _Wanted:
        datacenter = environment.required(environment.CONSUL_DATACENTER)
        every_server = f"server.{datacenter}.consul"
        this_server = f"{take(state, 'server.name', str)}.{every_server}"
        dns_names = take_strings(state, "server.dns_names")
        for name in (every_server, this_server, *dns_names):
            if _DNS_NAME.fullmatch(name) is None or len(name) > _LONGEST_DNS_NAME:
                message = (
                    f"A certificate cannot be for the name {name!r}: it is no DNS name. It comes "
                    'from "server.name" and "server.dns_names" in the input of the step, and from '
                    "the datacenter."
                )
                raise InvalidStepInput(message)
        return cls(
            secret_id=take(state, "server.secret_id", str),
            # Each once, in this order.
            names=tuple(dict.fromkeys([every_server, this_server, *dns_names, *_LOCAL_NAMES])),
            lifetime=take_lifetime(state, "server.lifetime_days"),
            ca_secret_id=take(state, "ca.secret_id", str),
            ca_key_id=take(state, "ca.key_id", str),
            key_pair_key_id=take(state, "key_pair_key_id", str),
        )


def _ca(secrets: SecretsManager, secret_id: str, now: datetime) -> x509.Certificate:
    """Read the CA's certificate."""
    current = secrets.current(secret_id)
    if current is not None and not is_empty(current.value):
        try:
            ca = x509.Certificate.read(current.value)
        except x509.UnreadableError as error:
            message = f"The secret {current.arn}: {error}. Put {{}} there to have one issued."
            raise InvalidSecret(message) from None
        if not ca.is_ca or ca.key_id is None:
            message = (
                f"The secret {current.arn}: a certificate, but not of a CA of ours. Put {{}} there "
                "to have one issued."
            )
            raise InvalidSecret(message)
        if ca.not_after > now:
            return ca
    # The step before this one has issued it. Secrets Manager may not show it at once.
    message = f"The secret {secret_id} has no valid certificate of the CA, or not yet."
    raise AwsUnavailable(message)


def _read(
    version: SecretVersion, wanted: _Wanted, ca: x509.Certificate, now: datetime
) -> x509.Certificate | None:
    """Return the certificate in a version if it is good."""
    where = f"The secret {version.arn}"
    identity = ServerIdentity.parse(version.value, where=where)
    if identity is None:
        return None
    try:
        found = x509.Certificate.read(identity.certificate)
        has_key = found.has_private_key(identity.private_key)
    except x509.UnreadableError as error:
        message = f"{where}: {error}. Put {{}} there to have a certificate issued."
        raise InvalidSecret(message) from None
    is_good = (
        has_key
        and found.is_signed_by(ca)
        and set(found.names) == set(wanted.names)
        and found.not_after - now >= (found.not_after - found.not_before) / 2
    )
    return found if is_good else None
