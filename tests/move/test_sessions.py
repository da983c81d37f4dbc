"""Two sessions of one initiator at one target port, which LIO takes for one another."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from labkit import pace
from labkit.failure import LabError
from labkit.iscsi import iscsiadm
from labkit.lio import IQN
from labkit.sysfs import Disk, addresses, disk
from labkit.waiting import await_that

from move.bed import PEER, THIRD, WRITE_10, Bed, K
from prtrace.linux.sgio import SgDevice
from prtrace.model import Action, Outcome, ReservationType
from prtrace.move.word import Word
from prtrace.scsi.cdb import PrOutCdb
from prtrace.scsi.parameter import BasicList

SESSIONS = Path("/sys/class/iscsi_session")
WERO = ReservationType.WERO

pytestmark = pytest.mark.machine(nexuses=5, transport="iscsi")


def numbers(port: str) -> set[str]:
    """Of the sessions of this initiator port's name."""
    name = port.partition(",")[0]
    return {
        entry.name.removeprefix("session")
        for entry in SESSIONS.iterdir()
        if (entry / "initiatorname").read_text().strip() == name
    }


def disk_of(session: str, lu: str) -> Disk | None:
    """The session's disk that is the unit; None where it is not there yet."""
    host = (SESSIONS / f"session{session}/device").resolve().parent.name.removeprefix("host")
    there = (disk(hctl) for hctl in addresses() if hctl.startswith(f"{host}:"))
    return next((each for each in there if each is not None and each.lu == lu), None)


@pytest.fixture
def bed() -> Bed:
    bed = Bed()
    bed.reset()
    return bed


@pytest.fixture
def other(bed: Bed) -> Iterator[Disk]:
    """The unit by another session of the first nexus's initiator."""
    (first,) = before = numbers(bed.paths[0].initiator)
    interface = (SESSIONS / f"session{first}/ifacename").read_text().strip()
    # The record of the interface that was logged in last has replaced this one's.
    iscsiadm("-m", "node", "-T", IQN, "-p", "127.0.0.1", "-I", interface, "-o", "new")
    iscsiadm("-m", "session", "-r", first, "-o", "new")
    (session,) = numbers(bed.paths[0].initiator) - before
    lu = bed.unit.lu
    await_that("the disk is there", lambda: disk_of(session, lu) is not None, pace.limit(60))
    found = disk_of(session, lu)
    assert found is not None
    yield found
    iscsiadm("-m", "session", "-r", session, "-u")


def answer(node: SgDevice, cdb: bytes, out: bytes) -> Outcome:
    """What became of a command, behind the unit attentions."""
    for _ in range(8):
        reply = node.send(cdb, out)
        if not reply.attention:
            break
    return reply.outcome


def test_another_session_of_the_source_s_initiator_is_no_destination(
    bed: Bed, other: Disk
) -> None:
    bed.guest((0,), None, peer=True)
    assert bed.send(THIRD, Action.RESERVE, PEER, 0, WERO) is Outcome.DONE
    file = bed.save(bed.paths[0].block)
    generation = bed.lio().generation
    for verb in (bed.moves().prepare, bed.moves().load):
        (unit,) = verb(file, bed.to(other.block)).units
        assert (unit.word, unit.sent) == (Word.REFUSED, ())
        assert "another session of the same initiator" in unit.why
    assert bed.lio().generation == generation
    # Another initiator's nexus is one.
    assert bed.moves().prepare(file, bed.to(bed.paths[2].block)).good


def test_lio_lets_a_fenced_session_in_when_another_one_registers(bed: Bed, other: Disk) -> None:
    """Why it is none: what LIO does, as seen here."""
    register = PrOutCdb(Action.REGISTER).build()
    bed.guest((0,), None, peer=True)
    assert bed.send(THIRD, Action.RESERVE, PEER, 0, WERO) is Outcome.DONE
    assert bed.write(0).outcome is Outcome.DONE
    assert bed.send(THIRD, Action.PREEMPT, PEER, K, WERO) is Outcome.DONE
    assert bed.write(0).outcome is Outcome.CONFLICT
    with SgDevice(other.block) as node:
        assert answer(node, WRITE_10, bytes(512)) is Outcome.CONFLICT
        assert answer(node, register, BasicList(0, K).build()) is Outcome.DONE
        assert bed.write(0).outcome is Outcome.DONE, "it was fenced, and nobody registered it"
        assert bed.send(0, Action.REGISTER, 0, K) is Outcome.DONE
        assert answer(node, register, BasicList(K, 0).build()) is Outcome.DONE
        assert K in bed.lio().keys().values()
        assert bed.write(0).outcome is Outcome.CONFLICT, "it is registered"


def test_a_login_that_does_not_end_says_who_waits(bed: Bed) -> None:
    """The lab's own: of one that hung in a walk nothing was left but its time."""
    (first,) = before = numbers(bed.paths[0].initiator)
    found = subprocess.run(["pgrep", "-x", "iscsid"], capture_output=True, text=True, check=True)
    daemons = [int(pid) for pid in found.stdout.split()]
    for pid in daemons:
        os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(LabError, match="does not end") as failed:
            iscsiadm("-m", "session", "-r", first, "-o", "new", seconds=1)
    finally:
        for pid in daemons:
            os.kill(pid, signal.SIGCONT)
    told = failed.value.message
    for said in ("(iscsid) T ", "(iscsi_np) ", "(iscsiadm) ", "iscsi_login_stats/accepts: ",
                 f"session{first}/state: LOGGED_IN"):  # fmt: skip
        assert said in told, f"{said} is not in {told}"
    # iscsid has the request, whoever asked.
    await_that("it logs in", lambda: len(numbers(bed.paths[0].initiator)) == 2)
    (session,) = numbers(bed.paths[0].initiator) - before
    await_that("its disk is there", lambda: disk_of(session, bed.unit.lu) is not None)
    iscsiadm("-m", "session", "-r", session, "-u")
