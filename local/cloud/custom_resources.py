"""Custom resources: a Lambda function is told, and somebody answers, seconds or minutes later.

The answer is a PUT to the ResponseURL, by the function or by whomever it has handed the URL to.
https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/crpg-ref-requesttypes.html
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from typing import Any, Protocol

from local.cloud.cloudformation_types import Context, Handler, Properties, Resource

RESPONSE_PATH = "/_local/cloudformation-response/"

# CloudFormation's own default; a resource may ask for less with ServiceTimeout.
_DEFAULT_TIMEOUT_SECONDS = 3600


class Outcome(Protocol):
    """What an invocation came to: ``error`` is None for success."""

    error: str | None
    result: bytes


class Invoker(Protocol):
    """Runs a Lambda function and waits for it."""

    def __call__(self, function_arn: str, event: Any) -> Outcome:
        """Run the function of that ARN on ``event``."""


class CustomResourceError(Exception):
    """The function, or whoever answered for it, reported a failure; carries the reason."""


class PendingResponses:
    """The requests that nobody has answered yet.

    ``base_url`` is that of the cloud's own HTTP server, which passes on what is PUT below
    ``RESPONSE_PATH``.
    """

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._changed = threading.Condition()
        self._answers: dict[str, dict[str, Any] | None] = {}
        self._stopped = False

    def open(self) -> tuple[str, str]:
        """Return a new request's ID and the URL at which it is to be answered."""
        request_id = str(uuid.uuid4())
        with self._changed:
            self._answers[request_id] = None
        return request_id, f"{self._base_url}{RESPONSE_PATH}{request_id}"

    def answer(self, request_id: str, response: dict[str, Any]) -> bool:
        """Take an answer; False if nobody waits for it. Only the first one counts."""
        with self._changed:
            if request_id not in self._answers:
                return False
            if self._answers[request_id] is None:
                self._answers[request_id] = response
                self._changed.notify_all()
            return True

    def wait(self, request_id: str, timeout_seconds: float) -> dict[str, Any]:
        """Wait for the answer to a request.

        Raises
        ------
        CustomResourceError
            There was none in time, or the cloud is stopping.
        """
        deadline = time.monotonic() + timeout_seconds
        with self._changed:
            try:
                while (answer := self._answers[request_id]) is None:
                    left = deadline - time.monotonic()
                    if self._stopped:
                        raise CustomResourceError("The local cloud was stopped.")
                    if left <= 0:
                        raise CustomResourceError(
                            "CloudFormation did not receive a response from your Custom Resource. "
                            f"Please check your logs for requestId [{request_id}]."
                        )
                    self._changed.wait(left)
            finally:
                del self._answers[request_id]
        return answer

    def stop(self) -> None:
        """Let every waiter fail."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


class CustomResourceHandler(Handler):
    """Custom::Anything and AWS::CloudFormation::CustomResource."""

    def __init__(self, type_: str, responses: PendingResponses, invoke: Invoker) -> None:
        self._type = type_
        self._responses = responses
        self._invoke = invoke

    def create(self, context: Context, logical_id: str, properties: Properties) -> Resource:
        """Ask for the resource and wait until it is there."""
        resource = Resource(self._type, logical_id, "")
        return self._request(context, "Create", resource, properties)

    def update(
        self, context: Context, resource: Resource, old: Properties, new: Properties
    ) -> Resource:
        """Ask for the change; what is answered as another physical ID replaces the resource."""
        return self._request(context, "Update", resource, new, OldResourceProperties=_texts(old))

    def delete(self, context: Context, resource: Resource, properties: Properties) -> None:
        """Ask for the end of the resource."""
        self._request(context, "Delete", resource, properties)

    def _request(
        self,
        context: Context,
        kind: str,
        resource: Resource,
        properties: Properties,
        **more: Any,
    ) -> Resource:
        request_id, url = self._responses.open()
        event = {
            "RequestType": kind,
            "ServiceToken": properties["ServiceToken"],
            "ResponseURL": url,
            "StackId": context.stack_id,
            "RequestId": request_id,
            "LogicalResourceId": resource.logical_resource_id,
            "ResourceType": self._type,
            "ResourceProperties": _texts(properties),
            **more,
        }
        if kind != "Create":
            event["PhysicalResourceId"] = resource.physical_resource_id
        threading.Thread(target=self._tell, args=(event,), daemon=True).start()
        timeout = float(properties.get("ServiceTimeout", _DEFAULT_TIMEOUT_SECONDS))
        answer = self._responses.wait(request_id, timeout)
        physical_id = answer.get("PhysicalResourceId") or resource.physical_resource_id
        resource = Resource(
            self._type, resource.logical_resource_id, physical_id, answer.get("Data") or {}
        )
        if answer.get("Status") != "SUCCESS":
            reason = answer.get("Reason") or "no reason was given"
            error = CustomResourceError(
                f"Received response status [FAILED] from custom resource. Message returned: "
                f"{reason} (RequestId: {request_id})"
            )
            # What has failed may still have to be deleted, under the name that it gave.
            error.resource = resource  # type: ignore[attr-defined]
            raise error
        return resource

    def _tell(self, event: dict[str, Any]) -> None:
        try:
            outcome = self._invoke(event["ServiceToken"], event)
            failure = outcome.result.decode(errors="replace") if outcome.error else None
        except Exception as error:  # noqa: BLE001 - whatever it was becomes the reason
            failure = f"{type(error).__name__}: {error}"
        if failure is not None:
            # On AWS the stack would hang until the time-out; nobody wants that on a laptop.
            self._responses.answer(
                event["RequestId"],
                {"Status": "FAILED", "Reason": f"The function failed: {failure}"},
            )


def _texts(value: Any) -> Any:
    """Turn scalars into strings, as CloudFormation does on the way to a function."""
    if isinstance(value, dict):
        return {key: _texts(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_texts(item) for item in value]
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else json.dumps(value)
