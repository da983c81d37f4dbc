"""Every row of the tables of service actions, by name, for the targets that are known."""

from __future__ import annotations

import pytest
from reference_target import LU, TARGET, port_of

from prtrace.model import (
    Action,
    Attention,
    FullStatus,
    FullStatusRead,
    KeysRead,
    LocalNexus,
    Outcome,
    PrOut,
    ReservationType,
)
from prtrace.state.apply import Change, apply, new_state
from prtrace.state.unit import Fact, LuState, Source

A, B, C, D = "2:0:0:1", "3:0:0:1", "4:0:0:1", "5:0:0:1"
ALL = (A, B, C, D)
WE, EA, WERO, EARO, WEAR, EAAR = ReservationType
SCST = "SCST_FIO/disk/370"
SPDK = "INTEL/Malloc disk/0001"
OTHER = "ACME/ARRAY/1"
REGISTER, IGNORE = Action.REGISTER, Action.REGISTER_AND_IGNORE
RELEASED, PREEMPTED, GONE = (
    Attention.RESERVATIONS_RELEASED,
    Attention.RESERVATIONS_PREEMPTED,
    Attention.REGISTRATIONS_PREEMPTED,
)
DOUBT = frozenset(Fact)


def start(keys: dict[str, int], held: tuple | None = None, target: str = TARGET) -> LuState:
    """A state that was read: keys by nexus, held (holder, type), generation 10."""
    described = []
    for nexus, key in keys.items():
        holder = held is not None and (held[1].all_registrants or held[0] == nexus)
        described.append(
            FullStatus(
                initiator_port=port_of(nexus),
                relative_target_port=1,
                key=key,
                holder=holder,
                type=held[1] if held and holder else None,
            )
        )
    paths = tuple(
        LocalNexus(each, LU, initiator_port=port_of(each), relative_target_port=1) for each in ALL
    )
    read = FullStatusRead(
        lu=LU, nexus=D, generation=10, registrations=tuple(described), truncated=False, paths=paths
    )
    state = new_state(LU, target)
    if keys and target in (SPDK, OTHER):
        # Their READ FULL STATUS is believed beside READ KEYS only.
        listed = tuple(keys.values())
        state = apply(
            state, KeysRead(lu=LU, nexus=D, generation=10, keys=listed, truncated=False)
        ).state
    state = apply(state, read).state
    assert state.doubts == ()
    return state


def send(
    state: LuState,
    nexus: str,
    action: Action,
    key: int = 0,
    sa_key: int = 0,
    kind: ReservationType | None = None,
    outcome: Outcome = Outcome.DONE,
    **more,
) -> Change:
    return apply(
        state,
        PrOut(
            lu=LU,
            nexus=nexus,
            action=action,
            outcome=outcome,
            key=key,
            sa_key=sa_key,
            type=kind,
            time=5,
            **more,
        ),
    )


def keys(state: LuState) -> dict[str, int]:
    return {nexus: each.key for nexus, each in state.registrations.items()}


def held(state: LuState) -> tuple | None:
    return state.reservation and (
        state.reservation.holder,
        state.reservation.type,
        state.reservation.key,
    )


def doubted(state: LuState) -> frozenset[Fact]:
    return frozenset(fact for fact in Fact if state.doubted(fact))


