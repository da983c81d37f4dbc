"""One agent for each state directory."""

import os
import signal
import subprocess
import sys

import pytest
from labkit import pace

from prtrace.errors import StoreError
from prtrace.store.lock import StateDirLock

_HOLDER = """
import sys
from pathlib import Path
from prtrace.store.lock import StateDirLock

with StateDirLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(tmp_path / "state")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))},
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_agent_is_refused_and_the_first_one_named(holder, tmp_path):
    with pytest.raises(StoreError, match=f"another agent, process {holder.pid}$"):
        StateDirLock(tmp_path / "state")


def test_a_killed_agent_holds_nothing(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait(pace.limit(10))
    with StateDirLock(tmp_path / "state"):
        text = (tmp_path / "state" / "agent.lock").read_text()
    assert text == f"{os.getpid()}\n"


def test_the_directory_is_made_private(tmp_path):
    with StateDirLock(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


def test_it_can_be_taken_again(tmp_path):
    StateDirLock(tmp_path).close()
    with StateDirLock(tmp_path) as lock:
        lock.close()
        StateDirLock(tmp_path).close()


def test_a_lock_that_is_a_link_is_refused(tmp_path):
    """By a link, the agent would truncate another file."""
    kept = tmp_path / "kept"
    kept.write_text("kept")
    (tmp_path / "agent.lock").symlink_to(kept)
    with pytest.raises(StoreError, match="cannot be used: Too many levels"):
        StateDirLock(tmp_path)
    assert kept.read_text() == "kept"


def test_a_file_is_no_state_directory(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError, match="is not a directory"):
            StateDirLock(path)
