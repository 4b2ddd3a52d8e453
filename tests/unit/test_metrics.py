"""Metrics leave a function as log records that CloudWatch makes metrics of.

The rules are those of CloudWatch's user guide, "Specification: Embedded metric format".
"""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Callable
from typing import Any

from handlers.core import metrics
from tests.unit.mesh_state import Clock

Log = Callable[[], list[logging.LogRecord]]

_MOST_METRICS = 100
_MOST_DIMENSIONS = 30
_LONGEST_NAME = 1024
_UNITS = {"Seconds", "Bytes", "Percent", "Count", "Count/Second", "None"}


def rendered(record: logging.LogRecord) -> dict[str, Any]:
    """Return a record as Lambda writes it with the log format JSON."""
    runtime: Any = importlib.import_module("awslambdaric.lambda_runtime_log_utils")
    line: str = runtime.JsonFormatter().format(record)
    assert line.count("\n") == 1
    found: dict[str, Any] = json.loads(line)
    return found


def check(found: dict[str, Any], clock: Clock) -> None:
    """Check a document as CloudWatch reads it."""
    metadata = found["_aws"]
    assert set(metadata) == {"Timestamp", "CloudWatchMetrics"}
    assert type(metadata["Timestamp"]) is int
    assert metadata["Timestamp"] == clock.moment.timestamp() * 1000  # milliseconds
    assert metadata["CloudWatchMetrics"]
    for directive in metadata["CloudWatchMetrics"]:
        assert set(directive) == {"Namespace", "Dimensions", "Metrics"}
        assert isinstance(directive["Namespace"], str)
        assert 1 <= len(directive["Namespace"]) <= _LONGEST_NAME
        assert directive["Dimensions"]
        for dimensions in directive["Dimensions"]:
            assert 0 < len(dimensions) <= _MOST_DIMENSIONS
            for name in dimensions:
                assert isinstance(found[name], str)
                assert 1 <= len(found[name]) <= _LONGEST_NAME
        assert 0 < len(directive["Metrics"]) <= _MOST_METRICS
        for metric in directive["Metrics"]:
            assert set(metric) <= {"Name", "Unit", "StorageResolution"}
            assert 1 <= len(metric["Name"]) <= _LONGEST_NAME
            assert metric["Unit"] in _UNITS
            assert type(found[metric["Name"]]) in {int, float}


def test_a_record_is_a_document_in_the_embedded_metric_format(log: Log, clock: Clock) -> None:
    metrics.publish(cluster="mesh", values={"TokensDeleted": 3, "TokensLeft": 0})
    (record,) = log()
    found = rendered(record)
    check(found, clock)
    assert found["_aws"]["CloudWatchMetrics"] == [
        {
            "Namespace": "ConsulOnEcs",
            "Dimensions": [["Cluster"]],
            "Metrics": [
                {"Name": "TokensDeleted", "Unit": "Count"},
                {"Name": "TokensLeft", "Unit": "Count"},
            ],
        }
    ]
    assert (found["Cluster"], found["TokensDeleted"], found["TokensLeft"]) == ("mesh", 3, 0)


def test_a_record_is_written_at_a_level_that_lambda_lets_pass(log: Log, clock: Clock) -> None:
    del clock
    metrics.publish(cluster="mesh", values={"TokensLeft": 1})
    (record,) = log()
    # Lambda's own default for functions that log JSON.
    assert record.levelno >= logging.INFO
    assert rendered(record)["message"] == "Metrics"


def test_nothing_that_lambda_adds_is_taken_for_a_metric() -> None:
    taken = {"timestamp", "level", "message", "logger", "requestId", "location", "Cluster"}
    published = set(metrics.NAMES.values())
    assert len(published) == len(metrics.NAMES)
    assert published & taken == set()
