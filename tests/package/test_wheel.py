"""The wheel: what an installation gets, and that it runs without the checkout."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from labkit import pace

TOP = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "-w",
            str(folder),
            str(TOP),
        ],
        check=True,
        timeout=pace.limit(240),
    )
    (wheel,) = folder.glob("prtrace-*-py3-none-linux_*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "prtrace", *arguments],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=site,
        capture_output=True,
        text=True,
        timeout=pace.limit(60),
        check=False,
    )


@pytest.mark.timeout(300)
def test_both_engines_have_what_they_load(unpacked: Path) -> None:
    probe = unpacked / "prtrace/probe"
    assert (probe / f"prtrace.{platform.machine()}.bpf.o").read_bytes().startswith(b"\x7fELF")
    shipped = {path.name: path.read_bytes() for path in (probe / "bpf").iterdir()}
    assert shipped == {path.name: path.read_bytes() for path in (TOP / "bpf").iterdir()}


def test_schemas_and_types_are_shipped(unpacked: Path) -> None:
    assert (unpacked / "prtrace/py.typed").is_file()
    ours = {path.name for path in (TOP / "prtrace/schema").iterdir() if path.is_file()}
    assert {path.name for path in (unpacked / "prtrace/schema").iterdir()} == ours


def test_it_runs_without_the_checkout(unpacked: Path) -> None:
    done = run(unpacked, "decode", "5f000000000000001800")
    assert done.returncode == 0, done.stderr
    assert "REGISTER" in done.stdout
