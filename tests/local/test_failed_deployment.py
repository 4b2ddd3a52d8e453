"""What a person sees when Consul is not as ClusterBootstrap needs it: the deployment fails."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
import yaml
from rich.console import Console

from local.cdk_cli import CdkError
from local.consul import EmbeddedConsul
from local.deployment import PreparedApp, prepared_app
from local.progress import Progress

PROGRESS = Progress(Console(file=StringIO()))


@pytest.fixture(scope="module")
def cloud_and_consul() -> Iterator[PreparedApp]:
    with EmbeddedConsul() as consul, prepared_app(PROGRESS, consul=consul) as app:
        yield app


@pytest.fixture
def app(cloud_and_consul: PreparedApp) -> Iterator[PreparedApp]:
    """An app that may be deployed already or not, with the right settings."""
    settings = cloud_and_consul.settings_file.read_text()
    yield cloud_and_consul
    cloud_and_consul.settings_file.write_text(settings)


def set_consul(app: PreparedApp, **settings: Any) -> None:
    """Change settings of the section `consul`."""
    whole = yaml.safe_load(app.settings_file.read_text())
    whole["consul"] |= settings
    app.settings_file.write_text(yaml.safe_dump(whole))


def reason_of_failure(app: PreparedApp) -> str:
    """Deploy, and return what cdk says of why it failed."""
    with pytest.raises(CdkError) as failure:
        app.deploy(PROGRESS)
    message = str(failure.value)
    assert message.startswith("cdk deploy failed:")
    assert "Look at the execution arn:aws:states:" in message
    return message


def test_a_deployment_fails_with_the_reason_why_clusterbootstrap_failed(app: PreparedApp) -> None:
    with EmbeddedConsul(acl="disabled") as consul:
        set_consul(app, http_address=consul.address)
        reason = reason_of_failure(app)

    assert "ConsulAclDisabled: Checking the ACL system" in reason
    assert "Enable acl on the servers." in reason


def test_after_a_failed_first_deployment_one_with_corrected_settings_succeeds(
    app: PreparedApp,
) -> None:
    set_consul(app, datacenter="dc9")
    assert "ConsulWrongDatacenter" in reason_of_failure(app)

    set_consul(app, datacenter="dc1")
    deployment = app.deploy(PROGRESS)

    secret = app.cloud.client("secretsmanager").get_secret_value(
        SecretId=deployment.outputs["ControllerTokenSecretArn"]
    )
    assert "accessor_id" in secret["SecretString"]
