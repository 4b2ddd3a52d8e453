"""The file that every Lambda function runs: `handlers/` and what it imports, in one zip.

Built from wheels with pinned hashes, and reproducible: the same sources give the same bytes on any
machine, so that a deployment without a change changes nothing. The laptop runs the same file.

`python -m infrastructure.lambda_asset`, which `make setup` runs, builds it. Only the first build
needs the network, for the wheels.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HANDLERS = ROOT / "handlers"
REQUIREMENTS = HANDLERS / "requirements.txt"
BUILD = ROOT / ".build"

# The oldest Python that the code runs on. All wheels are pure Python, so one set serves arm64 and
# x86_64, Lambda and laptop; charset_normalizer has a pure wheel besides its compiled ones.
_PYTHON_VERSION = "3.11"
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)
_READABLE_FILE = 0o100644 << 16


class AssetError(Exception):
    """The asset cannot be built; the message says why."""


def lambda_asset() -> Path:
    """Return the path of the zip, building it if its sources have changed.

    Raises:
        AssetError: if the wheels cannot be downloaded, or are not what the pinned hashes say.

    """
    requirements = REQUIREMENTS.read_bytes()
    builder = Path(__file__).read_bytes()
    wheels = BUILD / f"wheels-{_digest([requirements])}"
    files = dict(_sources())
    asset = BUILD / f"lambda-{_digest([builder, requirements, *_flattened(files)])}.zip"
    if not asset.exists():
        if not wheels.exists():
            _download(wheels)
        for wheel in sorted(wheels.glob("*.whl")):
            files |= _wheel_files(wheel)
        _write(asset, files)
    return asset


def _sources() -> Iterator[tuple[str, bytes]]:
    for path in sorted(HANDLERS.rglob("*.py")):
        yield path.relative_to(ROOT).as_posix(), path.read_bytes()


def _wheel_files(wheel: Path) -> dict[str, bytes]:
    # With its metadata: the licences, and what Amazon Inspector finds vulnerable versions by.
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def _flattened(files: dict[str, bytes]) -> Iterator[bytes]:
    for name, content in files.items():
        yield name.encode()
        yield content


def _digest(parts: list[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()[:16]


def _download(directory: Path) -> None:
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as temporary:
        command = [
            *(sys.executable, "-m", "pip", "download", "--quiet"),
            *("--disable-pip-version-check", "--no-deps", "--only-binary=:all:"),
            *("--platform", "any", "--implementation", "py", "--abi", "none"),
            *("--python-version", _PYTHON_VERSION),
            *("--require-hashes", "--requirement", str(REQUIREMENTS), "--dest", temporary),
        ]
        pip = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if pip.returncode != 0:
            message = (
                f"The wheels of {REQUIREMENTS.relative_to(ROOT)} could not be downloaded. Only the "
                "first build needs a package index: run `make setup` where one is. pip said:\n"
                f"{pip.stderr.strip()}"
            )
            raise AssetError(message)
        try:
            Path(temporary).rename(directory)
        except OSError:
            if not directory.exists():
                raise
            # Another process was faster, with the same wheels.
        else:
            Path(temporary).mkdir()  # for TemporaryDirectory to remove


def _write(asset: Path, files: dict[str, bytes]) -> None:
    BUILD.mkdir(exist_ok=True)
    # Another process may build the same file: whoever renames last wins, with the same bytes.
    handle, temporary = tempfile.mkstemp(dir=BUILD, suffix=".zip")
    with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w") as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, date_time=_ZIP_EPOCH)
            info.external_attr = _READABLE_FILE
            info.create_system = 3  # Unix, wherever it is built
            # Stored, for what deflate makes of it differs between versions of zlib.
            archive.writestr(info, files[name], zipfile.ZIP_STORED)
    Path(temporary).chmod(0o644)
    Path(temporary).replace(asset)


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{lambda_asset()}\n")
    except AssetError as error:
        sys.exit(str(error))
