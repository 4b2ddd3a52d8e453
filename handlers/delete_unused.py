"""Look a second time at tokens that nobody seemed to need, and delete those of which it holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handlers.clients.consul_connection import consul
from handlers.clients.ecs import Ecs
from handlers.clients.secrets_manager import SecretsManager
from handlers.clients.token_state import ids_in_secrets, seen, seen_token
from handlers.clients.token_users import oldest_tasks
from handlers.core import clock
from handlers.core.deployment import Deployment
from handlers.core.drift import SeenToken, may_go
from handlers.core.named_tokens import take_tokens
from handlers.core.step import step
from handlers.core.subjects import CONTROLLER, Subject, owned_subject


@step
def handler(state: Mapping[str, Any]) -> dict[str, Any]:
    """Delete those of the given tokens that are ours and that no live task can hold.

    Consul and the secrets are looked at first, then the tasks, then it deletes: a task that starts
    before it looks saves its token. When an attempt is repeated, it looks again.

    Input: `{"tokens": [{"subject": …, "accessor_id": …}, …]}`.

    Result: `{"deleted": n, "kept": n}`. A token that is gone already counts as deleted.
    """
    wanted = take_tokens(state)
    deployment = Deployment.from_environment()
    client = consul()
    subjects = sorted({subject for subject, _ in wanted})
    if CONTROLLER in subjects:
        client.use_fresh_token()  # Consul deletes no token on its own behalf
    in_secrets = dict(ids_in_secrets(subjects, deployment, SecretsManager()))
    found: list[tuple[Subject, SeenToken]] = []
    kept = 0
    for subject, accessor_id in wanted:
        token = client.read_token(accessor_id)
        if token is None:
            continue
        if owned_subject(token, deployment.cluster_arn) != subject:
            kept += 1  # somebody has made it theirs meanwhile
            continue
        found.append((subject, seen_token(token)))
    oldest = oldest_tasks(Ecs().live_tasks(deployment.cluster_arn), deployment) if found else {}
    for subject, candidate in found:
        all_seen = seen(subject, (candidate,), in_secrets[subject], oldest)
        if may_go(candidate, all_seen, clock.now()):
            client.delete_token(candidate.accessor_id)
        else:
            kept += 1
    return {"deleted": len(wanted) - kept, "kept": kept}
