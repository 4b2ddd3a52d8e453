"""What the local run asks of Consul itself, besides what the handlers do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import requests

from handlers.core import names
from local.consul import ConsulServer

_TIMEOUT_SECONDS = (3, 15)


class ConsulApi:
    """Consul's HTTP API with one token.

    Args:
        consul: the server.
        token: the secret ID to authenticate with.

    """

    def __init__(self, consul: ConsulServer, token: str) -> None:
        self._address = consul.address
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers["X-Consul-Token"] = token
        self._session.verify = os.environ.get("CONSUL_CACERT") or True

    def get(self, path: str) -> Any:
        """Read something; raises `requests.HTTPError` if Consul refuses."""
        answer = self._session.get(self._address + path, timeout=_TIMEOUT_SECONDS)
        answer.raise_for_status()
        return answer.json()

    def delete(self, path: str) -> None:
        """Delete something; raises `requests.HTTPError` if Consul refuses."""
        self._session.delete(self._address + path, timeout=_TIMEOUT_SECONDS).raise_for_status()

    def put(self, path: str, body: dict[str, Any] | None = None) -> bool:
        """Write something; returns whether the token was allowed to.

        Raises `requests.HTTPError` if Consul refuses for any other reason.
        """
        answer = self._session.put(self._address + path, json=body, timeout=_TIMEOUT_SECONDS)
        if answer.status_code == requests.codes.forbidden:
            return False
        answer.raise_for_status()
        return True


@contextmanager
def objects_removed(consul: ConsulServer, cluster_arn: str) -> Iterator[None]:
    """Delete, when the block ends, the tokens and policies that a cluster's controller made."""
    try:
        yield
    finally:
        api = ConsulApi(consul, consul.management_token or "")
        for kind, id_name, path in (
            ("tokens", "AccessorID", "token"),
            ("policies", "ID", "policy"),
        ):
            for item in api.get(f"/v1/acl/{kind}"):
                if names.owning_cluster(item.get("Description") or "") == cluster_arn:
                    api.delete(f"/v1/acl/{path}/{item[id_name]}")
