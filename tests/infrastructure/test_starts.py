"""What starts the workflows: events of tasks, and schedules; and what becomes of lost ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.conftest import SynthesizeOnce
from tests.infrastructure.conftest import Case
from tests.infrastructure.expected import EVERYTHING, MINIMAL, Expected
from tests.infrastructure.policies import permissions
from tests.synthesized import IRELAND, Deployed
from tests.synthesized import MINIMAL as MINIMAL_SETTINGS

BY_HAND = f"""\
{MINIMAL_SETTINGS}
reconciliation:
  every_minutes: null
"""
# EventBridge wants another word for one of something.
RARELY_AND_OFTEN = f"""\
{MINIMAL_SETTINGS}
reconciliation:
  every_minutes: 1
rotation:
  services_every_days: 365
"""

RULES = "AWS::Events::Rule"


@pytest.fixture
def by_hand(synthesize_once: SynthesizeOnce) -> Deployed:
    """The app with no schedule at all."""
    return Deployed(synthesize_once(BY_HAND), IRELAND)


# --------------------------------------------------------------------------------------------------
# Events
# --------------------------------------------------------------------------------------------------


def test_a_task_that_starts_in_the_cluster_starts_the_workflow(case: Case) -> None:
    deployed, expected = case

    assert deployed.of_type(RULES)["TaskStarts"] == {
        "Description": f"A task starts: make sure of its Consul token ({expected.prefix})",
        "State": "ENABLED",
        "EventPattern": {
            "source": ["aws.ecs"],
            "detail-type": ["ECS Task State Change"],
            "detail": {
                "clusterArn": [expected.cluster],
                "desiredStatus": ["RUNNING"],
                "lastStatus": ["PROVISIONING", "PENDING"],
            },
        },
        "Targets": [
            {
                "Id": "Target0",
                "Arn": expected.machine("TaskProvisioning"),
                "RoleArn": expected.role("TaskProvisioning-EventsRole"),
                # Only these of an event: it may carry the environment of a task.
                "InputTransformer": {
                    "InputPathsMap": {
                        "id": "$.id",
                        "time": "$.time",
                        "detail-clusterArn": "$.detail.clusterArn",
                        "detail-taskArn": "$.detail.taskArn",
                        "detail-lastStatus": "$.detail.lastStatus",
                        "detail-desiredStatus": "$.detail.desiredStatus",
                        "detail-version": "$.detail.version",
                    },
                    "InputTemplate": (
                        '{"id":<id>,"time":<time>,"detail":{'
                        '"clusterArn":<detail-clusterArn>,'
                        '"taskArn":<detail-taskArn>,'
                        '"lastStatus":<detail-lastStatus>,'
                        '"desiredStatus":<detail-desiredStatus>,'
                        '"version":<detail-version>}}'
                    ),
                },
                "RetryPolicy": {
                    "MaximumEventAgeInSeconds": 24 * 60 * 60,
                    "MaximumRetryAttempts": 185,
                },
                "DeadLetterConfig": {"Arn": expected.place.arn("sqs", "DeadLetters")},
            }
        ],
        **expected.tag_list,
    }


# --------------------------------------------------------------------------------------------------
# Schedules
# --------------------------------------------------------------------------------------------------


def schedule(
    rule: str, machine: str, every: str, started_with: Mapping[str, str], expected: Expected
) -> dict[str, Any]:
    """Return the rule that starts a workflow again and again, with the same input."""
    return {
        "Description": f"{rule}, every {every} ({expected.prefix})",
        "State": "ENABLED",
        "ScheduleExpression": f"rate({every})",
        "Targets": [
            {
                "Id": "Target0",
                "Arn": expected.machine(machine),
                "RoleArn": expected.role(f"{machine}-EventsRole"),
                # Never the event itself, which the workflow would not understand.
                "Input": json.dumps(started_with, separators=(",", ":")),
                # The next time is near, or somebody looks into the queue.
                "RetryPolicy": {"MaximumEventAgeInSeconds": 10 * 60, "MaximumRetryAttempts": 3},
                "DeadLetterConfig": {"Arn": expected.place.arn("sqs", "DeadLetters")},
            }
        ],
        **expected.tag_list,
    }


def schedules(deployed: Deployed) -> dict[str, Any]:
    """Return the rules that start something without an event."""
    rules = deployed.of_type(RULES)
    assert "TaskStarts" in rules
    return {name: rule for name, rule in rules.items() if name != "TaskStarts"}


def test_without_settings_tokens_are_looked_after_every_five_minutes_and_never_replaced(
    minimal: Deployed,
) -> None:
    assert schedules(minimal) == {
        "ReconciliationSchedule": schedule(
            "ReconciliationSchedule", "Reconciliation", "5 minutes", {}, MINIMAL
        )
    }


def test_the_settings_say_how_often_tokens_are_looked_after_and_replaced(
    everything: Deployed,
) -> None:
    wanted = {
        "ReconciliationSchedule": ("Reconciliation", "10 minutes", {}),
        "ServiceTokensRotation": ("TokenRotation", "30 days", {"services": "all"}),
        "ClientTokenRotation": ("TokenRotation", "90 days", {"token": "client"}),
        "ControllerTokenRotation": ("TokenRotation", "1 day", {"token": "controller"}),
    }

    assert schedules(everything) == {
        rule: schedule(rule, *schedule_of, EVERYTHING) for rule, schedule_of in wanted.items()
    }


def test_the_settings_may_leave_everything_to_people(by_hand: Deployed) -> None:
    assert schedules(by_hand) == {}


def test_one_of_something_has_no_plural(synthesize_once: SynthesizeOnce) -> None:
    deployed = Deployed(synthesize_once(RARELY_AND_OFTEN), IRELAND)

    assert {name: rule["ScheduleExpression"] for name, rule in schedules(deployed).items()} == {
        "ReconciliationSchedule": "rate(1 minute)",
        "ServiceTokensRotation": "rate(365 days)",
    }


# --------------------------------------------------------------------------------------------------
# What EventBridge may do, and what it can not
# --------------------------------------------------------------------------------------------------


def started(deployed: Deployed) -> set[str]:
    """Return the state machines that rules start."""
    return {
        target["Arn"].rpartition(":")[2]
        for rule in deployed.of_type(RULES).values()
        for target in rule["Targets"]
    }


def test_eventbridge_may_start_these_workflows_and_do_nothing_else(case: Case) -> None:
    deployed, expected = case
    policies, roles = deployed.of_type("AWS::IAM::Policy"), deployed.of_type("AWS::IAM::Role")
    machines = started(deployed)
    names = {f"{machine}/EventsRole" for machine in machines}

    assert {name for name in roles if name.endswith("/EventsRole")} == names
    assert {name: permissions(policies[name]) for name in names} == {
        f"{machine}/EventsRole": {expected.machine(machine): {"states:StartExecution"}}
        for machine in machines
    }
    for name in names:
        assert roles[name] == {
            "AssumeRolePolicyDocument": {
                "Version": "2012-10-17",
                "Statement": [
                    {
                        "Effect": "Allow",
                        "Action": "sts:AssumeRole",
                        "Principal": {"Service": "events.amazonaws.com"},
                    }
                ],
            },
            **expected.tag_list,
        }


def test_what_nothing_starts_needs_no_role(minimal: Deployed, by_hand: Deployed) -> None:
    assert started(minimal) == {"TaskProvisioning", "Reconciliation"}
    assert started(by_hand) == {"TaskProvisioning"}
    assert [name for name in by_hand.of_type("AWS::IAM::Role") if "EventsRole" in name] == [
        "TaskProvisioning/EventsRole"
    ]


def test_events_that_start_nothing_are_kept_for_two_weeks_encrypted(case: Case) -> None:
    deployed, expected = case
    queue = expected.place.arn("sqs", "DeadLetters")

    assert deployed.of_type("AWS::SQS::Queue") == {
        "DeadLetters": {
            "MessageRetentionPeriod": 14 * 24 * 60 * 60,
            "SqsManagedSseEnabled": True,
            **expected.tag_list,
        }
    }
    (policy,) = deployed.of_type("AWS::SQS::QueuePolicy").values()
    statements = policy["PolicyDocument"]["Statement"]
    assert policy == {
        "Queues": [expected.queue_url],
        "PolicyDocument": {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Deny",
                    "Action": "sqs:*",
                    "Principal": {"AWS": "*"},
                    "Resource": queue,
                    "Condition": {"Bool": {"aws:SecureTransport": "false"}},
                },
                *(
                    {
                        "Sid": statements[number]["Sid"],
                        "Effect": "Allow",
                        "Action": "sqs:SendMessage",
                        "Principal": {"Service": "events.amazonaws.com"},
                        "Resource": queue,
                        "Condition": {"ArnEquals": {"aws:SourceArn": expected.rule(rule)}},
                    }
                    for number, rule in enumerate(deployed.of_type(RULES), start=1)
                ),
            ],
        },
    }
