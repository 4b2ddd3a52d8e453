"""A service's token as a part of a deployment: in the controller's stack, and in others."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from graphlib import TopologicalSorter
from typing import Any

import pytest
from aws_cdk import App, CustomResource, Environment, NestedStack, RemovalPolicy, Stack, Token
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_kms as kms
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from infrastructure.acl_controller import AclController
from infrastructure.external_consul import ExternalConsul
from infrastructure.token_secret import token_secret
from tests.infrastructure.dependencies import needed_by, needs
from tests.infrastructure.policies import as_list
from tests.infrastructure.test_functions import KNOWS_SUBJECTS
from tests.synthesized import context

CLUSTER = "arn:aws:ecs:eu-west-1:123456789012:cluster/mesh"
IRELAND = Environment(account="123456789012", region="eu-west-1")

Template = dict[str, Any]


def controller_of(stack: Construct, **changes: Any) -> AclController:
    return AclController(
        stack,
        "Controller",
        cluster=ecs.Cluster.from_cluster_arn(stack, "Cluster", CLUSTER),
        secret_prefix="acme",
        servers=ExternalConsul(http_address="http://consul.internal:8500"),
        **changes,
    )


def provision(scope: Construct, controller: AclController, service: str = "web") -> CustomResource:
    secret = token_secret(
        scope,
        f"{service}-secret",
        name=f"acme-{service}",
        description=f"Consul token of the service {service}",
        cluster_arn=controller.cluster.cluster_arn,
        removal_policy=RemovalPolicy.DESTROY,
        encryption_key=controller.encryption_key,
        service_name=service,
    )
    return controller.provision(
        scope, f"{service}-token", service_name=service, token_secret=secret
    )


def synthesized(build: Callable[[App], None]) -> dict[str, Template]:
    """Return the templates by the stacks' names."""
    app = App(context=context())
    build(app)
    return {stack.stack_name: stack.template for stack in app.synth().stacks}


def resources(template: Template, kind: str) -> dict[str, Template]:
    return {
        logical_id: resource
        for logical_id, resource in template["Resources"].items()
        if resource["Type"] == kind
    }


def only(template: Template, kind: str, *, named: str = "") -> tuple[str, Template]:
    (found,) = [item for item in resources(template, kind).items() if named in item[0]]
    return found


def statements(template: Template, function: str) -> list[Template]:
    """Return what the role of a function is allowed, besides writing its logs."""
    _, policy = only(template, "AWS::IAM::Policy", named=f"Controller{function}RoleDefaultPolicy")
    found: list[Template] = policy["Properties"]["PolicyDocument"]["Statement"]
    return [statement for statement in found if "logs:PutLogEvents" not in statement["Action"]]


def of_controller(app: App, **changes: Any) -> AclController:
    return controller_of(Stack(app, "Mesh", env=IRELAND), **changes)


# --- in the controller's own stack ---------------------------------------------------------------


@pytest.fixture(scope="module")
def one_stack() -> Template:
    def build(app: App) -> None:
        controller = of_controller(app)
        provision(Stack.of(controller), controller)

    return synthesized(build)["Mesh"]


def test_a_deployment_makes_sure_of_a_services_token(one_stack: Template) -> None:
    _, run = only(one_stack, "Custom::WorkflowRun", named="web")
    secret, _ = only(one_stack, "AWS::SecretsManager::Secret", named="web")
    start, _ = only(one_stack, "AWS::Lambda::Function", named="StartDeploymentRun")
    machine, _ = only(one_stack, "AWS::StepFunctions::StateMachine", named="TaskProvisioning")

    assert run["Properties"] == {
        "ServiceToken": {"Fn::GetAtt": [start, "Arn"]},
        "ServiceTimeout": "3300",
        "StateMachineArn": {"Ref": machine},
        "Input": '{"service": "web"}',
        "DefinitionDigest": run["Properties"]["DefinitionDigest"],
        # ClusterBootstrap has run, and has waited until everything is known.
        "SettleSeconds": "0",
        "TokenSecretArn": {"Ref": secret},
    }
    assert re.fullmatch(r"[0-9a-f]{16}", run["Properties"]["DefinitionDigest"])


