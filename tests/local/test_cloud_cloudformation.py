"""CloudFormation in the local cloud deploys, updates, rolls back and deletes as AWS does."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError
from moto.cloudformation.models import Stack as CloudFormationStack
from moto.servicediscovery.models import ServiceInstance

from local.cloud import LocalCloud
from local.cloud.cloudformation import DeploymentError, deployment_order
from local.cloud.waiting import until
from tests.local.meanwhile import meanwhile

ROLE = "arn:aws:iam::123456789012:role/r"

# The function of a custom resource. What it does is in the properties: `Status` and `Data` of its
# answer, or `Silent`, to leave the answer to somebody else.
ANSWERING = """
import json, urllib.request

def handler(event, context):
    print(json.dumps({"told": event}))
    properties = event["ResourceProperties"]
    if properties.get("Raise") == "true":
        raise RuntimeError("not this time")
    if properties.get("Silent") == "true" and event["RequestType"] == "Create":
        return
    failed = properties.get("Fail") == "true" and event["RequestType"] != "Delete"
    answer = {
        "Status": "FAILED" if failed else "SUCCESS",
        "Reason": "because it was asked to",
        "PhysicalResourceId": "physical-" + properties.get("Name", "x"),
        "Data": {"Answer": "42"},
    }
    for name in ("StackId", "RequestId", "LogicalResourceId"):
        answer[name] = event[name]
    request = urllib.request.Request(
        event["ResponseURL"], data=json.dumps(answer).encode(), method="PUT"
    )
    urllib.request.urlopen(request)
"""


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    with LocalCloud(workdir=tmp_path_factory.mktemp("cloud"), task_stage_seconds=0.01) as cloud:
        cloud.client("iam").create_role(RoleName="r", AssumeRolePolicyDocument="{}")
        yield cloud


@pytest.fixture
def stack(cloud: LocalCloud) -> Stack:
    return Stack(cloud)


class Stack:
    """One stack, deployed from dictionaries."""

    def __init__(self, cloud: LocalCloud) -> None:
        self.cloud = cloud
        self.name = f"s{uuid.uuid4().hex[:8]}"
        self.client = cloud.client("cloudformation")
        self.template: dict[str, Any] = {}

    def create(self, resources: dict[str, Any], **more: Any) -> str:
        """Create the stack and return its final status."""
        self.start(resources, **more)
        return self.status()

    def start(self, resources: dict[str, Any], **more: Any) -> None:
        self.template = {"Resources": resources, **more}
        self.client.create_stack(StackName=self.name, TemplateBody=json.dumps(self.template))

    def update(self, resources: dict[str, Any], **more: Any) -> str:
        self.template = {"Resources": resources, **more}
        self.client.update_stack(StackName=self.name, TemplateBody=json.dumps(self.template))
        return self.status()

    def delete(self) -> None:
        self.client.delete_stack(StackName=self.name)
        until(lambda: not self.described(), what="the stack is gone")

    def described(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = self.client.describe_stacks(StackName=self.name)["Stacks"][0]
        except ClientError:
            return {}
        return found

    def status(self) -> str:
        def final() -> str:
            status = str(self.described()["StackStatus"])
            return "" if status.endswith("IN_PROGRESS") else status

        return until(final, what="the deployment is over")

    def outputs(self) -> dict[str, str]:
        return {x["OutputKey"]: x["OutputValue"] for x in self.described().get("Outputs", [])}

    def reasons(self) -> dict[str, str]:
        events = self.client.describe_stack_events(StackName=self.name)["StackEvents"]
        return {
            f"{event['LogicalResourceId']} {event['ResourceStatus']}": event["ResourceStatusReason"]
            for event in events
            if "ResourceStatusReason" in event
        }

    def physical_ids(self) -> dict[str, str]:
        found = self.client.describe_stack_resources(StackName=self.name)["StackResources"]
        return {x["LogicalResourceId"]: x["PhysicalResourceId"] for x in found}


def function(code: str = "def handler(event, context): return 1", **more: Any) -> dict[str, Any]:
    properties = {"Runtime": "python3.13", "Handler": "index.handler", "Role": ROLE, "Timeout": 10}
    code_property = {"Code": {"ZipFile": code}, "LoggingConfig": {"LogFormat": "JSON"}}
    return {"Type": "AWS::Lambda::Function", "Properties": properties | code_property | more}


def custom(**properties: Any) -> dict[str, Any]:
    token = {"ServiceToken": {"Fn::GetAtt": ["Function", "Arn"]}}
    return {"Type": "Custom::Thing", "Properties": token | properties}


def log_group(**more: Any) -> dict[str, Any]:
    return {"Type": "AWS::Logs::LogGroup", **more}


def told(cloud: LocalCloud, stack: Stack) -> list[dict[str, Any]]:
    """What the function of this stack's custom resources has been told."""
    records = [entry["record"] for entry in cloud.lambda_logs()]
    events = [record["told"] for record in records if "told" in record]
    return [event for event in events if f"/{stack.name}/" in event["StackId"]]


# Order.


def test_resources_come_after_those_they_need_and_custom_ones_last() -> None:
    definitions = {
        "Custom": {"Type": "Custom::X", "Properties": {}},
        "C": {"Type": "T", "Properties": {"P": {"Fn::Sub": "${B.Arn} ${!A}"}}},
        "B": {"Type": "T", "Properties": {"P": [{"Fn::GetAtt": ["A", "Arn"]}]}},
        "A": {"Type": "T", "DependsOn": "Z"},
        "Z": {"Type": "T"},
    }
    assert deployment_order(definitions) == ["Z", "A", "B", "C", "Custom"]


def test_resources_that_need_each_other_are_refused() -> None:
    definitions = {"A": {"Type": "T", "DependsOn": ["B"]}, "B": {"Type": "T", "DependsOn": ["A"]}}
    with pytest.raises(DeploymentError, match="Circular"):
        deployment_order(definitions)


# Custom resources.


