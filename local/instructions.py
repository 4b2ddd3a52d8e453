"""What a person can do with the running app, as commands to paste."""

from __future__ import annotations

from handlers.core import names
from local.deployment import Deployment
from local.tasks import LocalTasks

EXAMPLE_FAMILY = "web"


def exports(deployment: Deployment) -> str:
    """Return the shell commands that point any AWS client at the local cloud."""
    return "\n".join(
        f"export {key}={value}" for key, value in sorted(deployment.cloud.environment.items())
    )


def examples(deployment: Deployment) -> str:
    """Return commands that start a task and look at what comes of it."""
    subnet, group = LocalTasks(deployment).network()
    secret = names.service_secret_name(deployment.secret_prefix, EXAMPLE_FAMILY)
    workflow = deployment.outputs["TaskProvisioningArn"]
    network = f"awsvpcConfiguration={{subnets=[{subnet}],securityGroups=[{group}]}}"
    return f"""\
# start a mesh task
task=$(aws ecs run-task --cluster {deployment.cluster} --task-definition {EXAMPLE_FAMILY} \\
  --launch-type FARGATE --network-configuration '{network}' \\
  --tags key={names.MESH_TAG},value=true --query 'tasks[0].taskArn' --output text)
aws ecs wait tasks-running --cluster {deployment.cluster} --tasks "$task"

# its token
aws secretsmanager get-secret-value --secret-id {secret} --query SecretString --output text

# the workflows that it started, and the states that the last one went through
aws stepfunctions list-executions --query 'executions[].[status,executionArn]' --output text \\
  --state-machine-arn {workflow}
execution=$(aws stepfunctions list-executions --query 'executions[0].executionArn' --output text \\
  --state-machine-arn {workflow})
aws stepfunctions get-execution-history --execution-arn "$execution" \\
  --query 'events[].stateEnteredEventDetails.name' --output text

# stop the task
aws ecs stop-task --cluster {deployment.cluster} --task "$task" --query task.desiredStatus \\
  --output text"""
