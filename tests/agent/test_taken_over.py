"""What the process that parses may do, when its code is somebody else's (tests/agent/taken_over).

And what the agent's other processes are to the kernel: docs/security.md has the same table.
"""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from lab.agent import STATE_DIR, Agent
from lab.load import fresh
from labkit import pace
from labkit.oracle import OracleState
from labkit.target import Unit
from labkit.waiting import await_that

from prtrace.agent import helper, keeper, mover
from prtrace.api.address import roots_door
from prtrace.linux.capabilities import Capability

KERNELS = ("6.1", pytest.param("7", marks=pytest.mark.slow))
pytestmark = [pytest.mark.machine(kernels=KERNELS, nexuses=2), pytest.mark.timeout(240)]

REFUSED = {"EACCES", "EPERM", "ENOSYS"}


class TakenOver(Agent):
    program = (str(Path(__file__).with_name("taken_over.py")),)


@pytest.fixture
def unit_of_agent(unit: Unit) -> Iterator[Unit]:
    fresh()
    socket = str(STATE_DIR / "io.prtrace")
    os.environ |= {"DISK": unit.paths[0].block, "SG": unit.paths[0].sg, "AGENT_SOCKET": socket}
    Path("/tmp/of-somebody").write_text("for anybody to read")
    yield unit
    Path("/tmp/of-somebody").unlink()


def test_nothing_is_got(unit_of_agent: Unit, lio: Callable[[], OracleState]) -> None:
    before = lio()
    # So that the agent, too, may connect to its socket.
    with TakenOver("--socket-mode", "0666") as agent:
        told = agent.status()["status"]["attempts"]
        print(told)
        assert len(told) > 40
        others = {name: what for name, what in told.items() if what not in REFUSED}
        assert others == {
            "have PR OUT sent": "refused: the helper does not send 5f060000000000001800",
            "have another device opened": "refused: 1:3 is no SCSI device here",
            "move as a reader": others["move as a reader"],
            "move as itself": others["move as itself"],
            "move by a connecting end": others["move by a connecting end"],
            "end root's processes": "got 'nothing'",
        }
        assert "may not call io.prtrace.Finish" in others["move as a reader"]
        for name in ("move as itself", "move by a connecting end"):
            assert others[name] in ("ECONNRESET", "EPIPE")
        # It goes on: what it was there for is still done.
        node = unit_of_agent.paths[0].block
        subprocess.run(
            ["sg_persist", "--out", "--register", "--param-sark=5e", node], check=True, timeout=60
        )
        (shown,) = agent.show(node)
        assert [each["key"] for each in shown["registrations"]] == ["0x000000000000005e"]
        subprocess.run(
            ["sg_persist", "--out", "--register", "--param-rk=5e", node], check=True, timeout=60
        )
    assert lio().registrations == before.registrations


class OtherParsers(Agent):
    program = (str(Path(__file__).with_name("parser_taken_over.py")),)


@pytest.mark.parametrize("what", ["tries", "lies", "hangs"])
def test_who_parses_for_the_mover_gets_nothing(
    unit_of_agent: Unit, lio: Callable[[], OracleState], what: str
) -> None:
    """And a move of which it parses the replies has touched nothing, and is not done."""
    source, there = unit_of_agent.paths[:2]
    register = ["sg_persist", "--out", "--register", "--param-sark=5e", source.block]
    subprocess.run(register, check=True, timeout=60)
    before = lio()
    os.environ["PARSER"] = what
    try:
        with OtherParsers() as agent:
            agent.settled()
            file = agent.call("Save", devices=[source.block])["file"]
            given = {"file": file, "devices": {file["units"][0]["lu"]: there.block}}
            *_, last = agent.client().stream("Prepare", **given)
    finally:
        del os.environ["PARSER"]
    (told,) = last["report"]["units"]
    print(told)
    assert not last["report"]["may_run"]
    assert told["writes"] == 0
    if what != "lies":
        assert told["result"] == "in doubt"
        said = {"tries": "got: nothing by 21 attempts", "hangs": "has not answered within"}[what]
        assert said in told["why"]
    assert lio() == before
    subprocess.run(
        ["sg_persist", "--out", "--register", "--param-rk=5e", source.block],
        check=True,
        timeout=60,
    )


def status_of(pid: int) -> dict[str, str]:
    told = Path(f"/proc/{pid}/status").read_text()
    return dict(re.findall(r"^(\w+):\s*(.*)$", told, re.MULTILINE))


def children_of(pid: int) -> list[int]:
    """In the order in which they were started; other processes come and go meanwhile."""
    return sorted(child.pid for child in psutil.Process(pid).children())


def held(kept: tuple[Capability, ...]) -> int:
    return sum(1 << each for each in kept)


def test_each_process_has_what_the_table_says(unit_of_agent: Unit) -> None:
    with Agent() as agent:
        agent.settled()
        assert agent.process is not None
        parent = agent.process.pid
        children = children_of(parent)
        found = {pid: status_of(pid) for pid in (parent, *children)}
        rights = {int(each["CapEff"], 16) for each in found.values()}
        assert rights == {0, held(keeper.KEPT), held(helper.KEPT)}
        assert held(helper.KEPT) == held(mover.KEPT)
        assert len(children) == 4
        # What forks parsers is the first.
        unprivileged = (parent, children[0])
        for pid, each in found.items():
            assert each["NoNewPrivs"] == "1"
            assert int(each["CapPrm"], 16) == int(each["CapEff"], 16)
            assert (each["Uid"].split()[0] == "0") == (pid not in unprivileged)
        assert int(found[children[0]]["CapEff"], 16) == 0
        assert found[parent]["Seccomp"] == "2"
        agent.kill()
    # The kernel closes their sockets with the agent; that is what they end by.
    await_that(
        "they are over", lambda: not any(Path(f"/proc/{pid}/fd/0").exists() for pid in children)
    )


def test_root_has_a_socket_of_its_own(unit_of_agent: Unit) -> None:
    with Agent() as agent:
        agent.settled()
        door = Path(roots_door(str(agent.socket)))
        told = door.stat()
        assert (stat.S_IMODE(told.st_mode), told.st_uid) == (0o600, 0)
        elsewhere = agent.socket.rename(agent.socket.with_name("elsewhere"))
        assert agent.call("Status")["status"]["units"] == 1
        elsewhere.rename(agent.socket)
        agent.kill(signal.SIGTERM)
        assert not door.exists()
        assert not agent.socket.exists()


@pytest.mark.parametrize("which", range(4))
def test_without_one_of_them_the_agent_ends_and_says_so(unit_of_agent: Unit, which: int) -> None:
    with Agent() as agent:
        assert agent.process is not None
        parent = agent.process.pid
        children = children_of(parent)
        os.kill(children[which], signal.SIGKILL)
        assert agent.process.wait(pace.limit(20)) == 1
        assert (
            f"the agent's {('parser', 'keeper', 'helper', 'mover')[which]} has ended" in agent.log
        )
