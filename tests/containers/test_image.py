"""The image: that the Dockerfile says what the programs and the task definition rely on.

Docker is not at hand everywhere, so its instructions are followed as far as Python can.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from containers import layout
from tests.containers.task import ROOT

CONTEXT = ROOT / "containers"


def instructions() -> Iterator[tuple[str, str]]:
    """Return the Dockerfile's instructions: name and arguments."""
    text = (CONTEXT / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, arguments = line.partition(" ")
            yield name, " ".join(arguments.split())


def stages() -> list[list[tuple[str, str]]]:
    found: list[list[tuple[str, str]]] = []
    for name, arguments in instructions():
        if name == "FROM":
            found.append([])
        if found:
            found[-1].append((name, arguments))
    return found


def final(name: str) -> list[str]:
    """Return the arguments of all instructions of a name in the stage that becomes the image."""
    return [arguments for found, arguments in stages()[-1] if found == name]


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """What the COPY instructions make of this folder, bytecode included."""
    for copied in [a for name, a in stages()[0] if name == "COPY"]:
        source, target = copied.split()
        files = sorted(CONTEXT.glob(source))
        assert files, f"COPY {copied} finds nothing"
        directory = tmp_path / target.strip("/")
        directory.mkdir(parents=True)
        for file in files:
            shutil.copy(file, directory)
    return tmp_path / "app"


def test_the_base_is_one_version_of_python_in_both_stages() -> None:
    assert [a for name, a in instructions() if name == "ARG"] == [
        "BASE=public.ecr.aws/docker/library/python:3.13.12-alpine3.23"
    ]
    assert [stage[0] for stage in stages()] == [("FROM", "${BASE} AS build"), ("FROM", "${BASE}")]


def test_nothing_but_the_modules_gets_into_the_build() -> None:
    ignored = (CONTEXT / ".dockerignore").read_text().splitlines()

    assert [line for line in ignored if not line.startswith("#")] == ["*", "!*.py"]
    assert final("COPY") == ["--from=build /app /app"]


def test_the_image_runs_as_the_proxy_s_user() -> None:
    assert final("USER") == [f"{layout.ENVOY_UID}:{layout.ENVOY_UID}"]
    assert (layout.ENVOY_UID, layout.HEALTH_SYNC_UID) == (5995, 5996)


def test_the_volume_starts_as_the_proxy_s_alone() -> None:
    names = [name for name, _ in stages()[-1]]
    (run,) = final("RUN")

    assert json.loads(final("VOLUME")[0]) == [layout.BOOTSTRAP_DIR]
    assert run.split(" && ") == [
        f"mkdir -p {layout.BOOTSTRAP_DIR}",
        f"chown {layout.ENVOY_UID}:{layout.ENVOY_UID} {layout.BOOTSTRAP_DIR}",
        f"chmod 0700 {layout.BOOTSTRAP_DIR}",
    ]
    # What is changed after VOLUME is thrown away.
    assert names.index("RUN") < names.index("VOLUME")
    assert "RUN" not in names[names.index("VOLUME") :]


def test_the_shared_binary_comes_first_in_the_path() -> None:
    assert final("ENV")[0].split()[0] == f"PATH={layout.CONSUL_INJECT_DIR}:$PATH"


def test_what_is_copied_runs_as_the_image_would_run_it(app: Path) -> None:
    (build,) = [a for name, a in stages()[0] if name == "RUN"]
    compiles, opens = build.split(" && ")
    assert compiles.startswith("python -m compileall ")
    for line in (compiles.replace("/app", str(app)), opens.replace("/app", str(app))):
        program, *arguments = line.split()
        subprocess.run([sys.executable if program == "python" else program, *arguments], check=True)
    for path in (app, *app.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode & 0o044 == 0o044, path
        assert not mode & 0o022, path

    (entry_point,) = (json.loads(arguments) for arguments in final("ENTRYPOINT"))
    assert entry_point[0] == "python"
    assert final("WORKDIR") == ["/app"]
    for command, status, text in (
        ([], 2, "usage: python -m containers mesh-init | health-sync"),
        (["mesh-init"], 1, "ERROR EnvironmentInvalid: CONSUL_ECS_CONFIG_JSON is not set."),
        (["health-sync"], 1, "ERROR EnvironmentInvalid: CONSUL_ECS_CONFIG_JSON is not set."),
    ):
        done = subprocess.run(
            [sys.executable, *entry_point[1:], *command],
            cwd=app,
            env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status
        assert done.stderr.startswith(text)
        assert done.stdout == ""


@pytest.mark.parametrize("arguments", [[], ["mesh"], ["mesh-init", "-x"], ["health-sync", "web"]])
def test_a_command_that_there_is_not_is_answered_with_the_usage(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "containers", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")


# --- What it costs to start ----------------------------------------------------------------------

SLOW = {
    "argparse", "asyncio", "boto3", "concurrent", "difflib", "importlib.metadata",
    "multiprocessing", "pydantic", "requests", "tempfile", "urllib.request", "urllib3", "uuid",
}  # fmt: skip
# Both need HTTP, and http.client brings TLS along.
ONLY_OF = {"mesh_init": {"subprocess", "shutil"}, "health_sync": set[str]()}


@pytest.mark.parametrize("program", ONLY_OF)
def test_a_program_loads_what_it_needs_and_no_more(program: str) -> None:
    code = f"import containers.{program}, sys; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())

    assert loaded & SLOW == set()
    assert loaded & {"subprocess", "shutil"} == ONLY_OF[program]
    others = {"health_sync": "mesh_init", "mesh_init": "health_sync"}
    assert f"containers.{others[program]}" not in loaded


def test_the_programs_need_the_standard_library_only() -> None:
    imported = set()
    for path in CONTEXT.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).partition(".")[0])
            elif isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}

    assert imported <= set(sys.stdlib_module_names) | {"containers"}


def test_names_of_variables_are_written_in_one_place() -> None:
    names = re.compile(r"\"(CONSUL_[A-Z_]+|ECS_[A-Z_0-9]+)\"")

    assert [
        path.name for path in sorted(CONTEXT.glob("*.py")) if names.search(path.read_text())
    ] == ["layout.py"]
