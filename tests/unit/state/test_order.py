"""Commands whose spans overlap: the device's order is unknown, and never guessed wrongly."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from random import Random

import pytest
from examples import share
from reference_target import LU, TARGET
from test_against_reference import LOCAL, Walk

from prtrace.model import (
    Action,
    FullStatusRead,
    KeysRead,
    Outcome,
    PrOut,
    ReservationRead,
    ReservationType,
)
from prtrace.state.apply import apply, new_state
from prtrace.state.unit import Fact


def overlapping(walk: Walk, count: int) -> None:
    """Run count commands whose spans overlap at random; feed them as they complete."""
    random: Random = walk.random
    base = walk.now
    jobs = []
    for _ in range(count):
        start, executed, done = sorted(random.sample(range(base + 1, base + 400), 3))
        jobs.append((executed, start, done))
    jobs.sort()
    seen = []
    for _, start, done in jobs:
        span = {"lu": LU, "target": TARGET, "start_ns": start, "done_ns": done, "time": done}
        nexus = random.choice(LOCAL)
        span["nexus"] = nexus
        chance = random.random()
        if chance < 0.75:
            action, key, sa_key, kind = walk.choose(nexus)
            if random.random() < 0.5:
                action = Action.REGISTER_AND_IGNORE
            outcome = walk.device.pr_out(nexus, action, key, sa_key, kind)
            seen.append(
                PrOut(**span, action=action, outcome=outcome, key=key, sa_key=sa_key, type=kind)
            )
        elif chance < 0.85:
            seen.append(
                FullStatusRead(
                    **span,
                    generation=walk.device.generation,
                    truncated=False,
                    registrations=walk.device.full_status(),
                    paths=walk.device.paths(),
                )
            )
        elif chance < 0.92:
            seen.append(
                KeysRead(
                    **span,
                    generation=walk.device.generation,
                    truncated=False,
                    keys=walk.device.keys(),
                )
            )
        else:
            kind, key, _ = walk.device.reservation() or (None, 0, None)
            seen.append(
                ReservationRead(**span, generation=walk.device.generation, type=kind, key=key)
            )
    for each in sorted(seen, key=lambda each: each.done_ns):
        walk.feed(each)
    walk.now = base + 400


@pytest.mark.parametrize("seed", range(share(60)))
def test_overlapping_commands_are_never_ordered_wrongly(seed: int) -> None:
    walk = Walk(seed)
    walk.read_full()
    for _ in range(60):
        overlapping(walk, walk.random.randrange(1, 6))
        walk.check()
        walk.command(walk.random.choice(LOCAL))
        walk.check()
        walk.read_full()
        assert walk.state.doubts == ()
        walk.check()


def register(nexus: str, start: int, done: int, key: int = 7, **more) -> PrOut:
    return PrOut(
        lu=LU,
        target=TARGET,
        nexus=nexus,
        action=Action.REGISTER_AND_IGNORE,
        key=0,
        sa_key=key,
        outcome=Outcome.DONE,
        start_ns=start,
        done_ns=done,
        **more,
    )


def nothing_known_wrong(start_ns: int = 0):
    read = FullStatusRead(
        lu=LU, nexus=LOCAL[0], generation=5, registrations=(), truncated=False, done_ns=start_ns
    )
    return apply(new_state(LU, TARGET), read).state


def test_registers_of_different_nexuses_commute() -> None:
    commands = [register(nexus, 10 + i, 20 + i, i + 1) for i, nexus in enumerate(LOCAL)]
    states = []
    for order in permutations(commands):
        state = nothing_known_wrong(9)
        for each in order:
            state = apply(state, each).state
        assert state.doubts == ()
        assert state.generation == 9
        states.append(state)
    assert all(state == states[0] for state in states)


def test_registers_of_one_nexus_do_not_commute() -> None:
    state = apply(nothing_known_wrong(9), register(LOCAL[0], 10, 20, 1)).state
    change = apply(state, register(LOCAL[0], 15, 25, 2))
    assert change.state.doubted(Fact.REGISTRATIONS)
    assert "overlapped" in change.effect


def test_a_register_overlapping_a_reserve_of_another_nexus_is_in_doubt_and_names_it() -> None:
    state = apply(nothing_known_wrong(9), register(LOCAL[0], 10, 20, 1)).state
    reserve = replace(
        register(LOCAL[0], 30, 40), action=Action.RESERVE, key=1, type=ReservationType.WE
    )
    state = apply(state, reserve).state
    assert state.doubts == ()
    change = apply(state, register(LOCAL[1], 35, 50))
    assert LOCAL[0] in change.effect
    assert change.state.doubted(Fact.REGISTRATIONS)
    assert change.state.registrations[LOCAL[1]].key == 7


def test_a_reading_dispatched_before_the_newest_change_is_not_learned_from() -> None:
    state = apply(nothing_known_wrong(9), register(LOCAL[0], 10, 20, 1)).state
    read = KeysRead(
        lu=LU, nexus=LOCAL[1], generation=5, keys=(), truncated=False, start_ns=15, done_ns=30
    )
    change = apply(state, read)
    assert change.effect.startswith("not learned: overlapped")
    assert change.state.registrations == state.registrations
    assert change.state.doubts == ()


def test_a_command_that_overlapped_the_reading_learned_last_is_in_doubt() -> None:
    read = FullStatusRead(
        lu=LU,
        nexus=LOCAL[0],
        generation=5,
        registrations=(),
        truncated=False,
        start_ns=10,
        done_ns=20,
    )
    state = apply(new_state(LU, TARGET), read).state
    assert state.doubts == ()
    assert apply(state, register(LOCAL[1], 15, 25)).state.doubted(Fact.REGISTRATIONS)


def test_a_reading_that_told_nothing_new_hides_no_command() -> None:
    state = nothing_known_wrong(9)
    read = KeysRead(
        lu=LU, nexus=LOCAL[0], generation=5, keys=(), truncated=False, start_ns=10, done_ns=20
    )
    state = apply(state, read).state
    assert apply(state, register(LOCAL[1], 15, 25)).state.doubts == ()


def test_times_that_are_not_known_overlap_nothing() -> None:
    state = apply(nothing_known_wrong(9), register(LOCAL[0], 10, 20, 1)).state
    assert apply(state, register(LOCAL[1], 0, 0)).state.doubts == ()


def test_more_overlapping_registers_than_are_remembered() -> None:
    state = nothing_known_wrong(9)
    for i in range(40):
        state = apply(state, register(f"{i}:0:0:0", 10, 100 + i, 1)).state
    # Those that are no longer remembered one by one could have been anything.
    assert state.doubts
    assert len(state.recent) <= 32
    assert len(state.registrations) == 40
