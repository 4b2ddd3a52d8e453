"""DeploymentRun: CloudFormation runs a workflow, waits for it, and fails if it fails."""

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk import Duration
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from workflows import nested
from workflows.steps import step, whole_failure
from workflows.workflow import state_machine

# CloudFormation waits for 55 minutes (infrastructure/workflow_runs.py); it should hear before that
# that a run takes too long. A run that is given up is stopped.
_LONGEST_RUN = Duration.minutes(50)


class DeploymentRun(Construct):
    """The workflow between a custom resource and the workflow that a deployment is to run.

    It reports every end of that one to CloudFormation: its success, its failure, its time-out, and
    being stopped by hand.

    Args:
        scope: the construct that it belongs to.
        construct_id: its ID there.
        workflows: the state machines that it may run.
        answer_cloudformation: tells CloudFormation how it ended.
        log_group: where the state machine logs.

    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        workflows: Sequence[sfn.IStateMachine],
        answer_cloudformation: lambda_.IFunction,
        log_group: logs.ILogGroup,
    ) -> None:
        super().__init__(scope, construct_id)
        run = nested.run(
            self,
            "Run the workflow",
            state_machine_arn="$.state_machine_arn",
            execution_input="$.input",
            execution_name="$$.Execution.Name",  # the same name again is the same run
            comment=(
                "Waits until the workflow that the deployment wants has ended. Not retried: "
                "each of its steps retries, and whoever deploys decides about another run."
            ),
            timeout=_LONGEST_RUN,
            tell_execution=True,
        )
        success = self._answer("Report success", answer_cloudformation, {})
        failure = self._answer(
            "Report failure",
            answer_cloudformation,
            {"failure": sfn.JsonPath.object_at("$.failure")},
        )
        settle = sfn.Wait(
            self,
            "Wait until the deployment is known everywhere",
            time=sfn.WaitTime.seconds_path("$.settle_seconds"),
            comment=(
                "New roles take seconds to be known, and executions that start right after an "
                "update may use a workflow's previous definition."
            ),
        )
        settle.next(run)
        run.next(success)
        run.add_catch(failure, errors=[sfn.Errors.ALL], result_path="$.failure")
        unanswered = sfn.Fail(
            self,
            "CloudFormation got no answer",
            comment="It waits for one until its own time-out, then fails.",
            error="CloudFormationNotAnswered",
            cause_path=whole_failure(),
        )
        for answer in (success, failure):
            answer.add_catch(unanswered, errors=[sfn.Errors.ALL], result_path="$.failure")
        success.next(
            sfn.Succeed(self, "The deployment goes on", comment="The workflow has succeeded.")
        )
        failure.next(
            sfn.Fail(
                self,
                "The deployment fails",
                comment="The workflow has failed, and CloudFormation knows.",
                # The state's own error is always States.TaskFailed or States.Timeout, and no
                # execution may end with a name that is reserved for Step Functions itself.
                error="WorkflowFailed",
                cause_path=whole_failure(),
            )
        )
        self.state_machine = state_machine(
            self,
            start=settle,
            comment="Runs a workflow as a part of a CloudFormation deployment.",
            timeout=Duration.minutes(54),
            log_group=log_group,
        )
        nested.allow_running(self.state_machine, workflows)

    def _answer(
        self, name: str, function: lambda_.IFunction, payload: dict[str, object]
    ) -> sfn.TaskStateBase:
        return step(
            self,
            name,
            function=function,
            payload={"request": sfn.JsonPath.object_at("$.request"), **payload},
            result_path=sfn.JsonPath.DISCARD,
            comment="CloudFormation waits for this.",
        )