def test_it_comes_after_everything_that_belongs_to_the_controller(one_stack: Template) -> None:
    _, run = only(one_stack, "Custom::WorkflowRun", named="web")
    controllers = {name for name in one_stack["Resources"] if name.startswith("Controller")}

    assert {name for name in controllers if "BootstrapOnDeploy" in name} != set()
    assert set(run["DependsOn"]) == controllers


def test_clusterbootstrap_comes_after_all_that_a_run_uses(one_stack: Template) -> None:
    """Then its wait serves the runs that do not wait: what is new was made before it."""
    bootstrap, _ = only(one_stack, "Custom::WorkflowRun", named="BootstrapOnDeploy")
    before = needed_by(one_stack, bootstrap)

    for machine in ("DeploymentRun", "TaskProvisioning"):
        logical_id, _ = only(one_stack, "AWS::StepFunctions::StateMachine", named=machine)
        assert {logical_id} | needed_by(one_stack, logical_id) <= before, machine
        # With all that its functions may do.
        used = needed_by(one_stack, logical_id)
        assert {one_stack["Resources"][name]["Type"] for name in used} >= {
            *("AWS::Lambda::Function", "AWS::IAM::Role", "AWS::IAM::Policy")
        }


def test_nothing_waits_for_itself(one_stack: Template, stacks: dict[str, Template]) -> None:
    for template in (one_stack, *stacks.values()):
        TopologicalSorter(needs(template)).prepare()  # or there is a CycleError


def test_the_services_secret_has_no_value_and_says_whose_it_is(one_stack: Template) -> None:
    _, secret = only(one_stack, "AWS::SecretsManager::Secret", named="web")

    assert {key: secret[key] for key in ("Properties", "DeletionPolicy")} == {
        "Properties": {
            "Name": "acme-web",
            "Description": "Consul token of the service web",
            "Tags": [
                {"Key": "consul.hashicorp.com/cluster", "Value": CLUSTER},
                {"Key": "consul.hashicorp.com/service-name", "Value": "web"},
            ],
        },
        "DeletionPolicy": "Delete",
    }


def digests(named: str, **changes: Any) -> dict[str, str]:
    def build(app: App) -> None:
        controller = of_controller(app, **changes)
        provision(Stack.of(controller), controller)

    _, run = only(synthesized(build)["Mesh"], "Custom::WorkflowRun", named=named)
    return {key: value for key, value in run["Properties"].items() if key.endswith("Digest")}


def test_new_rules_of_services_run_it_again_after_a_bootstrap_that_waits() -> None:
    rules = {"service_rules": {"web": 'acl = "read"'}}

    assert digests("web") != digests("web", **rules)
    before, after = digests("BootstrapOnDeploy"), digests("BootstrapOnDeploy", **rules)
    assert {key for key in before if before[key] != after[key]} == {"ProvisioningDigest"}


