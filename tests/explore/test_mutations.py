"""Each guard of the machine is needed: without it the exploration finds a broken invariant.

A mutant is the machine with one guard less (mutants.py).  It is caught where a setting tells a
story, where the machine meets a picture of which no row speaks any more, or where a verb does not
end any more with a word that it ends with otherwise.  Each is tried in the settings where it
matters, the smallest first: where a cell or a row is reached, or where the code answers otherwise
than the machine.  CI takes some of the table's cells and rows, of those that small settings reach,
and large settings only for what the small ones do not catch; the slow run takes all, and the code.
"""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import explorer
import pytest
from explorer import Explorer, Found, Setting, TooManyError
from harmless import HARMLESS
from mutants import Mutant, Watch, mutants, watched
from test_exploration import SETTINGS

from prtrace.move import machine
from prtrace.move.machine import End, Position

SAMPLE = 16
PARTS = 8
"""Of the code's mutants: they run side by side, and one can be run again."""
MOST_TIMES, AT_LEAST = 5, 20_000
"""Of the states that the machine has in a setting; that a mutant has more does not catch it.

A small setting costs nothing, and what a condition keeps away can be many times what is left.
"""
SMALL, ALL_SIZES = 4_000, 3_000_000
"""States: the small settings are a fifth of all, and cost a fifth of what exploring all costs."""
MOST_ROWS = 50
"""Of one answer: more than there can be to verify."""


class GivesUpError(Exception):
    """A mutant has no answer."""


_WRONG = (LookupError, TypeError, AttributeError, AssertionError, GivesUpError)
"""What a mutant may raise: it was relied on that this cannot happen."""


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """Few rows are looked up, until the with statement ends."""
    left, find_row = iter(range(MOST_ROWS)), machine.find_row

    def found(*given):
        if next(left, None) is None:
            raise GivesUpError("it looks up rows for ever")
        return find_row(*given)

    with Mutant("ending", ((machine, "find_row", found),)).applied():
        yield


@dataclass(frozen=True)
class Reached:
    """What an exploration of the machine as it is tells of the mutants.

    states: how many.  cells: the (row, verb) that it reaches.  differ: the code mutants, by name,
    that answer otherwise there than the machine.  ends: the (verb, word) that it ends with.
    """

    setting: Setting
    states: int
    cells: frozenset[tuple[str, str]]
    differ: frozenset[str]
    ends: frozenset[tuple[str, str]]


def ends(found: Found) -> frozenset[tuple[str, str]]:
    """How verbs ended in an exploration."""
    return frozenset((verb, word) for verb, words in found.ends.items() for word in words)


class Asked:
    """The machine, for explorers, which compares each of its answers with the mutants'.

    A mutant that answers as the machine wherever an exploration asks it is the machine there.
    cells: the (row, verb) that were reached since clear().  differ: the numbers of the code
    mutants that have answered otherwise since then.
    """

    def __init__(self) -> None:
        self.cells: set[tuple[str, str]] = set()
        self.differ: set[int] = set()
        self.watch = Watch()

    def clear(self) -> None:
        """Begin anew."""
        self.cells, self.differ = set(), set()

    @contextlib.contextmanager
    def applied(self, *, code: bool) -> Iterator[None]:
        """Explorers ask this, until the with statement ends; without code nothing differs."""
        with watched(self.watch).applied() if code else contextlib.nullcontext():
            asked = Mutant("asked", (
                (explorer, "looked", functools.partial(self.asked, "looked")),
                (explorer, "answered", functools.partial(self.asked, "answered")),
                (machine, "find_row", self._found(machine.find_row)),
            ))  # fmt: skip
            with asked.applied():
                yield

    def _found(self, find_row):
        def found(plan, position, sight):
            row = find_row(plan, position, sight)
            if not self.watch.within:
                self.cells.add((row.name, plan.verb.name))
            return row

        return found

    def asked(self, name, *given):
        self.watch.differ.clear()
        answer = getattr(machine, name)(*given)
        self.watch.within = True
        for number in self.watch.differ - self.differ:
            try:
                with CODE[number].applied(), ending():
                    same = _read(getattr(machine, name)(*given)) == _read(answer)
            except _WRONG:
                same = False
            if not same:
                self.differ.add(number)
        self.watch.within = False
        return answer


