"""What is said of a mesh or a mesh task that cannot work, and when."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, cast

import aws_cdk as cdk
import pytest
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_kms as kms
from aws_cdk import aws_scheduler as scheduler
from aws_cdk import aws_scheduler_targets as scheduler_targets
from aws_cdk import aws_stepfunctions as sfn
from aws_cdk import aws_stepfunctions_tasks as sfn_tasks

from containers.task_config import Check
from infrastructure.external_consul import ExternalConsul
from infrastructure.mesh import Mesh, MeshError
from infrastructure.mesh_task import MeshTask, Upstream
from tests.conftest import SynthesizeOnce
from tests.infrastructure.mesh_apps import (
    Surroundings,
    container,
    new_app,
    plain_servers,
    secret,
)
from tests.synthesized import IRELAND

WEB: dict[str, Any] = {"service_name": "web", "port": 8080}


@pytest.fixture
def stack(synthesize_once: SynthesizeOnce) -> cdk.Stack:
    """An empty stack; `synthesize_once` puts the right Node.js on the PATH."""
    return cdk.Stack(new_app(), "Shop")


@pytest.fixture
def around(stack: cdk.Stack) -> Surroundings:
    return Surroundings(stack, acls=False, tls=False, servers=plain_servers())


# --------------------------------------------------------------------------------------------------
# Tasks
# --------------------------------------------------------------------------------------------------


NAME_RULE = (
    "Allowed: lower-case letters, digits, '-' and '_', at most 256 characters, "
    "the first and the last one a letter or a digit."
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"service_name": "Web_API"},
            f'"Web_API" is no valid service name. {NAME_RULE} Give service_name="web_api".',
        ),
        (
            {"service_name": None, "family": "Web"},
            f'"Web" is no valid service name. {NAME_RULE} Give service_name="web".',
        ),
        ({"service_name": None}, "Give the service_name, or the family of the task definition."),
        (
            {"port": 0},
            (
                "There is no port. Give the port that the application listens on, or "
                "outbound_only=True if nobody calls it."
            ),
        ),
        (
            {"outbound_only": True},
            "The service is outbound_only, but has the port 8080. Leave one of them out.",
        ),
        *(
            (
                {"port": port},
                f"The port is {port}, which the mesh itself uses in the task. Give another one.",
            )
            for port in (8300, 8301, 8302, 8500, 8501, 8502, 8503, 8600, 19000, 20000)
        ),
        (
            {"public_listener_port": 8502},
            (
                "The public_listener_port is 8502, which the mesh itself uses in the task. "
                "Give another one."
            ),
        ),
        (
            {"upstreams": [Upstream("api", 8500)]},
            (
                "The local_port of the upstream api is 8500, "
                "which the mesh itself uses in the task. "
                "Give another one."
            ),
        ),
        (
            {"upstreams": [Upstream("api", 8080)]},
            (
                'The upstream "api" has the local_port 8080, where the application itself listens. '
                "Give it another one."
            ),
        ),
        (
            {"upstreams": [Upstream("api", 1234), Upstream("db", 1234)]},
            'The upstreams "api" and "db" have the same local_port 1234. Give each its own.',
        ),
        (
            {"upstreams": [Upstream("api", 1234), Upstream("api", 1234, datacenter="dc2")]},
            'The upstreams "api" and "api" have the same local_port 1234. Give each its own.',
        ),
        (
            {"containers": {"sidecar-proxy": container()}},
            'The container name "sidecar-proxy" is the mesh\'s own. Give it another name.',
        ),
        (
            {"containers": {}},
            "There is no container of the application. Give containers={…}.",
        ),
        (
            {"containers": {"app": container(essential=False)}},
            "No container of the application is essential. One has to be.",
        ),
        (
            {"containers": {"app": container(container_name="web")}},
            (
                'The container "app" has the container_name "web". '
                "Leave that out: its key is its name."
            ),
        ),
        (
            {
                "containers": {
                    "app": container(port_mappings=[ecs.PortMapping(container_port=8600)])
                }
            },
            (
                "The port of the container app is 8600, which the mesh itself uses in the task. "
                "Give another one."
            ),
        ),
        (
            {"volumes": [ecs.Volume(name="consul_data")]},
            'The volume name "consul_data" is the mesh\'s own. Give it another name.',
        ),
        (
            {"compatibility": ecs.Compatibility.EXTERNAL},
            "compatibility has to be FARGATE, EC2 or EC2_AND_FARGATE.",
        ),
    ],
)
def test_a_task_that_cannot_work_is_an_error_that_names_it_and_says_what_to_do(
    around: Surroundings, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(MeshError, match=f"^{re.escape(f'Shop/Web: {message}')}$"):
        around.task("Web", **{**WEB, **arguments})


def test_what_mesh_init_would_refuse_is_an_error_already_when_synthesizing(
    around: Surroundings,
) -> None:
    check = Check(name="ready", http="http://127.0.0.1:8080", interval="10 seconds")

    with pytest.raises(MeshError, match=r"^Shop/Web: service\.checks\[0\]\.interval"):
        around.task("Web", **WEB, checks=[check])


def test_all_that_is_wrong_is_said_at_once(around: Surroundings) -> None:
    with pytest.raises(MeshError) as caught:
        around.task("Web", service_name="Web", containers={"consul-client": container()})

    assert len(str(caught.value).splitlines()) == 3


def test_upstreams_on_different_addresses_may_have_the_same_port(around: Surroundings) -> None:
    around.task(
        "Web",
        **WEB,
        upstreams=[Upstream("api", 1234), Upstream("db", 1234, local_address="127.0.0.2")],
    )


def test_asking_for_a_container_that_is_not_there_names_it(around: Surroundings) -> None:
    task = around.task("Web", **WEB)

    assert task.container("app").container_name == "app"
    with pytest.raises(MeshError, match='Shop/Web: The task has no container "web"'):
        task.container("web")


@pytest.fixture
def with_acls(stack: cdk.Stack) -> Surroundings:
    return Surroundings(stack, acls=True, tls=False, servers=plain_servers())


def test_a_token_secret_that_nobody_would_fill_is_an_error(with_acls: Surroundings) -> None:
    arn = IRELAND.arn("secretsmanager", "secret:another-Ab1234")
    other = secret(with_acls.stack, "Another", arn)

    with pytest.raises(
        MeshError, match=r'^Shop/Web: The token_secret is "another", but .*"consul-web"'
    ):
        with_acls.task("Web", **WEB, token_secret=other)


def test_a_token_secret_that_exists_can_be_given(with_acls: Surroundings) -> None:
    arn = IRELAND.arn("secretsmanager", "secret:consul-web-Ab1234")

    task = with_acls.task("Web", **WEB, token_secret=secret(with_acls.stack, "Known", arn))

    assert task.token_secret is not None
    assert task.token_secret.secret_arn == arn


def test_two_tasks_of_a_service_cannot_both_make_its_secret(with_acls: Surroundings) -> None:
    first = with_acls.task("First", **WEB)

    with pytest.raises(
        MeshError, match=r"^Shop/Second: Shop/First has made the secret .*token_secret="
    ):
        with_acls.task("Second", **WEB, family="web-canary")
    with_acls.task("Third", **WEB, family="web-canary", token_secret=first.token_secret)


def test_a_service_in_a_cluster_of_another_controller_is_an_error(with_acls: Surroundings) -> None:
    other = ecs.Cluster.from_cluster_attributes(
        with_acls.stack, "OtherCluster", cluster_name="other", vpc=with_acls.vpc
    )
    task = with_acls.task("Web", **WEB)

    with pytest.raises(
        MeshError, match='ECS cluster is "other", but the controller makes tokens for "my-cluster"'
    ):
        task.service("Service", cluster=other)


def test_a_key_that_another_stack_makes_leads_to_no_cycle(synthesize_once: SynthesizeOnce) -> None:
    app = new_app()
    platform = cdk.Stack(app, "Platform")
    around = Surroundings(
        platform, acls=True, tls=False, servers=plain_servers(), own_key=kms.Key(platform, "Own")
    )
    shop = cdk.Stack(app, "Shop")
    task = MeshTask(shop, "Web", mesh=around.mesh, containers={"app": container()}, **WEB)
    task.service("Service", cluster=around.cluster)

    template = app.synth().get_stack_by_name("Shop").template

    (decrypt,) = (
        statement
        for resource in template["Resources"].values()
        if resource["Type"] == "AWS::IAM::Policy"
        for statement in resource["Properties"]["PolicyDocument"]["Statement"]
        if statement["Action"] == "kms:Decrypt"
    )
    assert "Own" in json.dumps(decrypt["Resource"])


@pytest.mark.parametrize("service", ["ec2", "ecs"])
def test_an_agent_that_asks_aws_for_its_servers_may_do_so(stack: cdk.Stack, service: str) -> None:
    join = f"provider=aws region=eu-west-1 service={service} tag_key=consul tag_value=server"
    servers = ExternalConsul(http_address="http://consul:8500", retry_join=["10.0.0.1", join])
    around = Surroundings(stack, acls=False, tls=False, servers=servers)

    (statement,) = around.mesh.discovery_statements

    expected = {
        "ec2": ["ec2:DescribeInstances"],
        "ecs": [
            "ecs:DescribeServices",
            "ecs:DescribeTasks",
            "ecs:ListClusters",
            "ecs:ListServices",
            "ecs:ListTasks",
        ],
    }
    assert statement.to_json()["Action"] in (expected[service], expected[service][0])


# --------------------------------------------------------------------------------------------------
# Meshes
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"acls": True}, "ACLs are on, but there is no controller to make the tokens. "),
        (
            {"servers": ExternalConsul(http_address="http://consul:8500")},
            "There is nothing that tasks could join. ",
        ),
        ({"servers": None}, "Neither servers nor a controller that knows them. "),
        ({"tls": True}, "TLS is on, but the CA of the servers is not known. "),
        ({"vpc": None}, "Give the vpc that the tasks run in, "),
    ],
)
def test_a_mesh_that_cannot_work_is_an_error_that_says_what_to_do(
    stack: cdk.Stack, around: Surroundings, arguments: dict[str, Any], message: str
) -> None:
    working = {"servers": plain_servers(), "vpc": around.vpc, "acls": False, "tls": False}

    with pytest.raises(MeshError, match=f"^Shop/Other: {re.escape(message)}"):
        Mesh(stack, "Other", **{**working, **arguments})


def test_a_controller_and_no_acls_contradict_each_other(stack: cdk.Stack) -> None:
    around = Surroundings(stack, acls=True, tls=False, servers=plain_servers())

    with pytest.raises(MeshError, match="There is an ACL controller, but ACLs are off"):
        Mesh(
            stack,
            "Other",
            servers=plain_servers(),
            vpc=around.vpc,
            acls=False,
            tls=False,
            controller=around.controller,
        )


def test_without_a_vpc_given_security_groups_take_the_place_of_the_meshs_own(
    stack: cdk.Stack,
) -> None:
    group = ec2.SecurityGroup.from_security_group_id(stack, "Group", "sg-0123456789abcdef0")

    mesh = Mesh(
        stack, "Mesh", servers=plain_servers(), security_groups=[group], acls=False, tls=False
    )

    assert [each.security_group_id for each in mesh.security_groups] == ["sg-0123456789abcdef0"]
    assert mesh.node.children == []


def test_with_a_vpc_given_security_groups_come_besides_the_meshs_own(
    stack: cdk.Stack, around: Surroundings
) -> None:
    group = ec2.SecurityGroup.from_security_group_id(stack, "Group", "sg-0123456789abcdef0")

    mesh = Mesh(
        stack,
        "Other",
        servers=plain_servers(),
        vpc=around.vpc,
        security_groups=[group],
        acls=False,
        tls=False,
    )

    own, given = mesh.security_groups
    assert own.node.path == "Shop/Other/Tasks"
    assert given.security_group_id == "sg-0123456789abcdef0"


# --------------------------------------------------------------------------------------------------
# Tags that would not reach the task
# --------------------------------------------------------------------------------------------------


def synth(around: Surroundings) -> dict[str, Any]:
    """Synthesize the app and return the template of the stack."""
    assembly = cast("cdk.App", around.stack.node.root).synth()
    template: dict[str, Any] = assembly.get_stack_by_name(around.stack.stack_name).template
    return template


Start = Callable[[Surroundings, MeshTask], None]


def by_a_service(around: Surroundings, task: MeshTask) -> None:
    ecs.FargateService(
        around.stack, "Own", cluster=around.cluster, task_definition=task.task_definition
    )


def by_a_service_with_tags_of_its_own(around: Surroundings, task: MeshTask) -> None:
    ecs.FargateService(
        around.stack,
        "Own",
        cluster=around.cluster,
        task_definition=task.task_definition,
        propagate_tags=ecs.PropagatedTagSource.SERVICE,
    )


def by_a_rule(around: Surroundings, task: MeshTask) -> None:
    events.Rule(
        around.stack,
        "Own",
        schedule=events.Schedule.rate(cdk.Duration.hours(1)),
        targets=[targets.EcsTask(cluster=around.cluster, task_definition=task.task_definition)],
    )


def by_a_schedule(around: Surroundings, task: MeshTask) -> None:
    target = scheduler_targets.EcsRunFargateTask(
        around.cluster, task_definition=task.task_definition
    )
    scheduler.Schedule(
        around.stack,
        "Own",
        schedule=scheduler.ScheduleExpression.rate(cdk.Duration.hours(1)),
        target=target,
    )


def by_a_workflow(around: Surroundings, task: MeshTask) -> None:
    run = sfn_tasks.EcsRunTask(
        around.stack,
        "Run",
        cluster=around.cluster,
        task_definition=task.task_definition,
        launch_target=sfn_tasks.EcsFargateLaunchTarget(
            platform_version=ecs.FargatePlatformVersion.LATEST
        ),
    )
    sfn.StateMachine(around.stack, "Own", definition_body=sfn.DefinitionBody.from_chainable(run))


def by_another_stack(around: Surroundings, task: MeshTask) -> None:
    other = cdk.Stack(cast("cdk.App", around.stack.node.root), "Other")
    ecs.FargateService(other, "Own", cluster=around.cluster, task_definition=task.task_definition)


@pytest.mark.parametrize(
    ("start", "advice"),
    [
        (by_a_service, "Make the service with MeshTask.service(…)"),
        (by_a_service_with_tags_of_its_own, "Make the service with MeshTask.service(…)"),
        (by_a_rule, "Give its target propagate_tags=PropagatedTagSource.TASK_DEFINITION."),
        (by_a_schedule, "Give its target propagate_tags=True."),
        (by_a_workflow, "Give its EcsRunTask propagated_tag_source="),
        (by_another_stack, "Make the service with MeshTask.service(…)"),
    ],
)
def test_whatever_starts_a_mesh_task_without_its_tags_is_an_error(
    around: Surroundings, start: Start, advice: str
) -> None:
    task = around.task("Web", **WEB)
    start(around, task)

    with pytest.raises(RuntimeError, match="without its tags") as caught:
        synth(around)

    assert "starts the mesh task Shop/Web/TaskDefinition" in str(caught.value)
    assert advice in str(caught.value)


def test_whatever_starts_it_with_its_tags_is_not(around: Surroundings) -> None:
    task = around.task("Web", **WEB)
    definition = task.task_definition
    from_definition = ecs.PropagatedTagSource.TASK_DEFINITION
    hourly = cdk.Duration.hours(1)
    ecs.FargateService(
        around.stack,
        "Service",
        cluster=around.cluster,
        task_definition=definition,
        propagate_tags=from_definition,
        min_healthy_percent=100,
    )
    events.Rule(
        around.stack,
        "Rule",
        schedule=events.Schedule.rate(hourly),
        targets=[
            targets.EcsTask(
                cluster=around.cluster,
                task_definition=definition,
                propagate_tags=from_definition,
            )
        ],
    )
    scheduler.Schedule(
        around.stack,
        "Schedule",
        schedule=scheduler.ScheduleExpression.rate(hourly),
        target=scheduler_targets.EcsRunFargateTask(
            around.cluster, task_definition=definition, propagate_tags=True
        ),
    )
    run = sfn_tasks.EcsRunTask(
        around.stack,
        "Run",
        cluster=around.cluster,
        task_definition=definition,
        launch_target=sfn_tasks.EcsFargateLaunchTarget(
            platform_version=ecs.FargatePlatformVersion.LATEST
        ),
        propagated_tag_source=from_definition,
    )
    sfn.StateMachine(
        around.stack, "Machine", definition_body=sfn.DefinitionBody.from_chainable(run)
    )

    synth(around)


def from_a_text(around: Surroundings) -> None:
    body = sfn.DefinitionBody.from_string('{"StartAt": ${Start}, "States": {}}')
    sfn.StateMachine(
        around.stack, "Own", definition_body=body, definition_substitutions={"Start": '"A"'}
    )


def from_a_parameter(around: Surroundings) -> None:
    parameter = cdk.CfnParameter(around.stack, "Definition")
    body = sfn.DefinitionBody.from_string(parameter.value_as_string)
    sfn.StateMachine(around.stack, "Own", definition_body=body)


def with_a_number_of_the_deployment(around: Surroundings) -> None:
    parameter = cdk.CfnParameter(around.stack, "Number", type="Number")
    mapped = sfn.Map(around.stack, "Map", max_concurrency=parameter.value_as_number)
    mapped.item_processor(sfn.Pass(around.stack, "Pass"))
    body = sfn.DefinitionBody.from_chainable(mapped)
    sfn.StateMachine(around.stack, "Own", definition_body=body)


@pytest.mark.parametrize("make", [from_a_text, from_a_parameter, with_a_number_of_the_deployment])
def test_a_workflow_of_which_the_deployment_knows_more_is_none_of_its_business(
    around: Surroundings, make: Callable[[Surroundings], None]
) -> None:
    around.task("Web", **WEB)
    make(around)

    synth(around)


def test_a_daemon_may_be_without_a_task_while_it_is_replaced(around: Surroundings) -> None:
    task = around.task(
        "Web",
        **{**WEB, "containers": {"app": container(memory_reservation_mib=64)}},
        compatibility=ecs.Compatibility.EC2,
    )

    task.service("Service", cluster=around.cluster, daemon=True)

    template = synth(around)
    (rendered,) = (
        resource["Properties"]
        for resource in template["Resources"].values()
        if resource["Type"] == "AWS::ECS::Service"
    )
    assert rendered["SchedulingStrategy"] == "DAEMON"
    assert rendered["DeploymentConfiguration"]["MinimumHealthyPercent"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"propagate_tags": ecs.PropagatedTagSource.NONE},
            'A mesh service sets "propagate_tags" itself. Leave it out.',
        ),
        (
            {"launch_type": ecs.LaunchType.EC2},
            "The task cannot be launched on EC2. Give MeshTask a compatibility that includes it.",
        ),
        (
            {"launch_type": ecs.LaunchType.EXTERNAL},
            (
                "The task cannot be launched on EXTERNAL. "
                "Give MeshTask a compatibility that includes it."
            ),
        ),
    ],
)
def test_a_service_that_could_not_work_is_an_error(
    around: Surroundings, arguments: dict[str, Any], message: str
) -> None:
    task = around.task("Web", **WEB)

    with pytest.raises(MeshError, match=f"^{re.escape(f'Shop/Web: {message}')}$"):
        task.service("Service", cluster=around.cluster, **arguments)
