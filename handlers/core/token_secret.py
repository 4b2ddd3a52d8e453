"""What the secrets hold: a token's two IDs as JSON, or a bare management token."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass, field
from typing import Any

from handlers.core.errors import InvalidSecret

EMPTY = "{}"
"""The value of a secret that waits for its first IDs."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
# Consul answers 'UUIDs with the prefix "…" are reserved' to these.
_RESERVED_PREFIX = "00000000-0000-0000-0000-0000000000"
_HOW_TO_RESET = "Put a valid pair there, or {} to have new IDs made."


def is_token_id(text: str) -> bool:
    """Whether Consul takes a text for an ID of a token."""
    return _UUID.fullmatch(text) is not None


@dataclass(frozen=True)
class TokenIds:
    """The two IDs of a Consul token. The secret ID is the credential."""

    accessor_id: str
    secret_id: str = field(repr=False)

    @classmethod
    def new(cls) -> TokenIds:
        """Choose a new pair of random IDs."""
        return cls(accessor_id=str(uuid.uuid4()), secret_id=str(uuid.uuid4()))

    @classmethod
    def parse(cls, secret_string: str, *, where: str) -> TokenIds | None:
        """Read the value of a token's secret: `{"accessor_id": UUID, "token": UUID}`.

        `where` names the secret in errors. Returns None for `{}`. Other keys are left alone.

        Raises:
            InvalidSecret: for everything else; the message never repeats the value.

        """
        value = _json_object(secret_string, where=where)
        if not value:
            return None
        accessor_id = _uuid(value, "accessor_id", where=where)
        secret_id = _uuid(value, "token", where=where)
        if accessor_id.lower() == secret_id.lower():
            # Consul keeps accessor and secret IDs in one case-insensitive namespace.
            message = f"{where}: accessor_id and token are the same UUID. {_HOW_TO_RESET}"
            raise InvalidSecret(message)
        return cls(accessor_id=accessor_id, secret_id=secret_id)

    @classmethod
    def require(cls, secret_string: str, *, where: str) -> TokenIds:
        """Read a value that must hold IDs already.

        Raises:
            InvalidSecret: as `parse` does, and for `{}`.

        """
        ids = cls.parse(secret_string, where=where)
        if ids is None:
            message = f"{where}: there are no IDs in it yet. {_HOW_TO_RESET}"
            raise InvalidSecret(message)
        return ids

    def are_of(self, accessor_id: str) -> bool:
        """Whether they are those of a token; to Consul capitals make no difference."""
        return self.accessor_id.lower() == accessor_id.lower()

    def to_secret_string(self) -> str:
        """Return the JSON that HashiCorp's task definitions select `token` from."""
        return json.dumps({"accessor_id": self.accessor_id, "token": self.secret_id})


def parse_acl_token(secret_string: str, *, where: str) -> str | None:
    """Read a secret that a step authenticates with.

    Either the bare token, as HashiCorp's modules store a bootstrap token, or a JSON object with the
    key `token`. Returns None for an empty value or `{}`.

    Raises:
        InvalidSecret: if there is neither; the message never repeats the value.

    """
    text = secret_string.strip()
    if text.startswith("{"):
        value = _json_object(text, where=where)
        if not value:
            return None
        token = value.get("token")
        if not isinstance(token, str):
            message = f'{where}: a JSON object without the key "token". Put a Consul token there.'
            raise InvalidSecret(message)
        text = token.strip()
    if not text:
        return None
    if not re.fullmatch(r"[!#-~]+", text):  # one printable word: it becomes an HTTP header
        message = f"{where}: not one word of printable ASCII. Put a Consul token there, unquoted."
        raise InvalidSecret(message)
    return text


def _json_object(secret_string: str, *, where: str) -> dict[str, Any]:
    # `from None`: a JSONDecodeError carries the whole document, and tracebacks are logged.
    try:
        value = json.loads(secret_string)
    except ValueError:
        message = f"{where}: the value is not JSON. {_HOW_TO_RESET}"
        raise InvalidSecret(message) from None
    except RecursionError:
        message = f"{where}: the value is nested too deeply. {_HOW_TO_RESET}"
        raise InvalidSecret(message) from None
    if not isinstance(value, dict):
        message = f"{where}: the value is not a JSON object. {_HOW_TO_RESET}"
        raise InvalidSecret(message)
    return value


def _uuid(value: dict[str, Any], key: str, *, where: str) -> str:
    found = value.get(key)
    if found is None:
        message = f'{where}: the key "{key}" is missing. {_HOW_TO_RESET}'
        raise InvalidSecret(message)
    if not isinstance(found, str) or not is_token_id(found):
        message = f'{where}: "{key}" is not a UUID. {_HOW_TO_RESET}'
        raise InvalidSecret(message)
    if found.startswith(_RESERVED_PREFIX):
        message = f'{where}: "{key}" is a UUID that Consul reserves. {_HOW_TO_RESET}'
        raise InvalidSecret(message)
    return found
