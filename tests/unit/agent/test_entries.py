"""What the journal is told, and what it is told once."""

import re
from dataclasses import replace
from pathlib import Path as File
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prtrace.agent import entries
from prtrace.agent.entries import (
    A_SECOND,
    CONFLICT,
    IN_DOUBT,
    LOST_REGISTRATION,
    MOVE,
    PR_OUT,
    Entries,
)
from prtrace.model import IssuePath, Issuer, LocalNexus, ReservationType
from prtrace.state.event import Command, Event
from prtrace.state.unit import Doubt, Fact, LuState, Path, Registration, Reservation, Source

NOW = 1_700_000_000_000_000_000
SECOND = 1_000_000_000
LU, HERE, THERE = "naa.6", "2:0:0:1", "naa.5,1"
FENCED = bytes.fromhex("70000600000000 0a 00000000 2a05 00000000")
"""UNIT ATTENTION, REGISTRATIONS PREEMPTED."""
CATALOG = File(entries.__file__).parents[1] / "systemd" / "prtrace.catalog"


def state(*registered, holder=None, doubts=(), life=1):
    registrations = {
        nexus: Registration(nexus, 0xAB, nexus == HERE, Source.OBSERVED, NOW)
        for nexus in registered
    }
    held = holder and Reservation(ReservationType.WERO, 0, holder, 0xAB, Source.OBSERVED, NOW)
    local = LocalNexus(HERE, LU, "/dev/sda", initiator_port="naa.4", life=life)
    return LuState(
        LU,
        registrations=MappingProxyType(registrations),
        reservation=held,
        doubts=tuple(Doubt(fact, "a record was lost", NOW) for fact in doubts),
        paths=MappingProxyType({HERE: Path(local)}),
    )


def event(command=Command.PR_OUT, *, at=0, **changes):
    fields = {
        "time": NOW + at,
        "lu": LU,
        "nexus": HERE,
        "device": "/dev/sda",
        "action": "REGISTER" if command is Command.PR_OUT else "",
        "status": "GOOD" if command is Command.PR_OUT else "RESERVATION CONFLICT",
        "issuer": Issuer(4711, "qemu", 1, 2, IssuePath.BLOCK_SG_IO, "", "web1"),
    }
    return Event(command, **(fields | changes))


def told(known, *batches):
    """The MESSAGE_IDs of what is told of each batch (events, state or None)."""
    maker = Entries({LU: known})
    return [
        [each["MESSAGE_ID"] for each in maker.of(events, {} if now is None else {LU: now})]
        for events, now in batches
    ]


def test_a_pr_out_says_who_what_and_how_it_ended():
    sent = event(key=1, sa_key=0xAB, type=ReservationType.WERO, effect="registered", seq=9)
    (entry,) = Entries({}).of([sent], {})
    assert entry == {
        "MESSAGE": "naa.6: REGISTER of 2:0:0:1 (/dev/sda), process 4711 (qemu), guest web1: GOOD; "
        "registered",
        "MESSAGE_ID": PR_OUT,
        "PRIORITY": "5",
        "SYSLOG_IDENTIFIER": "prtrace",
        "PRTRACE_LU": LU,
        "PRTRACE_NEXUS": HERE,
        "PRTRACE_DEVICE": "/dev/sda",
        "PRTRACE_STATUS": "GOOD",
        "PRTRACE_SEQ": "9",
        "PRTRACE_PID": "4711",
        "PRTRACE_COMM": "qemu",
        "PRTRACE_GUEST": "web1",
        "PRTRACE_ACTION": "REGISTER",
        "PRTRACE_KEY": "0x0000000000000001",
        "PRTRACE_SA_KEY": "0x00000000000000ab",
        "PRTRACE_TYPE": "WERO",
        "PRTRACE_EFFECT": "registered",
    }


def test_what_reads_is_not_told():
    assert told(state(), ([event(Command.PR_IN), event(Command.UNIT_ATTENTION)], None)) == [[]]


def test_a_conflict_is_told_until_the_holder_is_another_one():
    conflict = [event(Command.CONFLICT)]
    first, second = state(THERE, holder=THERE), state(THERE, "naa.7,1", holder="naa.7,1")
    other = [event(Command.CONFLICT, nexus="2:0:1:1")]
    assert told(
        first,
        (conflict, None),
        (conflict, first),
        (other, first),
        (conflict, second),
        (conflict, second),
        (conflict, first),
    ) == [[CONFLICT], [], [CONFLICT], [CONFLICT], [], [CONFLICT]]


