"""`python -m local`: the app on this machine."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from local.cdk_cli import CdkError
from local.cloud import PortInUseError
from local.consul.binary import ConsulBinaryError
from local.consul.remote import RemoteConsulError
from local.demo import DEMO_SYNTH_OPTIONS, PAYMENTS, run_demo
from local.deployment import Deployed, deployed_app
from local.example import CLIENT, EXAMPLE, deployed_example, why_no_example
from local.instructions import EXAMPLE_FAMILY, exports, of_greeting, of_services, of_tokens
from local.progress import Progress
from local.report import as_data, print_report
from local.tasks import LocalTasks

app = typer.Typer(
    help="The deployed app on this machine: AWS from moto, Consul real or embedded.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
# A pipe or a file has no width of its own; the tables are to be whole there.
_console = Console(width=None if sys.stdout.isatty() else 160)
_errors = Console(stderr=True)
# What the health checks of mesh tasks have, and how close together they may come.
_CHECK_SECONDS, _SHORTEST_CHECK_SECONDS = 5.0, 0.5
# What a person can do something about; the message says what.
_FORESEEN = (CdkError, ConsulBinaryError, PortInUseError, RemoteConsulError, TimeoutError)


@app.command()
def demo(
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the outcome as JSON, too.")
    ] = None,
) -> None:
    """Deploy the app, start tasks as ECS would, and prove the tokens that they get."""
    progress = Progress(_console)
    with deployed_app(progress, synth_options=DEMO_SYNTH_OPTIONS) as deployment:
        result = run_demo(deployment, progress)
        print_report(_console, deployment.consul, result)
        if json_file is not None:
            json_file.write_text(json.dumps(as_data(deployment.consul, result), indent=2) + "\n")
    problems = result.problems()
    for problem in problems:
        _errors.print(f"[red]✗[/red] {problem}")
    raise typer.Exit(1 if problems else 0)


@app.command()
def up(
    port: Annotated[
        int,
        typer.Option(min=0, max=65535, help="Where AWS listens, on loopback; 0 for any free port."),
    ] = 4566,
    speed: Annotated[
        float,
        typer.Option(
            min=1,
            help="How much faster AWS's clock goes: with 60 a wait of a minute takes a second.",
        ),
    ] = 1,
) -> None:
    """Deploy the example and keep it running, for any AWS client, until Ctrl-C."""
    progress = Progress(_console)
    if reason := why_no_example(speed):
        options = DEMO_SYNTH_OPTIONS
        with deployed_app(progress, port=port, speed=speed, synth_options=options) as deployment:
            service = str(PAYMENTS.service)
            commands = [of_services(deployment, service), of_tokens(deployment, service)]
            _stay(deployment, commands, f"no task of examples/{EXAMPLE}, for {reason}")
    else:
        interval = max(_CHECK_SECONDS / speed, _SHORTEST_CHECK_SECONDS)
        with deployed_example(
            progress, port=port, speed=speed, check_interval=interval
        ) as deployed:
            commands = [
                of_services(deployed, CLIENT),
                of_greeting(deployed),
                of_tokens(deployed, CLIENT),
            ]
            _stay(deployed, commands, f"the task consul-server of examples/{EXAMPLE}")
    typer.echo("Ended.")


def _stay(deployment: Deployed, commands: Sequence[str], which_consul: str) -> None:
    """Say what there is, and wait for Ctrl-C."""
    LocalTasks(deployment).register(EXAMPLE_FAMILY)
    # Plain text: it is there to be copied.
    typer.echo("\n".join(["", exports(deployment), "", *commands, ""]))
    consul = deployment.consul
    typer.echo(f"Consul ({consul.kind}, {which_consul}): {consul.address}")
    typer.echo("Running. Ctrl-C ends it and leaves nothing behind.")
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()


def main() -> None:
    """Run the command line; a person's mistakes end it with a message, not a traceback."""
    # Like Ctrl-C: what was started is ended on the way out, when the terminal is closed, too.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        app()
    except _FORESEEN as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
