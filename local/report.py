"""The outcome of the demonstration, for a person and for a program."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from local.consul import ConsulServer
from local.demo import BUDGETS, DemoResult, TaskResult, TokenFrom

_CONSUL = {
    "embedded": "the embedded stand-in, held to recorded answers of Consul {version}",
    "binary": "a real Consul {version}, started from the binary on PATH",
    "remote": "a real Consul {version} at {address}",
}

_TOKEN_FROM = {
    TokenFrom.DEPLOYMENT: "its deployment",
    TokenFrom.EVENT: "its own event",
    TokenFrom.EARLIER: "an earlier task",
}

# From this many columns on, whole accessor IDs fit into the table.
_WIDE = 156
_NONE = "-"


def print_report(console: Console, consul: ConsulServer, result: DemoResult) -> None:
    """Print what came of each task, and what it cost."""
    table = Table(title="Tasks", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in (
        *("Task", "Service", "Token made by", "Status", "Secret", "Accessor ID", "Proof"),
    ):
        table.add_column(heading, overflow="fold")
    table.add_column("Seconds", justify="right")
    for task in result.tasks:
        table.add_row(*_row(task, whole_ids=console.width >= _WIDE))
    calls = Table(title="Remote calls of one execution", title_justify="left", box=box.SIMPLE_HEAD)
    calls.add_column("Situation")
    calls.add_column("Call")
    calls.add_column("Count", justify="right")
    for situation, counted in result.remote_calls.items():
        for index, (call, count) in enumerate(counted.items()):
            calls.add_row("" if index else situation.replace("_", " "), call, str(count))
    console.print()
    console.print(table)
    console.print(
        "Token made by: or why there is none. ECS pulls the secrets of a task before it starts its "
        "containers, so that one made with MeshTask is\nRUNNING only with its token.\n"
        "Proof: with the stored token Consul lets the task register its own service and sidecar "
        "proxy, and no other service.\n"
        "Seconds: from the task's start until its event has made sure that the token is usable."
    )
    console.print()
    console.print(calls)
    budgets = "; ".join(
        f"{situation.replace('_', ' ')} {', '.join(f'{n} {name}' for name, n in budget.items())}"
        for situation, budget in BUDGETS.items()
    )
    console.print(f"Budgets: {budgets}.")
    kind = _CONSUL[consul.kind].format(version=consul.version, address=consul.address)
    console.print(f"\nConsul was {kind}.", highlight=False)


def as_data(consul: ConsulServer, result: DemoResult) -> dict[str, Any]:
    """Return the outcome as JSON-able data."""
    return {
        "consul": {"kind": consul.kind, "version": consul.version},
        "tasks": [
            {
                "task_arn": task.task_arn,
                "family": task.task.family,
                "service": task.service_name,
                "mesh": task.mesh,
                "execution_status": task.execution.status,
                "error": task.execution.error,
                "secret_name": task.secret_name,
                "token_from": task.token_from.value if task.token_from else None,
                "last_status": task.last_status,
                "attempts": task.attempts,
                "accessor_id": task.proof.accessor_id if task.proof else None,
                "own_service_allowed": task.proof.own_service_allowed if task.proof else None,
                "other_service_refused": task.proof.other_service_refused if task.proof else None,
                "seconds": task.seconds,
            }
            for task in result.tasks
        ],
        "remote_calls": result.remote_calls,
    }


def _row(task: TaskResult, *, whole_ids: bool) -> tuple[str, ...]:
    if task.execution.error is not None:
        token = f"[yellow]{task.execution.error}[/yellow]"
    elif task.token_from is None:
        token = "not in the mesh"
    else:
        token = f"[green]{_TOKEN_FROM[task.token_from]}[/green]"
    proof = ""
    if task.proof is not None:
        own = "own" if task.proof.own_service_allowed else "[red]own refused[/red]"
        proof = f"{own} only" if task.proof.other_service_refused else f"{own}, [red]others[/red]"
    status = task.last_status
    if task.attempts > 1:
        status += f", attempt {task.attempts}"
    return (
        f"{task.task.family} {task.task_id[:8]}",
        task.service_name or _NONE,
        token,
        status,
        task.secret_name or _NONE,
        task.proof.accessor_id[: None if whole_ids else 8] if task.proof else _NONE,
        proof or _NONE,
        f"{task.seconds:.2f}" if task.seconds is not None else _NONE,
    )
