"""REGISTER AND MOVE, and REGISTER with SPEC_I_PT: the nexuses that they name."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference_target import LU, TARGET
from test_effects import DOUBT, A, B, doubted, keys
from test_holder import FAR, PATHS, descriptor, holder, told
from test_partial import full

from prtrace.model import Action, LocalNexus, Outcome, PathsSeen, PrOut, ReservationType
from prtrace.scsi.cdb import PrOutCdb
from prtrace.scsi.parameter import BasicList, MoveList
from prtrace.scsi.transportid import TransportId, parse_transport_id
from prtrace.state.apply import apply, new_state
from prtrace.state.decode import decode
from prtrace.state.event import Command, Event
from prtrace.state.unit import Fact, LuState

ACME, SCST = "ACME/ARRAY/1", "SCST_FIO/disk/ 370"
WERO = ReservationType.WERO
BOTH = {Fact.REGISTRATIONS, Fact.RESERVATION}


def moved(state: LuState, port: str, relative: int | None = 1, **more) -> LuState:
    sent = {
        "lu": LU, "nexus": A, "action": Action.REGISTER_AND_MOVE, "outcome": Outcome.DONE,
        "key": 1, "sa_key": 9, "transport_ids": (port,), "relative_target_port": relative,
        "start_ns": 5000, "done_ns": 5001,
    }  # fmt: skip
    return apply(state, PrOut(**sent | more)).state


def specified(state: LuState, *ports: str, **more) -> LuState:
    sent = {
        "lu": LU, "nexus": A, "action": Action.REGISTER, "outcome": Outcome.DONE, "key": 0,
        "sa_key": 9, "spec_i_pt": True, "transport_ids": ports, "start_ns": 5000, "done_ns": 5001,
    }  # fmt: skip
    return apply(state, PrOut(**sent | more)).state


def nobody(target: str = TARGET) -> LuState:
    state = apply(new_state(LU, target), PathsSeen(lu=LU, nexus="", paths=PATHS)).state
    return apply(state, full(5)).state


def alone(target: str = TARGET) -> LuState:
    """A is registered with 1 and holds WERO, at PRGENERATION 5."""
    state = apply(new_state(LU, target), PathsSeen(lu=LU, nexus="", paths=PATHS)).state
    return apply(state, full(5, descriptor("naa.1", 1, WERO))).state


@pytest.mark.parametrize(("port", "name"), [("NAA.2", B), ("naa.7", "naa.7,1")])
@pytest.mark.parametrize("unreg", [False, True])
def test_a_reservation_moves_to_the_nexus_that_is_named(port: str, name: str, unreg: bool) -> None:
    state = moved(alone(), port, unreg=unreg)
    assert doubted(state) == frozenset()
    assert keys(state) == {name: 9} if unreg else keys(state) == {A: 1, name: 9}
    assert state.registrations[name].local is (name == B)
    held = state.reservation
    assert (held.holder, held.key, held.type) == (name, 9, WERO)
    assert state.generation == 6


@pytest.mark.parametrize(
    "more",
    [
        {"transport_ids": None},
        {"relative_target_port": None},
        {"transport_ids": ("naa.1",)},
    ],
)
def test_a_name_that_is_not_known_is_doubt(more: dict) -> None:
    """Not whole; or the sender's own, which the standard refuses."""
    assert doubted(moved(alone(), "naa.2", **more)) == DOUBT


def test_a_path_without_port_names_may_be_the_one_that_is_named() -> None:
    paths = (PATHS[0], LocalNexus(B, LU))
    state = apply(alone(), PathsSeen(lu=LU, nexus="", paths=paths)).state
    assert doubted(moved(state, "naa.2")) == DOUBT


def test_a_port_without_its_isid_may_be_each_of_its_sessions() -> None:
    session = replace(PATHS[1], initiator_port="iqn.a,i,0x000000000001")
    state = apply(alone(), PathsSeen(lu=LU, nexus="", paths=(PATHS[0], session))).state
    assert doubted(moved(state, "iqn.a")) == DOUBT
    assert doubted(moved(state, "iqn.a,i,0x000000000001")) == frozenset()
    assert doubted(moved(state, "iqn.a,i,0x000000000002")) == frozenset()


@pytest.mark.parametrize(
    ("listed", "named"),
    [
        (("iqn.x,i,0x7", {}), "iqn.x"),
        (("iqn.x", {}), "iqn.x,i,0x7"),
        (("iqn.x", {"relative_target_port": 0, "all_target_ports": True}), "iqn.x"),
    ],
)
def test_a_port_may_be_one_that_is_listed_by_another_name(
    listed: tuple[str, dict], named: str
) -> None:
    port, more = listed
    other = replace(descriptor(port, 2), **more)
    fresh = apply(new_state(LU, TARGET), PathsSeen(lu=LU, nexus="", paths=PATHS)).state
    state = apply(fresh, full(5, descriptor("naa.1", 1, WERO), other)).state
    assert (doubted(state), len(state.registrations)) == (frozenset(), 2)
    assert doubted(moved(state, named)) == DOUBT
    assert Fact.REGISTRATIONS in doubted(specified(apply(fresh, full(5, other)).state, named))
    assert doubted(moved(state, "iqn.y")) == frozenset()


