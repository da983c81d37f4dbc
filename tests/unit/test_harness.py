"""The tests' own ground: a program is over when its last process is; a wait ends, and says why."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from labkit.failure import LabError
from labkit.processes import Program, fork
from labkit.tally import total
from labkit.waiting import await_that

FORKS = """
import os, sys, time
here, left, seconds = sys.argv[1:]
reading, writing = os.pipe()
if not os.fork():
    os.close(writing)
    open(here, "w").close()
    os.read(reading, 1)
    time.sleep(float(seconds))
    os.unlink(here)
    os._exit(0)
os.close(reading)
if left == "leaves":
    sys.exit(3)
time.sleep(600)
"""
"""It starts a process that removes a file a while after the first has gone."""


def started(tmp_path: Path, left: str, seconds: float) -> tuple[Program, Path]:
    here = tmp_path / "here"
    program = Program.start([sys.executable, "-c", FORKS, str(here), left, str(seconds)])
    await_that("it has forked", here.exists)
    return program, here


@pytest.mark.parametrize(("left", "status"), [("stays", -signal.SIGKILL), ("leaves", 3)])
def test_a_program_is_over_when_its_last_process_is(
    tmp_path: Path, left: str, status: int
) -> None:
    program, here = started(tmp_path, left, 0.5)
    if left == "leaves":
        program.process.wait()
    assert program.end() == status
    assert not here.exists()
    program.await_over()


def test_what_outlives_its_program_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("labkit.pace.limit", lambda seconds: seconds)
    program, here = started(tmp_path, "stays", 3600)
    program.process.send_signal(signal.SIGKILL)
    program.process.wait()
    with pytest.raises(LabError, match=r"(?s)process \d+ outlives .*here stays") as told:
        program.await_over(seconds=0.2)
    os.kill(int(str(told.value).split()[1]), signal.SIGKILL)
    program.await_over()
    assert here.exists()


def test_a_wait_ends_and_says_what_for(monkeypatch) -> None:
    monkeypatch.setattr("labkit.pace.limit", lambda seconds: 2 * seconds)
    begun = time.monotonic()
    with pytest.raises(LabError, match=r"(?s)the sun: not within .*it is night"):
        await_that("the sun", lambda: False, 0.2, told=lambda: "it is night")
    assert time.monotonic() - begun > 0.4


@pytest.mark.parametrize(
    ("work", "status"), [(lambda: 5, 5), (lambda: None, 0), (lambda: "words", 0), (sys.exit, 99)]
)
def test_a_fork_ends_with_its_work(work: Callable[[], object], status: int) -> None:
    assert os.waitstatus_to_exitcode(os.waitpid(fork(work), 0)[1]) == status


CONFTEST = """
from pathlib import Path
from labkit.tally import Tally
from labkit.verified import Verified

def pytest_configure(config):
    config.addinivalue_line("markers", "slow: ")
    config.pluginmanager.register(Verified(Path("verified.md")))
    config.pluginmanager.register(Tally(Path("tally")))
"""
SLOW = """
import pytest
pytestmark = pytest.mark.slow

def test_good(): pass
def test_bad(): assert not "good"
@pytest.fixture
def torn_down():
    yield
    raise ValueError
def test_left_behind(torn_down): pass
def test_skipped(): pytest.skip("no such machine")
def test_interrupted(): raise KeyboardInterrupt
def test_never_begun(): pass
"""


def test_only_what_passed_to_its_end_is_verified(tmp_path: Path) -> None:
    """A setup that passed says nothing of the test that was interrupted behind it.

    How many passed is the sum of the runs' lines, of which one is here before.
    """
    (tmp_path / "tally").write_text("passed 2 failed 3 skipped 1\n")
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_slow.py").write_text(SLOW)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir=.", "."],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == pytest.ExitCode.INTERRUPTED, run.stdout + run.stderr
    assert total(tmp_path / "tally") == "4 passed, 5 failed, 2 skipped"
    verified = (tmp_path / "verified.md").read_text()
    assert re.findall(r"test_slow.py::(\w+)", verified) == ["test_good"], verified
