"""CloudFormation resource types that moto lacks, or knows only the half of.

Each type is a small handler that makes the API calls CloudFormation would make, against the cloud
itself, so that a deployed resource is exactly what the API would have created. Properties become
request parameters by botocore's own model of the request: names are matched whatever their
casing, and values take the type that the API wants.
"""

from __future__ import annotations

import json
import re
import secrets as random_names
import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError
from botocore.model import ListShape, MapShape, Shape, StructureShape

from local.cloud.waiting import until

ClientFactory = Callable[[str], Any]


class ReplacementNeededError(Exception):
    """The change can not be made in place; the resource must be created anew."""


@dataclass
class Resource:
    """A resource of a stack, as far as CloudFormation knows it.

    Has the attributes that moto's template parser asks of its own models.
    """

    cf_resource_type: str
    logical_resource_id: str
    physical_resource_id: str
    attributes: dict[str, Any] = field(default_factory=dict)

    def get_cfn_attribute(self, name: str) -> Any:
        """Return what ``Fn::GetAtt`` of ``name`` gives."""
        if name not in self.attributes:
            raise ValueError(f"{self.cf_resource_type} has no attribute {name}")
        return self.attributes[name]

    def is_created(self) -> bool:
        """Return True: it is only made when it exists."""
        return True


@dataclass(frozen=True)
class Context:
    """Where a resource belongs and what to make it with."""

    client: ClientFactory
    stack_id: str
    stack_name: str
    account: str
    region: str

    def generated_name(self, logical_id: str, limit: int, separator: str = "-") -> str:
        """Make up a physical name as CloudFormation does: stack, logical ID, random suffix."""
        alphabet = string.ascii_letters + string.digits
        suffix = "".join(random_names.choice(alphabet) for _ in range(12))
        room = limit - len(suffix) - len(separator)
        stem = f"{self.stack_name}{separator}{logical_id}"[:room]
        return f"{stem}{separator}{suffix}"


Properties = dict[str, Any]


class Handler:
    """Creates, updates and deletes resources of one type."""

    def create(self, context: Context, logical_id: str, properties: Properties) -> Resource:
        """Create the resource."""
        raise NotImplementedError

    def update(
        self, context: Context, resource: Resource, old: Properties, new: Properties
    ) -> Resource:
        """Change the resource in place.

        Raises
        ------
        ReplacementNeededError
            It can not be changed in place; the default for every type.
        """
        del context, resource, old, new
        raise ReplacementNeededError

    def delete(self, context: Context, resource: Resource, properties: Properties) -> None:
        """Delete the resource."""


class Ignored(Handler):
    """Stands in for a type that makes no difference here."""

    def create(self, context: Context, logical_id: str, properties: Properties) -> Resource:
        """Create nothing."""
        del properties
        return _Placeholder("", logical_id, context.generated_name(logical_id, 64))

    def update(
        self, context: Context, resource: Resource, old: Properties, new: Properties
    ) -> Resource:
        """Change nothing."""
        del context, old, new
        return resource


class _Placeholder(Resource):
    """What stands for a resource that has been skipped."""

    def get_cfn_attribute(self, name: str) -> Any:
        return f"{self.physical_resource_id}.{name}"


def request_from(client: Any, operation: str, properties: Mapping[str, Any]) -> dict[str, Any]:
    """Translate ``properties`` to the parameters of ``operation`` (snake case) of ``client``.

    What the operation does not take is left out.
    """
    name = client.meta.method_to_api_mapping[operation]
    shape = client.meta.service_model.operation_model(name).input_shape
    request = _shaped(properties, shape)
    if not isinstance(request, dict):
        raise TypeError(f"{operation} takes a structure")
    return request


def _shaped(value: Any, shape: Shape) -> Any:
    if isinstance(shape, StructureShape) and isinstance(value, Mapping):
        members = {name.lower(): (name, member) for name, member in shape.members.items()}
        known = ((members.get(key.lower()), item) for key, item in value.items())
        return {member[0]: _shaped(item, member[1]) for member, item in known if member}
    if isinstance(shape, MapShape) and isinstance(value, Mapping):
        return {key: _shaped(item, shape.value) for key, item in value.items()}
    if isinstance(shape, ListShape) and isinstance(value, list):
        return [_shaped(item, shape.member) for item in value]
    return _scalar(value, shape.type_name)


