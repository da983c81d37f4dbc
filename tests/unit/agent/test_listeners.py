"""The agent's listening sockets: everybody's, and root's own where there can be one."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from prtrace.agent.options import AgentOptions
from prtrace.agent.service import listeners
from prtrace.linux.unixsocket import Listener


@pytest.fixture
def options(tmp_path: Path) -> AgentOptions:
    return AgentOptions(socket=tmp_path / "run" / "x", socket_mode=0o666)


def test_root_has_a_socket_of_its_own(options: AgentOptions) -> None:
    both = listeners(options)
    assert [each.path.name for each in both] == ["x", "x.root"]
    assert [stat.S_IMODE(each.path.stat().st_mode) for each in both] == [0o666, 0o600]
    for each in both:
        each.close()
    assert not [*options.socket.parent.iterdir()]


def test_an_agent_of_before_that_hangs_keeps_root_from_no_successor(
    options: AgentOptions,
) -> None:
    """Its process cannot end while a thread waits for a device, and its socket listens still.

    Everybody's is the service manager's then, which hands it to the successor.
    """
    before = Listener.bind(options.socket.with_name("x.root"))
    both = listeners(options)
    assert [each.path.name for each in both] == ["x", "x.root"]
    before.close()
    assert both[1].path.exists()
    for each in both:
        each.close()


@pytest.mark.parametrize("taken", ["a file", "a folder"])
def test_what_is_no_socket_is_left_there_and_root_comes_in_with_others(
    options: AgentOptions, caplog: pytest.LogCaptureFixture, taken: str
) -> None:
    door = options.socket.with_name("x.root")
    door.parent.mkdir()
    if taken == "a file":
        door.write_text("somebody's")
    else:
        door.mkdir()
    (everybodys,) = listeners(options)
    assert "root is let in where everybody is" in caplog.text
    assert door.exists()
    everybodys.close()


def test_a_path_that_has_no_room_for_more_is_everybodys_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = "x" * (107 - len(str(tmp_path)) - 1)
    (everybodys,) = listeners(AgentOptions(socket=tmp_path / name))
    assert "root is let in where everybody is" in caplog.text
    everybodys.close()
