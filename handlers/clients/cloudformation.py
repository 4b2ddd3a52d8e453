"""CloudFormation's custom resources: what it asks, and how it is answered.

The protocol: the request carries a pre-signed S3 URL, and the answer is a JSON document that is
PUT there (AWS CloudFormation user guide, "Custom resource reference").
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from handlers.core.errors import AwsUnavailable
from handlers.core.step_input import take

_MAX_REASON_CHARACTERS = 1000  # the whole answer may have 4096 bytes
_TIMEOUT_SECONDS = (3.0, 10.0)
_DELETE = "Delete"


@dataclass(frozen=True)
class CustomResourceRequest:
    """What of a request is needed to answer it."""

    response_url: str = field(repr=False)  # whoever has it can answer
    stack_id: str
    request_id: str
    logical_resource_id: str
    physical_resource_id: str
    request_type: str = ""

    @classmethod
    def from_event(cls, event: Mapping[str, Any]) -> CustomResourceRequest:
        """Read CloudFormation's request."""
        logical_resource_id = take(event, "LogicalResourceId", str)
        return cls(
            response_url=take(event, "ResponseURL", str),
            stack_id=take(event, "StackId", str),
            request_id=take(event, "RequestId", str),
            logical_resource_id=logical_resource_id,
            # Kept over updates: a new one would make CloudFormation delete the old.
            physical_resource_id=event.get("PhysicalResourceId") or logical_resource_id,
            request_type=str(event.get("RequestType", "")),
        )

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> CustomResourceRequest:
        """Read what `to_state` returned."""
        # An execution that began before a deployment of this code says nothing of the type.
        given = cls.__dataclass_fields__.keys() - ({"request_type"} - state.keys())
        return cls(**{name: take(state, name, str) for name in given})

    @property
    def is_delete(self) -> bool:
        """Whether the resource is to go."""
        return self.request_type == _DELETE

    def to_state(self) -> dict[str, str]:
        """Return it as JSON for a workflow's state."""
        return asdict(self)

    def answer(self, *, failure: str | None) -> None:
        """Tell CloudFormation that all is well, or what failed.

        Raises:
            AwsUnavailable: if the answer does not get through.

        """
        # Imported late: the step that only starts a run does without `requests`.
        import requests

        body = {
            "Status": "SUCCESS" if failure is None else "FAILED",
            "Reason": self._reason(failure) if failure is not None else "",
            "PhysicalResourceId": self.physical_resource_id,
            "StackId": self.stack_id,
            "RequestId": self.request_id,
            "LogicalResourceId": self.logical_resource_id,
        }
        try:
            with requests.Session() as session:
                session.trust_env = False  # no proxies, no .netrc
                session.put(
                    self.response_url,
                    data=json.dumps(body),
                    # The URL is signed for an empty content type.
                    headers={"Content-Type": ""},
                    timeout=_TIMEOUT_SECONDS,
                ).raise_for_status()
        except requests.exceptions.RequestException as error:
            # `from None`, and no text of the error: both have the signed URL in them.
            message = (
                f"CloudFormation did not take the answer for {self.logical_resource_id} "
                f"({type(error).__name__})."
            )
            raise AwsUnavailable(message) from None

    def _reason(self, failure: str) -> str:
        if not self.is_delete:
            return failure[:_MAX_REASON_CHARACTERS]
        # Nobody knows the stack's name by heart when a deletion hangs on one resource of many.
        advice = (
            " Put that right and delete the stack again. Or give up what the workflow was to "
            f"remove, once the stack is DELETE_FAILED: aws cloudformation delete-stack "
            f"--stack-name {self.stack_id} --retain-resources {self.logical_resource_id}"
        )[:_MAX_REASON_CHARACTERS]
        return failure[: _MAX_REASON_CHARACTERS - len(advice)] + advice