def test_other_permissions_of_the_functions_run_a_bootstrap_that_waits() -> None:
    def with_key() -> dict[str, str]:
        def build(app: App) -> None:
            stack = Stack(app, "Mesh", env=IRELAND)
            controller_of(stack, encryption_key=kms.Key.from_key_arn(stack, "Key", KEY))

        _, run = only(synthesized(build)["Mesh"], "Custom::WorkflowRun")
        return {key: value for key, value in run["Properties"].items() if key.endswith("Digest")}

    before, after = digests("BootstrapOnDeploy"), with_key()
    assert {key for key in before if before[key] != after[key]} == {"ProvisioningDigest"}


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("service", "message"),
    [
        (
            "Web",
            (
                'Mesh/Controller: the service name "Web" is not valid in Consul. Allowed: '
                "lower-case letters, digits, '-' and '_', at most 256 characters, the first and "
                "the last one a letter or a digit."
            ),
        ),
        (
            "consul-client-token",
            (
                'Mesh/Controller: the service name "consul-client-token" is not '
                "possible: the secret acme-consul-client-token belongs to the "
                "controller. Choose another name."
            ),
        ),
        (
            "root",
            (
                'Mesh/Controller: the service name "root" is not possible: the secret acme-root '
                "belongs to the controller. Choose another name."
            ),
        ),
        (
            Token.as_string({"Ref": "Name"}),
            (
                "Mesh/Controller: the service name has to be known at "
                "synthesis. Give the text itself."
            ),
        ),
    ],
    ids=["invalid", "the client's secret", "a given secret", "a token"],
)
def test_a_name_that_cannot_be_is_refused_at_synthesis(service: str, message: str) -> None:
    stack = Stack(App(context=context()), "Mesh", env=IRELAND)
    root = secretsmanager.Secret.from_secret_complete_arn(
        stack, "Root", "arn:aws:secretsmanager:eu-west-1:123456789012:secret:acme-root-AbC123"
    )
    controller = controller_of(stack, bootstrap_token_secret=root)

    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        controller.provision(stack, "Token", service_name=service, token_secret=root)


# --- in other stacks -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stacks() -> dict[str, Template]:
    def build(app: App) -> None:
        controller = of_controller(app)
        services = Stack(app, "Shop", env=IRELAND)
        provision(services, controller, "web")
        provision(services, controller, "api")
        provision(NestedStack(services, "Inner"), controller, "deep")

    return synthesized(build)


def test_a_run_of_another_stack_is_asked_of_the_controllers_function(
    stacks: dict[str, Template],
) -> None:
    _, run = only(stacks["Shop"], "Custom::WorkflowRun", named="web")
    start, _ = only(stacks["Mesh"], "AWS::Lambda::Function", named="StartDeploymentRun")
    machine, _ = only(stacks["Mesh"], "AWS::StepFunctions::StateMachine", named="TaskProvisioning")
    published = {
        json.dumps(output["Value"]): {
            "Fn::GetStackOutput": {"StackName": "Mesh", "Region": "eu-west-1", "OutputName": name}
        }
        for name, output in stacks["Mesh"]["Outputs"].items()
    }

    assert run["Properties"] == {
        "ServiceToken": published[json.dumps({"Fn::GetAtt": [start, "Arn"]})],
        "ServiceTimeout": "3300",
        "StateMachineArn": published[json.dumps({"Ref": machine})],
        "Input": '{"service": "web"}',
        "DefinitionDigest": run["Properties"]["DefinitionDigest"],
        "SettleSeconds": "0",
        "TokenSecretArn": run["Properties"]["TokenSecretArn"],
    }


def test_the_digest_of_a_workflow_is_the_same_in_every_stack(
    one_stack: Template, stacks: dict[str, Template]
) -> None:
    _, there = only(stacks["Shop"], "Custom::WorkflowRun", named="web")
    _, here = only(one_stack, "Custom::WorkflowRun", named="web")

    assert there["Properties"]["DefinitionDigest"] == here["Properties"]["DefinitionDigest"]


def test_stacks_with_runs_may_be_described_and_no_others(
    one_stack: Template, stacks: dict[str, Template]
) -> None:
    def described(template: Template) -> list[Any]:
        found = statements(template, "WorkflowRunsStartDeploymentRun")
        (statement,) = [item for item in found if "Describe" in item["Action"]]
        arns = statement["Resource"]
        return sorted(arns, key=str) if isinstance(arns, list) else [arns]

    own = {"Ref": "AWS::StackId"}
    others = "arn:aws:cloudformation:eu-west-1:123456789012:stack"
    assert described(one_stack) == [own]
    # Those that are nested in a stack have names that begin with its own.
    assert described(stacks["Mesh"]) == [f"{others}/Shop-*/*", f"{others}/Shop/*", own]


