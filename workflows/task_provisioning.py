"""TaskProvisioning: a task starts, or a service is deployed: its token is made sure of."""

from __future__ import annotations

from collections.abc import Mapping

from aws_cdk import Duration
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from workflows.steps import INPUT_IS_WRONG, Failures, step
from workflows.token_states import TokenHandlers, TokenStates
from workflows.workflow import state_machine


class TaskProvisioning(Construct):
    """The workflow that an ECS task event starts. It may run any number of times for one task.

    A deployment starts it too, with `{"service": name}`, before there is any task of a service.

    Args:
        scope: the construct that it belongs to.
        construct_id: its ID there.
        check_tags: decides whether the task is in the mesh, and which token it needs.
        create_policy: makes the policy of a service with extra rules.
        token_handlers: make the token.
        service_rules: extra ACL rules, HCL, by service name.
        log_group: where the state machine logs.

    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        check_tags: lambda_.IFunction,
        create_policy: lambda_.IFunction,
        token_handlers: TokenHandlers,
        service_rules: Mapping[str, str],
        log_group: logs.ILogGroup,
    ) -> None:
        super().__init__(scope, construct_id)
        failures = Failures(self)
        check = step(
            self,
            "Check tags",
            function=check_tags,
            payload={
                "event": sfn.JsonPath.object_at("$"),
                "service_rules": dict(service_rules),
            },
            result_path="$.task",
            comment=(
                "Looks at the live task: events carry no tags, and may be old. A service that the "
                "input names needs no task."
            ),
        )
        failures.catch(
            check,
            INPUT_IS_WRONG,
            failures.kind(
                "The task is misconfigured",
                "The cause says what to change in the task, or in the input.",
            ),
        )
        failures.catch_all(check)
        token = TokenStates(
            self,
            "",
            handlers=token_handlers,
            failures=failures,
            secret=sfn.JsonPath.object_at("$.task.secret"),
            token=sfn.JsonPath.object_at("$.task.token"),
            results="$",
        )
        policy = step(
            self,
            "Create policy",
            function=create_policy,
            payload={"policy": sfn.JsonPath.object_at("$.task.policy")},
            result_path="$.policy",
            comment="The settings give this service ACL rules of its own.",
        )
        failures.catch_all(policy)

        check.next(
            sfn.Choice(
                self,
                "Is it a mesh task?",
                comment=(
                    "It is, if its tag consul.hashicorp.com/mesh is exactly true, or if the input "
                    "names a service instead."
                ),
            )
            .when(sfn.Condition.boolean_equals("$.task.mesh", value=True), token.store)
            .otherwise(
                sfn.Succeed(self, "Not in the mesh", comment="The output's task.reason says why.")
            )
        )
        token.store.next(
            sfn.Choice(
                self,
                "Needs its own policy?",
                comment="It does, if the settings give the service extra ACL rules.",
            )
            .when(sfn.Condition.is_present("$.task.policy"), policy)
            .otherwise(token.create)
        )
        policy.next(token.create)
        token.finish_with(
            sfn.Succeed(self, "Token ready", comment="The secret's token exists in Consul.")
        )

        self.state_machine = state_machine(
            self,
            start=check,
            comment="Makes sure that a service, the one of an ECS task, has its Consul ACL token.",
            timeout=Duration.hours(4),
            log_group=log_group,
        )
