"""What is in Consul: putting it there, and looking at it afterwards."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

from handlers.clients.consul import ConsulClient
from local.consul import ConsulServer, EmbeddedConsul

ACL_READ_RULES = 'acl = "read"'


class ConsulState:
    """A Consul server, as a person with a management token uses it.

    What it returns is free of what Consul makes up: indexes, hashes, times and policy IDs.
    """

    def __init__(self, server: ConsulServer, management_token: str) -> None:
        self.server = server
        self.management_token = management_token
        self._session = requests.Session()
        self._session.trust_env = False
        self._is_embedded = isinstance(server, EmbeddedConsul)
        self._theirs: tuple[list[str], list[str]] = ([], [])
        if not self._is_embedded:
            self._theirs = self._accessor_ids(), self._policy_ids()
            self._pairs = {
                (each["SourceName"], each["DestinationName"])
                for each in self.call("GET", "/v1/connect/intentions") or []
            }

    @property
    def embedded(self) -> EmbeddedConsul:
        assert isinstance(self.server, EmbeddedConsul)
        return self.server

    def close(self) -> None:
        """Remove what the test made: the server may be somebody's real one."""
        if not self._is_embedded:  # which goes away, with all that is in it
            tokens, policies = self._theirs
            for accessor_id in set(self._accessor_ids()) - set(tokens):
                self.call("DELETE", f"/v1/acl/token/{accessor_id}")
            for policy_id in set(self._policy_ids()) - set(policies):
                self.call("DELETE", f"/v1/acl/policy/{policy_id}")
            for each in self.call("GET", "/v1/connect/intentions") or []:
                if (pair := (each["SourceName"], each["DestinationName"])) not in self._pairs:
                    query = "source={}&destination={}".format(*pair)
                    self.call("DELETE", f"/v1/connect/intentions/exact?{query}")
        self._session.close()

    def call(self, method: str, path: str, body: Any = None, *, token: str | None = None) -> Any:
        """Send a request; return the JSON of the answer, or None if it was refused."""
        response = self._session.request(
            method,
            self.server.address + path,
            data=None if body is None else json.dumps(body),
            headers={"X-Consul-Token": token or self.management_token},
            timeout=10,
        )
        return response.json() if response.ok else None

    def create_token(self, **fields: Any) -> dict[str, Any]:
        created: dict[str, Any] = self.call("PUT", "/v1/acl/token", fields)
        assert created is not None
        return created

    def create_policy(self, **fields: Any) -> None:
        assert self.call("PUT", "/v1/acl/policy", fields) is not None

    def token(self, accessor_id: str) -> dict[str, Any] | None:
        found = self.call("GET", f"/v1/acl/token/{accessor_id}")
        if found is None:
            return None
        token: dict[str, Any] = {
            "AccessorID": found["AccessorID"],
            "SecretID": found["SecretID"],
            "Description": found["Description"],
            "Policies": sorted(link["Name"] for link in found.get("Policies") or []),
            "ServiceIdentities": found.get("ServiceIdentities") or [],
        }
        rest = ("Roles", "NodeIdentities", "Local", "ExpirationTime")
        return token | {key: found[key] for key in rest if found.get(key)}

    def modify_index(self, accessor_id: str) -> int:
        """Return what grows with every write of a token."""
        index: int = self.call("GET", f"/v1/acl/token/{accessor_id}")["ModifyIndex"]
        return index

    def policy(self, name: str) -> dict[str, Any] | None:
        found = self.call("GET", f"/v1/acl/policy/name/{name}")
        if found is None:
            return None
        kept = ("Name", "Description", "Rules", "Datacenters")
        return {key: found[key] for key in kept if found.get(key)}

    def policy_names(self) -> list[str]:
        return sorted(policy["Name"] for policy in self.call("GET", "/v1/acl/policies"))

    def knows(self, secret_id: str) -> bool:
        return self.call("GET", "/v1/acl/token/self", token=secret_id) is not None

    def requests_of_steps(self) -> list[tuple[str, str]]:
        """Return what the steps sent: method and path template; of an embedded server only."""
        return [
            (request.method, request.path)
            for request in self.embedded.requests
            if request.user_agent == "consul-on-ecs"
        ]

    def _accessor_ids(self) -> list[str]:
        return [token["AccessorID"] for token in self.call("GET", "/v1/acl/tokens")]

    def _policy_ids(self) -> list[str]:
        return [policy["ID"] for policy in self.call("GET", "/v1/acl/policies")]


def be_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the client give up a request without a time-out of its own after 50 ms."""
    defaults = ConsulClient._send.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "read_seconds", 0.05)
