"""Workflows as a part of a deployment: CloudFormation runs them, and fails if they fail."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jsii
from aws_cdk import CustomResource, Duration, IStableStringProducer, Lazy, Stack, Token
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from handlers.core import environment
from infrastructure.handler_function import HandlerFunction
from workflows.deployment_run import DeploymentRun

# CloudFormation's own limit is an hour; DeploymentRun gives up before this.
_LONGEST_RUN = Duration.minutes(55)
_SETTLE = Duration.seconds(20)


class WorkflowRuns(Construct):
    """The means by which deployments run workflows; make one, then `run` with it.

    Args:
        scope: the construct that it belongs to.
        construct_id: its ID there.
        workflows: the state machines that may be run.
        code: the asset that all steps share.
        log_retention: how long logs are kept.
        log_group: where the state machine logs.

    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        workflows: Sequence[sfn.StateMachine],
        code: lambda_.Code,
        log_retention: logs.RetentionDays,
        log_group: logs.ILogGroup,
    ) -> None:
        super().__init__(scope, construct_id)
        answer = HandlerFunction(
            self,
            "AnswerCloudFormation",
            step="answer_cloudformation",
            code=code,
            environment={},
            log_retention=log_retention,
        )
        self._deployment_run = DeploymentRun(
            self,
            "DeploymentRun",
            workflows=workflows,
            answer_cloudformation=answer.function,
            log_group=log_group,
        ).state_machine
        self._stacks = {Stack.of(self).node.addr}  # those that the function below may describe
        self._start = HandlerFunction(
            self,
            "StartDeploymentRun",
            step="start_deployment_run",
            code=code,
            environment={
                environment.DEPLOYMENT_RUN_ARN: self._deployment_run.state_machine_arn,
                environment.SETTLE_SECONDS: str(_SETTLE.to_seconds()),
            },
            log_retention=log_retention,
            statements=[
                iam.PolicyStatement(
                    actions=["states:StartExecution"],
                    resources=[self._deployment_run.state_machine_arn],
                ),
                _describing(Stack.of(self).stack_id),
            ],
        ).function

    def run(
        self,
        scope: Construct,
        construct_id: str,
        *,
        workflow: sfn.StateMachine,
        workflow_input: Mapping[str, Any],
        rerun_when_changed: Mapping[str, str],
        on_delete: Mapping[str, Any] | None = None,
        settle: bool = True,
    ) -> CustomResource:
        """Run a workflow on the first deployment, and on later ones that change what it depends on.

        A changed definition of the workflow always makes it run again. The run may belong to
        another stack of the same account and region.

        Args:
            scope: the construct that the run belongs to.
            construct_id: its ID there.
            workflow: one of those that the construct was made with.
            workflow_input: the execution's input.
            rerun_when_changed: what else makes it run again when it changes; the names are in
                CamelCase, for they are a resource's properties.
            on_delete: what the workflow is run with when the run is taken out of the stack, or the
                stack is deleted, which fails if that run fails. A run with another `on_delete` than
                before takes the place of the previous one, which is then deleted. Default: nothing
                happens.
            settle: whether it waits first until new roles and definitions are known everywhere.
                Leave that out only if another run of the same deployment has waited whenever there
                is something to wait for.

        Raises:
            ValueError: if the scope's stack is deployed elsewhere.

        """
        self._allow_describing(Stack.of(scope))
        return CustomResource(
            scope,
            construct_id,
            resource_type="Custom::WorkflowRun",
            service_token=self._start.function_arn,
            service_timeout=_LONGEST_RUN,
            properties={
                "StateMachineArn": workflow.state_machine_arn,
                "Input": json.dumps(workflow_input),
                **({} if on_delete is None else {"OnDelete": json.dumps(on_delete)}),
                "DefinitionDigest": digest(self, lambda: definition(workflow)),
                **({} if settle else {"SettleSeconds": "0"}),
                **rerun_when_changed,
            },
        )

    def _allow_describing(self, stack: Stack) -> None:
        """Let the function that starts runs see whether a stack is being rolled back."""
        if stack.node.addr in self._stacks:
            return
        own = Stack.of(self)
        for what in ("account", "region"):
            theirs, ours = getattr(stack, what), getattr(own, what)
            if theirs != ours and not Token.is_unresolved(theirs) and not Token.is_unresolved(ours):
                raise ValueError(
                    f"{stack.node.path}: its {what} is {theirs}, but that of {own.node.path}, "
                    f"which runs the workflows, is {ours}. Give both stacks the same."
                )
        self._stacks.add(stack.node.addr)
        # By its name, not by its ID: that would be a reference to a stack which refers to this one.
        name = stack.stack_name
        around = stack.nested_stack_parent
        while around is not None:
            # CloudFormation names a nested stack, and begins with the name of the one around it.
            name = f"{around.stack_name}-*"
            around = around.nested_stack_parent
        arn = own.format_arn(service="cloudformation", resource="stack", resource_name=f"{name}/*")
        self._start.add_to_role_policy(_describing(arn))


def _describing(stack: str) -> iam.PolicyStatement:
    return iam.PolicyStatement(actions=["cloudformation:DescribeStacks"], resources=[stack])


def digest(scope: Construct, content: Callable[[], object]) -> str:
    """Return a short text that changes with what CDK renders of something.

    It may be used in another stack: it is what the thing's own stack renders.

    Args:
        scope: any construct of the stack that the thing belongs to.
        content: returns it; called once all constructs are made.

    """
    return Lazy.string(_Digest(scope, content))


@jsii.implements(IStableStringProducer)
class _Digest:
    def __init__(self, scope: Construct, content: Callable[[], object]) -> None:
        self._scope = scope
        self._content = content

    def produce(self) -> str:
        rendered = Stack.of(self._scope).resolve(self._content())
        return hashlib.sha256(json.dumps(rendered, sort_keys=True).encode()).hexdigest()[:16]


def definition(workflow: sfn.StateMachine) -> object:
    """Return the definition of a workflow, for a digest of it."""
    return cast("sfn.CfnStateMachine", workflow.node.default_child).definition_string
