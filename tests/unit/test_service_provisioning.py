"""A service that a deployment names: all steps, one after another, on the secret that it made."""

from __future__ import annotations

import json
from typing import Any

from handlers import check_tags, create_token, publish_secret, store_secret
from tests.unit.aws_state import CLUSTER_ARN, SecretsState
from tests.unit.consul_state import ConsulState
from tests.unit.steps import Steps

NAME = "acme-web"


def provision(steps: Steps) -> dict[str, Any]:
    """Run the steps in the order of TaskProvisioning; return what each one returned."""
    found = steps.run(check_tags, {"event": {"service": "web"}, "service_rules": {}})
    assert found["mesh"] is True
    stored = steps.run(store_secret, {"secret": found["secret"]})
    created = steps.run(create_token, {"secret": stored, "token": found["token"]})
    published = None if stored["public"] else steps.run(publish_secret, {"secret": stored})
    return {"stored": stored, "created": created, "published": published}


def test_the_secret_that_cloudformation_made_without_a_value_gets_a_token_that_exists(
    consul: ConsulState, secrets: SecretsState, steps: Steps
) -> None:
    arn = secrets.create(NAME)

    done = provision(steps)

    assert done["stored"]["arn"] == arn
    assert (done["created"], done["published"]) == ({"change": "created"}, {"published": True})
    ids = json.loads(secrets.current(NAME))
    token = consul.token(ids["accessor_id"])
    assert token is not None
    assert token["SecretID"] == ids["token"]
    assert token["Description"] == (
        f"Token for web service\nconsul.hashicorp.com/cluster: {CLUSTER_ARN}"
    )
    assert [identity["ServiceName"] for identity in token["ServiceIdentities"]] == ["web"]


def test_a_deployment_that_names_it_again_changes_nothing(
    consul: ConsulState, secrets: SecretsState, steps: Steps
) -> None:
    del consul
    secrets.create(NAME)
    provision(steps)
    before = secrets.versions(NAME)

    again = provision(steps)

    assert (again["created"], again["published"]) == ({"change": "none"}, None)
    assert secrets.versions(NAME) == before