def _scalar(value: Any, type_name: str) -> Any:
    # Templates write numbers and booleans as strings and the other way round.
    if type_name == "boolean":
        return value if isinstance(value, bool) else str(value).lower() == "true"
    if type_name in {"integer", "long"}:
        return int(value)
    if type_name in {"float", "double"}:
        return float(value)
    if type_name == "string" and not isinstance(value, str):
        if isinstance(value, bool):
            return str(value).lower()
        return json.dumps(value) if isinstance(value, (dict, list)) else str(value)
    return value


def _changed(old: Properties, new: Properties, *names: str) -> bool:
    return any(old.get(name) != new.get(name) for name in names)


class SecretHandler(Handler):
    """AWS::SecretsManager::Secret."""

    _type = "AWS::SecretsManager::Secret"

    def create(self, context: Context, logical_id: str, properties: Properties) -> Resource:
        """Create the secret, with its value given or generated."""
        client = context.client("secretsmanager")
        request = request_from(client, "create_secret", properties)
        request.setdefault("Name", context.generated_name(logical_id, 128))
        if "GenerateSecretString" in properties:
            request["SecretString"] = self._generate(client, properties["GenerateSecretString"])
        arn = client.create_secret(**request)["ARN"]
        return Resource(self._type, logical_id, arn, {"Id": arn})

    def update(
        self, context: Context, resource: Resource, old: Properties, new: Properties
    ) -> Resource:
        """Write a new value only if the template's own changes, as CloudFormation does."""
        if _changed(old, new, "Name"):
            raise ReplacementNeededError
        client = context.client("secretsmanager")
        request = request_from(client, "update_secret", new)
        request.pop("SecretString", None)
        if "SecretString" in new and _changed(old, new, "SecretString"):
            request["SecretString"] = new["SecretString"]
        elif "GenerateSecretString" in new and _changed(old, new, "GenerateSecretString"):
            request["SecretString"] = self._generate(client, new["GenerateSecretString"])
        client.update_secret(SecretId=resource.physical_resource_id, **request)
        _retag(
            old.get("Tags", []),
            new.get("Tags", []),
            lambda keys: client.untag_resource(
                SecretId=resource.physical_resource_id, TagKeys=keys
            ),
            lambda tags: client.tag_resource(SecretId=resource.physical_resource_id, Tags=tags),
        )
        return resource

    def delete(self, context: Context, resource: Resource, properties: Properties) -> None:
        """Delete without a recovery window, as CloudFormation does."""
        del properties
        context.client("secretsmanager").delete_secret(
            SecretId=resource.physical_resource_id, ForceDeleteWithoutRecovery=True
        )

    @staticmethod
    def _generate(client: Any, how: Properties) -> str:
        request = request_from(client, "get_random_password", how)
        password = str(client.get_random_password(**request)["RandomPassword"])
        if "SecretStringTemplate" not in how:
            return password
        filled = json.loads(how["SecretStringTemplate"])
        filled[how["GenerateStringKey"]] = password
        return json.dumps(filled)


def _retag(
    old: list[dict[str, Any]],
    new: list[dict[str, Any]],
    untag: Callable[[list[str]], Any],
    tag: Callable[[list[dict[str, Any]]], Any],
) -> None:
    gone = {entry["Key"] for entry in old} - {entry["Key"] for entry in new}
    if gone:
        untag(sorted(gone))
    if new:
        tag(new)


class SecretPolicyHandler(Handler):
    """AWS::SecretsManager::ResourcePolicy."""

    def create(self, context: Context, logical_id: str, properties: Properties) -> Resource:
        """Attach the policy."""
        secret = properties["SecretId"]
        context.client("secretsmanager").put_resource_policy(
            SecretId=secret, ResourcePolicy=json.dumps(properties["ResourcePolicy"])
        )
        return Resource("AWS::SecretsManager::ResourcePolicy", logical_id, secret)

    def update(
        self, context: Context, resource: Resource, old: Properties, new: Properties
    ) -> Resource:
        """Overwrite the policy of the same secret."""
        if _changed(old, new, "SecretId"):
            raise ReplacementNeededError
        return self.create(context, resource.logical_resource_id, new)

    def delete(self, context: Context, resource: Resource, properties: Properties) -> None:
        """Detach the policy."""
        del properties
        context.client("secretsmanager").delete_resource_policy(
            SecretId=resource.physical_resource_id
        )


