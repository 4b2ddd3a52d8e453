"""TokenRotation: a token is replaced by a new one, and goes when no task holds it any more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aws_cdk import Duration
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from workflows import nested
from workflows.retries import A_FEW_TIMES
from workflows.steps import Failures, step, whole_failure
from workflows.workflow import state_machine

_MOST_LOOKS = 1000
"""At the redeployments: each is about 10 events, of which a history may have 25,000."""
_LEAST_BETWEEN_LOOKS = 30
_LONGEST_LOOK = Duration.minutes(11)
_REDEPLOYED_AT_ONCE = 5
_LONGEST = Duration.days(365)
"""Step Functions allows no more; a part of all services, with the longest pauses and limits, takes
less (handlers/plan_rotation.py)."""


@dataclass(frozen=True)
class RotationHandlers:
    """The handlers of the steps."""

    plan_rotation: lambda_.IFunction
    store_secret: lambda_.IFunction
    create_token: lambda_.IFunction
    prove_token: lambda_.IFunction
    publish_secret: lambda_.IFunction
    abandon_rotation: lambda_.IFunction
    retire_tokens: lambda_.IFunction
    check_redeployments: lambda_.IFunction
    redeploy_service: lambda_.IFunction
    delete_unused: lambda_.IFunction
    report_rotation: lambda_.IFunction


@dataclass(frozen=True, kw_only=True)
class RotationOptions:
    """How services get new tokens.

    Args:
        concurrency: how many services at a time, of all.
        pause: after each of them, before the next one begins.
        stable_within: how long the services that use a token may take to be redeployed.
        keep_ecs_services: the names of ECS services that are never redeployed by a rotation,
            because another tool deploys them.

    """

    concurrency: int = 1
    pause: Duration | None = None
    stable_within: Duration | None = None
    keep_ecs_services: Sequence[str] = ()

    @property
    def limit(self) -> Duration:
        """How long the services may take: an hour by default."""
        return self.stable_within or Duration.hours(1)


class TokenRotation(Construct):
    """The workflow that replaces a service's token, those of all services, or a shared one.

    Tasks go on with the old token until they are replaced, and it lives for as long as one of them
    does. What each failure leaves behind: docs/failure-modes.md.

    Args:
        scope: the construct that it belongs to.
        construct_id: its ID there.
        handlers: the steps.
        service_rules: extra ACL rules, HCL, by service name.
        options: how services are redeployed.
        log_group: where the state machine logs.

    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        handlers: RotationHandlers,
        service_rules: Mapping[str, str],
        options: RotationOptions,
        log_group: logs.ILogGroup,
    ) -> None:
        super().__init__(scope, construct_id)
        self._handlers = handlers
        self._options = options
        self._failures = Failures(self)
        plan = step(
            self,
            "Plan rotation",
            function=handlers.plan_rotation,
            payload={
                "event": sfn.JsonPath.object_at("$"),
                "service_rules": dict(service_rules),
            },
            result_path="$.plan",
            comment="Reads what is to be rotated, and what the new token has to be.",
            timeout=_LONGEST_LOOK,
            patience=A_FEW_TIMES,
        )
        self._failures.catch_wrong_input(plan)
        self._failures.catch_all(plan)
        plan.next(
            sfn.Choice(self, "Is it one token?", comment="Else those of all services, one by one.")
            .when(sfn.Condition.boolean_equals("$.plan.one", value=True), self._one())
            .otherwise(self._all())
        )
        self.state_machine = state_machine(
            self,
            start=plan,
            comment="Gives services, or all tasks, new Consul ACL tokens.",
            timeout=_LONGEST,
            log_group=log_group,
        )
        nested.allow_running_itself(self.state_machine, waiting=True)

    # --- one token -----------------------------------------------------------------------------

    def _one(self) -> sfn.IChainable:
        store = step(
            self,
            "Store new IDs",
            function=self._handlers.store_secret,
            payload={
                "secret": sfn.JsonPath.object_at("$.plan.secret"),
                "renew": sfn.JsonPath.object_at("$.plan.subject"),
            },
            result_path="$.secret",
            comment="They are written where no task pulls them yet.",
        )
        self._failures.catch_all(store)
        new = {"secret": sfn.JsonPath.object_at("$.secret")}
        create = step(
            self,
            "Create token",
            function=self._handlers.create_token,
            payload={**new, "token": sfn.JsonPath.object_at("$.plan.token")},
            result_path="$.token",
            comment="Consul gets the new token; the old one stays.",
        )
        prove = step(
            self,
            "Prove token",
            function=self._handlers.prove_token,
            payload=new,
            result_path="$.proof",
            comment="Consul is asked with the new token, before any task is.",
        )
        publish = step(
            self,
            "Publish secret",
            function=self._handlers.publish_secret,
            payload=new,
            result_path="$.publication",
            comment="The switch: from here on tasks pull the new token.",
        )
        switched = sfn.Choice(
            self,
            "Was there a token before?",
            comment="Tasks pull the new one now. Some may hold the one before.",
        )
        switched.when(
            sfn.Condition.is_present("$.secret.previous[0]"), self._replace_old()
        ).otherwise(sfn.Succeed(self, "First token", comment="There was none to be replaced."))
        abandon = self._abandon(if_published=switched)
        for state in (create, prove, publish):
            state.add_catch(abandon, errors=[sfn.Errors.ALL], result_path="$.failure")
        superseded = sfn.Succeed(
            self,
            "Superseded",
            comment="Tasks pull what somebody else has put there. Nothing was rotated.",
        )
        store.next(create)
        create.next(prove)
        prove.next(
            sfn.Choice(
                self,
                "Is it proven?",
                comment="Not if somebody else has changed the secret meanwhile.",
            )
            .when(sfn.Condition.boolean_equals("$.proof.proven", value=True), publish)
            .otherwise(superseded)
        )
        publish.next(
            sfn.Choice(
                self,
                "Do tasks pull the new token?",
                comment="They do not, if somebody else has changed the secret meanwhile.",
            )
            .when(
                sfn.Condition.boolean_equals("$.publication.published", value=False),
                superseded,
            )
            .otherwise(switched)
        )
        return store

    def _abandon(self, *, if_published: sfn.IChainable) -> sfn.TaskStateBase:
        """Return the state that undoes a rotation which fails before the switch."""
        abandon = step(
            self,
            "Abandon rotation",
            function=self._handlers.abandon_rotation,
            payload={
                "subject": sfn.JsonPath.object_at("$.plan.subject"),
                "secret": sfn.JsonPath.object_at("$.secret"),
            },
            result_path="$.abandoned",
            comment="Makes sure that the new token is never published, and deletes it.",
        )
        abandon.add_catch(
            self._end(
                "The new token may remain",
                "RotationNotUndone",
                "Tasks keep the old one. Reconciliation removes the new one later.",
            ),
            errors=[sfn.Errors.ALL],
            result_path="$.failure.undoing",  # why the rotation failed stays
        )
        abandon.next(
            sfn.Choice(
                self,
                "Was it published after all?",
                comment="A call may take effect although its answer is lost.",
            )
            .when(sfn.Condition.boolean_equals("$.abandoned.switched", value=True), if_published)
            .otherwise(self._end("Not rotated", "RotationFailed", "Tasks keep the old token."))
        )
        return abandon

    def _replace_old(self) -> sfn.IChainable:
        """Return the first of the states after the switch, in which both tokens are alive."""
        handlers, options = self._handlers, self._options
        both_alive = self._end(
            "Both tokens are alive",
            "RotationIncomplete",
            "Tasks pull the new one. Reconciliation removes the old one when no task holds it.",
        )
        retire = step(
            self,
            "Retire the old token",
            function=handlers.retire_tokens,
            payload={"tokens": sfn.JsonPath.object_at("$.secret.previous"), "superseded": True},
            result_path="$.retired",
            comment="Notes in Consul from when on no new task can have pulled it.",
        )
        settle = sfn.Wait(
            self,
            "Wait until nobody reads the old secret",
            time=sfn.WaitTime.timestamp_path("$.retired.since"),
            comment="Reads of Secrets Manager may be behind; tasks made from then on are new.",
        )
        check = step(
            self,
            "Check redeployments",
            function=handlers.check_redeployments,
            payload={
                "subject": sfn.JsonPath.object_at("$.plan.subject"),
                "since": sfn.JsonPath.string_at("$.retired.since"),
                "keep_ecs_services": list(options.keep_ecs_services),
                "limit_minutes": options.limit.to_minutes(),
            },
            result_path="$.check",
            comment="Which tasks hold the old token, and how far their replacement is.",
            timeout=_LONGEST_LOOK,
            patience=A_FEW_TIMES,
        )
        redeploy = sfn.Map(
            self,
            "Redeploy services",
            items_path="$.check.redeploy",
            item_selector={
                "ecs_service": sfn.JsonPath.string_at("$$.Map.Item.Value.ecs_service"),
                "since": sfn.JsonPath.string_at("$.retired.since"),
            },
            max_concurrency=_REDEPLOYED_AT_ONCE,
            result_path=sfn.JsonPath.DISCARD,
            comment="ECS replaces their tasks, as in any deployment.",
        )
        redeploy.item_processor(
            step(
                self,
                "Redeploy the service",
                function=handlers.redeploy_service,
                payload={
                    "ecs_service": sfn.JsonPath.string_at("$.ecs_service"),
                    "since": sfn.JsonPath.string_at("$.since"),
                },
                result_path=sfn.JsonPath.DISCARD,
                comment="Unless it was deployed since.",
            )
        )
        pause = sfn.Wait(
            self,
            "Wait for the deployments",
            time=sfn.WaitTime.duration(
                Duration.seconds(
                    max(_LEAST_BETWEEN_LOOKS, options.limit.to_seconds() // _MOST_LOOKS)
                )
            ),
            comment="New tasks have to be up before old ones go.",
        )
        delete = step(
            self,
            "Delete the old token",
            function=handlers.delete_unused,
            payload={"tokens": sfn.JsonPath.object_at("$.secret.previous")},
            result_path="$.deletion",
            comment="Looks at the tasks again, and deletes it if none of them can hold it.",
            timeout=_LONGEST_LOOK,
            patience=A_FEW_TIMES,
        )
        for state in (retire, check, redeploy, delete):
            state.add_catch(both_alive, errors=[sfn.Errors.ALL], result_path="$.failure")

        retire.next(settle)
        settle.next(
            sfn.Choice(
                self,
                "Do tasks hold it?",
                comment="Not the controller's own token: its functions read their secret again.",
            )
            .when(sfn.Condition.boolean_equals("$.plan.has_tasks", value=True), check)
            .otherwise(delete)
        )
        check.next(
            sfn.Choice(self, "Have all old tasks gone?", comment="Of those that we replace.")
            .when(sfn.Condition.boolean_equals("$.check.done", value=True), delete)
            .when(
                sfn.Condition.boolean_equals("$.check.expired", value=True),
                sfn.Fail(
                    self,
                    "Redeployment takes too long",
                    comment="Both tokens are alive. Reconciliation removes the old one when no "
                    "task holds it.",
                    error="RedeploymentTimeout",
                    cause_path=sfn.JsonPath.json_to_string(sfn.JsonPath.object_at("$.check")),
                ),
            )
            .when(sfn.Condition.is_present("$.check.redeploy[0]"), redeploy)
            .otherwise(pause)
        )
        redeploy.next(pause)
        pause.next(check)
        delete.next(
            sfn.Choice(self, "Was it deleted?", comment="Not while a task may hold it.")
            .when(
                sfn.Condition.number_equals("$.deletion.kept", 0),
                sfn.Succeed(self, "Rotated", comment="The new token is the only one."),
            )
            .otherwise(
                sfn.Succeed(
                    self,
                    "Old token kept",
                    comment="Tasks hold it that nobody here replaces: started alone, or by another "
                    "tool. Reconciliation removes it when they are gone.",
                )
            )
        )
        return retire

    # --- all services --------------------------------------------------------------------------

    def _all(self) -> sfn.IChainable:
        options = self._options
        each = sfn.Map(
            self,
            "Rotate services",
            items_path="$.plan.services",
            max_concurrency=options.concurrency,
            result_path="$.rotations",
            comment="One that fails does not stop the others; the report names it.",
        )
        rotate = nested.run(
            self,
            "Rotate the service",
            comment="An execution of this workflow. Not retried: each of its own steps retries.",
            timeout=Duration.seconds(options.limit.to_seconds() + Duration.hours(4).to_seconds()),
        )
        done: sfn.IChainable = sfn.Succeed(
            self,
            "Next service",
            comment="If it failed, the nested execution says why, and the report counts it.",
        )
        if options.pause is not None:
            done = sfn.Wait(
                self,
                "Pause",
                time=sfn.WaitTime.duration(options.pause),
                comment="The settings ask for it, so that a mistake shows before the next one.",
            ).next(done)
        rotate.next(done)
        rotate.add_catch(done, errors=[sfn.Errors.ALL], result_path=sfn.JsonPath.DISCARD)
        each.item_processor(rotate)
        report = step(
            self,
            "Report",
            function=self._handlers.report_rotation,
            payload={"rotations": sfn.JsonPath.object_at("$.rotations")},
            result_path="$.report",
            comment="Counts what was rotated, for this execution's output and as metrics.",
        )
        self._failures.catch_all(report)
        proceed = nested.continue_in_a_new_execution(
            self,
            "Continue in a new execution",
            execution_input="$.plan.next",
            comment=(
                "There are more services than one execution can hold. Not retried: start the "
                "workflow again with its input."
            ),
        )
        proceed.add_catch(
            self._failures.unexpected, errors=[sfn.Errors.ALL], result_path="$.failure"
        )
        every = sfn.Choice(
            self, "Was every service rotated?", comment="The report names those that were not."
        )
        every.when(
            sfn.Condition.number_equals("$.report.left", 0),
            sfn.Succeed(self, "Services rotated", comment="Each has a new token."),
        ).otherwise(
            sfn.Fail(
                self,
                "Some services were not rotated",
                comment="The nested executions say why, and what they have left behind.",
                error="ServicesNotRotated",
                cause_path=sfn.JsonPath.json_to_string(sfn.JsonPath.object_at("$.report")),
            )
        )
        each.next(report)
        report.next(
            sfn.Choice(self, "Are there more services?", comment="If a state could not hold all.")
            .when(sfn.Condition.is_present("$.plan.next.after"), proceed)
            .otherwise(every)
        )
        proceed.next(every)
        return each

    # -------------------------------------------------------------------------------------------

    def _end(self, name: str, error: str, comment: str) -> sfn.Fail:
        """Return an end whose cause is all that is known of the failure before it."""
        return sfn.Fail(self, name, comment=comment, error=error, cause_path=whole_failure())
