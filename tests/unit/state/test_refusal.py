"""Why a command was refused, one row a reason."""

from types import MappingProxyType

import pytest

from prtrace.model import (
    Access,
    Action,
    ConflictSeen,
    LegacyReserve,
    LocalNexus,
    Outcome,
    PrOut,
    ReservationType,
)
from prtrace.state.refusal import holder, possible_refusals, possible_refusals_of, refusal
from prtrace.state.unit import Doubt, Fact, LuState, Path, Registration, Reservation, Source

ME, OTHER, FAR = "1:0:0:0", "2:0:0:0", "naa.5001,1"
WRITE = bytes.fromhex("2a000000000800000100")
READ = bytes.fromhex("28000000000800000100")


def state(*, kind=ReservationType.WERO, by=OTHER, me=None, doubts=(), legacy=None):
    keys = {OTHER: 0xB, FAR: 0xC} | ({ME: me} if me else {})
    return LuState(
        "naa.1",
        registrations=MappingProxyType(
            {
                nexus: Registration(nexus, key, local=nexus != FAR, source=Source.READ, at=1)
                for nexus, key in keys.items()
            }
        ),
        reservation=kind
        and Reservation(
            kind,
            0,
            None if kind.all_registrants else by,
            0 if kind.all_registrants else keys[by],
            Source.READ,
            1,
        ),
        paths=MappingProxyType({OTHER: Path(LocalNexus(OTHER, "naa.1", device="/dev/sdb"))}),
        doubts=doubts,
        legacy_holder=legacy,
    )


def out(action, key=0, sa_key=0):
    return PrOut(
        lu="naa.1", nexus=ME, action=action, outcome=Outcome.CONFLICT, key=key, sa_key=sa_key
    )


CONFLICT = ConflictSeen(lu="naa.1", nexus=ME)
DOUBTED = (Doubt(Fact.REGISTRATIONS, "lost", 1),)
UNRESERVED = (Doubt(Fact.RESERVATION, "lost", 1),)

ROWS = [
    (
        state(),
        CONFLICT,
        WRITE,
        "WRITE(10) at block 8: WERO refuses writes of a nexus that is not registered; "
        "WERO is held by 2:0:0:0 (/dev/sdb), key 0x000000000000000b; 1:0:0:0 is not registered",
    ),
    (
        state(kind=ReservationType.EA, by=FAR, me=7),
        CONFLICT,
        READ,
        "READ(10) at block 8: EA refuses reads and writes of every nexus but the holder; "
        "EA is held by naa.5001,1 (no path of this host), key 0x000000000000000c; "
        "1:0:0:0 is registered",
    ),
    (state(), CONFLICT, READ, "READ(10) at block 8: what was known would have let it in "
     "(WERO lets everybody read)"),
    (state(doubts=DOUBTED), CONFLICT, WRITE, "WRITE(10) at block 8: under WERO it depends on "
     "whether this nexus is registered"),
    (state(doubts=UNRESERVED), CONFLICT, WRITE, "WRITE(10) at block 8: what is reserved is in "
     "doubt"),
    (state(), CONFLICT, b"", "a command that was not seen: whether a reservation refuses this "
     "command is not known here"),
    (state(), out(Action.REGISTER, key=5), b"", "this nexus is not registered, and the command "
     "says that it has key 0x0000000000000005"),
    (state(me=1), out(Action.REGISTER), b"", "this nexus has key 0x0000000000000001, the command "
     "gave 0x0000000000000000"),
    (state(me=1), out(Action.REGISTER, key=1), b"", ""),
    (state(), out(Action.CLEAR, key=5), b"", "this nexus is not registered"),
    (state(me=1), out(Action.CLEAR, key=5), b"", "this nexus has key 0x0000000000000001, the "
     "command gave 0x0000000000000005"),
    (state(me=1), out(Action.RESERVE, key=1), b"", "WERO is held by 2:0:0:0 (/dev/sdb), key "
     "0x000000000000000b already"),
    (state(me=1, kind=None), out(Action.RESERVE, key=1), b"", ""),
    (state(me=1), out(Action.PREEMPT, key=1, sa_key=9), b"", "no registration has key "
     "0x0000000000000009"),
    (state(me=1), out(Action.PREEMPT, key=1, sa_key=0xB), b"", ""),
    (state(doubts=DOUBTED), out(Action.CLEAR, key=5), b"", ""),
    (state(legacy=OTHER), out(Action.REGISTER), b"", "2:0:0:0 (/dev/sdb) has an SPC-2 "
     "reservation"),
    (
        state(),
        LegacyReserve(lu="naa.1", nexus=ME, release=False, outcome=Outcome.CONFLICT),
        b"",
        "SPC-2 RESERVE is refused while any nexus is registered",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("before", "seen", "cdb", "why"), ROWS)
def test_a_refusal_has_its_reason(before, seen, cdb, why):
    assert refusal(before, seen, cdb) == why


@pytest.mark.parametrize("action", Action)
def test_every_action_has_a_reason_or_none(action):
    assert isinstance(refusal(state(me=1), out(action, key=3), b""), str)
    done = PrOut(lu="naa.1", nexus=ME, action=action, outcome=Outcome.DONE, key=1, sa_key=1)
    assert refusal(state(me=1), done, b"") == ""


def test_the_holder_is_named_where_it_is_known():
    assert holder(state(kind=None)) == ""
    assert holder(state(kind=ReservationType.WEAR)) == "every registered nexus holds WEAR"
    assert holder(state(doubts=UNRESERVED)) == ""


ACTIONS = [
    each for each in Action if each not in (Action.REGISTER_AND_IGNORE, Action.REPLACE_LOST)
]


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("mine", [None, 0xA, 0xB])
@pytest.mark.parametrize("key", [0, 0xA])
def test_what_may_be_why_holds_what_is_why(action, mine, key):
    """Where something is known of the sender, the reason is one of those told where nothing is."""
    why = refusal(state(me=mine), out(action, key, 0xD), b"")
    possible = possible_refusals(action, key, 0xD)
    if why.startswith("this nexus is not registered"):
        assert why in possible
    elif why.startswith("this nexus has key"):
        assert any("this nexus is registered" in each for each in possible)
    elif why.startswith("no registration has key"):
        assert why in possible
    assert bool(possible) >= bool(why)


@pytest.mark.parametrize("action", [Action.REGISTER_AND_IGNORE, Action.REPLACE_LOST])
def test_a_key_that_is_ignored_is_no_reason(action):
    assert possible_refusals(action, 0xA, 0xB) == ()


@pytest.mark.parametrize("action", ACTIONS)
def test_what_may_be_why_without_its_keys(action):
    assert possible_refusals(action, None, None)


def test_what_may_be_why_of_an_ordinary_command():
    assert possible_refusals_of(Access.NONE) == possible_refusals_of(Access.UNKNOWN) == ()
    assert possible_refusals_of(Access.READ) == (
        "this nexus is not registered, under EARO or EAAR",
        "this nexus is not the holder, under EA",
    )
    assert possible_refusals_of(Access.WRITE) == (
        "this nexus is not registered, under WERO, EARO, WEAR or EAAR",
        "this nexus is not the holder, under WE or EA",
    )