class QueueHandler(Handler):
    """AWS::SQS::Queue."""

    def create(self, context: Context, logical_id: str, properties: Properties) -> Resource:
        """Create the queue with all its attributes."""
        client = context.client("sqs")
        name = properties.get("QueueName") or context.generated_name(logical_id, 80)
        tags = {tag["Key"]: tag["Value"] for tag in properties.get("Tags", [])}
        url = client.create_queue(
            QueueName=name, Attributes=self._attributes(properties), tags=tags
        )["QueueUrl"]
        arn = client.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
        attributes = {"Arn": arn["Attributes"]["QueueArn"], "QueueName": name, "QueueUrl": url}
        return Resource("AWS::SQS::Queue", logical_id, url, attributes)

    def update(
        self, context: Context, resource: Resource, old: Properties, new: Properties
    ) -> Resource:
        """Set the attributes."""
        if _changed(old, new, "QueueName", "FifoQueue"):
            raise ReplacementNeededError
        client, url = context.client("sqs"), resource.physical_resource_id
        # moto drops the queue's policy whenever other attributes are set.
        kept = client.get_queue_attributes(QueueUrl=url, AttributeNames=["Policy"])
        attributes = {**kept.get("Attributes", {}), **self._attributes(new)}
        client.set_queue_attributes(QueueUrl=url, Attributes=attributes)
        return resource

    def delete(self, context: Context, resource: Resource, properties: Properties) -> None:
        """Delete the queue."""
        del properties
        context.client("sqs").delete_queue(QueueUrl=resource.physical_resource_id)

    @staticmethod
    def _attributes(properties: Properties) -> dict[str, str]:
        others = {key: value for key, value in properties.items() if key not in _NOT_ATTRIBUTES}
        return {key: _scalar(value, "string") for key, value in others.items()}


_NOT_ATTRIBUTES = {"QueueName", "Tags"}


class QueuePolicyHandler(Handler):
    """AWS::SQS::QueuePolicy."""

    def create(self, context: Context, logical_id: str, properties: Properties) -> Resource:
        """Attach the policy to every queue."""
        self._set(context, properties["Queues"], json.dumps(properties["PolicyDocument"]))
        name = context.generated_name(logical_id, 80)
        return Resource("AWS::SQS::QueuePolicy", logical_id, name, {"Id": name})

    def update(
        self, context: Context, resource: Resource, old: Properties, new: Properties
    ) -> Resource:
        """Attach the new policy; detach it from queues no longer named."""
        self._set(context, [url for url in old["Queues"] if url not in new["Queues"]], "")
        self._set(context, new["Queues"], json.dumps(new["PolicyDocument"]))
        return resource

    def delete(self, context: Context, resource: Resource, properties: Properties) -> None:
        """Detach the policy."""
        del resource
        self._set(context, properties["Queues"], "")

    @staticmethod
    def _set(context: Context, urls: list[str], policy: str) -> None:
        for url in urls:
            context.client("sqs").set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy})


class AlarmHandler(Handler):
    """AWS::CloudWatch::Alarm."""

    def create(self, context: Context, logical_id: str, properties: Properties) -> Resource:
        """Create the alarm."""
        name = properties.get("AlarmName") or context.generated_name(logical_id, 255)
        return self._put(context, logical_id, name, properties)

    def update(
        self, context: Context, resource: Resource, old: Properties, new: Properties
    ) -> Resource:
        """Overwrite the alarm."""
        if _changed(old, new, "AlarmName"):
            raise ReplacementNeededError
        return self._put(context, resource.logical_resource_id, resource.physical_resource_id, new)

    def delete(self, context: Context, resource: Resource, properties: Properties) -> None:
        """Delete the alarm."""
        del properties
        context.client("cloudwatch").delete_alarms(AlarmNames=[resource.physical_resource_id])

    @staticmethod
    def _put(context: Context, logical_id: str, name: str, properties: Properties) -> Resource:
        client = context.client("cloudwatch")
        request = request_from(client, "put_metric_alarm", properties)
        client.put_metric_alarm(**{**request, "AlarmName": name})
        arn = f"arn:aws:cloudwatch:{context.region}:{context.account}:alarm:{name}"
        return Resource("AWS::CloudWatch::Alarm", logical_id, name, {"Arn": arn})


