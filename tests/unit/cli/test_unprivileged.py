"""Whoever may not look into a folder is told so, by every command: not that nothing is there."""

import os
import subprocess
import sys

import pytest
from labkit import pace

LIKE_ANYBODY = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
"""Of root: without the capabilities by which a folder's mode does not matter."""


@pytest.fixture
def closed(tmp_path):
    """A folder that nobody may look into, and that has a folder and a file."""
    folder = tmp_path / "closed"
    (folder / "prtrace").mkdir(parents=True)
    (folder / "file").write_text("{}")
    folder.chmod(0)
    yield folder
    folder.chmod(0o700)


def run(
    arguments, code="import sys; from prtrace.cli.main import main; sys.exit(main(sys.argv[1:]))"
):
    prefix = LIKE_ANYBODY if os.geteuid() == 0 else ()
    done = subprocess.run(
        [*prefix, sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=pace.limit(50),
        env=os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))},
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr
    assert "Permission denied" in done.stderr
    return done


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["check", "{}/file", "--state-dir", "/tmp"], 1),
        (["moves", "--state-dir", "{}"], 1),
        (["moves", "--state-dir", "{}/prtrace"], 1),
        (["load", "{}/file"], 1),
        (["save", "/dev/sda", "-o", "{}/file"], 1),
        (["replay", "{}/file"], 2),
        (["decode", "{}/file"], 2),
        (["explain", "sda", "{}/file"], 2),
        (["events", "{}/file"], 1),
        (["report", "{}/file", "-o", "{}/../report.html"], 1),
        (["agent", "--state-dir", "{}/prtrace"], 1),
        (["libvirt", "--state-dir", "{}/prtrace", "--run-dir", "{}/prtrace"], 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_folder_that_this_user_may_not_look_into(closed, arguments, status):
    done = run([each.format(closed) for each in arguments])
    assert str(closed) in done.stderr
    assert done.returncode == status, done.stderr


def test_programs_that_this_user_may_not_see_are_not_denied(closed):
    """/sys/fs/bpf has the mode 0700 on Debian."""
    code = (
        "import sys; from pathlib import Path; from prtrace.probe import pins;"
        "pins.is_there.__defaults__ = (Path(sys.argv.pop()),);"
        "from prtrace.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    done = run(["detach", "--yes", closed / "prtrace"], code)
    assert done.returncode == 1
    assert "root" in done.stderr


def test_a_part_of_a_sosreport_that_this_user_may_not_see(tmp_path, closed):
    (tmp_path / "sos_commands").mkdir()
    done = run(["explain", "sda", tmp_path])
    assert done.returncode == 2
    assert str(closed) in done.stderr
