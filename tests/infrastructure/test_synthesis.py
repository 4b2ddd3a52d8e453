"""Running the app: the same template everywhere, and errors that a person can read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.synthesized import EVERYTHING, MINIMAL, ROOT, Deployed, context, synthesize


def run_app(tmp_path: Path, settings: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run app.py as the CDK command line does, in an environment with nothing else in it."""
    return subprocess.run(
        [sys.executable, str(ROOT / "app.py")],
        cwd=tmp_path,
        env={
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            # jsii unpacks itself there once; without, it does so each time.
            "HOME": os.environ.get("HOME", str(tmp_path)),
            "CDK_OUTDIR": str(tmp_path / "cdk.out"),
            "CDK_CONTEXT_JSON": json.dumps({**context(), "settings": str(settings)}),
            **variables,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("settings", [MINIMAL, EVERYTHING])
def test_synthesizing_twice_gives_the_same_template(
    minimal: Deployed, everything: Deployed, tmp_path: Path, settings: str
) -> None:
    before = {MINIMAL: minimal, EVERYTHING: everything}[settings].synthesized.template

    assert synthesize(settings, tmp_path).template == before


def test_another_process_without_an_account_or_a_network_gives_the_same_template(
    minimal: Deployed, tmp_path: Path
) -> None:
    (tmp_path / "mesh.yaml").write_text(MINIMAL)

    ran = run_app(
        tmp_path,
        tmp_path / "mesh.yaml",
        AWS_CONFIG_FILE=os.devnull,
        AWS_SHARED_CREDENTIALS_FILE=os.devnull,
        TZ="Pacific/Kiritimati",
        PYTHONHASHSEED="1",
        AWS_EC2_METADATA_DISABLED="true",
        HTTP_PROXY="http://127.0.0.1:9",
        HTTPS_PROXY="http://127.0.0.1:9",
    )

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    (file,) = (tmp_path / "cdk.out").glob("ConsulOnEcs-*.template.json")
    assert json.loads(file.read_text()) == minimal.synthesized.template


def test_a_wrong_settings_file_ends_with_a_message_and_no_traceback(tmp_path: Path) -> None:
    settings = tmp_path / "other.yaml"
    settings.write_text(MINIMAL.replace("consul.internal:8500", "consul.internal:8500/ui"))

    ran = run_app(tmp_path, settings)

    assert (ran.returncode, ran.stdout) == (1, "")
    assert "Traceback" not in ran.stderr
    assert str(settings) in ran.stderr
    assert "consul.http_address" in ran.stderr
    assert not list(tmp_path.glob("cdk.out/*.template.json"))