# name, keys before, held before, (nexus, action, key, sa_key, type), keys after, held after,
# generation added, unit attentions expected
ROWS = [
    ("register new", {}, None, (A, REGISTER, 0, 1), {A: 1}, None, 1, {}),
    ("register 0 0", {}, None, (A, REGISTER, 0, 0), {}, None, 0, {}),
    ("re-key", {A: 1}, None, (A, REGISTER, 1, 2), {A: 2}, None, 1, {}),
    ("re-key to the same", {A: 1}, None, (A, REGISTER, 1, 1), {A: 1}, None, 1, {}),
    ("unregister", {A: 1, B: 2}, None, (A, REGISTER, 1, 0), {B: 2}, None, 0, {}),
    ("ignore: new", {}, None, (A, IGNORE, 9, 1), {A: 1}, None, 1, {}),
    ("ignore: re-key", {A: 1}, None, (A, IGNORE, 9, 2), {A: 2}, None, 1, {}),
    ("ignore: unregister", {A: 1}, None, (A, IGNORE, 9, 0), {}, None, 0, {}),
    ("ignore: idle", {}, None, (A, IGNORE, 0, 0), {}, None, 0, {}),
    (
        "holder re-keys",
        {A: 1, B: 2},
        (A, WE),
        (A, REGISTER, 1, 3),
        {A: 3, B: 2},
        (A, WE, 3),
        1,
        {},
    ),
    ("reserve", {A: 1}, None, (A, Action.RESERVE, 1, 0, EA), {A: 1}, (A, EA, 1), 0, {}),
    ("reserve AR", {A: 1}, None, (A, Action.RESERVE, 1, 0, WEAR), {A: 1}, (None, WEAR, 0), 0, {}),
    ("reserve again", {A: 1}, (A, WE), (A, Action.RESERVE, 1, 0, WE), {A: 1}, (A, WE, 1), 0, {}),
    (
        "reserve AR again by another",
        {A: 1, B: 2},
        (A, WEAR),
        (B, Action.RESERVE, 2, 0, WEAR),
        {A: 1, B: 2},
        (None, WEAR, 0),
        0,
        {},
    ),
    ("release nothing", {A: 1}, None, (A, Action.RELEASE, 1, 0, WE), {A: 1}, None, 0, {}),
    (
        "release by non-holder",
        {A: 1, B: 2},
        (A, WE),
        (B, Action.RELEASE, 2, 0, WE),
        {A: 1, B: 2},
        (A, WE, 1),
        0,
        {},
    ),
    (
        "release by non-holder, wrong key (LIO)",
        {A: 1, B: 2},
        (A, WE),
        (B, Action.RELEASE, 9, 0, WE),
        {A: 1, B: 2},
        (A, WE, 1),
        0,
        {},
    ),
    *(
        (
            f"release {kind.name}",
            {A: 1, B: 2, C: 3},
            (A, kind),
            (A, Action.RELEASE, 1, 0, kind),
            {A: 1, B: 2, C: 3},
            None,
            0,
            {} if kind.single_nexus else {B: (RELEASED,), C: (RELEASED,)},
        )
        for kind in ReservationType
    ),
    *(
        (
            f"holder of {kind.name} unregisters",
            {A: 1, B: 2, C: 3},
            (A, kind),
            (A, REGISTER, 1, 0),
            {B: 2, C: 3},
            None,
            0,
            {} if kind.single_nexus else {B: (RELEASED,), C: (RELEASED,)},
        )
        for kind in (WE, EA, WERO, EARO)
    ),
    *(
        (
            f"one of the registrants of {kind.name} unregisters",
            {A: 1, B: 2},
            (A, kind),
            (A, REGISTER, 1, 0),
            {B: 2},
            (None, kind, 0),
            0,
            {},
        )
        for kind in (WEAR, EAAR)
    ),
    ("last registrant unregisters", {A: 1}, (A, WEAR), (A, REGISTER, 1, 0), {}, None, 0, {}),
    *(
        (
            f"clear {kind.name}",
            {A: 1, B: 2, C: 3},
            (A, kind),
            (B, Action.CLEAR, 2),
            {},
            None,
            1,
            {A: (PREEMPTED,), C: (PREEMPTED,)},
        )
        for kind in ReservationType
    ),
    (
        "preempt, none held",
        {A: 1, B: 2, C: 2},
        None,
        (A, Action.PREEMPT, 1, 2, WE),
        {A: 1},
        None,
        1,
        {B: (GONE,), C: (GONE,)},
    ),
    (
        "preempt own key, none held (LIO)",
        {A: 1, B: 1, C: 2},
        None,
        (A, Action.PREEMPT, 1, 1, WE),
        {C: 2},
        None,
        1,
        {B: (GONE,)},
    ),
    (
        "preempt own key, held by another",
        {A: 1, B: 2},
        (B, WE),
        (A, Action.PREEMPT, 1, 1, WE),
        {B: 2},
        (B, WE, 2),
        1,
        {},
    ),
    (
        "preempt the holder",
        {A: 1, B: 2, C: 2, D: 4},
        (B, WE),
        (A, Action.PREEMPT, 1, 2, WE),
        {A: 1, D: 4},
        (A, WE, 1),
        1,
        {B: (GONE,), C: (GONE,)},
    ),
    (
        "preempt the holder, new type",
        {A: 1, B: 2, D: 4},
        (B, WE),
        (A, Action.PREEMPT, 1, 2, EARO),
        {A: 1, D: 4},
        (A, EARO, 1),
        1,
        {B: (GONE,), D: (RELEASED,)},
    ),
    (
        "preempt self",
        {A: 1, B: 1, D: 4},
        (A, WE),
        (A, Action.PREEMPT, 1, 1, EA),
        {A: 1, D: 4},
        (A, EA, 1),
        1,
        {B: (GONE,), D: (RELEASED,)},
    ),
    (
        "preempt the holder that shares the key",
        {A: 1, B: 1},
        (B, WE),
        (A, Action.PREEMPT, 1, 1, WE),
        {A: 1},
        (A, WE, 1),
        1,
        {B: (GONE,)},
    ),
    (
        "preempt a non-holder",
        {A: 1, B: 2, C: 3},
        (B, WERO),
        (A, Action.PREEMPT, 1, 3, WE),
        {A: 1, B: 2},
        (B, WERO, 2),
        1,
        {C: (GONE,)},
    ),
    (
        "preempt and abort",
        {A: 1, B: 2},
        (B, WE),
        (A, Action.PREEMPT_AND_ABORT, 1, 2, WE),
        {A: 1},
        (A, WE, 1),
        1,
        {B: (GONE,)},
    ),
    (
        "preempt all, AR, key 0",
        {A: 1, B: 2, C: 3},
        (B, WEAR),
        (A, Action.PREEMPT, 1, 0, WE),
        {A: 1},
        (A, WE, 1),
        1,
        {B: (GONE,), C: (GONE,)},
    ),
    (
        "preempt one, AR, same type",
        {A: 1, B: 2, C: 3},
        (B, WEAR),
        (A, Action.PREEMPT, 1, 3, WEAR),
        {A: 1, B: 2},
        (None, WEAR, 0),
        1,
        {C: (GONE,)},
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_command_has_the_effect_that_its_row_says(row) -> None:
    _, before, before_held, command, after, after_held, added, attentions = row
    state = send(start(before, before_held), *command).state
    assert state.doubts == ()
    assert keys(state) == after
    assert held(state) == after_held
    assert state.generation == 10 + added
    told = {n: tuple(each.attention for each in e) for n, e in state.expected.items()}
    assert told == attentions


@pytest.mark.parametrize("action", [Action.REGISTER_AND_MOVE, Action.REPLACE_LOST])
def test_moves_and_replacements_are_in_doubt(action: Action) -> None:
    assert doubted(send(start({A: 1}, (A, WE)), A, action, 1, 2).state) == DOUBT


@pytest.mark.parametrize("bit", ["spec_i_pt", "all_tg_pt"])
def test_further_nexuses_put_registrations_in_doubt(bit: str) -> None:
    state = send(start({}), A, REGISTER, 0, 7, **{bit: True}).state
    assert doubted(state) == {Fact.REGISTRATIONS, Fact.GENERATION}
    assert keys(state) == {A: 7}


def test_generation_wraps() -> None:
    read = FullStatusRead(lu=LU, nexus=A, generation=0xFFFFFFFF, registrations=(), truncated=False)
    state = apply(new_state(LU, TARGET), read).state
    assert send(state, A, REGISTER, 0, 1).state.generation == 0


def test_a_unit_never_seen_learns_from_commands_but_stays_in_doubt() -> None:
    state = new_state(LU, TARGET, 3)
    assert {doubt.reason for doubt in state.doubts} == {"never read"}
    state = send(state, A, REGISTER, 0, 0x123ABC).state
    state = send(state, A, Action.RESERVE, 0x123ABC, 0, WERO).state
    assert keys(state) == {A: 0x123ABC}
    assert held(state) == (A, WERO, 0x123ABC)
    assert state.registrations[A].source is Source.OBSERVED
    assert doubted(state) == DOUBT
    assert state.generation is None
    cleared = send(state, A, Action.CLEAR, 0x123ABC).state
    assert doubted(cleared) == {Fact.GENERATION}


def test_a_reserve_proves_the_registration_that_was_never_seen() -> None:
    state = send(new_state(LU, TARGET), B, Action.RESERVE, 7, 0, WE).state
    assert keys(state) == {B: 7}


def test_effects_are_readable() -> None:
    state = start({A: 1, B: 2, C: 2}, (B, WE))
    assert send(state, A, Action.PREEMPT, 1, 2, WE).effect == (
        "unit attention expected; preempted 2 registrations; now held by 2:0:0:1 (WE)"
    )
    assert send(start({}), A, REGISTER, 0, 0x123ABC).effect == "registered 0x123abc"