class LogGroupHandler(Handler):
    """AWS::Logs::LogGroup."""

    def create(self, context: Context, logical_id: str, properties: Properties) -> Resource:
        """Create the group and set its retention."""
        client = context.client("logs")
        name = properties.get("LogGroupName") or context.generated_name(logical_id, 512)
        tags = {tag["Key"]: tag["Value"] for tag in properties.get("Tags", [])}
        request = request_from(client, "create_log_group", {**properties, "Tags": tags})
        client.create_log_group(**{**request, "logGroupName": name})
        self._retain(client, name, properties)
        arn = f"arn:aws:logs:{context.region}:{context.account}:log-group:{name}:*"
        return Resource("AWS::Logs::LogGroup", logical_id, name, {"Arn": arn})

    def update(
        self, context: Context, resource: Resource, old: Properties, new: Properties
    ) -> Resource:
        """Set the retention."""
        if _changed(old, new, "LogGroupName"):
            raise ReplacementNeededError
        self._retain(context.client("logs"), resource.physical_resource_id, new)
        return resource

    def delete(self, context: Context, resource: Resource, properties: Properties) -> None:
        """Delete the group with all that was logged."""
        del properties
        context.client("logs").delete_log_group(logGroupName=resource.physical_resource_id)

    @staticmethod
    def _retain(client: Any, name: str, properties: Properties) -> None:
        if "RetentionInDays" in properties:
            client.put_retention_policy(
                logGroupName=name, retentionInDays=int(properties["RetentionInDays"])
            )
        else:
            client.delete_retention_policy(logGroupName=name)


class StateMachineHandler(Handler):
    """AWS::StepFunctions::StateMachine."""

    def create(self, context: Context, logical_id: str, properties: Properties) -> Resource:
        """Create the machine."""
        client = context.client("stepfunctions")
        name = properties.get("StateMachineName") or context.generated_name(logical_id, 80, "")
        request = request_from(client, "create_state_machine", properties)
        request |= {"name": name, "definition": self._definition(properties)}
        request["type"] = properties.get("StateMachineType", "STANDARD")
        arn = client.create_state_machine(**request)["stateMachineArn"]
        return Resource(
            "AWS::StepFunctions::StateMachine", logical_id, arn, {"Arn": arn, "Name": name}
        )

    def update(
        self, context: Context, resource: Resource, old: Properties, new: Properties
    ) -> Resource:
        """Change the definition; executions under way go on with the one they began with."""
        if _changed(old, new, "StateMachineName", "StateMachineType"):
            raise ReplacementNeededError
        client = context.client("stepfunctions")
        request = request_from(client, "update_state_machine", new)
        request["definition"] = self._definition(new)
        client.update_state_machine(stateMachineArn=resource.physical_resource_id, **request)
        return resource

    def delete(self, context: Context, resource: Resource, properties: Properties) -> None:
        """Delete the machine."""
        del properties
        context.client("stepfunctions").delete_state_machine(
            stateMachineArn=resource.physical_resource_id
        )

    @staticmethod
    def _definition(properties: Properties) -> str:
        text = properties.get("DefinitionString")
        if text is None:
            text = json.dumps(properties["Definition"])
        for name, value in properties.get("DefinitionSubstitutions", {}).items():
            text = text.replace(f"${{{name}}}", str(value))
        return str(text)


