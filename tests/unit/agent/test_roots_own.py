"""Root's own socket beside everybody's, where there can be one."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from prtrace.agent.service import roots_own
from prtrace.linux.unixsocket import Listener


@pytest.fixture
def door(tmp_path: Path) -> Path:
    return tmp_path / "x.root"


def test_it_is_roots_alone(door: Path) -> None:
    (made,) = roots_own(door.with_name("x"))
    assert made.path == door
    assert stat.S_IMODE(door.stat().st_mode) == 0o600
    made.close()
    assert not [*door.parent.iterdir()]


def test_an_agent_of_before_that_hangs_keeps_root_from_no_successor(door: Path) -> None:
    """Its process cannot end while a thread waits for a device, and its socket listens still.

    Everybody's is the service manager's then, which hands it to the successor.
    """
    before = Listener.bind(door)
    (made,) = roots_own(door.with_name("x"))
    before.close()
    assert door.exists()
    made.close()


@pytest.mark.parametrize("taken", ["a file", "a folder"])
def test_what_is_no_socket_is_left_there(
    door: Path, caplog: pytest.LogCaptureFixture, taken: str
) -> None:
    if taken == "a file":
        door.write_text("somebody's")
    else:
        door.mkdir()
    assert not roots_own(door.with_name("x"))
    assert "root is let in where everybody is" in caplog.text
    assert door.exists()


def test_a_path_can_have_no_room_for_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    everybodys = tmp_path / ("x" * (107 - len(str(tmp_path)) - 1))
    Listener.bind(everybodys).close()
    assert not roots_own(everybodys)
    assert "root is let in where everybody is" in caplog.text
