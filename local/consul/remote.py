"""A Consul that runs already, named by the environment as for Consul's own tools."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Literal

import requests

ADDRESS_VARIABLE = "CONSUL_HTTP_ADDR"
TOKEN_VARIABLE = "CONSUL_HTTP_TOKEN"
_CA_VARIABLE = "CONSUL_CACERT"
_SSL_VARIABLE = "CONSUL_HTTP_SSL"
_TIMEOUT_SECONDS = (5, 10)


class RemoteConsulError(Exception):
    """The Consul that the environment names cannot be used; the message says what to do."""


@dataclass(frozen=True)
class RemoteConsul:
    """A Consul server that somebody else runs."""

    address: str
    version: str
    management_token: str = field(repr=False)
    kind: Literal["remote"] = "remote"


def remote_consul() -> RemoteConsul | None:
    """The Consul that ``CONSUL_HTTP_ADDR`` names; none if that is not set.

    Raises
    ------
    RemoteConsulError
        It does not answer, has its ACLs disabled, or ``CONSUL_HTTP_TOKEN`` is missing, refused or
        not a management token.
    """
    given = os.environ.get(ADDRESS_VARIABLE, "")
    if not given:
        return None
    address = _with_scheme(given)
    token = os.environ.get(TOKEN_VARIABLE, "")
    if not token:
        raise RemoteConsulError(
            f"{ADDRESS_VARIABLE} is set to {address}, but {TOKEN_VARIABLE} is not set. Set it to "
            f"a management token of that Consul, or unset {ADDRESS_VARIABLE} to run without it."
        )
    own = _get(address, "/v1/acl/token/self", token)
    # Only who may write ACLs is shown the secret of a token that is read by its accessor ID.
    shown = _get(address, f"/v1/acl/token/{own['AccessorID']}", token)
    if shown.get("SecretID") != token:
        raise RemoteConsulError(_refused(address, "it may read ACLs, but not write them"))
    agent = _get(address, "/v1/agent/self", token)
    return RemoteConsul(address, agent["Config"]["Version"], token)


def _with_scheme(address: str) -> str:
    if "://" in address:
        return address.rstrip("/")
    scheme = "https" if os.environ.get(_SSL_VARIABLE, "").lower() in {"1", "true"} else "http"
    return f"{scheme}://{address}".rstrip("/")


def _get(address: str, path: str, token: str) -> dict[str, Any]:
    try:
        response = requests.get(
            address + path,
            headers={"X-Consul-Token": token},
            timeout=_TIMEOUT_SECONDS,
            verify=os.environ.get(_CA_VARIABLE) or True,
        )
    except requests.RequestException as error:
        raise RemoteConsulError(
            f"{ADDRESS_VARIABLE} is set to {address}, where no Consul answers "
            f"({type(error).__name__}). Start it, correct the address, or unset "
            f"{ADDRESS_VARIABLE} to run without it."
        ) from None
    if response.status_code in {requests.codes.forbidden, requests.codes.not_found}:
        raise RemoteConsulError(_refused(address, f"it answers {response.text!r} to GET {path}"))
    if response.status_code == requests.codes.unauthorized:
        raise RemoteConsulError(
            f"The Consul at {address} ({ADDRESS_VARIABLE}) has its ACLs disabled. Enable them "
            f"(acl.enabled), or unset {ADDRESS_VARIABLE} to run without it."
        )
    if not response.ok:
        raise RemoteConsulError(
            f"The Consul at {address} ({ADDRESS_VARIABLE}) is not ready: it answers "
            f"{response.status_code} {response.text[:200]!r} to GET {path}. Try again when it "
            "has a leader."
        )
    result: dict[str, Any] = response.json()
    return result


def _refused(address: str, why: str) -> str:
    return (
        f"The Consul at {address} ({ADDRESS_VARIABLE}) does not take {TOKEN_VARIABLE} for a "
        f"management token: {why}. Set {TOKEN_VARIABLE} to a token with the policy "
        "global-management."
    )
