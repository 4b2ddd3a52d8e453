"""CertificateRenewal: what Consul servers start with, and new certificates in time."""

from __future__ import annotations

from aws_cdk import Duration
from aws_cdk import aws_logs as logs
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from workflows.server_secret_states import (
    ServerSecretHandlers,
    ServerSecretNeeds,
    ServerSecretStates,
)
from workflows.steps import Failures
from workflows.workflow import state_machine


class CertificateRenewal(Construct):
    """The workflow that a schedule starts, and a deployment before the servers.

    It needs no Consul. Servers fetch new certificates by themselves.

    Args:
        scope: the construct that it belongs to.
        construct_id: its ID there.
        handlers: the steps.
        needs: which secrets there are.
        log_group: where the state machine logs.

    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        handlers: ServerSecretHandlers,
        needs: ServerSecretNeeds,
        log_group: logs.ILogGroup,
    ) -> None:
        super().__init__(scope, construct_id)
        states = ServerSecretStates(self, handlers=handlers, failures=Failures(self), needs=needs)
        states.last.next(
            sfn.Succeed(self, "All valid", comment="For at least half of their lifetime.")
        )
        self.state_machine = state_machine(
            self,
            start=states.first,
            comment="Makes the keys and certificates of Consul servers, and renews them in time.",
            timeout=Duration.minutes(45),
            log_group=log_group,
        )
