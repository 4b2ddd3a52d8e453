"""Store, create, publish: how any token comes into being."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from workflows.steps import Failures, step


@dataclass(frozen=True)
class TokenHandlers:
    """The handlers of the three steps."""

    store_secret: lambda_.IFunction
    create_token: lambda_.IFunction
    publish_secret: lambda_.IFunction


class TokenStates:
    """The states that write a token's IDs ahead, make the token, and publish the IDs.

    The token exists before any task can pull its IDs: a Consul agent that sees a token too early
    refuses it for 30 seconds after. What leads from `store` to `create` is up to the workflow.

    Args:
        scope: the workflow.
        whose: goes into the states' names, such as "client"; may be empty.
        handlers: the steps.
        failures: where errors end.
        secret: what `store_secret` gets as `secret`: an object, or a path to one.
        token: what `create_token` gets as `token`: the same.
        results: the path of the object under which results are kept, such as `$`.

    """

    def __init__(
        self,
        scope: Construct,
        whose: str,
        *,
        handlers: TokenHandlers,
        failures: Failures,
        secret: Any,
        token: Any,
        results: str,
    ) -> None:
        prefix = f"{whose} " if whose else ""
        stored = sfn.JsonPath.object_at(f"{results}.secret")
        self.store = step(
            scope,
            f"Store {prefix}secret",
            function=handlers.store_secret,
            payload={"secret": secret},
            result_path=f"{results}.secret",
            comment="New IDs, if the secret has none, are written where no task pulls them yet.",
        )
        self.create = step(
            scope,
            f"Create {prefix}token",
            function=handlers.create_token,
            payload={"secret": stored, "token": token},
            result_path=f"{results}.token",
            comment="Consul is brought in line with the secret.",
        )
        self._is_public = sfn.Choice(
            scope,
            f"Is the {prefix}secret public?",
            comment=(
                "It is, if it had valid IDs before. If others have been put there meanwhile, ours "
                "count no more."
            ),
        )
        self._publish = step(
            scope,
            f"Publish {prefix}secret",
            function=handlers.publish_secret,
            payload={"secret": stored},
            result_path=f"{results}.publication",
            comment="The token exists: from here on tasks pull its IDs.",
        )
        self._nothing_to_publish = sfn.Condition.or_(
            sfn.Condition.boolean_equals(f"{results}.secret.public", value=True),
            sfn.Condition.string_equals(f"{results}.token.change", "superseded"),
        )
        for state in (self.store, self.create, self._publish):
            failures.catch_all(state)

    def finish_with(self, then: sfn.IChainable) -> None:
        """Connect what comes after `create`, up to the state that follows all."""
        self.create.next(self._is_public)
        self._is_public.when(self._nothing_to_publish, then)
        self._is_public.otherwise(self._publish)
        self._publish.next(then)
