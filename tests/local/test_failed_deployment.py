"""What a person sees when Consul is not as ClusterBootstrap needs it: the deployment fails."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from local.cdk_cli import CdkError
from local.consul import EmbeddedConsul
from local.deployment import deployed_app
from local.progress import Progress


def test_a_deployment_fails_with_the_reason_why_clusterbootstrap_failed() -> None:
    progress = Progress(Console(file=StringIO()))

    with (
        EmbeddedConsul(acl="disabled") as consul,
        pytest.raises(CdkError) as failure,
        deployed_app(progress, consul=consul),
    ):
        pytest.fail("the app was deployed")

    message = str(failure.value)
    assert message.startswith("cdk deploy failed:")
    assert "ConsulAclDisabled: Checking the ACL system" in message
    assert "Enable acl on the servers." in message
    assert "Look at the execution arn:aws:states:" in message
