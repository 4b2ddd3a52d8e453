"""The zip that all functions run: what is in it, and that it is the same wherever it is built."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from infrastructure import lambda_asset as module
from infrastructure.lambda_asset import AssetError, lambda_asset

PACKAGES = {"certifi", "charset_normalizer", "idna", "requests", "urllib3"}
PACKAGES |= {"pyasn1", "pyasn1_modules"}


@pytest.fixture(scope="session")
def wheels() -> Path:
    """The downloaded wheels; the first build on a machine downloads them."""
    lambda_asset()
    directory = module.BUILD / f"wheels-{module._digest([module.REQUIREMENTS.read_bytes()])}"
    if not directory.exists():  # the asset was there, but its wheels have been cleaned up
        module._download(directory)
    return directory


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the handlers, built into an empty directory; there is no package index."""
    root = tmp_path / "root"
    shutil.copytree(
        module.HANDLERS, root / "handlers", ignore=shutil.ignore_patterns("__pycache__")
    )
    monkeypatch.setattr(module, "ROOT", root)
    monkeypatch.setattr(module, "HANDLERS", root / "handlers")
    monkeypatch.setattr(module, "REQUIREMENTS", root / "handlers" / "requirements.txt")
    monkeypatch.setattr(module, "BUILD", root / ".build")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    return root / "handlers"


@pytest.fixture
def downloaded(sources: Path, wheels: Path) -> Path:
    """The same, after an earlier build has downloaded the wheels."""
    shutil.copytree(wheels, sources.parent / ".build" / wheels.name)
    return sources


