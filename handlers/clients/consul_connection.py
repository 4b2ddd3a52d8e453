"""The process's connection to Consul: its address, its CA and its token.

Made once a process. The token and the CA are kept in memory, and read again when Consul refuses
the one, or the other does not verify Consul's certificate.
"""

from __future__ import annotations

import functools
import hashlib
import ssl
import tempfile
from pathlib import Path

from handlers.clients.consul import ConsulClient
from handlers.core import environment
from handlers.core.errors import ClusterNotBootstrapped, InvalidSecret
from handlers.core.token_secret import parse_acl_token


@functools.cache
def unauthenticated_consul() -> ConsulClient:
    """Return the client for steps that bring no token, or one of their own."""
    return ConsulClient(environment.required(environment.CONSUL_HTTP_ADDR), ca_file=_ca_file())


@functools.cache
def consul() -> ConsulClient:
    """Return the client that authenticates with the token in the function's token secret."""
    return ConsulClient(
        environment.required(environment.CONSUL_HTTP_ADDR),
        ca_file=_ca_file(),
        token=TokenInSecret(environment.required(environment.CONSUL_TOKEN_SECRET_ARN)),
    )


def _ca_file() -> CaInSecret | None:
    arn = environment.optional(environment.CONSUL_CA_SECRET_ARN)
    return CaInSecret(arn) if arn else None


class TokenInSecret:
    """The token that we authenticate with, from its secret."""

    def __init__(self, secret_arn: str) -> None:
        self._secret_arn = secret_arn
        self._token: str | None = None

    def __str__(self) -> str:
        return f"the secret {self._secret_arn}"

    def value(self) -> str:
        """Return the token, reading the secret only the first time."""
        return self._token if self._token is not None else self.read_again()

    def read_again(self) -> str:
        """Read the secret.

        Raises:
            ClusterNotBootstrapped: if no token is in it yet.

        """
        text = _read(self._secret_arn)
        token = parse_acl_token(text, where=f"The secret {self._secret_arn}") if text else None
        if token is None:
            message = (
                f"The secret {self._secret_arn} holds no token yet. ClusterBootstrap puts it "
                "there: start it, or look why its last execution failed."
            )
            raise ClusterNotBootstrapped(message)
        self._token = token
        return token


class CaInSecret:
    """The CA of Consul's certificate, from its secret; `requests` wants it as a file."""

    def __init__(self, secret_arn: str) -> None:
        self._secret_arn = secret_arn
        self._path: str | None = None

    def __str__(self) -> str:
        return f"the secret {self._secret_arn}"

    def value(self) -> str:
        """Return the file's path, reading the secret only the first time."""
        return self._path if self._path is not None else self.read_again()

    def read_again(self) -> str:
        """Read the secret and write the file.

        Raises:
            InvalidSecret: if it holds no PEM certificate.

        """
        pem = _read(self._secret_arn) or ""
        try:
            content = pem.encode()
            # An empty text would not be refused, but mean the public CAs. Comments may be in any
            # language, which OpenSSL takes from a file, but not from here.
            certificates = pem.encode("ascii", errors="ignore").decode()
            ssl.create_default_context(cadata=certificates or "none")
        except (ssl.SSLError, ValueError):
            message = f"The secret {self._secret_arn} holds no CA certificate in PEM."
            raise InvalidSecret(message) from None
        # Named by its content: the same CA again is the same file.
        digest = hashlib.sha256(content).hexdigest()
        path = Path(tempfile.gettempdir(), f"consul-ca-{digest}.pem")
        path.write_bytes(content)
        self._path = str(path)
        return self._path


def _read(secret_arn: str) -> str | None:
    # Imported late: a step that needs neither a token nor a CA starts without boto3.
    from handlers.clients.secrets_manager import SecretsManager

    version = SecretsManager().current(secret_arn)
    return version.value if version is not None else None
