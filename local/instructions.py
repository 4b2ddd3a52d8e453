"""What a person can do with the running app, as commands to paste."""

from __future__ import annotations

from handlers.core import names
from local import example
from local.deployment import Deployed
from local.example import DeployedExample
from local.tasks import LocalTasks

EXAMPLE_FAMILY = "web"
_PUBLIC_LISTENER = 20000
# The command line has no waiter for executions.
_WAIT = """\
until [ "$(aws stepfunctions describe-execution --execution-arn "$execution" --query status \\
  --output text)" != RUNNING ]; do sleep 1; done"""


def exports(deployment: Deployed) -> str:
    """Return the shell commands that point any AWS client at the local cloud."""
    return "\n".join(
        f"export {key}={value}" for key, value in sorted(deployment.cloud.environment.items())
    )


def of_services(deployment: Deployed, service: str) -> str:
    """Return commands that wait for the deployed services, and show them.

    Args:
        deployment: what runs.
        service: one of them.

    """
    # Not in a variable: zsh, unlike sh, does not split those.
    services = (
        f"$(aws ecs list-services --cluster {deployment.cluster} \\\n"
        "  --query serviceArns --output text)"
    )
    service_secret = names.service_secret_name(deployment.secret_prefix, service)
    return f"""\
# the services, whose tokens were there before them, and their tasks
aws ecs wait services-stable --cluster {deployment.cluster} --services {services}
aws ecs describe-services --cluster {deployment.cluster} --services {services} \\
  --query 'services[].[serviceName,runningCount,deployments[0].failedTasks]' --output text
aws ecs describe-tasks --cluster {deployment.cluster} --include TAGS --output text \\
  --tasks $(aws ecs list-tasks --cluster {deployment.cluster} --query taskArns --output text) \\
  --query "tasks[].[tags[?key=='{names.SERVICE_NAME_TAG}'].value|[0],lastStatus,taskArn]"
aws secretsmanager get-secret-value --secret-id {service_secret} --query SecretString --output text
"""


def of_tokens(deployment: Deployed, service: str) -> str:
    """Return commands for one more task, and for the life of tokens.

    Args:
        deployment: what runs.
        service: one that it has deployed.

    """
    subnet, group = LocalTasks(deployment).network()
    secret = names.service_secret_name(deployment.secret_prefix, EXAMPLE_FAMILY)
    service_secret = names.service_secret_name(deployment.secret_prefix, service)
    workflow = deployment.outputs["TaskProvisioningArn"]
    network = f"awsvpcConfiguration={{subnets=[{subnet}],securityGroups=[{group}]}}"
    reconciliation = deployment.outputs["ReconciliationArn"]
    rotation = deployment.outputs["TokenRotationArn"]
    return f"""\
# start a mesh task
task=$(aws ecs run-task --cluster {deployment.cluster} --task-definition {EXAMPLE_FAMILY} \\
  --launch-type FARGATE --network-configuration '{network}' \\
  --tags key={names.MESH_TAG},value=true --query 'tasks[0].taskArn' --output text)
aws ecs wait tasks-running --cluster {deployment.cluster} --tasks "$task"

# its token
aws secretsmanager get-secret-value --secret-id {secret} --query SecretString --output text

# the workflows that it started, and the states that the last one went through
aws stepfunctions list-executions --query 'executions[:2].[status,executionArn]' --output text \\
  --state-machine-arn {workflow}
execution=$(aws stepfunctions list-executions --query 'executions[0].executionArn' --output text \\
  --state-machine-arn {workflow})
aws stepfunctions get-execution-history --execution-arn "$execution" \\
  --query 'events[].stateEnteredEventDetails.name' --output text

# stop the task
aws ecs stop-task --cluster {deployment.cluster} --task "$task" --query task.desiredStatus \\
  --output text

# put right what no event has told of {service}; for all services it is started every few minutes
execution=$(aws stepfunctions start-execution --query executionArn --output text \\
  --input '{{"service": "{service}"}}' --state-machine-arn {reconciliation})
{_WAIT}
aws stepfunctions describe-execution --execution-arn "$execution" --query '[status,output]' \\
  --output text

# give {service} a new token, which replaces its task, and delete the old one: minutes, or seconds
# with --speed 60
execution=$(aws stepfunctions start-execution --query executionArn --output text \\
  --input '{{"service": "{service}"}}' --state-machine-arn {rotation})
{_WAIT}
aws stepfunctions get-execution-history --execution-arn "$execution" \\
  --query 'events[].stateEnteredEventDetails.name' --output text
aws secretsmanager get-secret-value --secret-id {service_secret} --query SecretString \\
  --output text"""


def of_greeting(deployment: DeployedExample) -> str:
    """Return commands that ask the example through the mesh."""
    cluster = deployment.cluster
    address = "tasks[0].containers[0].networkInterfaces[0].privateIpv4Address"
    return f"""\
# what {example.CLIENT} says, which asks {example.SERVER} for it through both proxies
task=$(aws ecs list-tasks --cluster {cluster} --family {example.CLIENT} \\
  --query 'taskArns[0]' --output text)
address=$(aws ecs describe-tasks --cluster {cluster} --tasks "$task" --output text \\
  --query '{address}')
curl --silent --show-error --fail --noproxy '*' --max-time 5 --retry 30 --retry-delay 1 \\
  --retry-all-errors "http://$address:{_PUBLIC_LISTENER}/"
"""