class RuleHandler(Handler):
    """AWS::Events::Rule."""

    def create(self, context: Context, logical_id: str, properties: Properties) -> Resource:
        """Create the rule and its targets."""
        name = properties.get("Name") or context.generated_name(logical_id, 64)
        return self._put(context, logical_id, name, properties)

    def update(
        self, context: Context, resource: Resource, old: Properties, new: Properties
    ) -> Resource:
        """Overwrite the rule; remove targets that are gone."""
        if _changed(old, new, "Name", "EventBusName"):
            raise ReplacementNeededError
        name = str(resource.attributes["Name"])
        self._remove_targets(context, name, old, keep=new.get("Targets", []))
        return self._put(context, resource.logical_resource_id, name, new)

    def delete(self, context: Context, resource: Resource, properties: Properties) -> None:
        """Delete the targets, then the rule."""
        name = str(resource.attributes["Name"])
        self._remove_targets(context, name, properties, keep=[])
        context.client("events").delete_rule(Name=name, **self._bus(properties))

    def _put(
        self, context: Context, logical_id: str, name: str, properties: Properties
    ) -> Resource:
        client = context.client("events")
        request = request_from(client, "put_rule", properties)
        arn = client.put_rule(**{**request, "Name": name})["RuleArn"]
        if targets := properties.get("Targets"):
            shaped = request_from(client, "put_targets", {"Targets": targets})
            client.put_targets(Rule=name, **shaped, **self._bus(properties))
        return Resource("AWS::Events::Rule", logical_id, name, {"Arn": arn, "Name": name})

    def _remove_targets(
        self,
        context: Context,
        name: str,
        properties: Properties,
        keep: list[dict[str, Any]],
    ) -> None:
        kept = {target["Id"] for target in keep}
        gone = [t["Id"] for t in properties.get("Targets", []) if t["Id"] not in kept]
        if gone:
            context.client("events").remove_targets(Rule=name, Ids=gone, **self._bus(properties))

    @staticmethod
    def _bus(properties: Properties) -> dict[str, str]:
        name = properties.get("EventBusName")
        return {"EventBusName": name} if name else {}


class ClusterHandler(Handler):
    """AWS::ECS::Cluster."""

    def create(self, context: Context, logical_id: str, properties: Properties) -> Resource:
        """Create the cluster."""
        client = context.client("ecs")
        name = properties.get("ClusterName") or context.generated_name(logical_id, 255)
        request = request_from(client, "create_cluster", properties)
        settings = properties.get("ClusterSettings")
        if settings is not None:
            shaped = request_from(client, "create_cluster", {"settings": settings})
            request["settings"] = shaped["settings"]
        arn = client.create_cluster(**{**request, "clusterName": name})["cluster"]["clusterArn"]
        return Resource("AWS::ECS::Cluster", logical_id, name, {"Arn": arn})

    def update(
        self, context: Context, resource: Resource, old: Properties, new: Properties
    ) -> Resource:
        """Change nothing that matters here."""
        del context
        if _changed(old, new, "ClusterName"):
            raise ReplacementNeededError
        return resource

    def delete(self, context: Context, resource: Resource, properties: Properties) -> None:
        """Delete the cluster."""
        del properties
        context.client("ecs").delete_cluster(cluster=resource.physical_resource_id)


class TaskDefinitionHandler(Handler):
    """AWS::ECS::TaskDefinition. Each change registers a new revision."""

    def create(self, context: Context, logical_id: str, properties: Properties) -> Resource:
        """Register a revision."""
        client = context.client("ecs")
        # Without a name the family is made up, but the same for each revision of the resource.
        family = properties.get("Family") or f"{context.stack_name}{logical_id}"
        request = request_from(client, "register_task_definition", properties)
        answer = client.register_task_definition(**{**request, "family": family})
        arn = answer["taskDefinition"]["taskDefinitionArn"]
        return Resource("AWS::ECS::TaskDefinition", logical_id, arn, {"TaskDefinitionArn": arn})

    def delete(self, context: Context, resource: Resource, properties: Properties) -> None:
        """Deregister the revision."""
        del properties
        context.client("ecs").deregister_task_definition(
            taskDefinition=resource.physical_resource_id
        )


