"""Consul servers that somebody else runs: where they are, and how to get in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from aws_cdk import Token
from aws_cdk import aws_secretsmanager as secretsmanager

import settings


@dataclass(frozen=True, kw_only=True)
class ExternalConsul:
    """Consul servers, given by their addresses.

    Args:
        http_address: their HTTP API, such as `https://consul.internal:8501`: scheme, host and port.
        retry_join: what the consul-client containers join: addresses (`consul.internal`,
            `10.0.0.1:8301`), or strings for Consul's cloud auto-join (`provider=aws tag_key=…`).
            A `Mesh` needs one. Default: none.
        datacenter: the servers' datacenter.
        ca_secret: the PEM of the CA that signed the servers' certificates. Default: none.
        gossip_key_secret: the key that gossip is encrypted with, as plain text (base64). Default:
            gossip is not encrypted.

    Raises:
        ValueError: if an argument cannot be right; names it, and says what to give.

    """

    http_address: str
    retry_join: Sequence[str] = ()
    datacenter: str = "dc1"
    ca_secret: secretsmanager.ISecret | None = None
    gossip_key_secret: secretsmanager.ISecret | None = None
    managed: ClassVar[None] = None

    def __post_init__(self) -> None:
        """Check the arguments, as far as they are known at synthesis."""
        _check("http_address", self.http_address, settings.HttpAddress, settings.HTTP_ADDRESS_RULE)
        _check("datacenter", self.datacenter, settings.Datacenter, settings.DATACENTER_RULE)
        entries: object = self.retry_join
        if isinstance(entries, str) or not isinstance(entries, Sequence):
            raise _wrong(
                "retry_join", "a list of addresses", f"of the type {type(entries).__name__}"
            )
        for index, entry in enumerate(entries):
            _check(f"retry_join[{index}]", entry, settings.JoinAddress, settings.JOIN_ADDRESS_RULE)
        # Whoever made the list still holds it, and must not change what was checked.
        object.__setattr__(self, "retry_join", tuple(entries))


def _check(argument: str, value: object, kind: object, rule: str) -> None:
    if isinstance(value, str) and Token.is_unresolved(value):
        # Another resource of the app: CloudFormation knows what it will be. Its scheme has to be
        # known at synthesis.
        if kind is settings.HttpAddress and not value.startswith(("http://", "https://")):
            raise _wrong(argument, rule, "known on deployment only: write the scheme before it")
        return
    problem = settings.problem_of(value, kind)
    if problem is not None:
        raise _wrong(argument, rule, problem)


def _wrong(argument: str, allowed: str, found: str) -> ValueError:
    return ValueError(f"ExternalConsul: {argument} must be {allowed}. It is {found}.")
