"""Replies that no record holds whole: learned from the agent's own copy, and from no other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prtrace.agent.longreply import LongReply, completed
from prtrace.model import LocalNexus, ReservationType
from prtrace.scsi.cdb import PrInCdb
from prtrace.scsi.codes import InAction
from prtrace.scsi.reply import FullStatusDescriptor, ReadFullStatus, ReadKeys
from prtrace.scsi.transportid import FcPort
from prtrace.state.event import Command, Event
from prtrace.state.fold import fold
from prtrace.state.unit import Fact, LuState

RECORDED, ROOM = 8192, 65_472
MANY = 1024
LU, NEXUS = "naa.6", "2:0:0:0"
PORTS = [FcPort(0x5000_0000_0000_0000 + n) for n in range(MANY)]
STATUS = ReadFullStatus.of(
    7,
    *(
        FullStatusDescriptor(
            key=0x100 + n,
            relative_target_port=1,
            transport_id=port,
            holder=n == MANY - 1,
            type=ReservationType.WERO if n == MANY - 1 else None,
        )
        for n, port in enumerate(PORTS)
    ),
).build()
KEYS = ReadKeys.of(7, *(0x100 + n for n in range(MANY))).build()


def asked(action: InAction, reply: bytes, at: int) -> tuple[Event, LongReply]:
    """What the record of a command holds, and what its sender got."""
    cdb = PrInCdb(action, ROOM).build()
    event = Event(
        Command.PR_IN,
        record=at,
        time=at,
        start_ns=at,
        done_ns=at + 5,
        lu=LU,
        nexus=NEXUS,
        target="LIO-ORG/x/4.0",
        status="GOOD",
        cdb=cdb,
        data=reply[:RECORDED],
        truncated=len(reply) > RECORDED,
    )
    return event, LongReply(cdb, reply, at - 1, at + 6)


def paths() -> Event:
    mine = LocalNexus(NEXUS, LU, initiator_port=PORTS[-1].text, relative_target_port=1)
    return Event(Command.PATHS, time=1, start_ns=1, done_ns=1, lu=LU, paths=(mine,))


def folded(*events: Event) -> LuState:
    state = None
    for event in events:
        state = fold(state, event).state
    assert state is not None
    return state


def test_a_thousand_registrations_are_learned() -> None:
    told = [paths()]
    for at, (action, reply) in enumerate(
        [(InAction.READ_KEYS, KEYS), (InAction.READ_FULL_STATUS, STATUS)], 1
    ):
        cut, long = asked(action, reply, at * 100)
        assert cut.truncated
        whole = completed(cut, [long])
        assert whole is not None
        told += [cut, whole]
        assert folded(*told[:-1]).doubted(Fact.REGISTRATIONS)
    state = folded(*told)
    assert len(state.registrations) == MANY
    assert state.doubts == ()
    assert state.holders == (NEXUS,)
    # The history has the whole reply: another fold comes to the same.
    assert folded(*(Event.from_json(each.to_json()) for each in told)) == state


@pytest.mark.parametrize(
    "other",
    [
        {"cdb": PrInCdb(InAction.READ_KEYS, ROOM).build()},
        {"received": b"\0" * len(STATUS)},
        {"begun_ns": 101},
        {"ended_ns": 104},
    ],
)
def test_a_reply_of_another_command_completes_nothing(other: dict[str, object]) -> None:
    cut, long = asked(InAction.READ_FULL_STATUS, STATUS, 100)
    assert completed(cut, [replace(long, **other)]) is None
    assert completed(None, [long]) is None
    assert completed(cut, [replace(long, **other), long]) is not None


def test_a_whole_reply_that_overlaps_another_command_teaches_nothing() -> None:
    cut, long = asked(InAction.READ_FULL_STATUS, STATUS, 100)
    reply, _ = asked(InAction.READ_KEYS, ReadKeys.of(7, 1).build(), 99)
    whole = completed(cut, [long])
    assert whole is not None
    between = reply._replace(nexus="3:0:0:0", start_ns=98, done_ns=103)
    assert folded(paths(), between, cut, whole).doubted(Fact.REGISTRATIONS)