def test_a_custom_resource_gives_its_physical_id_and_data(stack: Stack) -> None:
    outputs = {
        "Id": {"Value": {"Ref": "Custom"}},
        "Answer": {"Value": {"Fn::GetAtt": ["Custom", "Answer"]}},
    }
    resources = {"Function": function(ANSWERING), "Custom": custom(Name="a", Number=3, Flag=True)}
    assert stack.create(resources, Outputs=outputs) == "CREATE_COMPLETE"
    assert stack.outputs() == {"Id": "physical-a", "Answer": "42"}
    event = told(stack.cloud, stack)[0]
    assert event["RequestType"] == "Create"
    assert event["ResourceProperties"]["Number"] == "3"
    assert event["ResourceProperties"]["Flag"] == "true"


def test_a_stack_is_in_progress_until_somebody_answers(
    cloud: LocalCloud, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("local.cloud.cloudformation._ANSWER_AFTER_SECONDS", 0.1)
    group = f"g{uuid.uuid4().hex}"
    dependant = log_group(DependsOn="Custom", Properties={"LogGroupName": group})
    stack.start(
        {"Dependant": dependant, "Function": function(ANSWERING), "Custom": custom(Silent=True)}
    )
    event = until(lambda: told(cloud, stack), what="the function has been told")[0]
    assert stack.described()["StackStatus"] == "CREATE_IN_PROGRESS"
    groups = cloud.client("logs").describe_log_groups(logGroupNamePrefix=group)["logGroups"]
    assert groups == []
    answer(event, Status="SUCCESS", PhysicalResourceId="later")
    assert stack.status() == "CREATE_COMPLETE"
    assert stack.physical_ids()["Custom"] == "later"


def answer(event: dict[str, Any], **response: Any) -> None:
    import requests  # noqa: PLC0415 - as whoever has been given the URL would

    names = ("StackId", "RequestId", "LogicalResourceId")
    body = {**{name: event[name] for name in names}, **response}
    requests.put(event["ResponseURL"], data=json.dumps(body), timeout=5).raise_for_status()


def test_a_failed_custom_resource_rolls_the_stack_back_and_says_why(stack: Stack) -> None:
    group = f"g{uuid.uuid4().hex}"
    resources = {
        "Function": function(ANSWERING),
        "Before": log_group(Properties={"LogGroupName": group}),
        "Custom": custom(Fail=True),
        "After": log_group(DependsOn="Custom"),
    }
    assert stack.create(resources) == "ROLLBACK_COMPLETE"
    assert "because it was asked to" in stack.reasons()["Custom CREATE_FAILED"]
    assert [event["RequestType"] for event in told(stack.cloud, stack)] == ["Create", "Delete"]
    logs = stack.cloud.client("logs")
    assert logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"] == []


def test_a_function_that_raises_fails_the_resource_at_once(stack: Stack) -> None:
    resources = {"Function": function(ANSWERING), "Custom": custom(Raise=True)}
    assert stack.create(resources) in {"ROLLBACK_COMPLETE", "ROLLBACK_FAILED"}
    assert "not this time" in stack.reasons()["Custom CREATE_FAILED"]


def test_a_changed_custom_resource_is_told_its_old_properties(stack: Stack) -> None:
    stack.create({"Function": function(ANSWERING), "Custom": custom(Name="a", V=1)})
    updated = {"Function": function(ANSWERING), "Custom": custom(Name="a", V=2)}
    assert stack.update(updated) == "UPDATE_COMPLETE"
    event = told(stack.cloud, stack)[-1]
    assert event["RequestType"] == "Update"
    assert event["PhysicalResourceId"] == "physical-a"
    assert event["ResourceProperties"]["V"] == "2"
    assert event["OldResourceProperties"]["V"] == "1"


def test_a_new_physical_id_deletes_the_old_resource(stack: Stack) -> None:
    stack.create({"Function": function(ANSWERING), "Custom": custom(Name="a")})
    stack.update({"Function": function(ANSWERING), "Custom": custom(Name="b")})
    kinds = [(e["RequestType"], e.get("PhysicalResourceId")) for e in told(stack.cloud, stack)]
    assert kinds == [("Create", None), ("Update", "physical-a"), ("Delete", "physical-a")]


def test_a_replaced_resource_is_deleted_only_when_the_whole_update_has_succeeded(
    stack: Stack,
) -> None:
    stack.create({"Function": function(ANSWERING), "Custom": custom(Name="a")})
    later = {**custom(Name="later", Fail=True), "DependsOn": "Custom"}
    changed = {"Function": function(ANSWERING), "Custom": custom(Name="b"), "Later": later}

    assert stack.update(changed) == "UPDATE_ROLLBACK_COMPLETE"

    kinds = [
        (event["RequestType"], event.get("PhysicalResourceId"), event["ResourceProperties"]["Name"])
        for event in told(stack.cloud, stack)
        if event["LogicalResourceId"] == "Custom"
    ]
    assert kinds == [
        ("Create", None, "a"),
        ("Update", "physical-a", "b"),
        # Back again; then the one that the failed update had made is deleted, as what it was.
        ("Update", "physical-b", "a"),
        ("Delete", "physical-b", "b"),
    ]
    assert stack.physical_ids()["Custom"] == "physical-a"


def test_a_failed_update_goes_back_to_what_was(stack: Stack) -> None:
    before = {"Function": function(ANSWERING), "Custom": custom(Name="a", V=1)}
    stack.create(before)
    after = {**before, "New": log_group(), "Custom": custom(Name="a", V=2, Fail=True)}
    after["Function"] = function(ANSWERING, Description="changed")
    assert stack.update(after) == "UPDATE_ROLLBACK_COMPLETE"
    assert set(stack.physical_ids()) == {"Function", "Custom"}
    name = stack.physical_ids()["Function"]
    configuration = stack.cloud.client("lambda").get_function_configuration(FunctionName=name)
    assert configuration["Description"] == ""


def test_what_a_failed_update_leaves_out_is_still_there(stack: Stack) -> None:
    before = {"Function": function(ANSWERING), "Left": custom(Name="a")}
    stack.create(before)
    after = {"Function": before["Function"], "Other": custom(Name="b", Fail=True)}

    assert stack.update(after) == "UPDATE_ROLLBACK_COMPLETE"

    assert set(stack.physical_ids()) == {"Function", "Left"}
    assert [event["RequestType"] for event in told(stack.cloud, stack)] == [
        *("Create", "Create", "Delete")  # the last two are of the other
    ]


def test_deleting_a_stack_tells_the_custom_resource_before_its_function_goes(
    stack: Stack,
) -> None:
    stack.create({"Function": function(ANSWERING), "Custom": custom(Name="a")})
    stack.delete()
    assert told(stack.cloud, stack)[-1]["RequestType"] == "Delete"


# Resource types.


def machine(state: str, **more: Any) -> dict[str, Any]:
    definition = {"StartAt": state, "States": {state: {"Type": "Pass", "End": True}}}
    join = {"Fn::Join": ["", [json.dumps(definition)]]}
    properties = {"RoleArn": ROLE, "DefinitionString": join, **more}
    return {"Type": "AWS::StepFunctions::StateMachine", "Properties": properties}


def test_an_updated_state_machine_keeps_its_arn_and_runs_its_new_definition(stack: Stack) -> None:
    stack.create({"Machine": machine("One")})
    arn = stack.physical_ids()["Machine"]
    assert stack.update({"Machine": machine("Two")}) == "UPDATE_COMPLETE"
    assert stack.physical_ids()["Machine"] == arn
    workflows = stack.cloud.client("stepfunctions")
    found = workflows.describe_state_machine(stateMachineArn=arn)
    assert json.loads(found["definition"])["StartAt"] == "Two"
    execution = workflows.start_execution(stateMachineArn=arn)["executionArn"]
    until(
        lambda: workflows.describe_execution(executionArn=execution)["status"] == "SUCCEEDED",
        what="the execution has finished",
    )
    stack.delete()
    with pytest.raises(ClientError, match="StateMachineDoesNotExist"):
        workflows.describe_state_machine(stateMachineArn=arn)


def test_an_updated_function_runs_its_new_code_with_its_new_environment(stack: Stack) -> None:
    client = stack.cloud.client("lambda")
    stack.create(
        {
            "F": function(
                Environment={"Variables": {"A": 1}}, Architectures=["arm64"], MemorySize=512
            )
        }
    )
    name = stack.physical_ids()["F"]
    before = client.get_function_configuration(FunctionName=name)
    assert (before["Architectures"], before["MemorySize"]) == (["arm64"], 512)
    assert before["Environment"] == {"Variables": {"A": "1"}}
    code = "import os\ndef handler(event, context): return os.environ['B']"
    stack.update({"F": function(code, Environment={"Variables": {"B": "two"}})})
    assert stack.physical_ids()["F"] == name
    assert json.loads(client.invoke(FunctionName=name)["Payload"].read()) == "two"
    assert client.get_function_configuration(FunctionName=name)["MemorySize"] == 128


def secret(**properties: Any) -> dict[str, Any]:
    return {"Type": "AWS::SecretsManager::Secret", "Properties": properties}


def test_a_secret_has_the_value_given_or_generated(stack: Stack) -> None:
    generate = {
        "SecretStringTemplate": '{"user": "x"}',
        "GenerateStringKey": "password",
        "PasswordLength": 20,
        "ExcludePunctuation": True,
        "ExcludeCharacters": "abc",
    }
    stack.create(
        {
            "Given": secret(SecretString="v", Name=stack.name),
            "G": secret(GenerateSecretString=generate),
        }
    )
    client = stack.cloud.client("secretsmanager")
    assert client.get_secret_value(SecretId=stack.name)["SecretString"] == "v"
    arn = stack.physical_ids()["G"]
    value = json.loads(client.get_secret_value(SecretId=arn)["SecretString"])
    assert value["user"] == "x"
    assert len(value["password"]) == 20
    assert value["password"].isalnum()
    assert not set("abc") & set(value["password"])


def test_an_updated_secret_keeps_the_value_that_the_template_does_not_change(
    stack: Stack,
) -> None:
    client = stack.cloud.client("secretsmanager")
    stack.create({"S": secret(GenerateSecretString={})})
    arn = stack.physical_ids()["S"]
    client.put_secret_value(SecretId=arn, SecretString="rotated")
    stack.update({"S": secret(GenerateSecretString={}, Description="new")})
    assert client.get_secret_value(SecretId=arn)["SecretString"] == "rotated"
    assert client.describe_secret(SecretId=arn)["Description"] == "new"


def test_a_deleted_stack_deletes_its_secrets_unless_they_are_to_be_retained(stack: Stack) -> None:
    retained = {**secret(SecretString="v", Name=f"{stack.name}-kept"), "DeletionPolicy": "Retain"}
    stack.create({"Gone": secret(SecretString="v", Name=f"{stack.name}-gone"), "Kept": retained})
    stack.delete()
    names = [s["Name"] for s in stack.cloud.client("secretsmanager").list_secrets()["SecretList"]]
    assert f"{stack.name}-kept" in names
    assert f"{stack.name}-gone" not in names


def with_each_policy(stack: Stack) -> dict[str, Any]:
    """Secrets named after their deletion policies."""
    return {
        policy: {
            **secret(SecretString="v", Name=f"{stack.name}-{policy}"),
            "DeletionPolicy": policy,
        }
        for policy in ("Delete", "Retain", "RetainExceptOnCreate")
    }


def policies_of_remaining_secrets(stack: Stack) -> set[str]:
    found = stack.cloud.client("secretsmanager").list_secrets()["SecretList"]
    prefix = f"{stack.name}-"
    return {s["Name"].removeprefix(prefix) for s in found if s["Name"].startswith(prefix)}


def test_a_failed_creation_keeps_only_what_is_to_be_retained_without_exception(
    stack: Stack,
) -> None:
    failing = {**custom(Fail=True), "DependsOn": ["Delete", "Retain", "RetainExceptOnCreate"]}
    resources = {"Function": function(ANSWERING), "Custom": failing, **with_each_policy(stack)}
    assert stack.create(resources) == "ROLLBACK_COMPLETE"
    assert policies_of_remaining_secrets(stack) == {"Retain"}
    stack.delete()
    assert policies_of_remaining_secrets(stack) == {"Retain"}


def test_a_failed_update_keeps_only_what_is_to_be_retained_without_exception(
    stack: Stack,
) -> None:
    stack.create({"Function": function(ANSWERING)})
    failing = {**custom(Fail=True), "DependsOn": ["Delete", "Retain", "RetainExceptOnCreate"]}
    resources = {"Function": function(ANSWERING), "Custom": failing, **with_each_policy(stack)}
    assert stack.update(resources) == "UPDATE_ROLLBACK_COMPLETE"
    assert policies_of_remaining_secrets(stack) == {"Retain"}


def test_both_policies_of_retaining_keep_a_resource_when_its_stack_is_deleted(
    stack: Stack,
) -> None:
    stack.create(with_each_policy(stack))
    stack.delete()
    assert policies_of_remaining_secrets(stack) == {"Retain", "RetainExceptOnCreate"}


def test_a_rule_with_its_target_queue_policy_and_alarm_is_created_updated_and_deleted(
    stack: Stack,
) -> None:
    def resources(attempts: int) -> dict[str, Any]:
        allowed = {"Effect": "Allow", "Principal": "*", "Action": "sqs:SendMessage"}
        policy = {"Version": "2012-10-17", "Statement": [{**allowed, "Resource": "*"}]}
        target = {
            "Id": "t",
            "Arn": {"Ref": "Machine"},
            "RoleArn": ROLE,
            "RetryPolicy": {"MaximumRetryAttempts": attempts},
            "DeadLetterConfig": {"Arn": {"Fn::GetAtt": ["Queue", "Arn"]}},
            "InputTransformer": {"InputPathsMap": {"a": "$.detail"}, "InputTemplate": "<a>"},
        }
        alarm = {
            "MetricName": "m",
            "Namespace": "n",
            "ComparisonOperator": "GreaterThanThreshold",
            "EvaluationPeriods": 1,
            "Threshold": attempts,
            "Period": 60,
            "Statistic": "Sum",
        }
        return {
            "Machine": machine("One"),
            "Queue": {"Type": "AWS::SQS::Queue", "Properties": {"VisibilityTimeout": attempts}},
            "Policy": {
                "Type": "AWS::SQS::QueuePolicy",
                "Properties": {"Queues": [{"Ref": "Queue"}], "PolicyDocument": policy},
            },
            "Rule": {
                "Type": "AWS::Events::Rule",
                "Properties": {"EventPattern": {"source": ["x"]}, "Targets": [target]},
            },
            "Alarm": {"Type": "AWS::CloudWatch::Alarm", "Properties": alarm},
        }

    assert stack.create(resources(3)) == "CREATE_COMPLETE"
    ids = stack.physical_ids()
    for attempts in (3, 5):
        if attempts == 5:
            assert stack.update(resources(5)) == "UPDATE_COMPLETE"
            assert stack.physical_ids() == ids
        targets = stack.cloud.client("events").list_targets_by_rule(Rule=ids["Rule"])["Targets"]
        assert targets[0]["Arn"] == ids["Machine"]
        assert targets[0]["RetryPolicy"] == {"MaximumRetryAttempts": attempts}
        attributes = stack.cloud.client("sqs").get_queue_attributes(
            QueueUrl=ids["Queue"], AttributeNames=["All"]
        )["Attributes"]
        assert attributes["VisibilityTimeout"] == str(attempts)
        assert "Statement" in attributes["Policy"]
        alarms = stack.cloud.client("cloudwatch").describe_alarms(AlarmNames=[ids["Alarm"]])
        assert alarms["MetricAlarms"][0]["Threshold"] == attempts
    stack.delete()
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        stack.cloud.client("events").describe_rule(Name=ids["Rule"])


def test_a_rule_with_a_schedule_is_deployed_and_changed(stack: Stack) -> None:
    def resources(rate: str, state: str, target_input: dict[str, Any]) -> dict[str, dict[str, Any]]:
        target = {
            "Id": "t",
            "Arn": {"Ref": "Machine"},
            "RoleArn": ROLE,
            "Input": json.dumps(target_input),
        }
        schedule = {"ScheduleExpression": rate, "State": state, "Targets": [target]}
        return {
            "Machine": machine("One"),
            "Rule": {"Type": "AWS::Events::Rule", "Properties": schedule},
        }

    events = stack.cloud.client("events")
    deployments: list[tuple[str, str, dict[str, Any]]] = [
        ("rate(5 minutes)", "ENABLED", {}),
        ("rate(30 days)", "ENABLED", {"services": "all"}),
        ("rate(30 days)", "DISABLED", {"services": "all"}),
    ]
    for number, (rate, state, target_input) in enumerate(deployments):
        deploy = stack.update if number else stack.create
        assert deploy(resources(rate, state, target_input)).endswith("_COMPLETE")
        name = stack.physical_ids()["Rule"]
        rule = events.describe_rule(Name=name)
        (target,) = events.list_targets_by_rule(Rule=name)["Targets"]
        assert (rule["ScheduleExpression"], rule["State"]) == (rate, state)
        assert "EventPattern" not in rule
        assert json.loads(target["Input"]) == target_input
    name = stack.physical_ids()["Rule"]
    stack.delete()
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        events.describe_rule(Name=name)


def test_a_policy_of_its_own_is_attached_to_its_role_changed_and_removed(stack: Stack) -> None:
    trust = {"Effect": "Allow", "Principal": {"Service": "x"}, "Action": "sts:AssumeRole"}
    role = {
        "Type": "AWS::IAM::Role",
        "Properties": {"AssumeRolePolicyDocument": {"Statement": [trust]}},
    }

    def resources(action: str) -> dict[str, dict[str, Any]]:
        # The policy needs what needs the role, so it can not be a part of either.
        statement = {"Effect": "Allow", "Action": action, "Resource": {"Ref": "Machine"}}
        document = {"Version": "2012-10-17", "Statement": [statement]}
        policy = {"PolicyName": "Starts", "PolicyDocument": document, "Roles": [{"Ref": "Role"}]}
        return {
            "Policy": {"Type": "AWS::IAM::Policy", "Properties": policy},
            "Role": role,
            "Machine": machine("One"),
        }

    iam = stack.cloud.client("iam")
    for number, action in enumerate(("states:StartExecution", "states:StopExecution")):
        deploy = stack.update if number else stack.create
        assert deploy(resources(action)).endswith("_COMPLETE")
        ids = stack.physical_ids()
        found = iam.get_role_policy(RoleName=ids["Role"], PolicyName="Starts")["PolicyDocument"]
        assert found["Statement"] == [
            {"Effect": "Allow", "Action": action, "Resource": ids["Machine"]}
        ]
    assert stack.update({"Role": role}) == "UPDATE_COMPLETE"
    assert iam.list_role_policies(RoleName=stack.physical_ids()["Role"])["PolicyNames"] == []


def test_a_deployed_service_runs_its_tasks(stack: Stack) -> None:
    subnet = stack.cloud.client("ec2").describe_subnets()["Subnets"][0]["SubnetId"]
    network = {"AwsvpcConfiguration": {"Subnets": [subnet], "AssignPublicIp": "ENABLED"}}
    container = {
        "Name": "app",
        "Image": "i",
        "Environment": [{"Name": "A", "Value": "b"}],
        "DockerLabels": {"Kept.AsIs": "x"},
        "Secrets": [{"Name": "T", "ValueFrom": "arn"}],
    }
    definition = {
        "Family": stack.name,
        "RequiresCompatibilities": ["FARGATE"],
        "NetworkMode": "awsvpc",
        "Cpu": 256,
        "Memory": "512",
        "ContainerDefinitions": [container],
        "Tags": [{"Key": "consul.hashicorp.com/mesh", "Value": "true"}],
    }
    service = {
        "Cluster": {"Ref": "Cluster"},
        "TaskDefinition": {"Ref": "Task"},
        "DesiredCount": 1,
        "LaunchType": "FARGATE",
        "PropagateTags": "TASK_DEFINITION",
        "NetworkConfiguration": network,
    }
    resources = {
        "Service": {"Type": "AWS::ECS::Service", "Properties": service},
        "Task": {"Type": "AWS::ECS::TaskDefinition", "Properties": definition},
        "Cluster": {"Type": "AWS::ECS::Cluster"},
    }
    assert stack.create(resources) == "CREATE_COMPLETE"
    ids = stack.physical_ids()
    ecs = stack.cloud.client("ecs")
    registered = ecs.describe_task_definition(taskDefinition=ids["Task"])["taskDefinition"]
    assert registered["containerDefinitions"][0]["dockerLabels"] == {"Kept.AsIs": "x"}
    assert registered["containerDefinitions"][0]["secrets"] == [{"name": "T", "valueFrom": "arn"}]
    tasks = ecs.list_tasks(cluster=ids["Cluster"])["taskArns"]
    found = ecs.describe_tasks(cluster=ids["Cluster"], tasks=tasks, include=["TAGS"])["tasks"]
    assert found[0]["tags"] == [{"key": "consul.hashicorp.com/mesh", "value": "true"}]
    stack.delete()
    assert ecs.list_tasks(cluster=ids["Cluster"])["taskArns"] == []


def test_a_change_of_a_resource_reaches_those_that_refer_to_it(stack: Stack) -> None:
    def resources(name: str) -> dict[str, Any]:
        environment = {"Variables": {"GROUP": {"Ref": "Group"}}}
        return {
            "F": function(Environment=environment),
            "Group": log_group(Properties={"LogGroupName": name}),
        }

    stack.create(resources(f"{stack.name}-one"))
    stack.update(resources(f"{stack.name}-two"))
    configuration = stack.cloud.client("lambda").get_function_configuration(
        FunctionName=stack.physical_ids()["F"]
    )
    assert configuration["Environment"]["Variables"] == {"GROUP": f"{stack.name}-two"}


def test_a_type_that_nobody_knows_is_skipped_with_a_warning_and_metadata_without_one(
    stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    resources = {
        "Unknown": {"Type": "AWS::Imaginary::Thing"},
        "Metadata": {"Type": "AWS::CDK::Metadata"},
        "Group": log_group(),
    }
    with caplog.at_level(logging.WARNING):
        assert stack.create(resources) == "CREATE_COMPLETE"
    message = (
        "AWS::Imaginary::Thing is not supported by the local cloud: Unknown of stack "
        f"{stack.name} is skipped"
    )
    assert [record.getMessage() for record in caplog.records] == [message]


def test_a_change_set_creates_updates_and_reports_that_nothing_changes(stack: Stack) -> None:
    def change(kind: str, state: str) -> dict[str, Any]:
        arguments = {"StackName": stack.name, "ChangeSetName": f"c{uuid.uuid4().hex}"}
        body = json.dumps({"Resources": {"Machine": machine(state)}})
        stack.client.create_change_set(**arguments, TemplateBody=body, ChangeSetType=kind)
        found: dict[str, Any] = stack.client.describe_change_set(**arguments)
        if found["Status"] == "CREATE_COMPLETE":
            stack.client.execute_change_set(**arguments)
        return found

    change("CREATE", "One")
    assert stack.status() == "CREATE_COMPLETE"
    change("UPDATE", "Two")
    assert stack.status() == "UPDATE_COMPLETE"
    unchanged = change("UPDATE", "Two")
    assert unchanged["Status"] == "FAILED"
    assert "didn't contain changes" in unchanged["StatusReason"]


def rules_of(stack: Stack, group: str, *, egress: bool = False) -> set[tuple[str, int, str]]:
    """Return protocol, first port and the other side of each rule of a security group."""
    ec2 = stack.cloud.client("ec2")
    (found,) = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    return {
        (rule["IpProtocol"], rule.get("FromPort", -1), other)
        for rule in found["IpPermissionsEgress" if egress else "IpPermissions"]
        for other in [
            *(pair["GroupId"] for pair in rule["UserIdGroupPairs"]),
            *(ip_range["CidrIp"] for ip_range in rule["IpRanges"]),
        ]
    }


def security_group(stack: Stack, **properties: Any) -> dict[str, Any]:
    (vpc,) = stack.cloud.client("ec2").describe_vpcs()["Vpcs"]
    known = {"GroupDescription": "d", "VpcId": vpc["VpcId"]}
    return {"Type": "AWS::EC2::SecurityGroup", "Properties": known | properties}


def ingress(port: int, protocol: str = "tcp") -> dict[str, Any]:
    """Return a rule as CDK writes it: a group lets itself in."""
    group = {"Fn::GetAtt": ["Group", "GroupId"]}
    properties = {
        "GroupId": group,
        "SourceSecurityGroupId": group,
        "IpProtocol": protocol,
        "FromPort": port,
        "ToPort": port,
        "Description": "Proxies",
    }
    return {"Type": "AWS::EC2::SecurityGroupIngress", "Properties": properties}


def test_a_security_group_lets_in_and_out_what_its_rules_say(stack: Stack) -> None:
    everywhere = {"IpProtocol": "-1", "CidrIp": "0.0.0.0/0", "Description": "All out"}
    http = {"IpProtocol": "tcp", "FromPort": 80, "ToPort": "80", "CidrIp": "10.0.0.0/8"}
    own = {"Group": security_group(stack, SecurityGroupEgress=[everywhere])}
    rules = {"Proxies": ingress(20000), "Gossip": ingress(8301, "udp")}

    assert stack.create({**own, **rules}) == "CREATE_COMPLETE"

    group = stack.physical_ids()["Group"]
    assert rules_of(stack, group) == {("tcp", 20000, group), ("udp", 8301, group)}
    assert rules_of(stack, group, egress=True) == {("-1", -1, "0.0.0.0/0")}

    changed = security_group(stack, SecurityGroupIngress=[http], SecurityGroupEgress=[http])
    assert stack.update({"Group": changed, "Proxies": ingress(21000)}) == "UPDATE_COMPLETE"

    assert stack.physical_ids()["Group"] == group
    assert rules_of(stack, group) == {("tcp", 21000, group), ("tcp", 80, "10.0.0.0/8")}
    assert rules_of(stack, group, egress=True) == {("tcp", 80, "10.0.0.0/8")}

    stack.delete()
    with pytest.raises(ClientError, match=r"InvalidGroup\.NotFound"):
        rules_of(stack, group)


def output_of(name: str, key: str) -> dict[str, Any]:
    """Return CDK's reference to the output of another stack."""
    region = {"Ref": "AWS::Region"}
    return {"Fn::GetStackOutput": {"StackName": name, "Region": region, "OutputName": key}}


def test_a_stack_takes_the_output_of_another_one(cloud: LocalCloud) -> None:
    producer, consumer = Stack(cloud), Stack(cloud)
    outputs = {"Name": {"Value": {"Ref": "Group"}}}
    producer.create({"Group": log_group()}, Outputs=outputs)
    name = {"Fn::Join": ["-", [output_of(producer.name, "Name"), "too"]]}
    group = log_group(Properties={"LogGroupName": name})

    assert consumer.create({"Group": group}) == "CREATE_COMPLETE"

    assert consumer.physical_ids()["Group"] == f"{producer.physical_ids()['Group']}-too"


@pytest.mark.parametrize(
    ("stack_name", "key", "reason"),
    [
        ("absent", "Name", "Stack absent does not exist"),
        (None, "Absent", "Output Absent of stack {name} does not exist"),
    ],
)
def test_an_output_that_is_not_there_fails_the_deployment(
    cloud: LocalCloud, stack_name: str | None, key: str, reason: str
) -> None:
    producer, consumer = Stack(cloud), Stack(cloud)
    producer.create({"Group": log_group()})
    reference = output_of(stack_name or producer.name, key)

    status = consumer.create({"Group": log_group(Properties={"LogGroupName": reference})})

    assert status == "ROLLBACK_COMPLETE"
    assert consumer.reasons()["Group CREATE_FAILED"] == reason.format(name=producer.name)


def test_a_task_definition_keeps_all_that_the_template_says(stack: Stack) -> None:
    container = {
        "Name": "app",
        "Image": "i",
        "DependsOn": [{"ContainerName": "init", "Condition": "SUCCESS"}],
        "HealthCheck": {"Command": ["CMD", "true"], "Interval": 5, "Retries": 3, "Timeout": 5},
        "Ulimits": [{"Name": "nofile", "SoftLimit": 1024, "HardLimit": 2048}],
        "User": "5995",
        "ReadonlyRootFilesystem": True,
        "EntryPoint": ["envoy"],
        "MountPoints": [{"SourceVolume": "v", "ContainerPath": "/v", "ReadOnly": True}],
        "Secrets": [{"Name": "T", "ValueFrom": "arn:token::"}],
    }
    definition = {
        "Family": stack.name,
        "NetworkMode": "awsvpc",
        "RequiresCompatibilities": ["FARGATE"],
        "Cpu": "256",
        "Memory": "512",
        "RuntimePlatform": {"CpuArchitecture": "ARM64", "OperatingSystemFamily": "LINUX"},
        "Volumes": [{"Name": "v"}],
        "ContainerDefinitions": [container, {"Name": "init", "Image": "i", "Essential": False}],
        "Tags": [{"Key": "consul.hashicorp.com/mesh", "Value": "true"}],
    }
    stack.create({"Task": {"Type": "AWS::ECS::TaskDefinition", "Properties": definition}})

    found = stack.cloud.client("ecs").describe_task_definition(
        taskDefinition=stack.physical_ids()["Task"], include=["TAGS"]
    )

    app, init = found["taskDefinition"]["containerDefinitions"]
    assert {key: app[key] for key in app if key not in {"cpu", "portMappings", "volumesFrom"}} == {
        "name": "app",
        "image": "i",
        "dependsOn": [{"containerName": "init", "condition": "SUCCESS"}],
        "healthCheck": {"command": ["CMD", "true"], "interval": 5, "retries": 3, "timeout": 5},
        "ulimits": [{"name": "nofile", "softLimit": 1024, "hardLimit": 2048}],
        "user": "5995",
        "readonlyRootFilesystem": True,
        "entryPoint": ["envoy"],
        "mountPoints": [{"sourceVolume": "v", "containerPath": "/v", "readOnly": True}],
        "secrets": [{"name": "T", "valueFrom": "arn:token::"}],
        "essential": True,
        "environment": [],
    }
    assert init["essential"] is False
    assert found["taskDefinition"]["runtimePlatform"] == {
        "cpuArchitecture": "ARM64",
        "operatingSystemFamily": "LINUX",
    }
    assert found["taskDefinition"]["volumes"] == [{"name": "v"}]
    assert found["tags"] == [{"key": "consul.hashicorp.com/mesh", "value": "true"}]


def test_a_service_waits_for_a_custom_resource_that_it_depends_on(stack: Stack) -> None:
    subnet = stack.cloud.client("ec2").describe_subnets()["Subnets"][0]["SubnetId"]
    service = {
        "Cluster": {"Ref": "Cluster"},
        "TaskDefinition": {"Ref": "Task"},
        "LaunchType": "FARGATE",
        "PropagateTags": "TASK_DEFINITION",
        "EnableECSManagedTags": False,
        "LoadBalancers": [],
        "DeploymentConfiguration": {
            "DeploymentCircuitBreaker": {"Enable": True, "Rollback": True},
            "MaximumPercent": 200,
            "MinimumHealthyPercent": 100,
        },
        "NetworkConfiguration": {"AwsvpcConfiguration": {"Subnets": [subnet]}},
    }
    definition = {
        "RequiresCompatibilities": ["FARGATE"],
        "NetworkMode": "awsvpc",
        "Cpu": "256",
        "Memory": "512",
        "ContainerDefinitions": [{"Name": "app", "Image": "i"}],
    }
    resources = {
        "Service": {
            "Type": "AWS::ECS::Service",
            "Properties": service,
            "DependsOn": ["Custom"],
        },
        "Task": {"Type": "AWS::ECS::TaskDefinition", "Properties": definition},
        "Cluster": {"Type": "AWS::ECS::Cluster"},
        "Custom": custom(),
        "Function": function(ANSWERING),
    }

    assert stack.create(resources) == "CREATE_COMPLETE"

    events = stack.client.describe_stack_events(StackName=stack.name)["StackEvents"]
    order = [f"{each['LogicalResourceId']} {each['ResourceStatus']}" for each in reversed(events)]
    assert order.index("Custom CREATE_COMPLETE") < order.index("Service CREATE_IN_PROGRESS")
    stack.delete()


def test_a_service_is_not_created_if_what_it_depends_on_fails(stack: Stack) -> None:
    resources = {
        "Service": {
            "Type": "AWS::ECS::Service",
            "Properties": {"Cluster": {"Ref": "Cluster"}},
            "DependsOn": ["Custom"],
        },
        "Cluster": {"Type": "AWS::ECS::Cluster"},
        "Custom": custom(Fail=True),
        "Function": function(ANSWERING),
    }

    assert stack.create(resources) == "ROLLBACK_COMPLETE"

    events = stack.client.describe_stack_events(StackName=stack.name)["StackEvents"]
    assert "Service" not in {event["LogicalResourceId"] for event in events}


# Cloud Map.

RESOLVING = """
import socket

def handler(event, context):
    try:
        return sorted({found[4][0] for found in socket.getaddrinfo(event["name"], 80)})
    except socket.gaierror:
        return []
"""


def test_a_name_is_found_in_its_vpc_as_long_as_a_task_has_it(stack: Stack) -> None:
    ec2, ecs = stack.cloud.client("ec2"), stack.cloud.client("ecs")
    (vpc,) = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    network = {"SubnetIds": [subnet], "SecurityGroupIds": []}
    definition = {
        "RequiresCompatibilities": ["FARGATE"],
        "NetworkMode": "awsvpc",
        "Cpu": "256",
        "Memory": "512",
        "ContainerDefinitions": [{"Name": "app", "Image": "i"}],
    }
    records = {
        "NamespaceId": {"Ref": "Namespace"},
        "DnsRecords": [{"Type": "A", "TTL": "10"}],
        "RoutingPolicy": "MULTIVALUE",
    }
    registry = {
        "Type": "AWS::ServiceDiscovery::Service",
        "Properties": {"Name": "server", "DnsConfig": records},
    }
    service = {
        "Cluster": {"Ref": "Cluster"},
        "TaskDefinition": {"Ref": "Task"},
        "LaunchType": "FARGATE",
        "NetworkConfiguration": {"AwsvpcConfiguration": {"Subnets": [subnet]}},
        "ServiceRegistries": [{"RegistryArn": {"Fn::GetAtt": ["Registry", "Arn"]}}],
    }
    namespace = {"Name": "consul.internal", "Vpc": vpc["VpcId"]}
    functions = {"Inside": function(RESOLVING, VpcConfig=network), "Outside": function(RESOLVING)}
    common = {
        **functions,
        "Cluster": {"Type": "AWS::ECS::Cluster"},
        "Task": {"Type": "AWS::ECS::TaskDefinition", "Properties": definition},
        "Namespace": {
            "Type": "AWS::ServiceDiscovery::PrivateDnsNamespace",
            "Properties": namespace,
        },
        "Registry": registry,
    }

    def found_by(name: str) -> list[str]:
        payload = json.dumps({"name": "server.consul.internal"})
        answer = stack.cloud.client("lambda").invoke(FunctionName=ids[name], Payload=payload)
        addresses: list[str] = json.loads(answer["Payload"].read())
        return addresses

    def addresses_of_tasks() -> list[str]:
        arns = ecs.list_tasks(cluster=ids["Cluster"])["taskArns"]
        tasks = ecs.describe_tasks(cluster=ids["Cluster"], tasks=arns)["tasks"] if arns else []
        return [
            task["containers"][0]["networkInterfaces"][0]["privateIpv4Address"]
            for task in tasks
            if task["lastStatus"] == "RUNNING"
        ]

    assert stack.create({**common, "Service": _service(service)}) == "CREATE_COMPLETE"
    ids = stack.physical_ids()
    (first,) = until(addresses_of_tasks, what="the task runs")
    assert (found_by("Inside"), found_by("Outside")) == ([first], [])

    # Another task has another address, and takes the place of the first.
    (task,) = ecs.list_tasks(cluster=ids["Cluster"])["taskArns"]
    ecs.stop_task(cluster=ids["Cluster"], task=task)
    second = until(lambda: [a for a in addresses_of_tasks() if a != first], what="another runs")
    until(lambda: found_by("Inside") == second, what="the new address is found")

    assert stack.update(common) == "UPDATE_COMPLETE"
    assert found_by("Inside") == []
    stack.delete()
    assert stack.cloud.client("servicediscovery").list_namespaces()["Namespaces"] == []


def _service(properties: dict[str, Any]) -> dict[str, Any]:
    return {"Type": "AWS::ECS::Service", "Properties": properties}


def discovery(stack: Stack) -> dict[str, Any]:
    (vpc,) = stack.cloud.client("ec2").describe_vpcs()["Vpcs"]
    namespace = {"Name": f"{stack.name}.internal", "Vpc": vpc["VpcId"]}
    records = {"NamespaceId": {"Ref": "Namespace"}, "DnsRecords": [{"Type": "A", "TTL": 10}]}
    return {
        "Namespace": {
            "Type": "AWS::ServiceDiscovery::PrivateDnsNamespace",
            "Properties": namespace,
        },
        "Registry": {
            "Type": "AWS::ServiceDiscovery::Service",
            "Properties": {"DnsConfig": records},
        },
    }


def test_a_service_of_cloud_map_is_not_deleted_with_instances(stack: Stack) -> None:
    stack.create(discovery(stack))
    client, service = stack.cloud.client("servicediscovery"), stack.physical_ids()["Registry"]
    where = {"ServiceId": service, "InstanceId": "by-hand"}
    client.register_instance(**where, Attributes={"AWS_INSTANCE_IPV4": "10.0.0.1"})

    stack.client.delete_stack(StackName=stack.name)

    assert stack.status() == "DELETE_FAILED"
    assert "registered instances" in stack.reasons()["Registry DELETE_FAILED"]
    client.deregister_instance(**where)
    stack.delete()


def test_of_two_that_register_an_instance_at_the_same_time_one_stays(stack: Stack) -> None:
    stack.create(discovery(stack))
    client, service = stack.cloud.client("servicediscovery"), stack.physical_ids()["Registry"]

    def register(id_: str) -> None:
        client.register_instance(
            ServiceId=service, InstanceId=id_, Attributes={"AWS_INSTANCE_IPV4": "10.0.0.1"}
        )

    with meanwhile(ServiceInstance, "__init__", lambda: register("one")):
        register("one")
    instances = client.list_instances(ServiceId=service)["Instances"]
    assert [each["Id"] for each in instances] == ["one"]
    client.deregister_instance(ServiceId=service, InstanceId="one")
    stack.delete()


def test_an_instance_takes_the_place_of_the_one_with_its_id(stack: Stack) -> None:
    stack.create(discovery(stack))
    client, service = stack.cloud.client("servicediscovery"), stack.physical_ids()["Registry"]

    for id_, address in (("one", "10.0.0.1"), ("other", "10.0.0.2"), ("one", "10.0.0.3")):
        client.register_instance(
            ServiceId=service, InstanceId=id_, Attributes={"AWS_INSTANCE_IPV4": address}
        )

    instances = client.list_instances(ServiceId=service)["Instances"]
    assert {each["Id"]: each["Attributes"]["AWS_INSTANCE_IPV4"] for each in instances} == {
        "one": "10.0.0.3",
        "other": "10.0.0.2",
    }
    assert len(instances) == 2
    for id_ in ("one", "other"):
        client.deregister_instance(ServiceId=service, InstanceId=id_)
    stack.delete()


def test_a_stack_whose_deployment_is_over_has_told_so(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = CloudFormationStack._add_stack_event
    seen: dict[str, str] = {}

    def look_and_add(self: CloudFormationStack, status: str, **more: Any) -> None:
        seen[status] = self.status
        add(self, status, **more)

    monkeypatch.setattr(CloudFormationStack, "_add_stack_event", look_and_add)
    stack.create({"Queue": {"Type": "AWS::SQS::Queue"}})
    stack.delete()
    assert seen["CREATE_COMPLETE"] == "CREATE_IN_PROGRESS"
    assert seen["DELETE_COMPLETE"] == "DELETE_IN_PROGRESS"


def test_a_volume_is_encrypted_and_tagged_as_the_template_says(stack: Stack) -> None:
    key = {"Type": "AWS::KMS::Key", "Properties": {"KeyPolicy": {}}}
    properties = {
        "AvailabilityZone": "us-east-1a",
        "Size": 7,
        "VolumeType": "gp3",
        "Iops": 4000,
        "Encrypted": True,
        "KmsKeyId": {"Fn::GetAtt": ["Key", "Arn"]},
        "Tags": [{"Key": "of", "Value": "whom"}],
    }
    volume = {"Type": "AWS::EC2::Volume", "Properties": properties}

    assert stack.create({"Key": key, "Volume": volume}) == "CREATE_COMPLETE"

    client, id_ = stack.cloud.client("ec2"), stack.physical_ids()["Volume"]
    (found,) = client.describe_volumes(VolumeIds=[id_])["Volumes"]
    arn = f":key/{stack.physical_ids()['Key']}"
    assert found.pop("KmsKeyId").endswith(arn)
    assert {name: found[name] for name in properties if name in found} == {
        name: value for name, value in properties.items() if name != "KmsKeyId"
    }
    stack.delete()
    with pytest.raises(ClientError, match="InvalidVolume"):
        client.describe_volumes(VolumeIds=[id_])


def test_what_is_ready_goes_on_while_a_custom_resource_waits_for_it(
    cloud: LocalCloud, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("local.cloud.cloudformation._ANSWER_AFTER_SECONDS", 0.1)
    group = f"g{uuid.uuid4().hex}"
    stack.start(
        {
            "Function": function(ANSWERING),
            "Waiting": custom(Name="waiting", Silent=True),
            "First": custom(Name="first"),
            "Group": log_group(DependsOn="First", Properties={"LogGroupName": group}),
        }
    )
    logs = cloud.client("logs")
    until(
        lambda: logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"],
        what="the log group is there, though the other custom resource waits",
    )
    assert stack.described()["StackStatus"] == "CREATE_IN_PROGRESS"

    # The other one may have been quicker.
    def told_waiting() -> list[dict[str, Any]]:
        events = told(cloud, stack)
        return [each for each in events if each["ResourceProperties"]["Name"] == "waiting"]

    (event,) = until(told_waiting, what="the function is told of it")
    answer(event, Status="SUCCESS", PhysicalResourceId="later")
    assert stack.status() == "CREATE_COMPLETE"