class ServiceHandler(Handler):
    """AWS::ECS::Service."""

    def create(self, context: Context, logical_id: str, properties: Properties) -> Resource:
        """Create the service."""
        client = context.client("ecs")
        name = properties.get("ServiceName") or context.generated_name(logical_id, 255)
        request = request_from(client, "create_service", properties)
        request.setdefault("desiredCount", 1)
        service = client.create_service(**{**request, "serviceName": name})["service"]
        attributes = {"Name": name, "ServiceArn": service["serviceArn"]}
        return Resource("AWS::ECS::Service", logical_id, service["serviceArn"], attributes)

    def update(
        self, context: Context, resource: Resource, old: Properties, new: Properties
    ) -> Resource:
        """Change the service in place."""
        if _changed(old, new, "ServiceName", "Cluster", "LaunchType"):
            raise ReplacementNeededError
        client = context.client("ecs")
        request = request_from(client, "update_service", new)
        client.update_service(**{**request, "service": resource.attributes["Name"]})
        return resource

    def delete(self, context: Context, resource: Resource, properties: Properties) -> None:
        """Delete the service, and wait until its tasks have left the network."""
        client = context.client("ecs")
        cluster, name = properties.get("Cluster", "default"), str(resource.attributes["Name"])
        client.delete_service(cluster=cluster, service=name, force=True)

        def all_stopped() -> bool:
            arns = client.list_tasks(cluster=cluster, serviceName=name, desiredStatus="STOPPED")
            tasks = [
                task
                for page in _pages(arns["taskArns"], 100)
                for task in client.describe_tasks(cluster=cluster, tasks=page)["tasks"]
            ]
            return all(task["lastStatus"] == "STOPPED" for task in tasks)

        until(all_stopped, within=_DRAINING_SECONDS, what=f"the tasks of {name} have stopped")


_DRAINING_SECONDS = 120.0


