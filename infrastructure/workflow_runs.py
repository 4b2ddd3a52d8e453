"""Workflows as a part of a deployment: CloudFormation runs them, and fails if they fail."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jsii
from aws_cdk import CustomResource, Duration, IStableStringProducer, Lazy, Stack
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
                iam.PolicyStatement(
                    actions=["cloudformation:DescribeStacks"],
                    resources=[Stack.of(self).stack_id],
                ),
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
    ) -> CustomResource:
        """Run a workflow on the first deployment, and on later ones that change what it depends on.

        A changed definition of the workflow always makes it run again.

        Args:
            scope: the construct that the run belongs to.
            construct_id: its ID there.
            workflow: one of those that the construct was made with.
            workflow_input: the execution's input.
            rerun_when_changed: what else makes it run again when it changes; the names are in
                CamelCase, for they are a resource's properties.

        """
        return CustomResource(
            scope,
            construct_id,
            resource_type="Custom::WorkflowRun",
            service_token=self._start.function_arn,
            service_timeout=_LONGEST_RUN,
            properties={
                "StateMachineArn": workflow.state_machine_arn,
                "Input": json.dumps(workflow_input),
                "DefinitionDigest": digest(self, lambda: _definition(workflow)),
                **rerun_when_changed,
            },
        )


def digest(scope: Construct, content: Callable[[], object]) -> str:
    """Return a short text that changes with what CDK renders of something.

    Args:
        scope: any construct of the stack.
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


def _definition(workflow: sfn.StateMachine) -> object:
    return cast("sfn.CfnStateMachine", workflow.node.default_child).definition_string
