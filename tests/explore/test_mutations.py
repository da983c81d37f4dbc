"""Each guard of the machine is needed: without it the exploration finds a broken invariant.

A mutant is the machine with one guard less (mutants.py).  It is caught where a setting tells a
story, where the machine meets a picture of which no row speaks any more, or where a verb does not
end any more with a word that it ends with otherwise.  CI takes some of the table's cells and rows,
each in the settings that reach it, the smallest first; the slow run takes all, and the code.
"""

from __future__ import annotations

import contextlib
import functools
import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from explorer import Explorer, Found, Setting
from mutants import Mutant, mutants
from test_exploration import SETTINGS

from prtrace.move import machine

SAMPLE = 16
ENDLESS_S = 60
"""Of processor time for one setting: a mutant that looks for ever is caught, too."""
HARMLESS: dict[str, str] = {
    "cell D_ALONE LATE_COMMIT: **alarm** is done": (
        "the guest must leave on the source in a migration that nobody aborts: not explored"
    ),
    "row UNTOLD": "the rows behind it send only where the destination holds, verified",
    "row PARTLY_COUNTED": "the rows behind it preempt first, and register the other paths then",
    "row REKEYED_ALONE": "the row behind it says gone, which lets nobody run, too",
    "row S_RELEASED_BESIDE": "the row behind it reserves, and the end is in doubt all the same",
    "row QUESTION_BESIDE": "the row behind it is in doubt, too, and leaves the key to settle",
}
"""Mutants that no setting can catch, by name, and why nobody needs what is gone there."""


class EndlessError(Exception):
    """A mutant does not come to an end."""


_WRONG = (LookupError, TypeError, AttributeError, AssertionError, EndlessError)
"""What a mutant may raise: it was relied on that this cannot happen."""


@contextlib.contextmanager
def ending() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise EndlessError

    before = signal.signal(signal.SIGVTALRM, ring)
    signal.setitimer(signal.ITIMER_VIRTUAL, ENDLESS_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@dataclass(frozen=True)
class Reached:
    """A setting with its states, the (row, verb) that it reaches, the (verb, word) that it ends
    with."""

    setting: Setting
    states: int
    cells: frozenset[tuple[str, str]]
    ends: frozenset[tuple[str, str]]


def ends(found: Found) -> frozenset[tuple[str, str]]:
    """How verbs ended in an exploration."""
    return frozenset((verb, word) for verb, words in found.ends.items() for word in words)


@functools.cache
def reached() -> tuple[Reached, ...]:
    """What each setting reaches, the smallest setting first."""
    found = []
    seen: set[tuple[str, str]] = set()
    real = machine.find_row

    def find_row(plan, position, sight):
        row = real(plan, position, sight)
        seen.add((row.name, plan.verb.name))
        return row

    machine.find_row = find_row
    try:
        for setting in SETTINGS:
            seen.clear()
            explored = Explorer(setting).explore()
            found.append(Reached(setting, explored.states, frozenset(seen), ends(explored)))
    finally:
        machine.find_row = real
    return tuple(sorted(found, key=lambda each: each.states))


def settings_for(mutant: Mutant) -> list[Reached]:
    """Where it can be caught, the smallest first."""
    kind, row, *verb = mutant.name.replace(":", "").split()
    if kind == "code":
        return [*reached()]
    return [
        each
        for each in reached()
        if any(at == row and (kind == "row" or of == verb[0]) for at, of in each.cells)
    ]


def caught(mutant: Mutant, settings: list[Reached]) -> str:
    """What the first setting that catches it finds; "" where none does."""
    states = transitions = 0
    with mutant.applied():
        for each in settings:
            explorer = Explorer(each.setting)
            why = ""
            try:
                with ending():
                    found = explorer.explore(limit=600_000)
                lacking = each.ends - ends(found)
                why = found.invariant or (lacking and f"no end any more: {sorted(lacking)}") or ""
            except _WRONG as error:
                why = f"{type(error).__name__}: {error}"
            states += explorer.found.states
            transitions += explorer.found.transitions
            if why:
                print(f"{mutant.name}\n  {each.setting}\n  {why}")
                print(f"  {states} states, {transitions} transitions")
                return why
    print(f"{mutant.name}: {len(settings)} settings, {states} states, {transitions} transitions")
    return ""


ALL = [*mutants()]
TABLE = [mutant for mutant in ALL if not mutant.name.startswith("code")]
CODE = [mutant for mutant in ALL if mutant.name.startswith("code")]


def test_mutants_have_names_of_their_own():
    assert len({mutant.name for mutant in ALL}) == len(ALL)


@pytest.mark.timeout(900)
def test_some_cells_and_rows_are_needed(seed):
    """What CI has time for; which ones is the seed's choice."""
    some = random.Random(seed).sample(
        [each for each in TABLE if each.name not in HARMLESS], SAMPLE
    )
    assert not [mutant.name for mutant in some if not caught(mutant, settings_for(mutant))]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_cell_and_every_row_is_needed():
    idle = [mutant.name for mutant in TABLE if not caught(mutant, settings_for(mutant))]
    print(f"{len(TABLE)} mutants")
    assert set(idle) == {name for name in HARMLESS if not name.startswith("code")}


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_every_condition_is_needed():
    idle = [mutant.name for mutant in CODE if not caught(mutant, settings_for(mutant))]
    print(f"{len(CODE)} mutants")
    assert set(idle) == {name for name in HARMLESS if name.startswith("code")}