def test_the_other_stack_is_deployed_after_the_controllers_and_not_the_other_way_round() -> None:
    app = App(context=context())
    controller = of_controller(app)
    services = Stack(app, "Shop", env=IRELAND)
    provision(services, controller)
    made = app.synth()

    assert [item.id for item in made.get_stack_by_name("Shop").dependencies][:1] == ["Mesh"]
    others = [item.id for item in made.get_stack_by_name("Mesh").dependencies]
    assert "Shop" not in others


@pytest.mark.parametrize(
    ("there", "message"),
    [
        (
            Environment(account="123456789012", region="eu-central-1"),
            (
                "Shop: its region is eu-central-1, but that of Mesh, which runs the workflows, is "
                "eu-west-1. Give both stacks the same."
            ),
        ),
        (
            Environment(account="999999999999", region="eu-west-1"),
            (
                "Shop: its account is 999999999999, but that of Mesh, which runs the workflows, is "
                "123456789012. Give both stacks the same."
            ),
        ),
    ],
    ids=["region", "account"],
)
def test_a_stack_that_cannot_ask_for_a_run_is_refused(there: Environment, message: str) -> None:
    app = App(context=context())
    controller = of_controller(app)

    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        provision(Stack(app, "Shop", env=there), controller)


# --- encryption ----------------------------------------------------------------------------------

KEY = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
OTHER_KEY = "arn:aws:kms:eu-west-1:123456789012:key/00000000-12ab-34cd-56ef-1234567890ab"


def key_uses(template: Template) -> dict[str, dict[str, list[str]]]:
    """Return which function may do what with which key."""
    found: dict[str, dict[str, list[str]]] = {}
    for logical_id, policy in resources(template, "AWS::IAM::Policy").items():
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]:
            actions = statement["Action"]
            actions = [actions] if isinstance(actions, str) else actions
            if not actions[0].startswith("kms:"):
                continue
            via = {"kms:ViaService": "secretsmanager.eu-west-1.amazonaws.com*"}
            assert statement["Condition"] == {"StringLike": via}
            name = re.sub(r"^Controller|RoleDefaultPolicy.*$", "", logical_id)
            keys = statement["Resource"]
            for key in [keys] if isinstance(keys, str) else keys:
                found.setdefault(name, {})[key] = actions
    return found


def test_without_a_key_of_ones_own_nothing_says_kms(one_stack: Template) -> None:
    assert "kms" not in json.dumps(one_stack).lower()


def test_each_function_may_use_the_key_for_what_it_does_with_the_secrets() -> None:
    def build(app: App) -> None:
        stack = Stack(app, "Mesh", env=IRELAND)
        controller = controller_of(stack, encryption_key=kms.Key.from_key_arn(stack, "Key", KEY))
        provision(stack, controller)

    template = synthesized(build)["Mesh"]
    reads, writes = ["kms:Decrypt"], ["kms:Decrypt", "kms:GenerateDataKey"]

    assert key_uses(template) == {
        "StoreSecret": {KEY: writes},
        "CreateToken": {KEY: reads},
        "CreatePolicy": {KEY: reads},
        "BootstrapAcls": {KEY: writes},
        "CreateBootstrapPolicies": {KEY: reads},
        "CreateControllerToken": {KEY: reads},
        "FindDrift": {KEY: reads},
        "RetireTokens": {KEY: writes},
        "DeleteUnused": {KEY: reads},
        "PlanRotation": {KEY: reads},
        "ProveToken": {KEY: reads},
        "AbandonRotation": {KEY: writes},
        "WriteIntention": {KEY: reads},
    }
    secrets = resources(template, "AWS::SecretsManager::Secret").values()
    assert [secret["Properties"]["KmsKeyId"] for secret in secrets] == [KEY] * 4
    _, store = only(template, "AWS::Lambda::Function", named="StoreSecret")
    assert store["Properties"]["Environment"]["Variables"] == {
        "SECRET_TAGS": "{}",
        "SECRET_KMS_KEY_ARN": KEY,
    }


