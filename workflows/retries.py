"""Which errors a workflow waits out, and for how long."""

from __future__ import annotations

from dataclasses import dataclass

from aws_cdk import Duration
from aws_cdk import aws_stepfunctions as sfn

from handlers.core.errors import Retryable, error_names

PASSING_ERRORS: list[str] = [
    *error_names(Retryable),
    # Lambda's own. All steps are idempotent, so one that may have taken effect is repeated too.
    "Lambda.AWSLambdaException",
    "Lambda.ClientExecutionTimeoutException",
    "Lambda.EC2ThrottledException",
    "Lambda.EC2UnexpectedException",
    "Lambda.ENILimitReachedException",
    "Lambda.ENINotReadyException",
    "Lambda.ResourceConflictException",
    "Lambda.ResourceNotReadyException",  # wakes a function in a VPC that was idle for long
    "Lambda.SdkClientException",
    "Lambda.ServiceException",
    "Lambda.SubnetIPAddressLimitReachedException",
    "Lambda.TooManyRequestsException",
    "Lambda.Unknown",
    "Runtime.ExitError",
    "Sandbox.Timedout",
    "States.Timeout",
]
"""Errors that waiting may help against."""


def without_reserved(errors: list[str]) -> list[str]:
    """Return the errors that an execution may end with: not those of Step Functions itself."""
    return [error for error in errors if not error.startswith("States.")]


@dataclass(frozen=True)
class Patience:
    """How long a state waits for an error to pass, with full jitter between attempts.

    Args:
        first_wait: seconds before the second attempt, at most; doubled for each one after it.
        longest_wait: seconds that one wait takes, at most.
        attempts: how many times the state is tried again.

    """

    first_wait: int
    longest_wait: int
    attempts: int

    def budget_minutes(self, attempt: Duration) -> int:
        """Return how long it takes at most: all waits and all attempts, if each is the longest.

        Args:
            attempt: the time-out of one attempt.

        """
        seconds = (self.attempts + 1) * int(attempt.to_seconds())
        for number in range(self.attempts):
            seconds += min(self.first_wait << number, self.longest_wait)
        return round(seconds / 60)

    def apply(self, state: sfn.TaskStateBase, errors: list[str]) -> None:
        """Add the retry to a state."""
        state.add_retry(
            errors=errors,
            interval=Duration.seconds(self.first_wait),
            backoff_rate=2,
            max_delay=Duration.seconds(self.longest_wait),
            max_attempts=self.attempts,
            jitter_strategy=sfn.JitterType.FULL,
        )


A_WHILE = Patience(first_wait=1, longest_wait=60, attempts=20)
"""15 minutes of waits: the restart of a Consul server, or a throttled hour's worst quarter."""

A_FEW_TIMES = Patience(first_wait=1, longest_wait=60, attempts=8)
"""3 minutes of waits, where one attempt takes long."""

UNTIL_TOKEN_IS_KNOWN = Patience(first_wait=5, longest_wait=30, attempts=6)
"""2 minutes, about one of them on average: a Consul server that does not know a token which was
made a moment ago remembers that for 30 seconds (`acl.token_ttl`)."""

UNTIL_CONSUL_IS_UP = Patience(first_wait=2, longest_wait=15, attempts=75)
"""18 minutes of waits: Consul servers that are made by the same deployment."""
