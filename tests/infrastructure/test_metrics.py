"""The metrics that the construct offers are those that its functions publish."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
from aws_cdk import App, Duration, Environment, Stack
from aws_cdk import aws_ecs as ecs
from aws_cdk.assertions import Template

from handlers import report_reconciliation, report_rotation
from infrastructure.acl_controller import AclController
from infrastructure.external_consul import ExternalConsul
from tests.infrastructure.expected import EVERYTHING
from tests.synthesized import ROOT, Deployed, context

CLUSTER = "arn:aws:ecs:eu-west-1:123456789012:cluster/mesh"
IRELAND = Environment(account="123456789012", region="eu-west-1")


@pytest.fixture(scope="module")
def controller() -> AclController:
    stack = Stack(App(context=context()), "Mesh", env=IRELAND)
    return AclController(
        stack,
        "Controller",
        cluster=ecs.Cluster.from_cluster_arn(stack, "Cluster", CLUSTER),
        secret_prefix="acme",
        servers=ExternalConsul(http_address="http://consul.internal:8500"),
    )


@pytest.fixture(scope="module")
def alarms(controller: AclController) -> dict[str, Any]:
    """The alarms of two metrics, by a part of their logical IDs."""
    stack = Stack.of(controller)
    usual = controller.metric("TokensLeft")
    other = controller.metric(
        "TokensPutBack", statistic="Maximum", period=Duration.hours(1), label="put back"
    )
    usual.create_alarm(stack, "Usual", threshold=1, evaluation_periods=3)
    other.create_alarm(stack, "Other", threshold=1, evaluation_periods=1)
    found = Template.from_stack(stack).find_resources("AWS::CloudWatch::Alarm")
    return {logical_id[:5]: alarm["Properties"] for logical_id, alarm in found.items()}


def test_a_metric_is_that_of_the_cluster_summed_up_over_five_minutes(
    alarms: dict[str, Any],
) -> None:
    assert alarms["Usual"] == {
        "Namespace": "ConsulOnEcs",
        "MetricName": "TokensLeft",
        "Dimensions": [{"Name": "Cluster", "Value": "mesh"}],
        "Statistic": "Sum",
        "Period": 300,
        "Threshold": 1,
        "EvaluationPeriods": 3,
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
    }


def test_options_are_those_of_any_metric(alarms: dict[str, Any]) -> None:
    alarm = alarms["Other"]

    assert (alarm["Threshold"], alarm["EvaluationPeriods"]) == (1, 1)
    (metric,) = alarm["Metrics"]
    assert metric["Label"] == "put back"
    assert metric["MetricStat"] == {
        "Metric": {
            "Namespace": "ConsulOnEcs",
            "MetricName": "TokensPutBack",
            "Dimensions": [{"Name": "Cluster", "Value": "mesh"}],
        },
        "Stat": "Maximum",
        "Period": 3600,
    }


def test_a_metric_knows_where_it_is_for_dashboards_elsewhere(controller: AclController) -> None:
    metric = controller.metric("TokensLeft")

    assert (metric.account, metric.region) == ("123456789012", "eu-west-1")


# --------------------------------------------------------------------------------------------------
# What the functions publish
# --------------------------------------------------------------------------------------------------

Published = dict[str, Any]


@pytest.fixture
def published(
    everything: Deployed, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> list[Published]:
    """What both reports hand to CloudWatch, with the variables that the functions have."""
    caplog.set_level(logging.INFO, logger="consul_on_ecs")
    functions = everything.of_type("AWS::Lambda::Function")
    nothing = {"found": 0, "left": 0}
    for name, module, state in (
        ("ReportReconciliation", report_reconciliation, {"run": {"drift": nothing}}),
        ("ReportRotation", report_rotation, {"rotations": []}),
    ):
        for variable, value in functions[name]["Environment"]["Variables"].items():
            monkeypatch.setenv(variable, value)
        module.handler(state, None)
    return [vars(record) for record in caplog.records if hasattr(record, "_aws")]


def test_the_functions_publish_under_the_names_that_the_construct_uses(
    published: list[Published],
) -> None:
    for record in published:
        (directive,) = record["_aws"]["CloudWatchMetrics"]
        assert (directive["Namespace"], directive["Dimensions"]) == ("ConsulOnEcs", [["Cluster"]])
        assert record["Cluster"] == EVERYTHING.cluster_name


def test_the_operators_guide_has_all_metrics(published: list[Published]) -> None:
    guide = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    _, _, rest = guide.partition("\n## Metrics\n")
    documented = re.findall(r"^\| `(\w+)` \|", rest.partition("\n## ")[0], re.MULTILINE)

    assert documented == [
        metric["Name"]
        for record in published
        for directive in record["_aws"]["CloudWatchMetrics"]
        for metric in directive["Metrics"]
    ]
