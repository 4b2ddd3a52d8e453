"""Schedules in which something was wrong once, each with what it was."""

from __future__ import annotations

import pytest

from tests.faults.run import Runner
from tests.faults.schedule import Schedule

PINNED = {
    # A server that was a moment behind did not know the management token that had just been made:
    # the deployment failed at once, with "Needs an operator".
    "bootstrap 10:stale": "the token was made a moment ago",
    "bootstrap 33:stale": "the controller's token was made a moment ago",
    "bootstraps 39:staler": "another execution made the token a moment ago",
    "controller-rotation 13:stale": "the token that proves itself was made a moment ago",
    # The loser of a race to publish read the stages as they had been before, and took the refusal
    # for one that somebody has to do something about.
    "starts 3:first=TaskProvisioning-2 7:first=TaskProvisioning-1 13:staler 21:stale": (
        "the secret was published a moment ago"
    ),
    # A request to delete a token was answered too late, and took effect after a task had come up.
    "delete-start 15:late": "the token is put back",
    # On old servers the only copy of the management token was in an answer that got lost; after
    # what the error asks for, the deployment is repeated.
    "bootstrap-1.10 7:done+killed": "the ACL system is bootstrapped, by whom nobody knows",
    "bootstrap-1.10 7:restart 12:stop 16:late": "the same, of an execution that was stopped",
    # Four faults that hit the same step one after the other use up its attempts.
    "delete-start-1.10 2:no-leader 10:done+silence 16:slow 18:killed": "it may give up waiting",
    # A rotation that is stopped leaves a token that nobody has published.
    "rotation-reconciliation 3:stop": "the rotation is taken for dead after some hours",
    "client-rotation 5:stop": "the same, of the client token",
}


@pytest.mark.parametrize("schedule", PINNED, ids=[text.replace(" ", "/") for text in PINNED])
def test_what_was_wrong_once_stays_right(runner: Runner, schedule: str) -> None:
    assert runner.run(Schedule.parse(schedule)).violations == (), PINNED[schedule]
