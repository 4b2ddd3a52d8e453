"""What ECS tells a container about its task (task metadata endpoint, version 4)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self
from urllib.parse import urlsplit

from containers.errors import EnvironmentInvalid, MetadataUnavailable
from containers.http_exchange import NoAnswer, exchange
from containers.layout import METADATA_VARIABLE

# The endpoint is on the same host and answers within milliseconds.
_TIMEOUT_SECONDS: Final = 2


@dataclass(frozen=True)
class Task:
    """A task, as far as the programs need it.

    The address of the task is not in it: the service is registered without one, which means the
    agent's, and that is the task's.
    """

    arn: str
    family: str
    health: Mapping[str, str]
    """By the names of all containers that there are: HEALTHY, UNHEALTHY, UNKNOWN, or empty for
    those whose health ECS does not tell."""

    @property
    def id(self) -> str:
        """The last part of the ARN."""
        return self.arn.rpartition("/")[2]


class TaskMetadata:
    """The endpoint.

    Args:
        host: of the endpoint.
        port: of the endpoint.
        path: to this container's metadata.

    """

    def __init__(self, host: str, port: int, path: str) -> None:
        self._host = host
        self._port = port
        self._path = f"{path.rstrip('/')}/task"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Return the endpoint that ECS named to this container.

        Raises:
            EnvironmentInvalid: if it named none.

        """
        uri = environment.get(METADATA_VARIABLE, "")
        try:
            parts = urlsplit(uri)
            host, port = parts.hostname, parts.port or 80
        except ValueError:
            host, port, parts = None, 0, urlsplit("")
        if parts.scheme != "http" or not host:
            raise EnvironmentInvalid(
                f"{METADATA_VARIABLE} is not set to an http:// address. ECS sets it in every "
                "container of a task: run this as a container of one, on EC2 with a container "
                "agent of version 1.39.0 or newer."
            )
        return cls(host, port, parts.path)

    def read(self) -> Task:
        """Ask for the task.

        Raises:
            MetadataUnavailable: if there is no answer, or none with a task in it.

        """
        try:
            response = exchange(self._host, self._port, "GET", self._path, timeout=_TIMEOUT_SECONDS)
        except NoAnswer as error:
            raise MetadataUnavailable(
                f"The task metadata endpoint does not answer: {error}."
            ) from None
        if response.status != 200:  # noqa: PLR2004 - HTTP's OK
            raise MetadataUnavailable(
                f"The task metadata endpoint answers with HTTP status {response.status}."
            )
        try:
            return _task(json.loads(response.body))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise MetadataUnavailable(
                "The answer of the task metadata endpoint is not a task."
            ) from None


def _task(document: Any) -> Task:
    arn, family = document["TaskARN"], document["Family"]
    if not (isinstance(arn, str) and ":task/" in arn and not arn.endswith("/")):
        raise ValueError
    return Task(
        arn,
        str(family),
        {
            str(container["Name"]): str((container.get("Health") or {}).get("status") or "")
            for container in document.get("Containers") or ()
        },
    )
