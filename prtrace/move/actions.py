"""check, load and rollback: the typed API for migration software.

Nothing here asks the agent: what it observed is handed in, as the "units" of prtrace.show/1.
Commands go down through SG_IO like everybody else's, and the store is never written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from prtrace.errors import ConflictError, InDoubtError, UsageError
from prtrace.model import LocalNexus, LogicalUnit
from prtrace.move.carry import Carrier, Progress, UnitReport, Witness
from prtrace.move.device import Paths
from prtrace.move.facts import Facts, User
from prtrace.move.handover import End, Plan, Result, Role
from prtrace.move.journal import STATE_DIR, Journal
from prtrace.move.parallel import each
from prtrace.move.reading import OTHER_SIDE
from prtrace.move.savefile import SavedUnit, SaveFile
from prtrace.move.side import Side
from prtrace.move.verdict import UnitVerdict, judge
from prtrace.state.apply import new_state
from prtrace.state.view import unit_view

MAX_AGE_S: Final = 300.0
"""How old a file may be: what it says of peers was true when it was written."""


@dataclass(frozen=True, slots=True)
class MoveOptions:
    """state_dir: where the journal is.  max_age_s: of the file, in seconds.

    dry_run: look, plan, and send nothing.  approve: asked once the plan was told, before
    anything is sent; False ends it there.
    """

    state_dir: Path = STATE_DIR
    max_age_s: float = MAX_AGE_S
    dry_run: bool = False
    approve: Callable[[], bool] = lambda: True
    progress: Progress = lambda _lu, _words: None
    witness: Witness | None = None


@dataclass(frozen=True, slots=True)
class MoveReport:
    """What became of all units.  seconds: from the first command to the last, wall clock."""

    role: Role
    file: SaveFile
    units: tuple[UnitReport, ...]
    seconds: float
    dry_run: bool = False

    @property
    def good(self) -> bool:
        """Whether every unit is where it belongs."""
        return self.dry_run or all(unit.end.result.good for unit in self.units)

    @property
    def exit_code(self) -> int:
        """0; 24 where the guest was fenced or the file is spent; 4 in doubt; 1 refused."""
        results = {unit.end.result for unit in self.units}
        if results & {Result.FENCED, Result.TAKEN_BACK}:
            return 24
        if Result.IN_DOUBT in results:
            return InDoubtError.exit_code
        return 1 if Result.REFUSED in results else 0

    def to_json(self) -> dict[str, Any]:
        """The prtrace.move/1 object."""
        return {
            "schema": "prtrace.move/1",
            "role": self.role.value,
            "id": self.file.id,
            "good": self.good,
            "dry_run": self.dry_run,
            "seconds": round(self.seconds, 6),
            "units": [unit.to_json() for unit in self.units],
        }


def read(sides: Iterable[Side]) -> dict[str, dict[str, Any]]:
    """The units of sides as one reading of each device shows them, by designator.

    It collects the unit attentions that wait for the nexus that is read over.
    """

    def one(side: Side) -> dict[str, Any]:
        now = time.time_ns()
        unit = LogicalUnit(side.lu, nexuses=tuple(path.nexus for path in side.paths))
        try:
            with Paths(side) as paths:
                state = paths.state(now)
        except ConflictError:
            # Only an SPC-2 reservation makes a device refuse PR IN.
            unread = new_state(side.lu, side.target, now)
            state = replace(unread, legacy_holder="another initiator")
        return unit_view(state, unit, now)

    return {unit["lu"]: unit for unit in each(one, sides)}


def check(
    sides: Iterable[Side],
    units: Mapping[str, Mapping[str, Any]],
    *,
    asked: User | None = None,
    users: Mapping[str, tuple[User, ...]] | None = None,
    moves_itself: str = "",
) -> tuple[UnitVerdict, ...]:
    """May the reservations of sides move now?

    units: by designator, as prtrace.show/1 has them.  users: who changed reservations through
    the nexuses of a unit.  The rest is as in prtrace.move.verdict.judge.
    """
    verdicts = []
    for side in sides:
        shown = units.get(side.lu)
        if shown is None:
            facts = Facts(side.lu, doubts=(("registrations", "never seen, never read"),))
        else:
            facts = Facts.from_show(shown)
        theirs = (users or {}).get(side.lu, ())
        verdicts.append(judge(side, facts, asked=asked, users=theirs, moves_itself=moves_itself))
    return tuple(verdicts)


def load(file: SaveFile, sides: Iterable[Side], options: MoveOptions | None = None) -> MoveReport:
    """Take the reservations over, on the destination; loading twice does no harm.

    sides: this host's, one for each unit of the file.  Where one unit is refused before
    anything was sent for it, nothing is sent for the others either.  Raises UsageError for a
    file that is too old or for paths that are the source's own, UnderWayError, StoreError.
    """
    options = options or MoveOptions()
    age = (time.time_ns() - file.time) / 1e9
    if abs(age) > options.max_age_s:
        when = f"{age:.0f} s old" if age > 0 else f"{-age:.0f} s in the future"
        raise UsageError(
            f"the file is stale: it is {when}, at most {options.max_age_s:.0f} s are allowed",
            hint="save anew; --max-age allows more, if nothing has happened on the source since",
        )
    return _move(Role.LOAD, file, sides, options)


def rollback(
    file: SaveFile, sides: Iterable[Side], options: MoveOptions | None = None
) -> MoveReport:
    """Take the reservations back, on the source, however far the destination got."""
    return _move(Role.ROLLBACK, file, sides, options or MoveOptions())


def _move(role: Role, file: SaveFile, sides: Iterable[Side], options: MoveOptions) -> MoveReport:
    pairs = [(_unit_of(file, side), side) for side in sides]
    nothing = [
        UnitReport(unit.lu, side.name, End(Result.NOTHING))
        for unit, side in pairs
        if unit.key is None
    ]
    begun = time.monotonic()
    with ExitStack() as stack:
        carriers = [
            _carrier(stack, role, file, unit, side, options)
            for unit, side in pairs
            if unit.key is not None
        ]
        list(each(Carrier.begin, carriers))
        if options.dry_run:
            reports = [_as_planned(carrier) for carrier in carriers]
        else:
            planned = [
                (carrier.plan.lu, words) for carrier in carriers for words in carrier.planned()
            ]
            for lu, words in planned:
                options.progress(lu, f"plan: {words}")
            if not planned or options.approve():
                reports = _run_all(role, carriers)
            else:
                reports = [carrier.hold_back("it was not agreed to") for carrier in carriers]
    return MoveReport(role, file, (*reports, *nothing), time.monotonic() - begun, options.dry_run)


def _run_all(role: Role, carriers: list[Carrier]) -> list[UnitReport]:
    ends = ((carrier.plan.lu, carrier.position.request) for carrier in carriers)
    bad = next((lu for lu, end in ends if isinstance(end, End) and not end.result.good), None)

    def one(carrier: Carrier) -> UnitReport:
        # A rollback saves what it can; a load is of use for all units or for none.
        if bad is not None and role is Role.LOAD and carrier.untouched:
            return carrier.hold_back(f"nothing was sent, because {bad} cannot be loaded")
        return carrier.run()

    return list(each(one, carriers))


def _as_planned(carrier: Carrier) -> UnitReport:
    report = carrier.report()
    planned = carrier.planned()
    if not planned:
        return report
    return UnitReport(
        report.lu,
        report.device,
        End(Result.UNTOUCHED, "dry run: nothing was sent"),
        attentions=report.attentions,
        reads=report.reads,
        planned=planned,
    )


def _carrier(
    stack: ExitStack,
    role: Role,
    file: SaveFile,
    unit: SavedUnit,
    side: Side,
    options: MoveOptions,
) -> Carrier:
    plan = _plan(role, unit, side)
    journal = None
    if not options.dry_run:
        journal = stack.enter_context(Journal(options.state_dir, file.id, role, unit.lu))
    paths = stack.enter_context(Paths(side))
    other: tuple[LocalNexus, ...] = ()
    if role is Role.LOAD:
        registered = (path for path in unit.paths if path.registered)
        other = tuple(path.as_path(unit.lu, OTHER_SIDE + path.nexus) for path in registered)
    return Carrier(plan, paths, other, journal, options.progress, options.witness)


def _plan(role: Role, unit: SavedUnit, side: Side) -> Plan:
    usable = tuple(path.nexus.nexus for path in side.paths if path.usable)
    if not usable or unit.key is None:
        raise UsageError(f"{side.name}: none of its paths takes commands")
    if role is Role.LOAD:
        _refuse_source_paths(unit, side)
    first, second = unit.temporary_load, unit.temporary_rollback
    return Plan(
        role=role,
        lu=unit.lu,
        target=side.target,
        key=unit.key,
        type=unit.type,
        held=unit.held,
        aptpl=unit.aptpl is True,
        mine=first if role is Role.LOAD else second,
        theirs=second if role is Role.LOAD else first,
        paths=usable,
        blank=sum(path.registered and not path.named for path in unit.paths),
    )


def _refuse_source_paths(unit: SavedUnit, side: Side) -> None:
    saved = {
        ((path.initiator_port or "").casefold(), path.relative_target_port)
        for path in unit.paths
        if path.named
    }
    for path in side.paths:
        port = (path.nexus.initiator_port or "").casefold()
        if (port, path.nexus.relative_target_port) in saved:
            raise UsageError(
                f"{path.node} is one of the source's own paths",
                hint="load on the destination, or name its path: --device OLD=NEW",
            )


def _unit_of(file: SaveFile, side: Side) -> SavedUnit:
    unit = file.unit(side.lu)
    if unit is None:
        raise UsageError(f"{side.name} is {side.lu}, which the file does not speak of")
    return unit