def test_the_key_of_a_given_secret_is_used_for_that_secret() -> None:
    def build(app: App) -> None:
        stack = Stack(app, "Mesh", env=IRELAND)
        other = kms.Key.from_key_arn(stack, "Key", OTHER_KEY)
        given = {
            f"{whose}_secret": secretsmanager.Secret.from_secret_attributes(
                stack,
                whose,
                encryption_key=other,
                secret_complete_arn=(
                    f"arn:aws:secretsmanager:eu-west-1:123456789012:secret:{whose}-AbC123"
                ),
            )
            for whose in ("bootstrap_token", "client_token")
        }
        controller_of(stack, **given)

    reads, writes = ["kms:Decrypt"], ["kms:Decrypt", "kms:GenerateDataKey"]

    assert key_uses(synthesized(build)["Mesh"]) == {
        "StoreSecret": {OTHER_KEY: writes},
        "CreateToken": {OTHER_KEY: reads},
        "BootstrapAcls": {OTHER_KEY: writes},
        "CreateBootstrapPolicies": {OTHER_KEY: reads},
        "CreateControllerToken": {OTHER_KEY: reads},
        # Of the client's token, which they treat like that of a service.
        "FindDrift": {OTHER_KEY: reads},
        "RetireTokens": {OTHER_KEY: writes},
        "DeleteUnused": {OTHER_KEY: reads},
        "ProveToken": {OTHER_KEY: reads},
        "AbandonRotation": {OTHER_KEY: writes},
    }


def test_a_given_client_token_is_looked_after_like_one_of_ours() -> None:
    """Its secret's name does not begin with the prefix, so each role has to name it."""
    given = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:hashicorp/client-AbC123"

    def build(app: App) -> None:
        stack = Stack(app, "Mesh", env=IRELAND)
        client = secretsmanager.Secret.from_secret_complete_arn(stack, "Given", given)
        controller_of(stack, client_token_secret=client)

    template = synthesized(build)["Mesh"]

    allowed: dict[str, set[str]] = {}
    for logical_id, policy in resources(template, "AWS::IAM::Policy").items():
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]:
            if given in as_list(statement["Resource"]):
                name = re.sub(r"^Controller|RoleDefaultPolicy.*$", "", logical_id)
                verbs = {action.partition(":")[2] for action in as_list(statement["Action"])}
                allowed.setdefault(name, set()).update(verbs)
    read, publish = {"GetSecretValue"}, {"DescribeSecret", "UpdateSecretVersionStage"}
    rewrite = read | publish | {"PutSecretValue"}
    assert allowed == {
        "StoreSecret": read | {"DescribeSecret", "PutSecretValue", "CreateSecret", "TagResource"},
        "CreateToken": read,
        "PublishSecret": publish,
        "FindDrift": read,
        "RetireTokens": rewrite,
        "DeleteUnused": read,
        "ProveToken": read,
        "AbandonRotation": rewrite,
    }
    variables = {
        re.sub(r"^Controller|Function[0-9A-F]{8}$", "", logical_id): function["Properties"][
            "Environment"
        ]["Variables"]
        for logical_id, function in resources(template, "AWS::Lambda::Function").items()
        if "CLIENT_TOKEN_SECRET_ARN" in json.dumps(function)
    }
    assert set(variables) == KNOWS_SUBJECTS
    for name, found in variables.items():
        assert found["CLIENT_TOKEN_SECRET_ARN"] == given, name
        # No service may be called so that its secret would be this one.
        assert found["RESERVED_SECRET_NAMES"].split(",")[2:] == ["hashicorp/client"], name
