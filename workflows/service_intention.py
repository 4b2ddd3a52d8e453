"""ServiceIntention: one service may call another, or may not, as a deployment wants it."""

from __future__ import annotations

from aws_cdk import Duration
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from workflows.steps import Failures, step
from workflows.workflow import state_machine


class ServiceIntention(Construct):
    """The workflow that a deployment runs for each intention, and again to remove it.

    It is started with `{"intention": {"source": …, "destination": …, "action": "allow"}}`, and
    with `"remove": true` besides.

    Args:
        scope: the construct that it belongs to.
        construct_id: its ID there.
        write_intention: writes the intention, or removes it.
        log_group: where the state machine logs.

    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        write_intention: lambda_.IFunction,
        log_group: logs.ILogGroup,
    ) -> None:
        super().__init__(scope, construct_id)
        failures = Failures(self)
        write = step(
            self,
            "Write the intention",
            function=write_intention,
            payload={"event": sfn.JsonPath.object_at("$")},
            result_path="$.result",
            comment="Writes it, or removes it. One that is not ours stays as it is.",
        )
        failures.catch_wrong_input(write)
        failures.catch_all(write)
        write.next(
            sfn.Succeed(
                self, "Consul has it", comment="The output's result.change says what was done."
            )
        )
        self.state_machine = state_machine(
            self,
            start=write,
            comment="Makes sure that Consul allows, or denies, the calls of a service to another.",
            timeout=Duration.minutes(45),
            log_group=log_group,
        )
