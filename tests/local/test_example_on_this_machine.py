"""Whether a machine can run the example, and what is said if it cannot."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from local.example import why_no_example
from local.task import runner


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine that has all that it takes."""
    monkeypatch.delenv("CONSUL_HTTP_ADDR", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(runner, "missing_programs", list)


def put_consul_on_path(directory: Path) -> None:
    (directory / "consul").write_text("#!/bin/sh\n")
    (directory / "consul").chmod(0o755)


def test_a_machine_that_has_all_runs_it() -> None:
    assert why_no_example() is None


def test_a_consul_of_the_environment_takes_the_place_of_the_examples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "http://127.0.0.1:8500")

    assert why_no_example() == "CONSUL_HTTP_ADDR names another Consul than its own"


def test_only_linux_has_addresses_for_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")

    assert why_no_example() == "tasks need addresses of their own, which only Linux has"


def test_programs_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "missing_programs", lambda: ["jq", "bash"])

    assert why_no_example() == "the containers of a mesh task need jq, bash"


def test_a_real_consul_looks_at_dates_so_it_needs_our_clock(tmp_path: Path) -> None:
    put_consul_on_path(tmp_path)

    assert why_no_example(speed=1) is None
    assert "no certificates that a faster clock has dated" in str(why_no_example(speed=60))
