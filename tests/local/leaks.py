"""Every secret value of a deployment, and every text that others than its owner can read."""

from __future__ import annotations

import json
from typing import Any

from handlers.core.token_secret import parse_acl_token
from local.deployment import Deployment


def every_token(deployment: Deployment) -> dict[str, str]:
    """Return the tokens in all versions of all secrets, by where they were found."""
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
                token = None if "CERTIFICATE" in value else parse_acl_token(value, where=where)
                if token is not None:
                    found[where] = token
    return found


def every_text(deployment: Deployment) -> dict[str, str]:
    """Return histories, logs, templates and definitions, by where they were found.

    The first word of each place says of which kind it is.
    """
    return {
        **_executions(deployment),
        **_logs(deployment),
        **_stacks(deployment),
        **_functions(deployment),
        **_task_definitions(deployment),
        **_dead_letters(deployment),
    }


def _executions(deployment: Deployment) -> dict[str, str]:
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


def _logs(deployment: Deployment) -> dict[str, str]:
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


def _stacks(deployment: Deployment) -> dict[str, str]:
    client = deployment.cloud.client("cloudformation")
    found = {}
    for stack in client.describe_stacks()["Stacks"]:
        name = stack["StackName"]
        found[f"template {name}"] = _text(client.get_template(StackName=name)["TemplateBody"])
        found[f"outputs {name}"] = _text(
            [stack, client.describe_stack_events(StackName=name)["StackEvents"]]
        )
    return found


def _functions(deployment: Deployment) -> dict[str, str]:
    functions = deployment.cloud.client("lambda").list_functions()["Functions"]
    return {f"function {each['FunctionName']}": _text(each) for each in functions}


def _task_definitions(deployment: Deployment) -> dict[str, str]:
    client = deployment.cloud.client("ecs")
    return {
        f"task-definition {arn}": _text(client.describe_task_definition(taskDefinition=arn))
        for arn in client.list_task_definitions()["taskDefinitionArns"]
    }


def _dead_letters(deployment: Deployment) -> dict[str, str]:
    url = deployment.outputs["DeadLetterQueueUrl"]
    messages = deployment.cloud.client("sqs").receive_message(
        QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=0
    )
    return {f"dead-letter {url}": _text(messages.get("Messages", []))}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
