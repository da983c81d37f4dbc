"""Whoever may not look into a folder is told so, by every command: not that nothing is there."""

import os
import subprocess
import sys

import pytest
from lab.forking import Forking
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


@pytest.fixture(scope="module")
def forking():
    with Forking(*(LIKE_ANYBODY if os.geteuid() == 0 else ())) as started:
        yield started


def denied(done, status, path=""):
    """The program said of the path that this user may not, and ended with this status."""
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr
    assert "Permission denied" in done.stderr
    assert str(path) in done.stderr
    assert done.returncode == status, done.stderr


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
def test_a_folder_that_this_user_may_not_look_into(prtrace, closed, arguments, status):
    denied(prtrace(*(each.format(closed) for each in arguments)), status, closed)


def test_programs_that_this_user_may_not_see_are_not_denied(closed):
    """/sys/fs/bpf has the mode 0700 on Debian."""
    code = (
        "import sys; from pathlib import Path; from prtrace.probe import pins;"
        "pins.is_there.__defaults__ = (Path(sys.argv.pop()),);"
        "from prtrace.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    before = LIKE_ANYBODY if os.geteuid() == 0 else ()
    done = subprocess.run(
        [*before, sys.executable, "-c", code, "detach", "--yes", closed / "prtrace"],
        capture_output=True,
        text=True,
        timeout=pace.limit(50),
        env=os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))},
        check=False,
    )
    denied(done, 1)
    assert "root" in done.stderr


def test_a_part_of_a_sosreport_that_this_user_may_not_see(prtrace, tmp_path, closed):
    (tmp_path / "sos_commands").mkdir()
    denied(prtrace("explain", "sda", tmp_path), 2, closed)