@pytest.fixture
def downloadable(sources: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, before any build, with a folder in the place of the package index."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return sources


def contents(asset: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(asset) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


# --------------------------------------------------------------------------------------------------
# What is in it
# --------------------------------------------------------------------------------------------------


def test_it_holds_the_handlers_and_the_packages_that_they_need_and_nothing_else() -> None:
    names = set(contents(lambda_asset()))

    own = {name for name in names if name.startswith("handlers/")}
    assert own == {
        path.relative_to(module.ROOT).as_posix() for path in module.HANDLERS.rglob("*.py")
    }
    installed = {name.split("/")[0] for name in names - own if ".dist-info/" not in name}
    assert installed == PACKAGES
    metadata = {name.split("-")[0] for name in names if name.endswith(".dist-info/METADATA")}
    assert metadata == PACKAGES


def test_it_is_pure_python_and_runs_on_any_processor() -> None:
    suffixes = {Path(name).suffix for name in contents(lambda_asset())}

    assert not suffixes & {".so", ".pyd", ".dylib", ".pyc", ".a"}


def test_every_package_brings_its_licence() -> None:
    licensed = {
        name.split("-")[0]
        for name in contents(lambda_asset())
        if ".dist-info/" in name and "licen" in name.lower()
    }

    assert licensed == PACKAGES


@pytest.mark.usefixtures("downloaded")
def test_every_file_can_be_read_by_lambda_and_by_the_tools_that_upload_it() -> None:
    asset = lambda_asset()

    assert asset.stat().st_mode & 0o444 == 0o444
    with zipfile.ZipFile(asset) as archive:
        assert {info.external_attr >> 16 for info in archive.infolist()} == {0o100644}


def test_the_handlers_start_from_it_alone() -> None:
    # -I: nothing from the environment or the working directory; -S: no site-packages.
    program = (
        f"import sys; sys.path.insert(0, {str(lambda_asset())!r}); import requests, handlers; "
    )
    program += "from handlers.core import errors; print(requests.__file__, errors.__file__)"

    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True
    )

    assert all(file.startswith(str(lambda_asset())) for file in ran.stdout.split())


# --------------------------------------------------------------------------------------------------
# How it is built
# --------------------------------------------------------------------------------------------------


def test_it_has_the_same_name_and_bytes_wherever_it_is_built(
    downloadable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = lambda_asset()
    monkeypatch.setattr(module, "BUILD", downloadable.parent / "elsewhere")
    second = lambda_asset()

    assert first != second
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()
    # Builds that are further apart than these two: nothing of the time is in it.
    with zipfile.ZipFile(first) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.namelist() == sorted(archive.namelist())


def test_neither_times_nor_caches_nor_other_files_change_it(downloaded: Path) -> None:
    before = lambda_asset()
    content = before.read_bytes()
    before.unlink()

    (downloaded / "__pycache__").mkdir()
    (downloaded / "__pycache__" / "x.pyc").write_bytes(b"x")
    (downloaded / ".DS_Store").write_bytes(b"x")
    for path in downloaded.rglob("*.py"):
        path.touch()
    after = lambda_asset()

    assert (after, after.read_bytes()) == (before, content)


@pytest.mark.parametrize("change", ["edit", "add", "rename", "remove"])
def test_another_source_gives_another_file(downloaded: Path, change: str) -> None:
    before = lambda_asset()

    handler = downloaded / "check_tags.py"
    if change == "edit":
        handler.write_text(handler.read_text() + "\n")
    elif change == "add":
        (downloaded / "more.py").write_text("")
    elif change == "rename":
        handler.rename(downloaded / "check_tag.py")
    else:
        handler.unlink()

    assert lambda_asset().name != before.name
    assert before.exists()


def test_other_pins_are_downloaded_anew(downloadable: Path) -> None:
    before = lambda_asset()

    pins = downloadable / "requirements.txt"
    pins.write_text(f"{pins.read_text()}# changed\n")

    assert lambda_asset().name != before.name
    assert len(list(before.parent.glob("wheels-*"))) == 2


@pytest.mark.usefixtures("downloaded")
def test_once_built_it_is_not_built_again() -> None:
    first = lambda_asset()
    stamp = first.stat().st_mtime_ns
    shutil.rmtree(next(first.parent.glob("wheels-*")))

    assert lambda_asset() == first
    assert first.stat().st_mtime_ns == stamp


def test_a_change_in_a_handler_needs_no_package_index(downloaded: Path) -> None:
    lambda_asset()
    (downloaded / "check_tags.py").write_text("")

    assert contents(lambda_asset())["handlers/check_tags.py"] == b""


def test_nothing_half_built_is_left_behind(downloadable: Path) -> None:
    asset = lambda_asset()

    left = sorted(path.name for path in (downloadable.parent / ".build").iterdir())
    digest = module._digest([module.REQUIREMENTS.read_bytes()])
    assert left == sorted([asset.name, f"wheels-{digest}"])


def test_two_processes_may_download_at_the_same_time(downloadable: Path, wheels: Path) -> None:
    # The other one is done first.
    directory = downloadable.parent / ".build" / wheels.name
    shutil.copytree(wheels, directory)

    module._download(directory)

    assert {path.name for path in directory.iterdir()} == {path.name for path in wheels.iterdir()}
    assert [path.name for path in directory.parent.iterdir()] == [wheels.name]


# --------------------------------------------------------------------------------------------------
# What can go wrong
# --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("sources")
def test_without_a_package_index_the_first_build_says_that_it_needs_one() -> None:
    with pytest.raises(AssetError) as caught:
        lambda_asset()

    message = str(caught.value)
    assert message.startswith("The wheels of handlers/requirements.txt could not be downloaded. ")
    assert "needs a package index" in message
    assert "certifi==" in message.partition("pip said:\n")[2]
    assert not list(module.BUILD.iterdir()), "a failed build leaves nothing to take for a good one"


def pinned(pins: Path, package: str) -> str:
    """Return a package as it is pinned, without its hashes."""
    (line,) = (line for line in pins.read_text().splitlines() if line.startswith(f"{package}=="))
    return line.rstrip("\\ ")


def test_a_wheel_that_is_not_the_pinned_one_is_refused(downloadable: Path) -> None:
    pins = downloadable / "requirements.txt"
    pins.write_text(f"{pinned(pins, 'idna')} --hash=sha256:{'0' * 64}\n")

    with pytest.raises(AssetError, match="THESE PACKAGES DO NOT MATCH THE HASHES"):
        lambda_asset()

    assert not list(module.BUILD.iterdir())


def test_a_package_without_a_hash_is_refused(downloadable: Path) -> None:
    pins = downloadable / "requirements.txt"
    pins.write_text(f"{pinned(pins, 'idna')}\n")

    with pytest.raises(AssetError, match="Hashes are required in --require-hashes mode"):
        lambda_asset()
