"""SnapshotRestore: Consul gets back what it knew when a snapshot was taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jsii
from aws_cdk import Duration, IStableAnyProducer, Lazy
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from workflows import nested
from workflows.retries import A_FEW_TIMES
from workflows.server_snapshot import LONGEST_TRANSFER
from workflows.steps import Failures, step, whole_failure
from workflows.workflow import state_machine

# Longer than ClusterBootstrap's own limit, whose end says more.
_LONGEST_BOOTSTRAP = Duration.minutes(50)
_INTENTIONS_AT_ONCE = 10


class SnapshotRestore(Construct):
    """The workflow that a person starts with `{"snapshot": key}`, or `{}` for the newest.

    A snapshot has the tokens of its time. Those that were made later are missing afterwards, and
    those that were deleted since are there again: ClusterBootstrap puts the shared ones right, and
    Reconciliation those of the services. So are intentions: those that deployments want are made
    sure of, too (as many as there is room for in a state's output, more than 1,000).

    Args:
        scope: the construct that it belongs to.
        construct_id: its ID there.
        restore_snapshot: the step.
        cluster_bootstrap: the workflow that makes sure of policies and shared tokens.
        reconciliation: the workflow that makes sure of the services' tokens.
        service_intention: the workflow that makes sure of an intention.
        intentions: returns what that workflow is started with, for each intention that deployments
            want; called once all constructs are made.
        log_group: where the state machine logs.

    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        restore_snapshot: lambda_.IFunction,
        cluster_bootstrap: sfn.IStateMachine,
        reconciliation: sfn.IStateMachine,
        service_intention: sfn.IStateMachine,
        intentions: Callable[[], Sequence[Mapping[str, Any]]],
        log_group: logs.ILogGroup,
    ) -> None:
        super().__init__(scope, construct_id)
        failures = Failures(self)
        restore = step(
            self,
            "Restore snapshot",
            function=restore_snapshot,
            payload={"event": sfn.JsonPath.object_at("$")},
            result_path="$.restored",
            comment="Replaces everything that Consul knows, once the snapshot is found whole.",
            timeout=Duration.seconds(LONGEST_TRANSFER.to_seconds() + 60),
            patience=A_FEW_TIMES,
        )
        failures.catch_wrong_input(restore)
        failures.catch_all(restore)
        bootstrap = nested.run(
            self,
            "Run ClusterBootstrap",
            state_machine_arn=cluster_bootstrap.state_machine_arn,
            execution_input={},
            comment=(
                "Makes sure of the policies and the shared tokens. Not retried: each of its own "
                "steps retries."
            ),
            timeout=_LONGEST_BOOTSTRAP,
        )
        reconcile = nested.start(
            self,
            "Start Reconciliation",
            state_machine_arn=reconciliation.state_machine_arn,
            execution_input={},
            result_path="$.reconciliation",
            comment=(
                "Makes the services' tokens that the snapshot lacks. Not retried: its schedule "
                "starts it anyway."
            ),
        )
        wanted = sfn.Pass(
            self,
            "Take the calls that deployments allow",
            result=sfn.Result(Lazy.any(_Intentions(intentions))),
            result_path="$.intentions",
            comment="Those that the app has when it is deployed.",
        )
        allow = sfn.Map(
            self,
            "Allow the calls again",
            items_path="$.intentions",
            max_concurrency=_INTENTIONS_AT_ONCE,
            result_path="$.intentions",
            comment="The snapshot lacks those that are younger.",
        )
        allow.item_processor(
            nested.start(
                self,
                "Start ServiceIntention",
                state_machine_arn=service_intention.state_machine_arn,
                execution_input="$",
                result_path="$",
                comment="Not retried: an execution that starts retries its own step.",
            )
        )
        unfinished = sfn.Fail(
            self,
            "Restored but not finished",
            comment=(
                "Consul has the state of the snapshot. Start ClusterBootstrap, then "
                "Reconciliation, and ServiceIntention for each call that deployments allow; the "
                "cause says what went wrong."
            ),
            error="RestoreNotFinished",
            cause_path=whole_failure(),
        )
        for state in (bootstrap, reconcile, allow):
            state.add_catch(unfinished, errors=[sfn.Errors.ALL], result_path="$.failure")
        restore.next(bootstrap)
        bootstrap.next(reconcile)
        reconcile.next(wanted)
        wanted.next(allow)
        allow.next(
            sfn.Succeed(
                self,
                "Snapshot restored",
                comment="The output says which, and what may still be at work.",
            )
        )
        self.state_machine = state_machine(
            self,
            start=restore,
            comment="Restores the state of the Consul servers, and puts tokens right after that.",
            timeout=Duration.hours(6),
            log_group=log_group,
        )
        nested.allow_running(self.state_machine, [cluster_bootstrap])
        for workflow in (reconciliation, service_intention):
            workflow.grant_start_execution(self.state_machine)


@jsii.implements(IStableAnyProducer)
class _Intentions:
    def __init__(self, intentions: Callable[[], Sequence[Mapping[str, Any]]]) -> None:
        self._intentions = intentions

    def produce(self) -> Any:
        return [dict(each) for each in self._intentions()]
