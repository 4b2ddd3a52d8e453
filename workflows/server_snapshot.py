"""ServerSnapshot: everything that Consul knows is stored where it outlasts the servers."""

from __future__ import annotations

from aws_cdk import Duration
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from workflows.retries import A_FEW_TIMES
from workflows.steps import Failures, step
from workflows.workflow import state_machine

LONGEST_TRANSFER = Duration.minutes(15)
"""Of a snapshot, from Consul to the bucket or back: what Lambda allows a function."""


class ServerSnapshot(Construct):
    """The workflow that a schedule starts, and a person. Its input does not matter.

    Args:
        scope: the construct that it belongs to.
        construct_id: its ID there.
        save_snapshot: the step.
        log_group: where the state machine logs.

    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        save_snapshot: lambda_.IFunction,
        log_group: logs.ILogGroup,
    ) -> None:
        super().__init__(scope, construct_id)
        save = step(
            self,
            "Take snapshot",
            function=save_snapshot,
            payload={},
            result_path="$.snapshot",
            comment="Checks what Consul sends, and stores it only if it is whole.",
            timeout=Duration.seconds(LONGEST_TRANSFER.to_seconds() + 60),
            patience=A_FEW_TIMES,
        )
        Failures(self).catch_all(save)
        save.next(
            sfn.Succeed(
                self, "Snapshot taken", comment="The output has its key, its size and its index."
            )
        )
        self.state_machine = state_machine(
            self,
            start=save,
            comment="Stores a snapshot of the state of the Consul servers.",
            timeout=Duration.hours(5),
            log_group=log_group,
        )
