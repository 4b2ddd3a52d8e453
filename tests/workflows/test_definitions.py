"""The definitions of the state machines: well formed, and cut as the architecture says."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from statelint.config import Config  # type: ignore[import-untyped]
from statelint.linter import Linter  # type: ignore[import-untyped]
from statelint.problem import ProblemType  # type: ignore[import-untyped]

from handlers.core import errors
from tests.synthesized import Deployed
from tests.workflows.asl import State, catches, graph, reachable, states

WORKFLOWS = [
    *("ClusterBootstrap", "DeploymentRun", "Reconciliation", "ServiceIntention"),
    *("TaskProvisioning", "TokenRotation"),
]

# Those of a stack that makes its Consul servers itself.
SERVED_WORKFLOWS = sorted([*WORKFLOWS, "CertificateRenewal", "ServerSnapshot", "SnapshotRestore"])
STACKS = dict.fromkeys(("minimal", "everything", "vpc_only"), WORKFLOWS)
STACKS |= {"served": SERVED_WORKFLOWS}

# Errors of Lambda and Step Functions that a repetition may get around. From the Step Functions
# developer guide, "Handling transient Lambda service exceptions" and "Error handling"; the limits
# of a function's own time and memory are from Lambda's, "Configure Lambda function timeout".
PASSING_PLATFORM_ERRORS = {
    "Lambda.AWSLambdaException",
    "Lambda.ClientExecutionTimeoutException",
    "Lambda.EC2ThrottledException",
    "Lambda.EC2UnexpectedException",
    "Lambda.ENILimitReachedException",
    "Lambda.ENINotReadyException",
    "Lambda.ResourceConflictException",
    "Lambda.ResourceNotReadyException",
    "Lambda.SdkClientException",
    "Lambda.ServiceException",
    "Lambda.SubnetIPAddressLimitReachedException",
    "Lambda.TooManyRequestsException",
    "Lambda.Unknown",
    "Runtime.ExitError",
    "Sandbox.Timedout",
    "States.Timeout",
}

# What is retried everywhere, although it may be for good: our own token may be a new one, after a
# bootstrap or a rotation, and a Consul server that was asked too early says so for a while.
MAY_BE_TOO_EARLY = {"ConsulTokenRejected"}

# What waiting helps against in one state, although it does not elsewhere.
ALSO_RETRIED = {
    # An old server chooses the token; the execution that bootstrapped it stores it a moment later.
    ("ClusterBootstrap", "Make sure of a management token"): {"ConsulAlreadyBootstrapped"},
}

# They start an execution, and each of its own states retries.
NOT_RETRIED = {
    ("DeploymentRun", "Run the workflow"),
    ("Reconciliation", "Continue in a new execution"),
    ("Reconciliation", "Provision services one by one"),
    ("Reconciliation", "Put back one by one"),
    ("SnapshotRestore", "Run ClusterBootstrap"),
    ("SnapshotRestore", "Start Reconciliation"),
    ("SnapshotRestore", "Start ServiceIntention"),
    ("TokenRotation", "Continue in a new execution"),
    ("TokenRotation", "Rotate the service"),
}
# Those of them that are one of many: if it fails, it goes on as if it had not.
ONE_OF_MANY = {
    ("Reconciliation", "Provision services one by one"),
    ("Reconciliation", "Put back one by one"),
    ("TokenRotation", "Rotate the service"),
}


def subclasses(kind: type[errors.StepError]) -> set[str]:
    """Return the names of all errors of a kind, however deep in the tree."""
    found: set[str] = set()
    for subclass in kind.__subclasses__():
        # Other tests may have classes of their own.
        if subclass.__module__ == errors.__name__:
            found |= {subclass.__name__} | subclasses(subclass)
    return found


RETRYABLE = subclasses(errors.Retryable)
PERMANENT = subclasses(errors.Permanent)
PASSING = RETRYABLE | PASSING_PLATFORM_ERRORS


@pytest.fixture(
    params=[(stack, workflow) for stack, workflows in STACKS.items() for workflow in workflows],
    ids="-".join,
)
def stack_and_workflow(request: pytest.FixtureRequest) -> tuple[str, str]:
    pair: tuple[str, str] = request.param
    return pair


@pytest.fixture
def deployed(request: pytest.FixtureRequest, stack_and_workflow: tuple[str, str]) -> Deployed:
    stack: Deployed = request.getfixturevalue(stack_and_workflow[0])
    return stack


@pytest.fixture
def workflow(stack_and_workflow: tuple[str, str]) -> str:
    return stack_and_workflow[1]


@pytest.fixture
def definition(deployed: Deployed, workflow: str) -> State:
    return deployed.definition(workflow)


def tasks(definition: State) -> dict[str, State]:
    return states(definition, "Task")


@pytest.mark.parametrize("stack", STACKS)
def test_these_are_all_workflows(request: pytest.FixtureRequest, stack: str) -> None:
    found = request.getfixturevalue(stack).of_type("AWS::StepFunctions::StateMachine")

    assert sorted(found) == STACKS[stack]


# --------------------------------------------------------------------------------------------------
# The way through
# --------------------------------------------------------------------------------------------------

TASK_PROVISIONING = """\
start -> Check tags
Check tags -> Is it a mesh task?
Is it a mesh task? [$.task.mesh BooleanEquals true] -> Store secret
Is it a mesh task? [else] -> Not in the mesh
Store secret -> Needs its own policy?
Not in the mesh -> succeeds
Needs its own policy? [$.task.policy IsPresent true] -> Create policy
Needs its own policy? [else] -> Create token
Create policy -> Create token
Create token -> Is the secret public?
Is the secret public? [$.secret.public BooleanEquals true or \
$.token.change StringEquals superseded] -> Token ready
Is the secret public? [else] -> Publish secret
Token ready -> succeeds
Publish secret -> Token ready"""

CLUSTER_BOOTSTRAP = """\
start -> Wait for Consul
Wait for Consul -> Make sure of a management token
Make sure of a management token -> Create controller policy
Create controller policy -> Create client policy
Create client policy -> Create anonymous policy
Create anonymous policy -> Store controller secret
Store controller secret -> Create controller token
Create controller token -> Is the controller secret public?
Is the controller secret public? [$.controller.secret.public BooleanEquals true or \
$.controller.token.change StringEquals superseded] -> Store client secret
Is the controller secret public? [else] -> Publish controller secret
Store client secret -> Create client token
Publish controller secret -> Store client secret
Create client token -> Is the client secret public?
Is the client secret public? [$.client.secret.public BooleanEquals true or \
$.client.token.change StringEquals superseded] -> Cluster ready
Is the client secret public? [else] -> Publish client secret
Cluster ready -> succeeds
Publish client secret -> Cluster ready"""

DEPLOYMENT_RUN = """\
start -> Wait until the deployment is known everywhere
Wait until the deployment is known everywhere -> Run the workflow
Run the workflow -> Report success
Report success -> The deployment goes on
The deployment goes on -> succeeds"""


RECONCILIATION = """\
start -> Find drift
Find drift -> Is anything wrong?
Is anything wrong? [$.drift.found NumericGreaterThan 0] -> Provision services
Is anything wrong? [else] -> Report
Provision services [each $.drift.provision] -> Provision services one by one
Provision services one by one -> Provision services next
Provision services next -> is done
Provision services -> Is any token superseded?
Report -> Is there more?
Is any token superseded? [$.drift.retire[0] IsPresent true] -> Retire superseded tokens
Is any token superseded? [else] -> Is any token unused?
Is there more? [$.drift.next.after IsPresent true] -> Continue in a new execution
Is there more? [else] -> Reconciled
Retire superseded tokens -> Is any token unused?
Is any token unused? [$.drift.suspects[0] IsPresent true] -> Wait the grace period
Is any token unused? [else] -> Report
Continue in a new execution -> Reconciled
Reconciled -> succeeds
Wait the grace period -> Delete what is still unused
Delete what is still unused -> Wait until ECS shows new tasks
Wait until ECS shows new tasks -> Look once more
Look once more -> Put back
Put back [each $.look.provision] -> Put back one by one
Put back one by one -> Put back next
Put back next -> is done
Put back -> Report"""

TOKEN_ROTATION = """\
start -> Plan rotation
Plan rotation -> Is it one token?
Is it one token? [$.plan.one BooleanEquals true] -> Store new IDs
Is it one token? [else] -> Rotate services
Store new IDs -> Create token
Rotate services [each $.plan.services] -> Rotate the service
Rotate the service -> Next service
Next service -> is done
Rotate services -> Report
Create token -> Prove token
Report -> Are there more services?
Prove token -> Is it proven?
Are there more services? [$.plan.next.after IsPresent true] -> Continue in a new execution
Are there more services? [else] -> Was every service rotated?
Is it proven? [$.proof.proven BooleanEquals true] -> Publish secret
Is it proven? [else] -> Superseded
Continue in a new execution -> Was every service rotated?
Was every service rotated? [$.report.left NumericEquals 0] -> Services rotated
Was every service rotated? [else] -> Some services were not rotated
Publish secret -> Do tasks pull the new token?
Superseded -> succeeds
Services rotated -> succeeds
Some services were not rotated -> fails
Do tasks pull the new token? [$.publication.published BooleanEquals false] -> Superseded
Do tasks pull the new token? [else] -> Was there a token before?
Was there a token before? [$.secret.previous[0] IsPresent true] -> Retire the old token
Was there a token before? [else] -> First token
Retire the old token -> Wait until nobody reads the old secret
First token -> succeeds
Wait until nobody reads the old secret -> Do tasks hold it?
Do tasks hold it? [$.plan.has_tasks BooleanEquals true] -> Check redeployments
Do tasks hold it? [else] -> Delete the old token
Check redeployments -> Have all old tasks gone?
Delete the old token -> Was it deleted?
Have all old tasks gone? [$.check.done BooleanEquals true] -> Delete the old token
Have all old tasks gone? [$.check.expired BooleanEquals true] -> Redeployment takes too long
Have all old tasks gone? [$.check.redeploy[0] IsPresent true] -> Redeploy services
Have all old tasks gone? [else] -> Wait for the deployments
Was it deleted? [$.deletion.kept NumericEquals 0] -> Rotated
Was it deleted? [else] -> Old token kept
Redeployment takes too long -> fails
Redeploy services [each $.check.redeploy] -> Redeploy the service
Redeploy the service -> is done
Redeploy services -> Wait for the deployments
Wait for the deployments -> Check redeployments
Rotated -> succeeds
Old token kept -> succeeds"""

SERVICE_INTENTION = """\
start -> Write the intention
Write the intention -> Consul has it
Consul has it -> succeeds"""

CERTIFICATE_RENEWAL = """\
start -> Choose a gossip key
Choose a gossip key -> Make sure of the CA
Make sure of the CA -> Make sure of the certificate of consul-server-1
Make sure of the certificate of consul-server-1 -> Make sure of the certificate of consul-server-2
Make sure of the certificate of consul-server-2 -> Make sure of the certificate of consul-server-3
Make sure of the certificate of consul-server-3 -> All valid
All valid -> succeeds"""

SERVER_SNAPSHOT = """\
start -> Take snapshot
Take snapshot -> Snapshot taken
Snapshot taken -> succeeds"""

SNAPSHOT_RESTORE = """\
start -> Restore snapshot
Restore snapshot -> Run ClusterBootstrap
Run ClusterBootstrap -> Start Reconciliation
Start Reconciliation -> Take the calls that deployments allow
Take the calls that deployments allow -> Allow the calls again
Allow the calls again [each $.intentions] -> Start ServiceIntention
Start ServiceIntention -> is done
Allow the calls again -> Snapshot restored
Snapshot restored -> succeeds"""

ABANDONED_ROTATION = """\
start -> Abandon rotation
Abandon rotation -> Was it published after all?
Was it published after all? [$.abandoned.switched BooleanEquals true] -> Was there a token before?
Was it published after all? [else] -> Not rotated
Was there a token before? [$.secret.previous[0] IsPresent true] -> Retire the old token
Was there a token before? [else] -> First token
Not rotated -> fails
"""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("TaskProvisioning", TASK_PROVISIONING),
        ("ClusterBootstrap", CLUSTER_BOOTSTRAP),
        ("DeploymentRun", DEPLOYMENT_RUN),
        ("Reconciliation", RECONCILIATION),
        ("TokenRotation", TOKEN_ROTATION),
        ("ServiceIntention", SERVICE_INTENTION),
    ],
)
def test_a_workflow_goes_the_way_that_the_architecture_draws(
    minimal: Deployed, name: str, expected: str
) -> None:
    assert graph(minimal.definition(name)) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("CertificateRenewal", CERTIFICATE_RENEWAL),
        ("ServerSnapshot", SERVER_SNAPSHOT),
        ("SnapshotRestore", SNAPSHOT_RESTORE),
    ],
)
def test_there_are_workflows_for_servers_that_the_same_app_makes(
    served: Deployed, name: str, expected: str
) -> None:
    assert graph(served.definition(name)) == expected


def test_for_them_clusterbootstrap_begins_with_their_secrets_and_ends_with_their_token(
    served: Deployed,
) -> None:
    secrets = CERTIFICATE_RENEWAL.replace("All valid\nAll valid -> succeeds", "Wait for Consul\n")
    ours = CLUSTER_BOOTSTRAP.removeprefix("start -> Wait for Consul\n").replace(
        """\