def _pages(items: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


class SecurityGroupHandler(Handler):
    """AWS::EC2::SecurityGroup, with the rules that are written into it."""

    def create(self, context: Context, logical_id: str, properties: Properties) -> Resource:
        """Create the group; without rules of its own it lets everything out, as on AWS."""
        client = context.client("ec2")
        name = properties.get("GroupName") or context.generated_name(logical_id, 255)
        request = {
            "GroupName": name,
            "Description": properties["GroupDescription"],
            "VpcId": properties.get("VpcId") or _default_vpc(client),
        }
        group = str(client.create_security_group(**request)["GroupId"])
        self._allow(client, group, {}, properties)
        _tag(client, group, properties)
        attributes = {"Id": group, "GroupId": group, "VpcId": request["VpcId"]}
        return Resource("AWS::EC2::SecurityGroup", logical_id, group, attributes)

    def update(
        self, context: Context, resource: Resource, old: Properties, new: Properties
    ) -> Resource:
        """Exchange the rules; those that are resources of their own stay."""
        if _changed(old, new, "GroupName", "GroupDescription", "VpcId"):
            raise ReplacementNeededError
        client, group = context.client("ec2"), resource.physical_resource_id
        self._allow(client, group, old, new)
        _retag(
            old.get("Tags", []),
            new.get("Tags", []),
            lambda keys: client.delete_tags(Resources=[group], Tags=[{"Key": key} for key in keys]),
            lambda tags: client.create_tags(Resources=[group], Tags=tags),
        )
        return resource

    def delete(self, context: Context, resource: Resource, properties: Properties) -> None:
        """Delete the group."""
        del properties
        context.client("ec2").delete_security_group(GroupId=resource.physical_resource_id)

    @staticmethod
    def _allow(client: Any, group: str, old: Properties, new: Properties) -> None:
        before = old.get("SecurityGroupIngress", []), old.get("SecurityGroupEgress", [_ALL_OUT])
        after = new.get("SecurityGroupIngress", []), new.get("SecurityGroupEgress", [_ALL_OUT])
        for gone, wanted, revoke, authorize in zip(
            before,
            after,
            (client.revoke_security_group_ingress, client.revoke_security_group_egress),
            (client.authorize_security_group_ingress, client.authorize_security_group_egress),
            strict=True,
        ):
            if [_permission(rule) for rule in gone] == [_permission(rule) for rule in wanted]:
                continue
            for rule in gone:
                # A new group has the one that lets everything out, and no description at it.
                revoke(GroupId=group, IpPermissions=[_permission(rule)])
            for rule in wanted:
                authorize(GroupId=group, IpPermissions=[_permission(rule)])


class SecurityGroupIngressHandler(Handler):
    """AWS::EC2::SecurityGroupIngress. Each change replaces the rule."""

    def create(self, context: Context, logical_id: str, properties: Properties) -> Resource:
        """Add the rule to its group."""
        answer = context.client("ec2").authorize_security_group_ingress(
            GroupId=properties["GroupId"], IpPermissions=[_permission(properties)]
        )
        rule = str(answer["SecurityGroupRules"][0]["SecurityGroupRuleId"])
        return Resource("AWS::EC2::SecurityGroupIngress", logical_id, rule, {"Id": rule})

    def delete(self, context: Context, resource: Resource, properties: Properties) -> None:
        """Take the rule away."""
        del resource
        context.client("ec2").revoke_security_group_ingress(
            GroupId=properties["GroupId"], IpPermissions=[_permission(properties)]
        )


_ALL_OUT = {"IpProtocol": "-1", "CidrIp": "0.0.0.0/0"}


def _permission(rule: Properties) -> dict[str, Any]:
    """Write a rule of a template as one of the API, without its description."""
    permission: dict[str, Any] = {"IpProtocol": str(rule["IpProtocol"])}
    if permission["IpProtocol"] != "-1":
        permission |= {key: int(rule[key]) for key in ("FromPort", "ToPort")}
    for key, ranges in (("CidrIp", "IpRanges"), ("CidrIpv6", "Ipv6Ranges")):
        if key in rule:
            permission[ranges] = [{key: rule[key]}]
    other = rule.get("SourceSecurityGroupId") or rule.get("DestinationSecurityGroupId")
    if other:
        permission["UserIdGroupPairs"] = [{"GroupId": other}]
    return permission


def _default_vpc(client: Any) -> str:
    vpcs = client.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    return str(vpcs[0]["VpcId"])


def _tag(client: Any, resource_id: str, properties: Properties) -> None:
    if tags := properties.get("Tags"):
        client.create_tags(Resources=[resource_id], Tags=tags)


class PermissionHandler(Handler):
    """AWS::Lambda::Permission."""

    def create(self, context: Context, logical_id: str, properties: Properties) -> Resource:
        """Add the statement."""
        client = context.client("lambda")
        statement_id = context.generated_name(logical_id, 100)
        request = request_from(client, "add_permission", properties)
        client.add_permission(**{**request, "StatementId": statement_id})
        return Resource("AWS::Lambda::Permission", logical_id, statement_id, {"Id": statement_id})

    def delete(self, context: Context, resource: Resource, properties: Properties) -> None:
        """Remove the statement, unless the function has gone before."""
        try:
            context.client("lambda").remove_permission(
                FunctionName=properties["FunctionName"],
                StatementId=resource.physical_resource_id,
            )
        except ClientError as error:
            if error.response["Error"]["Code"] != "ResourceNotFoundException":
                raise


class VolumeHandler(Handler):
    """AWS::EC2::Volume; moto's own would be neither encrypted nor tagged."""

    _type = "AWS::EC2::Volume"

    def create(self, context: Context, logical_id: str, properties: Properties) -> Resource:
        """Create the volume."""
        client = context.client("ec2")
        volume = str(
            client.create_volume(**request_from(client, "create_volume", properties))["VolumeId"]
        )
        _tag(client, volume, properties)
        return Resource(self._type, logical_id, volume, {"VolumeId": volume})

    def delete(self, context: Context, resource: Resource, properties: Properties) -> None:
        """Delete the volume."""
        del properties
        context.client("ec2").delete_volume(VolumeId=resource.physical_resource_id)


class PrivateNamespaceHandler(Handler):
    """AWS::ServiceDiscovery::PrivateDnsNamespace."""

    def create(self, context: Context, logical_id: str, properties: Properties) -> Resource:
        """Create the namespace; what comes of the request is told by the operation."""
        client = context.client("servicediscovery")
        request = request_from(client, "create_private_dns_namespace", properties)
        operation = client.create_private_dns_namespace(**request)["OperationId"]
        targets = client.get_operation(OperationId=operation)["Operation"]["Targets"]
        namespace = client.get_namespace(Id=targets["NAMESPACE"])["Namespace"]
        attributes = {"Arn": namespace["Arn"], "Id": namespace["Id"]}
        attributes["HostedZoneId"] = namespace["Properties"]["DnsProperties"]["HostedZoneId"]
        type_ = "AWS::ServiceDiscovery::PrivateDnsNamespace"
        return Resource(type_, logical_id, namespace["Id"], attributes)

    def delete(self, context: Context, resource: Resource, properties: Properties) -> None:
        """Delete the namespace."""
        del properties
        context.client("servicediscovery").delete_namespace(Id=resource.physical_resource_id)


class DiscoveryServiceHandler(Handler):
    """AWS::ServiceDiscovery::Service."""

    def create(self, context: Context, logical_id: str, properties: Properties) -> Resource:
        """Create the service, with no instances yet."""
        client = context.client("servicediscovery")
        request = request_from(client, "create_service", properties)
        request.setdefault("Name", context.generated_name(logical_id, 63))
        # CDK names it within DnsConfig, as it was once; moto looks for it here only.
        request.setdefault("NamespaceId", properties["DnsConfig"].get("NamespaceId"))
        service = client.create_service(**request)["Service"]
        attributes = {key: service[key] for key in ("Arn", "Id", "Name")}
        return Resource("AWS::ServiceDiscovery::Service", logical_id, service["Id"], attributes)

    def delete(self, context: Context, resource: Resource, properties: Properties) -> None:
        """Delete the service, which must have no instances any more."""
        del properties
        client, id_ = context.client("servicediscovery"), resource.physical_resource_id
        # moto would delete it all the same.
        if client.list_instances(ServiceId=id_)["Instances"]:
            raise ValueError("Service contains registered instances; delete the instances first.")
        client.delete_service(Id=id_)


HANDLERS: dict[str, Handler] = {
    "AWS::CDK::Metadata": Ignored(),
    "AWS::CloudFormation::WaitConditionHandle": Ignored(),
    "AWS::CloudWatch::Alarm": AlarmHandler(),
    "AWS::EC2::SecurityGroup": SecurityGroupHandler(),
    "AWS::EC2::SecurityGroupIngress": SecurityGroupIngressHandler(),
    "AWS::EC2::Volume": VolumeHandler(),
    "AWS::ECS::Cluster": ClusterHandler(),
    "AWS::ECS::Service": ServiceHandler(),
    "AWS::ECS::TaskDefinition": TaskDefinitionHandler(),
    "AWS::Events::Rule": RuleHandler(),
    "AWS::Lambda::Permission": PermissionHandler(),
    "AWS::Logs::LogGroup": LogGroupHandler(),
    # moto enforces a bucket policy but not its conditions: the usual one, which denies requests
    # without TLS, would deny every request here.
    "AWS::S3::BucketPolicy": Ignored(),
    "AWS::SQS::Queue": QueueHandler(),
    "AWS::SQS::QueuePolicy": QueuePolicyHandler(),
    "AWS::SecretsManager::ResourcePolicy": SecretPolicyHandler(),
    "AWS::SecretsManager::Secret": SecretHandler(),
    "AWS::ServiceDiscovery::PrivateDnsNamespace": PrivateNamespaceHandler(),
    "AWS::ServiceDiscovery::Service": DiscoveryServiceHandler(),
    "AWS::StepFunctions::StateMachine": StateMachineHandler(),
}


def delete_route_table(context: Context, route_table_id: str) -> None:
    """Delete a route table and its associations, which moto's models forget to do."""
    client = context.client("ec2")
    for table in client.describe_route_tables(RouteTableIds=[route_table_id])["RouteTables"]:
        for association in table["Associations"]:
            client.disassociate_route_table(AssociationId=association["RouteTableAssociationId"])
    client.delete_route_table(RouteTableId=route_table_id)


# `${Name}` and `${Name.Attribute}`, but not the literal `${!Name}`.
_SUBSTITUTION = re.compile(r"\$\{([^!{}][^{}]*)\}")


def references(value: Any) -> Iterator[str]:
    """Name the logical IDs that a piece of a template refers to; parameters are among them."""
    if isinstance(value, list):
        for item in value:
            yield from references(item)
    if not isinstance(value, dict):
        return
    for key, item in value.items():
        if key == "Ref":
            yield str(item)
        elif key == "Fn::GetAtt":
            yield str(item[0] if isinstance(item, list) else item.split(".")[0])
        elif key == "Fn::Sub":
            text = item[0] if isinstance(item, list) else item
            for name in _SUBSTITUTION.findall(text):
                yield name.split(".")[0]
            yield from references(item[1] if isinstance(item, list) else None)
        else:
            yield from references(item)