@pytest.mark.parametrize(
    ("events", "after", "kinds"),
    [
        ([event(Command.UNIT_ATTENTION)], state(THERE), [LOST_REGISTRATION]),
        ([event(nexus="2:0:1:1", action="PREEMPT", sa_key=0xAB)], state(),
         [PR_OUT, LOST_REGISTRATION]),
        # It asked for that.
        ([event(sa_key=0)], state(), [PR_OUT]),
        ([event(action="CLEAR")], state(), [PR_OUT]),
        # It asked, was refused, and somebody else did it.
        ([event(sa_key=0, status="RESERVATION CONFLICT")], state(), [PR_OUT, LOST_REGISTRATION]),
        # A unit attention told it so in place of an answer.
        ([event(sa_key=0, status="CHECK CONDITION", sense_bytes=FENCED)], state(),
         [PR_OUT, LOST_REGISTRATION]),
        ([event(sa_key=0, status="BUSY")], state(), [PR_OUT, LOST_REGISTRATION]),
        # It may have been carried out.
        ([event(sa_key=0, status="TIMEOUT")], state(), [PR_OUT]),
        ([event(sa_key=0, status="CHECK CONDITION")], state(), [PR_OUT]),
        # Another scsi_device has the address now.
        ([event(Command.PATHS)], state(THERE, life=2), []),
        # Nobody knows.
        ([event(Command.LOST)], state(THERE, doubts=[Fact.REGISTRATIONS]), [IN_DOUBT]),
        ([event()], state(HERE), [PR_OUT]),
    ],
)  # fmt: skip
def test_a_registration_is_lost_when_its_nexus_did_not_ask(events, after, kinds):
    assert told(state(HERE), (events, after)) == [kinds]


def test_who_asked_is_remembered_while_the_answer_is_in_doubt():
    doubted = state(HERE, doubts=[Fact.REGISTRATIONS])
    assert told(
        state(HERE),
        ([event(sa_key=0, status="TIMEOUT")], doubted),
        ([event(Command.PR_IN)], state()),
        ([event(sa_key=0xAB)], state(HERE)),
        ([event(Command.PR_IN)], state()),
    ) == [[PR_OUT, IN_DOUBT], [], [PR_OUT], [LOST_REGISTRATION]]


def test_a_loss_is_told_once_it_is_certain():
    """READ KEYS shows that the key is gone, and leaves the other keys' nexuses to be read."""
    read = event(Command.PR_IN)
    told_of = told(
        state(HERE),
        ([event(Command.UNIT_ATTENTION)], state(HERE, doubts=[Fact.REGISTRATIONS])),
        ([read], state(doubts=[Fact.REGISTRATIONS])),
        ([read], state(THERE)),
        ([read], state(THERE)),
    )
    assert told_of == [[IN_DOUBT], [], [LOST_REGISTRATION], []]


def test_each_doubt_is_told_once_while_it_lasts():
    doubted = state(doubts=[Fact.RESERVATION])
    both = state(doubts=[Fact.RESERVATION, Fact.GENERATION])
    lost = [event(Command.LOST)]
    assert told(state(), (lost, doubted), (lost, both), (lost, state()), (lost, doubted)) == [
        [IN_DOUBT], [IN_DOUBT], [], [IN_DOUBT]
    ]  # fmt: skip


def test_a_storm_is_told_in_few_words():
    maker = Entries({})
    storm = [event(at=n) for n in range(1000)]
    assert len(list(maker.of(storm, {}))) == A_SECOND
    (later,) = maker.of([event(at=SECOND)], {})
    assert later["PRTRACE_UNTOLD"] == str(1000 - A_SECOND)
    (later,) = maker.of([event(at=2 * SECOND)], {})
    assert "PRTRACE_UNTOLD" not in later


@given(st.text(min_size=1), st.text(), st.sampled_from([Command.PR_OUT, Command.CONFLICT]))
def test_hostile_names_stay_text_in_their_fields(lu, name, command):
    issuer = Issuer(1, name, 1, 2, IssuePath.BLOCK_SG_IO, "", name)
    hostile = event(command, lu=lu, device=name, reason=name, issuer=issuer)
    (entry,) = Entries({}).of([hostile], {})
    assert all(re.fullmatch("[A-Z_]+", field) for field in entry)
    assert all(value.isprintable() and len(value) < 500 for value in entry.values())


def report(**changes):
    """What a load says that met another key (prtrace.move/2), as far as an entry tells it."""
    unit = {
        "lu": LU,
        "device": "/dev/sda",
        "result": "another key is registered here",
        "may_run": False,
        "why": "key 0xb1 is on 2:0:0:1\x1b[2J",
    }
    return {
        "verb": "commit",
        "id": "m1",
        "good": False,
        "dry_run": False,
        "units": [unit],
    } | changes


def test_a_move_is_told_with_what_became_of_it():
    (entry,) = entries.moved(report())
    assert entry == {
        "MESSAGE": "naa.6: commit of the move m1: another key is registered here: "
        "key 0xb1 is on 2:0:0:1\\x1b[2J",
        "MESSAGE_ID": MOVE,
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "prtrace",
        "PRTRACE_LU": LU,
        "PRTRACE_DEVICE": "/dev/sda",
        "PRTRACE_VERB": "commit",
        "PRTRACE_MOVE": "m1",
        "PRTRACE_RESULT": "another key is registered here",
        "PRTRACE_MAY_RUN": "no",
    }
    assert next(entries.moved(report(good=True)))["PRIORITY"] == "5"
    assert not [*entries.moved(report(dry_run=True))]


def test_the_catalogue_explains_every_kind():
    explained = re.findall(r"^-- ([0-9a-f]{32})$", CATALOG.read_text(), re.MULTILINE)
    assert sorted(explained) == sorted([PR_OUT, CONFLICT, LOST_REGISTRATION, IN_DOUBT, MOVE])


def test_a_change_of_what_is_known_of_another_unit_tells_nothing():
    maker = Entries({LU: state(HERE)})
    assert not list(maker.of([], {"naa.9": replace(state(), lu="naa.9")}))
