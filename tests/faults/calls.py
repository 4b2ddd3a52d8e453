"""The remote calls of each step: what the report's matrix has to show, neither more nor less.

All steps of the workflows that make, change and delete tokens. Not in it are those that talk to
CloudFormation about a run (`start_deployment_run`, `answer_cloudformation`), which touch no token,
and those that only count what others have done (`report_reconciliation`, `report_rotation`).
"""

from __future__ import annotations

from typing import Final

CALLS: Final[dict[str, tuple[str, ...]]] = {
    "abandon_rotation": (
        "consul:DELETE /v1/acl/token/:accessor_id",
        "consul:GET /v1/acl/token/:accessor_id",
        "secretsmanager:DescribeSecret",
        "secretsmanager:GetSecretValue",
        "secretsmanager:PutSecretValue",
        "secretsmanager:UpdateSecretVersionStage",
    ),
    "bootstrap_acls": (
        "consul:GET /v1/acl/token/self",
        "consul:PUT /v1/acl/bootstrap",
        "secretsmanager:DescribeSecret",
        "secretsmanager:GetSecretValue",
        "secretsmanager:PutSecretValue",
        "secretsmanager:UpdateSecretVersionStage",
    ),
    "check_consul": (
        "consul:GET /v1/acl/tokens",
        "consul:GET /v1/status/leader",
    ),
    "check_redeployments": (
        "ecs:DescribeServices",
        "ecs:DescribeTasks",
        "ecs:ListTasks",
    ),
    "check_tags": ("ecs:DescribeTasks",),
    "create_policy": (
        "consul:GET /v1/acl/policy/name/:name",
        "consul:GET /v1/acl/token/:accessor_id",
        "consul:PUT /v1/acl/policy",
        "consul:PUT /v1/acl/policy/:policy_id",
        "consul:PUT /v1/acl/token/:accessor_id",
        "secretsmanager:GetSecretValue",
    ),
    "create_token": (
        "consul:DELETE /v1/acl/token/:accessor_id",
        "consul:GET /v1/acl/token/:accessor_id",
        "consul:PUT /v1/acl/token",
        "consul:PUT /v1/acl/token/:accessor_id",
        "secretsmanager:GetSecretValue",
    ),
    "delete_unused": (
        "consul:DELETE /v1/acl/token/:accessor_id",
        "consul:GET /v1/acl/token/:accessor_id",
        "ecs:DescribeTasks",
        "ecs:ListTasks",
        "secretsmanager:BatchGetSecretValue",
        "secretsmanager:GetSecretValue",
    ),
    "find_drift": (
        "consul:GET /v1/acl/policy/name/:name",
        "consul:GET /v1/acl/tokens",
        "ecs:DescribeTasks",
        "ecs:ListTasks",
        "secretsmanager:BatchGetSecretValue",
        "secretsmanager:GetSecretValue",
    ),
    "plan_rotation": (
        "consul:GET /v1/acl/tokens",
        "secretsmanager:GetSecretValue",
    ),
    "prove_token": (
        "consul:GET /v1/acl/token/self",
        "secretsmanager:GetSecretValue",
    ),
    "publish_secret": (
        "secretsmanager:DescribeSecret",
        "secretsmanager:UpdateSecretVersionStage",
    ),
    "redeploy_service": (
        "ecs:DescribeServices",
        "ecs:UpdateService",
    ),
    "retire_tokens": (
        "consul:DELETE /v1/acl/token/:accessor_id",
        "consul:GET /v1/acl/token/:accessor_id",
        "consul:PUT /v1/acl/token/:accessor_id",
        "secretsmanager:DescribeSecret",
        "secretsmanager:GetSecretValue",
        "secretsmanager:PutSecretValue",
        "secretsmanager:UpdateSecretVersionStage",
    ),
    "store_secret": (
        "secretsmanager:CreateSecret",
        "secretsmanager:DescribeSecret",
        "secretsmanager:GetSecretValue",
        "secretsmanager:PutSecretValue",
    ),
}
