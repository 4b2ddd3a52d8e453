"""What the secrets of Consul servers hold: a gossip key, a management token, a certificate."""

from __future__ import annotations

import base64
import json
import secrets
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from handlers.core.errors import InvalidSecret
from handlers.core.token_secret import EMPTY, is_token_id

_GOSSIP_KEY_BYTES: Final = 32
_GOSSIP_KEY_SIZES: Final = frozenset({16, 24, 32})  # AES-128, -192, -256: Consul takes all three
_RESERVED_PREFIX: Final = "00000000-0000-0000-0000-0000000000"


@dataclass(frozen=True)
class Kind:
    """A kind of secret whose value is a chosen word."""

    name: str
    choose: Callable[[], str]
    is_valid: Callable[[str], bool]
    wanted: str

    def read(self, secret_string: str, *, where: str) -> str | None:
        """Read a secret's value as it is; None if it waits for one.

        Raises:
            InvalidSecret: if it is something else; the message never repeats the value.

        """
        if is_empty(secret_string):
            return None
        if not self.is_valid(secret_string):
            message = f"{where}: not {self.wanted}. Put one there, or {{}} to have one chosen."
            raise InvalidSecret(message)
        return secret_string


def is_empty(secret_string: str) -> bool:
    """Whether a secret waits for its first value."""
    return secret_string.strip() in {"", EMPTY}


def _new_gossip_key() -> str:
    return base64.b64encode(secrets.token_bytes(_GOSSIP_KEY_BYTES)).decode()


def _is_gossip_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) in _GOSSIP_KEY_SIZES
    except ValueError:
        return False


def _is_management_token(text: str) -> bool:
    return is_token_id(text) and not text.startswith(_RESERVED_PREFIX)


GOSSIP_KEY: Final = Kind(
    name="gossip key",
    choose=_new_gossip_key,
    is_valid=_is_gossip_key,
    wanted="a gossip key, which is 32 (or 16, or 24) bytes in base64",
)
MANAGEMENT_TOKEN: Final = Kind(
    name="management token",
    choose=lambda: str(uuid.uuid4()),
    is_valid=_is_management_token,
    wanted="a token, which is a UUID",
)
KINDS: Final[Mapping[str, Kind]] = {kind.name: kind for kind in (GOSSIP_KEY, MANAGEMENT_TOKEN)}


@dataclass(frozen=True)
class ServerIdentity:
    """The certificate of a server and its private key, both PEM."""

    certificate: str
    private_key: str = field(repr=False)

    @classmethod
    def parse(cls, secret_string: str, *, where: str) -> ServerIdentity | None:
        """Read the value of a server's secret; None if it waits for one.

        Raises:
            InvalidSecret: if it is something else; the message never repeats the value.

        """
        if is_empty(secret_string):
            return None
        # `from None`: a JSONDecodeError carries the whole document, and tracebacks are logged.
        try:
            value = json.loads(secret_string)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            value = {}
        certificate, private_key = value.get("certificate"), value.get("private_key")
        if not isinstance(certificate, str) or not isinstance(private_key, str):
            message = (
                f'{where}: not a JSON object with the keys "certificate" and "private_key". Put '
                "{} there to have a certificate issued."
            )
            raise InvalidSecret(message)
        return cls(certificate, private_key)

    def to_secret_string(self) -> str:
        """Return the JSON that a server takes both from."""
        return json.dumps({"certificate": self.certificate, "private_key": self.private_key})
