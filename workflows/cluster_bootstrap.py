"""ClusterBootstrap: what has to be in Consul before any task can be provisioned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from aws_cdk import Duration
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from handlers.core import deployment, names
from handlers.core.errors import ConsulAlreadyBootstrapped
from workflows.retries import A_FEW_TIMES, UNTIL_CONSUL_IS_UP, Patience
from workflows.server_secret_states import (
    ServerSecretHandlers,
    ServerSecretNeeds,
    ServerSecretStates,
)
from workflows.steps import Failures, step
from workflows.token_states import TokenHandlers, TokenStates
from workflows.workflow import state_machine

_ANOTHER_RUN = Patience(first_wait=5, longest_wait=20, attempts=3)
"""Half a minute: another execution that has bootstrapped an old server stores the token."""


@dataclass(frozen=True)
class BootstrapHandlers:
    """The handlers of the steps. All but the client's authenticate with the management token."""

    check_consul: lambda_.IFunction
    bootstrap_acls: lambda_.IFunction
    create_policy: lambda_.IFunction
    controller_token: TokenHandlers
    client_token: TokenHandlers


@dataclass(frozen=True, kw_only=True)
class OwnServers:
    """The servers that the same app makes: what they start with, and their agents' token.

    Args:
        handlers: the steps that make what they start with.
        needs: which secrets there are for that.
        agent_token: the steps that make the token of the servers' own agents.
        agent_secret: gets it.

    """

    handlers: ServerSecretHandlers
    needs: ServerSecretNeeds
    agent_token: TokenHandlers
    agent_secret: secretsmanager.ISecret


class ClusterBootstrap(Construct):
    """The workflow that a deployment runs. It may run any number of times.

    Args:
        scope: the construct that it belongs to.
        construct_id: its ID there.
        handlers: the steps.
        cluster_arn: marks what we make in Consul as ours.
        secret_prefix: begins the names of the policies.
        controller_secret: gets the token that the controller works with from then on.
        client_secret: gets the token that all consul-client containers share.
        anonymous_policy: whether requests without a token may read nodes and services.
        log_group: where the state machine logs.
        servers: those that the same app makes. Default: somebody else looks after the servers.

    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        handlers: BootstrapHandlers,
        cluster_arn: str,
        secret_prefix: str,
        controller_secret: secretsmanager.ISecret,
        client_secret: secretsmanager.ISecret,
        anonymous_policy: bool,
        log_group: logs.ILogGroup,
        servers: OwnServers | None = None,
    ) -> None:
        super().__init__(scope, construct_id)
        self._failures = Failures(self)
        self._create_policy = handlers.create_policy

        wait = step(
            self,
            "Wait for Consul",
            function=handlers.check_consul,
            payload={},
            result_path="$.consul",
            comment="A leader is elected and the ACL system answers.",
            patience=UNTIL_CONSUL_IS_UP,
            timeout=Duration.seconds(20),
        )
        management = step(
            self,
            "Make sure of a management token",
            function=handlers.bootstrap_acls,
            payload={},
            result_path="$.management",
            comment=(
                "Takes the one in the bootstrap secret, or bootstraps a new ACL system. Another "
                "execution that does so is waited for, half a minute."
            ),
            patience=A_FEW_TIMES,
            timeout=Duration.seconds(150),
        )
        _ANOTHER_RUN.apply(management, [ConsulAlreadyBootstrapped.__name__])
        for state in (wait, management):
            self._failures.catch_all(state)

        controller_needs = deployment.controller_token(secret_prefix, cluster_arn)
        client_needs = deployment.client_token(secret_prefix, cluster_arn)
        policies = [
            self._policy("controller", controller_needs["policy"]),
            self._policy("client", client_needs["policy"]),
        ]
        if anonymous_policy:
            policies.append(
                self._policy(
                    "anonymous",
                    {
                        "name": names.ANONYMOUS_POLICY_NAME,
                        "description": names.ANONYMOUS_POLICY_DESCRIPTION,
                        "rules": names.ANONYMOUS_POLICY_RULES,
                        # One for the whole datacenter, whoever makes it.
                        "shared": True,
                        "attach_to": names.ANONYMOUS_TOKEN_ACCESSOR_ID,
                    },
                )
            )
        server_needs = deployment.server_token(secret_prefix, cluster_arn)
        if servers is not None:
            policies.append(self._policy("server", server_needs["policy"]))
        controller = self._token(
            "controller",
            handlers=handlers.controller_token,
            secret=controller_secret,
            token=controller_needs["token"],
        )
        client = self._token(
            "client",
            handlers=handlers.client_token,
            secret=client_secret,
            token=client_needs["token"],
        )

        tokens = [controller, client]
        if servers is not None:
            tokens.append(
                self._token(
                    "server",
                    handlers=servers.agent_token,
                    secret=servers.agent_secret,
                    token=server_needs["token"],
                )
            )

        for current, following in pairwise([wait, management, *policies, controller.store]):
            current.next(following)
        for token in tokens:
            token.store.next(token.create)
        for token, following_token in pairwise(tokens):
            token.finish_with(following_token.store)
        tokens[-1].finish_with(
            sfn.Succeed(self, "Cluster ready", comment="Tasks can be provisioned from here on.")
        )
        start: sfn.IChainable = wait
        if servers is not None:
            # Servers of the same deployment start with these, so they come before the wait.
            secrets = ServerSecretStates(
                self, handlers=servers.handlers, failures=self._failures, needs=servers.needs
            )
            secrets.last.next(wait)
            start = secrets.first

        self.state_machine = state_machine(
            self,
            start=start,
            comment="Prepares Consul for the mesh tasks of an ECS cluster.",
            timeout=Duration.minutes(45),
            log_group=log_group,
        )

    def _policy(self, whose: str, policy: Mapping[str, Any]) -> sfn.TaskStateBase:
        state = step(
            self,
            f"Create {whose} policy",
            function=self._create_policy,
            payload={"policy": dict(policy)},
            result_path=f"$.{whose}_policy",
            comment="Created, or brought in line.",
        )
        self._failures.catch_all(state)
        return state

    def _token(
        self,
        whose: str,
        *,
        handlers: TokenHandlers,
        secret: secretsmanager.ISecret,
        token: Mapping[str, Any],
    ) -> TokenStates:
        return TokenStates(
            self,
            whose,
            handlers=handlers,
            failures=self._failures,
            # The deployment makes this secret, so it needs no description or tags here.
            secret={"id": secret.secret_arn},
            token=token,
            results=f"$.{whose}",
        )
