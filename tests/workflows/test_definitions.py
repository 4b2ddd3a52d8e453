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
from tests.workflows.asl import State, graph, states

WORKFLOWS = ["ClusterBootstrap", "DeploymentRun", "TaskProvisioning"]

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

# What waiting helps against in one state, although it does not elsewhere.
ALSO_RETRIED = {
    # An old server chooses the token; the execution that bootstrapped it stores it a moment later.
    ("ClusterBootstrap", "Make sure of a management token"): {"ConsulAlreadyBootstrapped"},
}

# A nested execution: each of its own states retries.
NOT_RETRIED = {("DeploymentRun", "Run the workflow")}


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


@pytest.fixture(params=WORKFLOWS)
def workflow(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def definition(deployed: Deployed, workflow: str) -> State:
    return deployed.definition(workflow)


def tasks(definition: State) -> dict[str, State]:
    return states(definition, "Task")


def test_these_are_all_workflows(deployed: Deployed) -> None:
    assert sorted(deployed.of_type("AWS::StepFunctions::StateMachine")) == WORKFLOWS


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
Is the secret public? [$.secret.public BooleanEquals true] -> Token ready
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
Is the controller secret public? [$.controller.secret.public BooleanEquals true] -> \
Store client secret
Is the controller secret public? [else] -> Publish controller secret
Store client secret -> Create client token
Publish controller secret -> Store client secret
Create client token -> Is the client secret public?
Is the client secret public? [$.client.secret.public BooleanEquals true] -> Cluster ready
Is the client secret public? [else] -> Publish client secret
Cluster ready -> succeeds
Publish client secret -> Cluster ready"""

DEPLOYMENT_RUN = """\
start -> Wait until the deployment is known everywhere
Wait until the deployment is known everywhere -> Run the workflow
Run the workflow -> Report success
Report success -> The deployment goes on
The deployment goes on -> succeeds"""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("TaskProvisioning", TASK_PROVISIONING),
        ("ClusterBootstrap", CLUSTER_BOOTSTRAP),
        ("DeploymentRun", DEPLOYMENT_RUN),
    ],
)
def test_a_workflow_goes_the_way_that_the_architecture_draws(
    minimal: Deployed, name: str, expected: str
) -> None:
    assert graph(minimal.definition(name)) == expected


def test_without_an_anonymous_policy_no_state_makes_one(everything: Deployed) -> None:
    expected = CLUSTER_BOOTSTRAP.replace(
        """\
Create client policy -> Create anonymous policy
Create anonymous policy -> Store controller secret
""",
        "Create client policy -> Store controller secret\n",
    )

    assert graph(everything.definition("ClusterBootstrap")) == expected


def test_other_settings_change_no_way(everything: Deployed, vpc_only: Deployed) -> None:
    for deployed in (everything, vpc_only):
        assert graph(deployed.definition("TaskProvisioning")) == TASK_PROVISIONING
        assert graph(deployed.definition("DeploymentRun")) == DEPLOYMENT_RUN


# --------------------------------------------------------------------------------------------------
# What goes wrong
# --------------------------------------------------------------------------------------------------

_USUAL_ENDS = [
    (PASSING - {"States.Timeout"}, "Gave up waiting"),
    (PERMANENT, "Needs an operator"),
    ({"States.ALL"}, "Failed unexpectedly"),
]
_UNANSWERED = [({"States.ALL"}, "CloudFormation got no answer")]

ENDS: dict[tuple[str, str], list[tuple[set[str], str]]] = {
    ("TaskProvisioning", "Check tags"): [
        (
            {"InvalidEvent", "InvalidServiceName", "SecretNameCollision", "UnsupportedTenancy"},
            "The task is misconfigured",
        ),
        *_USUAL_ENDS,
    ],
    ("DeploymentRun", "Run the workflow"): [({"States.ALL"}, "Report failure")],
    ("DeploymentRun", "Report success"): _UNANSWERED,
    ("DeploymentRun", "Report failure"): _UNANSWERED,
}


def test_every_error_of_every_task_is_caught_and_ends_where_it_belongs(
    definition: State, workflow: str
) -> None:
    found = {
        name: [(set(catch["ErrorEquals"]), catch["Next"]) for catch in task["Catch"]]
        for name, task in tasks(definition).items()
    }

    assert found == {name: ENDS.get((workflow, name), _USUAL_ENDS) for name in found}


def test_caught_errors_leave_the_rest_of_the_state_in_place(definition: State) -> None:
    for task in tasks(definition).values():
        assert {catch["ResultPath"] for catch in task["Catch"]} == {"$.failure"}


# What these catch may be called `States.…`, which no execution may end with, and a time-out has no
# cause; so the cause is the whole failure.
_CONSTANT_ERRORS = {
    "CloudFormation got no answer": "CloudFormationNotAnswered",
    "Failed unexpectedly": "UnexpectedFailure",
    "The deployment fails": "WorkflowFailed",
}


def test_a_failed_execution_has_the_error_and_the_cause_of_the_state_that_failed(
    definition: State,
) -> None:
    for name, state in states(definition, "Fail").items():
        how = {"ErrorPath": "$.failure.Error", "CausePath": "$.failure.Cause"}
        if name in _CONSTANT_ERRORS:
            how = {
                "Error": _CONSTANT_ERRORS[name],
                "CausePath": "States.JsonToString($.failure)",
            }
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
        assert also == ALSO_RETRIED.get((workflow, name), set()), name


def test_permanent_errors_are_retried_nowhere_but_where_it_is_documented(
    definition: State, workflow: str
) -> None:
    for name, task in tasks(definition).items():
        retried = {error for retrier in task.get("Retry", []) for error in retrier["ErrorEquals"]}
        assert retried & PERMANENT == ALSO_RETRIED.get((workflow, name), set()), name


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
        first, *others = task["Retry"]
        minutes = re.findall(r" for up to (\d+) minutes\.", task["Comment"])
        attempts = (first["MaxAttempts"] + 1) * task["TimeoutSeconds"]
        assert minutes == [str(round((longest_wait(first) + attempts) / 60))], name
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
    for name in states(definition):
        assert re.fullmatch(r"[A-Z][A-Za-z ]{3,79}\??", name), name
        assert ("?" in name) == (definition["States"][name]["Type"] == "Choice"), name


def test_a_workflow_never_computes(definition: State) -> None:
    assert {state["Type"] for state in states(definition).values()} <= {
        *("Task", "Choice", "Wait", "Succeed", "Fail")
    }
    assert "States.Format" not in json.dumps(definition)


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