def _read(answer: object) -> object:
    """What is done with an answer: nothing is with the row."""
    match answer:
        case Position(request=End() as end):
            return replace(answer, request=replace(end, row=None))
    return answer


@functools.cache
def reached(*, code: bool, most: int) -> tuple[Reached, ...]:
    """What each setting of at most so many states reaches, the smallest first.

    code: and which mutants differ.
    """
    found = []
    asked = Asked()
    with asked.applied(code=code):
        for setting in SETTINGS:
            asked.clear()
            admit = functools.cache(functools.partial(asked.asked, "admit"))
            try:
                explored = Explorer(setting, admit=admit).explore(limit=most)
            except TooManyError:
                continue
            differ = frozenset(CODE[number].name for number in asked.differ)
            cells = frozenset(asked.cells)
            found.append(Reached(setting, explored.states, cells, differ, ends(explored)))
    return tuple(sorted(found, key=lambda each: each.states))


def settings_for(mutant: Mutant, most: int = ALL_SIZES) -> list[Reached]:
    """Where it can be caught, of the settings of at most so many states, the smallest first."""
    kind, row, *verb = mutant.name.replace(":", "").split()
    if kind == "code":
        return [each for each in reached(code=True, most=most) if mutant.name in each.differ]
    return [
        each
        for each in reached(code=False, most=most)
        if any(at == row and (kind == "row" or of == verb[0]) for at, of in each.cells)
    ]


def _answering(name: str) -> Callable[..., object]:
    """The machine's function, which raises GivesUpError where it has no answer."""
    real = getattr(machine, name)

    def answer(*given):
        try:
            with ending():
                after = real(*given)
                assert name == "admit" or getattr(after.request, "nexus", "") is not None
                return after
        except _WRONG as error:
            raise GivesUpError(f"{name}: {type(error).__name__}: {error}") from error

    return answer


def caught(mutant: Mutant, settings: list[Reached]) -> str:
    """What the first setting that catches it finds; "" where none does."""
    states = transitions = 0
    with mutant.applied(), Mutant("answering", tuple(
        (explorer, name, _answering(name)) for name in ("looked", "answered")
    )).applied():  # fmt: skip
        admit = functools.cache(_answering("admit"))
        for each in settings:
            exploring = Explorer(each.setting, admit=admit)
            try:
                found = exploring.explore(limit=max(MOST_TIMES * each.states, AT_LEAST))
                lacking = each.ends - ends(found)
                why = found.invariant or (lacking and f"no end any more: {sorted(lacking)}") or ""
            except GivesUpError as error:
                why = str(error)
            except TooManyError:
                why = ""  # of a mutant that goes on for ever this setting says nothing
            states += exploring.found.states
            transitions += exploring.found.transitions
            if why:
                print(f"{mutant.name}\n  {each.setting}\n  {why}")
                print(f"  {states} states, {transitions} transitions")
                return why
    print(f"{mutant.name}: {len(settings)} settings, {states} states, {transitions} transitions")
    return ""


def idle(some: Iterable[Mutant]) -> set[str]:
    """Those that nothing catches."""
    return {mutant.name for mutant in some if not caught(mutant, settings_for(mutant))}


ALL = [*mutants()]
TABLE = [mutant for mutant in ALL if not mutant.name.startswith("code")]
CODE = [mutant for mutant in ALL if mutant.name.startswith("code")]


def test_mutants_have_names_of_their_own():
    names = {mutant.name for mutant in ALL}
    assert len(names) == len(ALL)
    assert HARMLESS.keys() <= names


@pytest.mark.timeout(900)
def test_some_cells_and_rows_are_needed(seed):
    """What CI has time for; which ones is the seed's choice."""
    needed = [each for each in TABLE if each.name not in HARMLESS]
    near = [each for each in needed if settings_for(each, SMALL)]
    some = random.Random(seed).sample(near, SAMPLE)
    assert not idle([each for each in some if not caught(each, settings_for(each, SMALL))])


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_every_cell_and_every_row_is_needed():
    assert idle(TABLE) == HARMLESS.keys() & {mutant.name for mutant in TABLE}


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(PARTS))
def test_every_condition_is_needed(part):
    some = CODE[part::PARTS]
    assert idle(some) == HARMLESS.keys() & {mutant.name for mutant in some}