Create client policy -> Create anonymous policy
Create anonymous policy -> Store controller secret
""",
        """\
Create client policy -> Create anonymous policy
Create anonymous policy -> Create server policy
Create server policy -> Store controller secret
""",
    )
    ours = ours.partition("Is the client secret public? [$")[0]

    assert graph(served.definition("ClusterBootstrap")) == (
        secrets
        + ours
        + """\
Is the client secret public? [$.client.secret.public BooleanEquals true or \
$.client.token.change StringEquals superseded] -> Store server secret
Is the client secret public? [else] -> Publish client secret
Store server secret -> Create server token
Publish client secret -> Store server secret
Create server token -> Is the server secret public?
Is the server secret public? [$.server.secret.public BooleanEquals true or \
$.server.token.change StringEquals superseded] -> Cluster ready
Is the server secret public? [else] -> Publish server secret
Cluster ready -> succeeds
Publish server secret -> Cluster ready"""
    )


def test_without_an_anonymous_policy_no_state_makes_one(everything: Deployed) -> None:
    expected = CLUSTER_BOOTSTRAP.replace(
        """\
Create client policy -> Create anonymous policy
Create anonymous policy -> Store controller secret
""",
        "Create client policy -> Store controller secret\n",
    )

    assert graph(everything.definition("ClusterBootstrap")) == expected


def test_a_rotation_that_fails_before_the_switch_is_undone_or_goes_on_after_it(
    minimal: Deployed,
) -> None:
    from_there = {**minimal.definition("TokenRotation"), "StartAt": "Abandon rotation"}

    assert graph(from_there).startswith(ABANDONED_ROTATION)


def test_the_settings_may_ask_for_a_pause_between_services(everything: Deployed) -> None:
    with_pause = TOKEN_ROTATION.replace(
        "Rotate the service -> Next service", "Rotate the service -> Pause\nPause -> Next service"
    )

    assert graph(everything.definition("TokenRotation")) == with_pause


def test_other_settings_change_no_way(everything: Deployed, vpc_only: Deployed) -> None:
    for deployed in (everything, vpc_only):
        assert graph(deployed.definition("TaskProvisioning")) == TASK_PROVISIONING
        assert graph(deployed.definition("DeploymentRun")) == DEPLOYMENT_RUN
        assert graph(deployed.definition("Reconciliation")) == RECONCILIATION
        assert graph(deployed.definition("ServiceIntention")) == SERVICE_INTENTION
    assert graph(vpc_only.definition("TokenRotation")) == TOKEN_ROTATION


def test_there_is_a_way_to_every_state(definition: State) -> None:
    assert reachable(definition) == set(states(definition))


def test_iterations_are_a_part_of_the_execution_and_so_many_at_a_time_as_it_says(
    definition: State,
) -> None:
    for name, state in states(definition, "Map").items():
        assert state["ItemProcessor"]["ProcessorConfig"] == {"Mode": "INLINE"}, name
        assert 1 <= state["MaxConcurrency"] <= 40, name
        assert not [field for field in state if field.startswith("ToleratedFailure")], name


# --------------------------------------------------------------------------------------------------
# What goes wrong
# --------------------------------------------------------------------------------------------------

_USUAL_ENDS = [
    (PASSING - {"States.Timeout"}, "Gave up waiting"),
    (PERMANENT, "Needs an operator"),
    ({"States.ALL"}, "Failed unexpectedly"),
]
_UNANSWERED = [({"States.ALL"}, "CloudFormation got no answer")]

_INPUT_IS_WRONG = {
    *("InvalidEvent", "InvalidServiceName", "SecretNameCollision", "UnsupportedTenancy")
}
_UNDONE = [({"States.ALL"}, "Abandon rotation")]
_NOT_FINISHED = [({"States.ALL"}, "Restored but not finished")]
_BOTH_ALIVE = [({"States.ALL"}, "Both tokens are alive")]

ENDS: dict[tuple[str, str], list[tuple[set[str], str]]] = {
    ("TaskProvisioning", "Check tags"): [
        (_INPUT_IS_WRONG, "The task is misconfigured"),
        *_USUAL_ENDS,
    ],
    ("DeploymentRun", "Run the workflow"): [({"States.ALL"}, "Report failure")],
    ("DeploymentRun", "Report success"): _UNANSWERED,
    ("DeploymentRun", "Report failure"): _UNANSWERED,
    ("Reconciliation", "Find drift"): [(_INPUT_IS_WRONG, "The input is wrong"), *_USUAL_ENDS],
    ("Reconciliation", "Continue in a new execution"): [({"States.ALL"}, "Failed unexpectedly")],
    ("ServiceIntention", "Write the intention"): [
        (_INPUT_IS_WRONG, "The input is wrong"),
        *_USUAL_ENDS,
    ],
    ("SnapshotRestore", "Restore snapshot"): [
        (_INPUT_IS_WRONG, "The input is wrong"),
        *_USUAL_ENDS,
    ],
    ("SnapshotRestore", "Run ClusterBootstrap"): _NOT_FINISHED,
    ("SnapshotRestore", "Start Reconciliation"): _NOT_FINISHED,
    ("SnapshotRestore", "Start ServiceIntention"): _NOT_FINISHED,
    ("TokenRotation", "Plan rotation"): [(_INPUT_IS_WRONG, "The input is wrong"), *_USUAL_ENDS],
    ("TokenRotation", "Continue in a new execution"): [({"States.ALL"}, "Failed unexpectedly")],
    ("TokenRotation", "Create token"): _UNDONE,
    ("TokenRotation", "Prove token"): _UNDONE,
    ("TokenRotation", "Publish secret"): _UNDONE,
    ("TokenRotation", "Abandon rotation"): [({"States.ALL"}, "The new token may remain")],
    ("TokenRotation", "Retire the old token"): _BOTH_ALIVE,
    ("TokenRotation", "Check redeployments"): _BOTH_ALIVE,
    ("TokenRotation", "Redeploy the service"): _BOTH_ALIVE,
    ("TokenRotation", "Delete the old token"): _BOTH_ALIVE,
}


def test_every_error_of_every_task_is_caught_and_ends_where_it_belongs(
    definition: State, workflow: str
) -> None:
    found = {
        name: [(set(catch["ErrorEquals"]), catch["Next"]) for catch in caught]
        for name, caught in catches(definition).items()
    }
    goes_on = {
        (workflow, name): [({"States.ALL"}, state.get("Next"))]
        for name, state in tasks(definition).items()
        if (workflow, name) in ONE_OF_MANY
    }

    assert found == {
        name: goes_on.get((workflow, name)) or ENDS.get((workflow, name), _USUAL_ENDS)
        for name in found
    }


def test_caught_errors_leave_the_rest_of_the_state_in_place(
    definition: State, workflow: str
) -> None:
    for name, caught in catches(definition).items():
        expected = None if (workflow, name) in ONE_OF_MANY else "$.failure"
        if name == "Abandon rotation":
            expected = "$.failure.undoing"  # beside why the rotation has failed
        assert {catch["ResultPath"] for catch in caught} == {expected}, name


# What these catch may be called `States.…`, which no execution may end with, and a time-out has no
# cause; so the cause is the whole failure. Or nothing has failed that an error could be taken from.
_OWN_ERRORS = {
    "Both tokens are alive": ("RotationIncomplete", "$.failure"),
    "CloudFormation got no answer": ("CloudFormationNotAnswered", "$.failure"),
    "Failed unexpectedly": ("UnexpectedFailure", "$.failure"),
    "Not rotated": ("RotationFailed", "$.failure"),
    "Restored but not finished": ("RestoreNotFinished", "$.failure"),
    "Redeployment takes too long": ("RedeploymentTimeout", "$.check"),
    "Some services were not rotated": ("ServicesNotRotated", "$.report"),
    "The deployment fails": ("WorkflowFailed", "$.failure"),
    "The new token may remain": ("RotationNotUndone", "$.failure"),
}


def test_a_failed_execution_has_the_error_and_the_cause_of_the_state_that_failed(
    definition: State,
) -> None:
    for name, state in states(definition, "Fail").items():
        how = {"ErrorPath": "$.failure.Error", "CausePath": "$.failure.Cause"}
        if name in _OWN_ERRORS:
            error, cause = _OWN_ERRORS[name]
            how = {"Error": error, "CausePath": f"States.JsonToString({cause})"}
        assert state == {"Type": "Fail", "Comment": state["Comment"], **how}, name


def test_a_failed_run_fails_the_deployment(minimal: Deployed) -> None:
    report = minimal.definition("DeploymentRun")["States"]["Report failure"]

    assert report["Next"] == "The deployment fails"


# --------------------------------------------------------------------------------------------------
# Waiting and retrying
# --------------------------------------------------------------------------------------------------


def test_every_task_retries_what_waiting_helps_against_and_nothing_else(
    definition: State, workflow: str
) -> None:
    for name, task in tasks(definition).items():
        if (workflow, name) in NOT_RETRIED:
            assert "Retry" not in task
            continue
        first, *others = task["Retry"]
        assert set(first["ErrorEquals"]) == PASSING, name
        assert len(first["ErrorEquals"]) == len(PASSING), "one is named twice"
        also = {error for retrier in others for error in retrier["ErrorEquals"]}
        assert also == MAY_BE_TOO_EARLY | ALSO_RETRIED.get((workflow, name), set()), name


def test_permanent_errors_are_retried_nowhere_but_where_it_is_documented(
    definition: State, workflow: str
) -> None:
    for name, task in tasks(definition).items():
        if (workflow, name) not in NOT_RETRIED:
            retried = {error for retrier in task["Retry"] for error in retrier["ErrorEquals"]}
            also = ALSO_RETRIED.get((workflow, name), set())
            assert retried & PERMANENT == MAY_BE_TOO_EARLY | also, name


def test_every_retry_is_spread_by_full_jitter_and_bounded(definition: State) -> None:
    for name, task in tasks(definition).items():
        for retrier in task.get("Retry", []):
            assert retrier["JitterStrategy"] == "FULL", name
            assert retrier["BackoffRate"] == 2, name
            assert 1 <= retrier["IntervalSeconds"] <= retrier["MaxDelaySeconds"] <= 60, name
            assert 1 <= retrier["MaxAttempts"] <= 100, name


def longest_wait(retrier: State) -> int:
    """Return the sum of all waits in seconds, if chance makes each as long as it can be."""
    return sum(
        min(retrier["IntervalSeconds"] * 2**attempt, retrier["MaxDelaySeconds"])
        for attempt in range(retrier["MaxAttempts"])
    )


def test_every_task_says_for_how_long_it_retries(definition: State, workflow: str) -> None:
    for name, task in tasks(definition).items():
        if (workflow, name) in NOT_RETRIED:
            assert "Not retried: " in task["Comment"], name
            continue
        first, too_early, *others = task["Retry"]
        minutes = re.findall(r" for up to (\d+) minutes\.", task["Comment"])
        attempts = (first["MaxAttempts"] + 1) * task["TimeoutSeconds"]
        assert minutes == [str(round((longest_wait(first) + attempts) / 60))], name
        # A Consul server remembers for half a minute that it did not know a token.
        assert set(too_early["ErrorEquals"]) == MAY_BE_TOO_EARLY, name
        assert 60 <= longest_wait(too_early) <= 150, name
        for retrier in others:
            assert "waited for, half a minute" in task["Comment"], name
            assert 25 <= longest_wait(retrier) <= 35, name


def test_every_task_has_a_timeout_that_lets_its_function_speak_first(
    deployed: Deployed, definition: State
) -> None:
    functions = deployed.of_type("AWS::Lambda::Function")
    for name, task in tasks(definition).items():
        assert task["TimeoutSeconds"] > 0, name
        function = task["Resource"].rpartition(":function:")[2]
        if function in functions:
            assert functions[function]["Timeout"] < task["TimeoutSeconds"], name


def test_whoever_waits_for_another_waits_longer(minimal: Deployed) -> None:
    run = minimal.definition("DeploymentRun")
    (custom_resource,) = minimal.of_type("Custom::WorkflowRun").values()
    waits = [
        minimal.definition("ClusterBootstrap")["TimeoutSeconds"],
        run["States"]["Run the workflow"]["TimeoutSeconds"],
        run["TimeoutSeconds"],
        int(custom_resource["ServiceTimeout"]),
    ]

    assert waits == sorted(set(waits))
    assert waits[-1] <= 3600, "CloudFormation waits no longer than an hour"


# --------------------------------------------------------------------------------------------------
# The names of errors
# --------------------------------------------------------------------------------------------------


def test_every_error_that_a_workflow_names_is_one_that_somebody_raises(definition: State) -> None:
    named = set(re.findall(r'"ErrorEquals": (\[.*?\])', json.dumps(definition)))
    found = {error for names in named for error in json.loads(names)}

    assert found - subclasses(errors.StepError) == (found & PASSING_PLATFORM_ERRORS) | {
        "States.ALL"
    }


def test_every_error_is_either_passing_or_permanent() -> None:
    own = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.StepError)
    }

    assert own == RETRYABLE | PERMANENT | {"StepError", "Retryable", "Permanent"}
    assert not RETRYABLE & PERMANENT


# --------------------------------------------------------------------------------------------------
# Form
# --------------------------------------------------------------------------------------------------


def test_statelint_finds_nothing(definition: dict[str, Any]) -> None:
    # CDK writes the number 2 where statelint wants 2.0, which is the same in JSON.
    config = Config(ignored_problem_types={ProblemType.FLOAT})

    assert Linter.validate(definition, config) == []


def test_every_state_says_what_it_is_for(definition: State) -> None:
    assert [name for name, state in states(definition).items() if not state.get("Comment")] == []
    assert definition["Comment"]


def test_names_of_states_are_sentences_that_the_console_can_show(definition: State) -> None:
    for name, state in states(definition).items():
        in_words = re.sub(r" consul-server-\d$", "", name)  # the name of a server
        assert re.fullmatch(r"[A-Z][A-Za-z ]{3,79}\??", in_words), name
        assert len(name) <= 80, name
        assert ("?" in name) == (state["Type"] == "Choice"), name


def test_a_workflow_never_computes(definition: State) -> None:
    assert {state["Type"] for state in states(definition).values()} <= {
        *("Task", "Choice", "Wait", "Map", "Pass", "Succeed", "Fail")
    }
    for name, state in states(definition, "Pass").items():  # it only says what the app knows
        assert state.keys() <= {"Type", "Comment", "Result", "ResultPath", "Next"}, name
    functions = set(re.findall(r"\bStates\.(\w+)\(", json.dumps(definition)))
    assert functions <= {"JsonToString", "UUID"}


def test_workflows_are_standard_and_in_json_path(deployed: Deployed, workflow: str) -> None:
    properties = deployed.of_type("AWS::StepFunctions::StateMachine")[workflow]

    assert properties.get("StateMachineType", "STANDARD") == "STANDARD"
    assert "QueryLanguage" not in properties["DefinitionString"]
    assert "{%" not in properties["DefinitionString"]
    assert '"Assign"' not in properties["DefinitionString"]


def test_choices_always_have_a_way_out(definition: State) -> None:
    assert [
        name for name, state in states(definition, "Choice").items() if "Default" not in state
    ] == []
