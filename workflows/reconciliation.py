"""Reconciliation: what events have missed, and what has gone wrong since, is put right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aws_cdk import Duration
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from workflows import nested
from workflows.retries import A_FEW_TIMES
from workflows.steps import Failures, step
from workflows.workflow import state_machine

_AT_ONCE = 10
"""So many services are provisioned at a time: the handlers share Lambda's and Consul's capacity."""
_LONGEST_PROVISIONING = Duration.hours(1)
# ECS shows new tasks in its lists within seconds.
_UNTIL_ECS_SHOWS_TASKS = Duration.seconds(30)
_LONGEST_LOOK = Duration.minutes(11)


@dataclass(frozen=True)
class ReconciliationHandlers:
    """The handlers of the steps."""

    find_drift: lambda_.IFunction
    retire_tokens: lambda_.IFunction
    delete_unused: lambda_.IFunction
    report_reconciliation: lambda_.IFunction


class Reconciliation(Construct):
    """The workflow that a schedule starts, and a person with `{"service": name}`.

    Any number of executions may run at the same time. One that finds more than a state can hold
    starts another one, which goes on where it stopped.

    Args:
        scope: the construct that it belongs to.
        construct_id: its ID there.
        handlers: the steps.
        task_provisioning: the workflow that makes a token, or brings it in line.
        service_rules: extra ACL rules, HCL, by service name.
        grace_period: how long a service has to be without any task before its token goes. It
            outlasts the draining of tasks and their deregistration, which need the token.
        log_group: where the state machine logs.

    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        handlers: ReconciliationHandlers,
        task_provisioning: sfn.IStateMachine,
        service_rules: Mapping[str, str],
        grace_period: Duration,
        log_group: logs.ILogGroup,
    ) -> None:
        super().__init__(scope, construct_id)
        self._handlers = handlers
        self._task_provisioning = task_provisioning
        self._rules = dict(service_rules)
        self._failures = Failures(self)

        find = self._look(
            "Find drift",
            sfn.JsonPath.object_at("$"),
            result_path="$.drift",
            comment="Compares Consul's tokens with ECS's tasks and the secrets, in this order.",
        )
        self._failures.catch_wrong_input(find)
        retire = step(
            self,
            "Retire superseded tokens",
            function=handlers.retire_tokens,
            payload={"tokens": sfn.JsonPath.object_at("$.drift.retire")},
            result_path="$.retired",
            comment="Notes in Consul from when on no new task can have pulled them.",
        )
        grace = sfn.Wait(
            self,
            "Wait the grace period",
            time=sfn.WaitTime.duration(grace_period),
            comment="Tasks that drain deregister with their token; a service may come back.",
        )
        delete = step(
            self,
            "Delete what is still unused",
            function=handlers.delete_unused,
            payload={"tokens": sfn.JsonPath.object_at("$.drift.suspects")},
            result_path="$.deletion",
            comment="Looks at the tasks again, and deletes the tokens that none of them can hold.",
            timeout=_LONGEST_LOOK,
            patience=A_FEW_TIMES,
        )
        settle = sfn.Wait(
            self,
            "Wait until ECS shows new tasks",
            time=sfn.WaitTime.duration(_UNTIL_ECS_SHOWS_TASKS),
            comment="Its lists may be seconds behind.",
        )
        look = self._look(
            "Look once more",
            {"suspects": sfn.JsonPath.object_at("$.drift.suspects")},
            result_path="$.look",
            comment="A task may have come up while its token was deleted.",
            result_selector={"provision.$": "$.provision"},
        )
        report = step(
            self,
            "Report",
            function=handlers.report_reconciliation,
            payload={"run": sfn.JsonPath.object_at("$")},
            result_path="$.report",
            comment="Counts what was found and done, for this execution's output and as metrics.",
        )
        for state in (find, retire, delete, look, report):
            self._failures.catch_all(state)
        proceed = nested.continue_in_a_new_execution(
            self,
            "Continue in a new execution",
            execution_input="$.drift.next",
            comment=(
                "There is more than one execution can hold. Not retried: the schedule starts the "
                "next execution anyway."
            ),
        )
        proceed.add_catch(
            self._failures.unexpected, errors=[sfn.Errors.ALL], result_path="$.failure"
        )
        done = sfn.Succeed(self, "Reconciled", comment="The output's report has the numbers.")

        provision = self._provision("Provision services", "$.drift.provision", "$.provisioned")
        put_back = self._provision("Put back", "$.look.provision", "$.put_back")
        any_unused = sfn.Choice(
            self,
            "Is any token unused?",
            comment="Nobody seems to need it: that is looked at twice.",
        )
        find.next(
            sfn.Choice(self, "Is anything wrong?", comment="Mostly not.")
            .when(sfn.Condition.number_greater_than("$.drift.found", 0), provision)
            .otherwise(report)
        )
        provision.next(
            sfn.Choice(
                self,
                "Is any token superseded?",
                comment="The secret holds another one, and nobody has noted yet since when.",
            )
            .when(sfn.Condition.is_present("$.drift.retire[0]"), retire)
            .otherwise(any_unused)
        )
        retire.next(any_unused)
        any_unused.when(sfn.Condition.is_present("$.drift.suspects[0]"), grace).otherwise(report)
        grace.next(delete)
        delete.next(settle)
        settle.next(look)
        look.next(put_back)
        put_back.next(report)
        report.next(
            sfn.Choice(
                self, "Is there more?", comment="There is, if a state could not hold it all."
            )
            .when(sfn.Condition.is_present("$.drift.next.after"), proceed)
            .otherwise(done)
        )
        proceed.next(done)

        self.state_machine = state_machine(
            self,
            start=find,
            comment="Brings Consul's tokens in line with the tasks of an ECS cluster.",
            timeout=Duration.seconds(grace_period.to_seconds() + Duration.hours(12).to_seconds()),
            log_group=log_group,
        )
        nested.allow_running(self.state_machine, [task_provisioning])
        nested.allow_running_itself(self.state_machine, waiting=False)

    def _look(
        self,
        name: str,
        event: object,
        *,
        result_path: str,
        comment: str,
        result_selector: Mapping[str, str] | None = None,
    ) -> sfn.TaskStateBase:
        return step(
            self,
            name,
            function=self._handlers.find_drift,
            payload={"event": event, "service_rules": self._rules},
            result_path=result_path,
            result_selector=result_selector,
            comment=comment,
            timeout=_LONGEST_LOOK,
            patience=A_FEW_TIMES,
        )

    def _provision(self, name: str, items_path: str, result_path: str) -> sfn.Map:
        """Return the state that runs TaskProvisioning for each of some services."""
        each = sfn.Map(
            self,
            name,
            items_path=items_path,
            max_concurrency=_AT_ONCE,
            result_path=result_path,
            comment="Runs TaskProvisioning for each; one that fails does not stop the others.",
        )
        run = nested.run(
            self,
            f"{name} one by one",
            state_machine_arn=self._task_provisioning.state_machine_arn,
            comment="Not retried: each of its own steps retries.",
            timeout=_LONGEST_PROVISIONING,
        )
        done = sfn.Succeed(
            self,
            f"{name} next",
            comment="If one failed, the nested execution says why, and the report counts it.",
        )
        run.next(done)
        run.add_catch(done, errors=[sfn.Errors.ALL], result_path=sfn.JsonPath.DISCARD)
        each.item_processor(run)
        return each
