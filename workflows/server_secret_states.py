"""What Consul servers start with: the states that make sure of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from workflows.steps import Failures, step


@dataclass(frozen=True)
class ServerSecretHandlers:
    """The handlers of the steps."""

    choose_secret: lambda_.IFunction
    issue_ca_certificate: lambda_.IFunction
    issue_server_certificate: lambda_.IFunction


@dataclass(frozen=True, kw_only=True)
class ServerSecretNeeds:
    """Which secrets there are, and what their values are to be.

    Args:
        gossip_key_secret_arn: of the key of the gossip encryption.
        ca: what `issue_ca_certificate` gets as `ca`.
        servers: what `issue_server_certificate` gets as `server`, for each.
        key_pair_key_id: the key that wraps the servers' private keys while they are made.
        management_token_secret_arn: of the management token, if that is chosen ahead.

    """

    gossip_key_secret_arn: str
    ca: Mapping[str, Any]
    servers: Sequence[Mapping[str, Any]]
    key_pair_key_id: str
    management_token_secret_arn: str | None = None


class ServerSecretStates:
    """The states that fill the secrets of servers, and renew what is about to expire.

    Each leaves alone what is there and valid, so they may run any number of times. The next state
    follows `last`.

    Args:
        scope: the workflow.
        handlers: the steps.
        failures: where errors end.
        needs: which secrets there are.

    Attributes:
        first: where they begin.
        last: where they end.

    """

    def __init__(
        self,
        scope: Construct,
        *,
        handlers: ServerSecretHandlers,
        failures: Failures,
        needs: ServerSecretNeeds,
    ) -> None:
        states = [
            _chosen(scope, handlers, "gossip key", needs.gossip_key_secret_arn),
            *(
                [_chosen(scope, handlers, "management token", needs.management_token_secret_arn)]
                if needs.management_token_secret_arn
                else []
            ),
            step(
                scope,
                "Make sure of the CA",
                function=handlers.issue_ca_certificate,
                payload={"ca": dict(needs.ca)},
                result_path="$.ca",
                comment="Its key is in KMS and stays there; the certificate is signed with it.",
            ),
            *(
                step(
                    scope,
                    f"Make sure of the certificate of {server['name']}",
                    function=handlers.issue_server_certificate,
                    payload={
                        "server": dict(server),
                        "ca": {key: needs.ca[key] for key in ("secret_id", "key_id")},
                        "key_pair_key_id": needs.key_pair_key_id,
                    },
                    result_path=f"$.certificate_{number}",
                    comment=(
                        "Made, or renewed once half of its lifetime is over. The one before it "
                        "stays valid until its own end."
                    ),
                )
                for number, server in enumerate(needs.servers, start=1)
            ),
        ]
        for state in states:
            failures.catch_all(state)
        for current, following in pairwise(states):
            current.next(following)
        self.first, self.last = states[0], states[-1]


def _chosen(
    scope: Construct, handlers: ServerSecretHandlers, kind: str, secret_arn: str
) -> sfn.TaskStateBase:
    return step(
        scope,
        f"Choose a {kind}",
        function=handlers.choose_secret,
        payload={"secret": {"id": secret_arn}, "kind": kind},
        result_path=f"$.{kind.replace(' ', '_')}",
        comment="Chosen at random, if there is none; whoever has stored one first has won.",
    )
