"""A stack with intentions next to the deployed controller's."""

from __future__ import annotations

import json
import uuid
from typing import Any

from local.cloud.waiting import until
from local.consul_api import ConsulApi
from local.deployment import Deployment

_FINAL = ("_COMPLETE", "_FAILED")
_SECONDS = 60


class IntentionStack:
    """A stack with intentions, as `mesh.allow` puts them into its template."""

    def __init__(self, deployment: Deployment, consul: ConsulApi) -> None:
        self.deployment = deployment
        self.name = f"shop-{uuid.uuid4().hex[:8]}"
        self.is_there = False
        self._client = deployment.cloud.client("cloudformation")
        functions = deployment.cloud.client("lambda").list_functions()["Functions"]
        (self._start,) = [
            function["FunctionArn"]
            for function in functions
            if "StartDeploymentRun" in function["FunctionName"]
        ]
        self._consul = consul

    def deploy(self, **resources: dict[str, Any]) -> str:
        """Create or update the stack; return what it ends as."""
        change = self._client.update_stack if self.is_there else self._client.create_stack
        change(StackName=self.name, TemplateBody=json.dumps({"Resources": resources}))
        self.is_there = True
        return until(self._ended, what="the stack is deployed", within=_SECONDS)

    def delete(self) -> str:
        """Delete the stack; return what it ends as."""
        self._client.delete_stack(StackName=self._described()["StackId"])
        status = until(self._ended, what="the stack is deleted", within=_SECONDS)
        self.is_there = status != "DELETE_COMPLETE"
        return status

    def reasons(self) -> dict[str, str]:
        """Return why each resource is what it is."""
        events = self._client.describe_stack_events(StackName=self.name)["StackEvents"]
        return {
            f"{event['LogicalResourceId']} {event['ResourceStatus']}": event["ResourceStatusReason"]
            for event in events
            if "ResourceStatusReason" in event
        }

    def allow(self, pair: tuple[str, str], mark: str = "0a1b2c3d4e5f") -> dict[str, Any]:
        intention = dict(zip(("source", "destination"), pair, strict=True))
        return self.resource(
            Input={"intention": {**intention, "action": "allow"}, "wanted_by": mark},
            OnDelete={"intention": intention, "remove": True, "wanted_by": mark},
        )

    def resource(self, **inputs: dict[str, Any]) -> dict[str, Any]:
        return {
            "Type": "Custom::WorkflowRun",
            "Properties": {
                "ServiceToken": self._start,
                "StateMachineArn": self.deployment.outputs["ServiceIntentionArn"],
                **{name: json.dumps(value) for name, value in inputs.items()},
            },
        }

    def allows(self, pair: tuple[str, str]) -> bool:
        """Whether Consul lets a service call another one."""
        return bool(self._consul.get(f"/v1/connect/intentions/check?{_query(pair)}")["Allowed"])

    def disallow(self, pair: tuple[str, str]) -> None:
        """Delete the intention in Consul: it may be somebody's."""
        self._consul.delete(f"/v1/connect/intentions/exact?{_query(pair)}")

    def _ended(self) -> str | None:
        status = str(self._described()["StackStatus"])
        return status if status.endswith(_FINAL) else None

    def _described(self) -> dict[str, Any]:
        stacks = self._client.describe_stacks()["Stacks"]
        found = [each for each in stacks if each["StackName"] == self.name]
        return found[0] if found else {"StackStatus": "DELETE_COMPLETE"}


def _query(pair: tuple[str, str]) -> str:
    return "source={}&destination={}".format(*pair)