def test_a_key_of_zero_registers_nobody() -> None:
    """SPC-6 5.14.8: it is refused; a target that does it all the same is not understood."""
    assert doubted(moved(alone(), "naa.2", sa_key=0)) == DOUBT


def test_whoever_does_not_hold_cannot_have_moved() -> None:
    assert doubted(moved(told(TARGET, by="naa.2"), "naa.7")) == DOUBT


def test_the_key_of_who_is_registered_already_may_stay() -> None:
    assert doubted(moved(told(TARGET), "naa.2")) >= BOTH
    state = moved(told(TARGET), "naa.2", sa_key=2)
    assert (doubted(state), holder(state)) == (frozenset(), B)


def test_names_that_the_sender_could_change_are_applied_and_doubted() -> None:
    """The record compares the first 24 bytes of a parameter list; the names come behind them."""
    state = moved(alone(), "naa.2", compared=False)
    assert (doubted(state), holder(state)) == (BOTH, B)
    state = specified(nobody(SCST), "naa.2", compared=False)
    assert (doubted(state), keys(state)) == (
        {Fact.REGISTRATIONS, Fact.GENERATION},
        {A: 9, B: 9},
    )


def test_further_nexuses_are_registered() -> None:
    state = specified(nobody(SCST), "naa.2", "naa.9")
    assert keys(state) == {A: 9, B: 9, FAR: 9}
    assert doubted(state) == {Fact.GENERATION}


@pytest.mark.parametrize("target", [TARGET, ACME])
def test_whom_a_target_registers_on_which_of_its_ports_is_doubt(target: str) -> None:
    """LIO takes the first target port that knows the initiator, and skips who is registered there:
    nobody new, and PRGENERATION gains one."""
    state = specified(nobody(target), "naa.2")
    assert doubted(state) == {Fact.REGISTRATIONS, Fact.GENERATION}
    assert keys(state) == {A: 9}


@pytest.mark.parametrize(
    ("ports", "more"),
    [
        ((), {}),
        (("naa.2",), {"transport_ids": None}),
        (("naa.1",), {}),
        (("naa.2", "naa.2"), {}),
        (("naa.2",), {"all_tg_pt": True}),
        (("naa.2",), {"sa_key": 0}),
    ],
)
def test_names_that_do_not_tell_which_are_doubt(ports: tuple[str, ...], more: dict) -> None:
    assert Fact.REGISTRATIONS in doubted(specified(nobody(SCST), *ports, **more))


def test_who_is_registered_already_is_refused_by_the_standard() -> None:
    assert doubted(specified(alone(SCST), "naa.2")) >= {Fact.REGISTRATIONS, Fact.GENERATION}


def _port(text: str) -> TransportId:
    raw = bytes(8) if text == "" else bytes.fromhex(f"00{'00' * 7}{text}{'00' * 8}")
    return parse_transport_id(raw)[0]


@given(unreg=st.booleans(), cut=st.integers(0, 48), compared=st.booleans())
def test_the_bytes_say_the_names_or_that_they_are_not_whole(
    unreg: bool, cut: int, compared: bool
) -> None:
    port = _port("2100000000000002")
    data = MoveList(1, 9, 1, port, unreg=unreg).build()[:cut]
    cdb = PrOutCdb(Action.REGISTER_AND_MOVE, parameter_length=48).build()
    head = data if compared else data[:24]
    event = Event(Command.PR_OUT, lu=LU, nexus=A, status="GOOD", cdb=cdb, data=data, head=head)
    (seen,) = decode(event)[1]
    whole = cut == 48
    if cut >= 24:
        assert isinstance(seen, PrOut)
        assert seen.transport_ids == ((port.text,) if whole else None)
        assert seen.unreg is unreg
        assert seen.compared is (len(head) >= len(data))
    else:
        assert not isinstance(seen, PrOut)


def test_the_ports_of_a_register_are_read() -> None:
    ports = _port("2100000000000002"), _port("2100000000000003")
    data = BasicList(0, 9, spec_i_pt=True, transport_ids=ports).build()
    cdb = PrOutCdb(Action.REGISTER, parameter_length=len(data)).build()
    event = Event(Command.PR_OUT, lu=LU, nexus=A, status="GOOD", cdb=cdb, data=data, head=data)
    (seen,) = decode(event)[1]
    assert seen.transport_ids == tuple(port.text for port in ports)
