"""Whose token it is: a service's, that of all consul-client containers, or the controller's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from handlers.core import names
from handlers.core.errors import InvalidStepInput

_SHARED_DESCRIPTIONS = {
    names.CLIENT_TOKEN_DESCRIPTION: "client",
    names.CONTROLLER_TOKEN_DESCRIPTION: "controller",
}


@dataclass(frozen=True, order=True)
class Subject:
    """Whom a token is for. In states it is `{"service": name}`, or `{"token": "client"}`.

    Exactly one of the two fields has a text.
    """

    service: str = ""
    token: str = ""
    """`client` or `controller`."""

    def __str__(self) -> str:
        return f"the service {self.service}" if self.service else f"the {self.token} token"

    @classmethod
    def from_state(cls, value: Any) -> Subject:
        """Read what `to_state` returned.

        Raises:
            InvalidStepInput: if it is something else.

        """
        match value:
            case {"service": str(service)} if names.is_valid_service_name(service):
                return cls(service=service)
            case {"token": "client" | "controller" as token}:
                return cls(token=token)
        message = (
            'The input of the step needs a subject: {"service": a valid name}, '
            '{"token": "client"} or {"token": "controller"}.'
        )
        raise InvalidStepInput(message)

    def to_state(self) -> dict[str, str]:
        """Return it as JSON for a workflow's state."""
        return {"service": self.service} if self.service else {"token": self.token}


CLIENT = Subject(token="client")
CONTROLLER = Subject(token="controller")


def owned_subject(token: Mapping[str, Any], cluster_arn: str) -> Subject | None:
    """Return whom a token in Consul is for, if it is ours, else None.

    It is ours if its description has our cluster's line (docs/how-it-works.md, "Ownership").
    """
    description = token.get("Description")
    if not isinstance(description, str) or names.owning_cluster(description) != cluster_arn:
        return None
    shared = _SHARED_DESCRIPTIONS.get(description.splitlines()[0])
    if shared is not None:
        return Subject(token=shared)
    service = names.described_service(description)
    if service is None or not names.is_valid_service_name(service):
        return None
    return Subject(service=service)
