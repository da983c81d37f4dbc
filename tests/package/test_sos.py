"""The plugin for sos, loaded and run by sos itself."""

from __future__ import annotations

import ast
import json
import os
import subprocess
from pathlib import Path

import pytest
from labkit import foreign, pace

PLUGIN = Path(__file__).parents[2] / "debian" / "sos" / "prtrace.py"

pytestmark = [pytest.mark.needs("sos"), pytest.mark.timeout(300)]

PROGRAM = """\
#!/bin/sh
echo "$@" >> "$ASKED"
printf '%s\\n' '{"schema": "prtrace.recording/1", "host": "node1", "ports": []}'
"""
"""Stands where prtrace does: what sos runs, and in which file it ends up, is what is looked at."""


def test_sos_runs_it_and_asks_no_disk(tmp_path: Path) -> None:
    root = foreign.sos()
    plugins = tmp_path / "lib" / "sos" / "report" / "plugins"
    packages = root / "usr/lib/python3/dist-packages"
    (tmp_path / "lib").mkdir()
    subprocess.run(["cp", "-r", packages / "sos", tmp_path / "lib" / "sos"], check=True)
    (plugins / "prtrace.py").write_text(PLUGIN.read_text())
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / "prtrace"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    asked = tmp_path / "asked"
    # sos looks for programs in folders of its own choice.
    begin = 'mount --bind "$1" /usr/local/sbin && shift && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", begin, "sh", programs,
         "/usr/bin/python3", root / "usr/bin/sos", "report", "--batch", "-o", "prtrace",
         "-k", "prtrace.reach=2d", "--tmp-dir", tmp_path, "--build", "--config-file", "/dev/null"],
        env={
            **os.environ,
            "PYTHONPATH": f"{tmp_path / 'lib'}:{packages}",
            "ASKED": str(asked),
        },
        capture_output=True,
        text=True,
        timeout=pace.limit(200),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    commands = asked.read_text().splitlines()
    assert "record --since 2d" in commands
    assert "show --json" in commands
    recordings = list(tmp_path.glob("sosreport-*/sos_commands/prtrace/recording.jsonl"))
    assert len(recordings) == 1, done.stdout
    assert json.loads(recordings[0].read_text())["host"] == "node1"
    assert not list(tmp_path.glob("sosreport-*/sos_commands/scsi"))


def test_it_names_every_command_that_exists() -> None:
    from prtrace.cli.main import COMMANDS

    words = [
        node.value
        for node in ast.walk(ast.parse(PLUGIN.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    named = {word.split()[1] for word in words if word.startswith("prtrace ")}
    assert named
    assert named <= set(COMMANDS)
