"""What the agent tells the journal of a path that another one shuts out."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.agent import Agent
from labkit import pace
from labkit.target import Unit

from prtrace.agent.entries import CONFLICT, LOST_REGISTRATION, PR_OUT
from prtrace.linux.journal import SOCKET

WRITE = ["2a", "00", "00", "00", "00", "00", "00", "00", "01", "00"]

pytestmark = [pytest.mark.machine(nexuses=2), pytest.mark.timeout(180)]


@pytest.fixture
def journal() -> Iterator[socket.socket]:
    """What listens where the journal does; this machine has none."""
    Path(SOCKET).parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(SOCKET)
        # As systemd has it: the agent is not root.
        Path(SOCKET).chmod(0o666)
        listening.settimeout(pace.limit(10))
        yield listening
    Path(SOCKET).unlink()
    Path(SOCKET).parent.rmdir()


def sent(*words: str, status: int = 0) -> None:
    """Run a command; it has to end with that status."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, (words, done.stdout, done.stderr)


def entries(journal: socket.socket, last: str, *, of: str) -> list[tuple[str, str]]:
    """(MESSAGE_ID, nexus) of the entries of those kinds, up to the first of kind last."""
    found: list[tuple[str, str]] = []
    said: list[bytes] = []
    while not found or found[-1][0] != last:
        try:
            raw = journal.recv(65536)
        except TimeoutError:
            raise AssertionError(f"no more comes after {said}") from None
        said.append(raw)
        fields = dict(re.findall(rb"([A-Z_]+)\n.{8}([^\n]*)\n", raw, re.DOTALL))
        names = (b"MESSAGE_ID", b"PRTRACE_NEXUS")
        kind, nexus = (fields.get(name, b"").decode() for name in names)
        if kind in of:
            found.append((kind, nexus))
    return found


def test_commands_a_lost_registration_and_the_first_conflict(
    unit: Unit, journal: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:1")
    one, two = unit.paths[0], unit.paths[1]
    kinds = " ".join((PR_OUT, LOST_REGISTRATION, CONFLICT))
    with Agent() as agent:
        agent.settled(pace.limit(10))
        for path, key in ((one, "0xa1"), (two, "0xb1")):
            sent("sg_turs", "-n", "4", path.block)
            sent("sg_persist", "-n", "-o", "-G", "-S", key, path.block)
        sent("sg_persist", "-n", "-o", "-R", "-K", "0xa1", "-T", "5", one.block)
        sent("sg_persist", "-n", "-o", "-P", "-K", "0xb1", "-S", "0xa1", "-T", "5", two.block)
        assert entries(journal, LOST_REGISTRATION, of=kinds) == [
            (PR_OUT, one.hctl),
            (PR_OUT, two.hctl),
            (PR_OUT, one.hctl),
            (PR_OUT, two.hctl),
            (LOST_REGISTRATION, one.hctl),
        ]
        # The preempted path takes its unit attention, then it meets the reservation, twice.
        sent("sg_turs", "-n", "4", one.block)
        for _ in range(2):
            sent("sg_raw", "-s", "512", "-i", "/dev/zero", one.block, *WRITE, status=24)
        sent("sg_persist", "-n", "-o", "-C", "-K", "0xb1", two.block)
        told = entries(journal, CONFLICT, of=kinds)
        told += entries(journal, PR_OUT, of=kinds) if (PR_OUT, two.hctl) not in told else []
        assert sorted(told) == sorted([(CONFLICT, one.hctl), (PR_OUT, two.hctl)])
