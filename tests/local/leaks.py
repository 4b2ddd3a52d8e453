"""Every secret value of a deployment, and every text that others than its owner can read."""

from __future__ import annotations

import json
from typing import Any

from handlers.core import names
from handlers.core.errors import InvalidSecret
from handlers.core.token_secret import parse_acl_token
from local.consul_api import ConsulApi
from local.deployment import Deployed

# The queue and the rules that let the search see the events.
_EVENTS = "every-event"
_LOST_STARTS = "starts-of-a-state-machine-that-is-gone"


def capture_events(deployment: Deployed) -> None:
    """Let the search see the events of tasks that start from now on, and dead letters with them.

    A queue gets every event of ECS. The app's dead-letter queue gets those that tell of a start,
    as it would if the workflow's state machine were gone.
    """
    sqs = deployment.cloud.client("sqs")
    url = sqs.create_queue(QueueName=_EVENTS)["QueueUrl"]
    _add_rule(deployment, _EVENTS, {"source": ["aws.ecs"]}, {"Arn": _queue_arn(deployment, url)})
    _add_rule(
        deployment,
        _LOST_STARTS,
        {"source": ["aws.ecs"], "detail": {"lastStatus": ["PROVISIONING"]}},
        {
            "Arn": deployment.outputs["TaskProvisioningArn"] + "-gone",
            "DeadLetterConfig": {
                "Arn": _queue_arn(deployment, deployment.outputs["DeadLetterQueueUrl"])
            },
        },
    )


def _add_rule(
    deployment: Deployed, name: str, pattern: dict[str, Any], target: dict[str, Any]
) -> None:
    client = deployment.cloud.client("events")
    client.put_rule(Name=name, EventPattern=json.dumps(pattern))
    client.put_targets(Rule=name, Targets=[{"Id": "only", **target}])


def _queue_arn(deployment: Deployed, url: str) -> str:
    answer = deployment.cloud.client("sqs").get_queue_attributes(
        QueueUrl=url, AttributeNames=["QueueArn"]
    )
    arn: str = answer["Attributes"]["QueueArn"]
    return arn


def every_secret(deployment: Deployed, management: ConsulApi) -> dict[str, str]:
    """Return what is secret in all versions of all secrets, and in Consul, by where it was found.

    That is tokens, gossip keys, and of private keys the part that differs from key to key.
    """
    return {**_stored_secrets(deployment), **_consul_tokens(management)}


def _stored_secrets(deployment: Deployed) -> dict[str, str]:
    client = deployment.cloud.client("secretsmanager")
    found = {}
    for page in client.get_paginator("list_secrets").paginate():
        for secret in page["SecretList"]:
            versions = client.list_secret_version_ids(
                SecretId=secret["ARN"], IncludeDeprecated=True
            )["Versions"]
            for version in versions:
                where = f"{secret['Name']} {version['VersionId']}"
                value = client.get_secret_value(
                    SecretId=secret["ARN"], VersionId=version["VersionId"]
                )["SecretString"]
                part = _private_key(value) if "CERTIFICATE" in value else _token(value, where)
                if part is not None:
                    found[where] = part
    return found


def _private_key(value: str) -> str | None:
    """Return the middle line of the key that comes with a certificate; none for a CA's own."""
    if not value.startswith("{"):
        return None
    _, _, middle, *_ = json.loads(value)["private_key"].splitlines()
    return str(middle)


def _token(value: str, where: str) -> str | None:
    try:
        return parse_acl_token(value, where=where)
    except InvalidSecret:
        return value  # whatever somebody has put there


def _consul_tokens(management: ConsulApi) -> dict[str, str]:
    return {
        f"Consul's token {token['AccessorID']}": token["SecretID"]
        for token in management.get("/v1/acl/tokens")
        # Its secret ID is the word "anonymous".
        if token["AccessorID"] != names.ANONYMOUS_TOKEN_ACCESSOR_ID
    }


def every_text(deployment: Deployed) -> dict[str, str]:
    """Return histories, logs, templates, events and more, by where they were found.

    The first word of each place says of which kind it is. Messages are taken from their queues, so
    they are found once.
    """
    return {
        **_executions(deployment),
        **_logs(deployment),
        **_stacks(deployment),
        **_functions(deployment),
        **_task_definitions(deployment),
        **_messages(deployment, "event", _queue_url(deployment, _EVENTS)),
        **_messages(deployment, "dead-letter", deployment.outputs["DeadLetterQueueUrl"]),
    }


def _executions(deployment: Deployed) -> dict[str, str]:
    client = deployment.cloud.client("stepfunctions")
    found = {}
    for machine in client.list_state_machines()["stateMachines"]:
        pages = client.get_paginator("list_executions").paginate(
            stateMachineArn=machine["stateMachineArn"]
        )
        for execution in (each for page in pages for each in page["executions"]):
            arn = execution["executionArn"]
            history = client.get_execution_history(executionArn=arn, includeExecutionData=True)
            described = client.describe_execution(executionArn=arn)
            found[f"execution {arn}"] = _text([history["events"], described])
    return found


def _logs(deployment: Deployed) -> dict[str, str]:
    client = deployment.cloud.client("logs")
    found = {}
    for group in client.describe_log_groups()["logGroups"]:
        name = group["logGroupName"]
        for stream in client.describe_log_streams(logGroupName=name)["logStreams"]:
            events = client.get_log_events(
                logGroupName=name, logStreamName=stream["logStreamName"], startFromHead=True
            )["events"]
            found[f"log {name} {stream['logStreamName']}"] = _text(events)
    return found


def _stacks(deployment: Deployed) -> dict[str, str]:
    client = deployment.cloud.client("cloudformation")
    found = {}
    for stack in client.describe_stacks()["Stacks"]:
        name = stack["StackName"]
        found[f"template {name}"] = _text(client.get_template(StackName=name)["TemplateBody"])
        found[f"outputs {name}"] = _text(
            [stack, client.describe_stack_events(StackName=name)["StackEvents"]]
        )
    return found


def _functions(deployment: Deployed) -> dict[str, str]:
    functions = deployment.cloud.client("lambda").list_functions()["Functions"]
    return {f"function {each['FunctionName']}": _text(each) for each in functions}


def _task_definitions(deployment: Deployed) -> dict[str, str]:
    client = deployment.cloud.client("ecs")
    return {
        f"task-definition {arn}": _text(client.describe_task_definition(taskDefinition=arn))
        for arn in client.list_task_definitions()["taskDefinitionArns"]
    }


def _queue_url(deployment: Deployed, name: str) -> str:
    url: str = deployment.cloud.client("sqs").get_queue_url(QueueName=name)["QueueUrl"]
    return url


def _messages(deployment: Deployed, kind: str, url: str) -> dict[str, str]:
    client = deployment.cloud.client("sqs")
    found = {}
    while messages := client.receive_message(
        QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"], WaitTimeSeconds=0
    ).get("Messages"):
        for message in messages:
            found[f"{kind} {message['MessageId']}"] = _text(message)
            client.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
