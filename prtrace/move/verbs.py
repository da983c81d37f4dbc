"""The verbs of a move, each composed once: the typed API for migration software.

To be used as root; what goes wrong is a PrtraceError.  The commands, the agent's calls and other
programs use this module and nothing else of prtrace.move.  Commands go down through SG_IO like
everybody else's, and the store is never written.

On the source, while the guest runs or is paused:

    moves = Moves()
    file = moves.save(["/dev/mapper/mpatha"])         # file.dump() travels

On the destination, while the guest runs on the source:

    report = moves.prepare(file, {"/dev/mapper/mpatha": "/dev/mapper/mpathb"})

On the destination in the pause:

    may_run_here = moves.load(file).good

On the source afterwards, whichever way it went:

    moves.finish(file) if may_run_here else moves.rollback(file)
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Final

from prtrace.errors import (
    ConflictError,
    InDoubtError,
    MalformedError,
    NoSuchDeviceError,
    PrtraceError,
    StoreError,
    UsageError,
)
from prtrace.linux.process import boot_id
from prtrace.linux.units import Inventory, scan
from prtrace.model import LocalNexus, LogicalUnit, Nexus
from prtrace.move import journal as journals
from prtrace.move import savefile, saving
from prtrace.move.arrival import arrival, late_veto
from prtrace.move.carry import Carrier, MoveOptions, UnitReport, refusal, side_name
from prtrace.move.device import ParserOf, Paths
from prtrace.move.facts import Facts, Sender
from prtrace.move.journal import DESTINATION, SOURCE, Entry, Journal
from prtrace.move.knowledge import Knowledge, Observer, asked_user, itself_of, learn
from prtrace.move.machine import End, Plan
from prtrace.move.parallel import each
from prtrace.move.reading import OTHER_SIDE
from prtrace.move.rebinding import rebound, today
from prtrace.move.savefile import SavedUnit, SaveFile
from prtrace.move.side import (
    Side,
    find_loading_sides,
    find_saved_sides,
    find_side,
    find_sides,
)
from prtrace.move.sight import Viewpoint
from prtrace.move.table import Verb
from prtrace.move.verdict import UnitVerdict, judge, own_registrations
from prtrace.move.word import Word
from prtrace.state.apply import new_state
from prtrace.state.binding import may_be
from prtrace.state.quirks import profile_of
from prtrace.state.view import unit_view

SCHEMA: Final = "prtrace.move/2"
_TELLING: Final = (Verb.COMMIT, Verb.RECLAIM)
"""The verbs whose good end lets the guest run on the host that says it."""
_TOGETHER: Final = (Verb.PREPARE, Verb.COMMIT, Verb.LATE_COMMIT)
"""The verbs that are of use for all units or for none."""
_SPENT: Final = (Verb.FINISH, Verb.WITHDRAW, Verb.EVICT)
"""The verbs whose good end ends the move on this host."""
_VETOED: Final = {Verb.PREPARE: Word.REFUSED, Verb.LATE_COMMIT: Word.ALARM}
"""How a verb ends that nobody may commit late after, or that would commit too late."""


@dataclass(frozen=True, slots=True)
class Report:
    """What became of all units.  seconds: wall clock."""

    verb: Verb
    move: str
    units: tuple[UnitReport, ...]
    seconds: float
    dry_run: bool = False

    @property
    def good(self) -> bool:
        """Whether the verb did for every unit what it is for."""
        return self.exit_code == 0

    @property
    def exit_code(self) -> int:
        """0; 24 fenced, gone, taken back, changed or superseded; 4 in doubt; 1 refused, and at
        best 1 for a dry run of a verb whose 0 lets the guest run.

        1 says that nothing was done: where another unit has been served, it is 4.
        """
        codes = {unit.word.exit_code for unit in self.units}
        if 1 in codes and any(unit.word.good and unit.stands for unit in self.units):
            codes.add(InDoubtError.exit_code)
        if self.dry_run and self.verb in _TELLING:
            # 0 would say that the guest may run.
            codes.add(1)
        return next((code for code in (24, InDoubtError.exit_code, 1) if code in codes), 0)

    @property
    def may_run(self) -> bool:
        """Whether the guest may run on the host that says this."""
        return bool(self.units) and all(self._lets_run(unit) for unit in self.units)

    def _lets_run(self, unit: UnitReport) -> bool:
        telling = self.verb in _TELLING and not self.dry_run
        return telling and (unit.word.may_run or unit.word is Word.NO_KEY)

    def to_json(self) -> dict[str, Any]:
        """The prtrace.move/2 object."""
        return {
            "schema": SCHEMA,
            "verb": self.verb.value,
            "id": self.move,
            "good": self.good,
            "may_run": self.may_run,
            "exit_status": self.exit_code,
            "dry_run": self.dry_run,
            "seconds": round(self.seconds, 6),
            "units": [
                unit.to_json() | {"may_run": self.may_run and self._lets_run(unit)}
                for unit in self.units
            ],
        }


class Moves:
    """The verbs on this host.  observer: the agent, where its knowledge is to be used."""

    def __init__(
        self, options: MoveOptions | None = None, observer: Observer | None = None
    ) -> None:
        self._options = options or MoveOptions()
        self._observer = observer

    def check(
        self,
        devices: Sequence[str],
        *,
        guest: str | None = None,
        pid: int | None = None,
        read: bool = False,
    ) -> tuple[UnitVerdict, ...]:
        """May the reservations of devices move to another host?  read: ask the devices, too."""
        sides = self._sides(devices)
        folder = self._options.state_dir
        known = {side.lu: journals.read(folder, side.lu) for side in sides}
        return self._judged(sides, known, guest, pid, read)[2]

    def save(
        self,
        devices: Sequence[str],
        *,
        guest: str | None = None,
        pid: int | None = None,
        read: bool = False,
        host: str = "",
        aptpl: bool | None = None,
    ) -> SaveFile:
        """What is to travel, all devices or none; it is stored here, too.

        aptpl: whether registrations persist through power loss, where somebody knows it who has
        set the array up; None for what the agent has seen.

        Raises BlockedError and DoubtError, see prtrace.move.saving.
        """
        sides = self._sides(devices)
        with ExitStack() as stack:
            opened = {
                side.lu: stack.enter_context(Journal(self._options.state_dir, side.lu))
                for side in sides
            }
            # Under the locks: nobody makes a registration doubtful between verdict and entry.
            entries = {lu: tuple(one.entries.values()) for lu, one in opened.items()}
            known, asked, verdicts = self._judged(sides, entries, guest, pid, read)
            name = asked.guest if asked is not None else ""
            orders = [entry.order for one in opened.values() for entry in one.entries.values()]
            order = _next_order(orders)
            file = saving.save(
                known.units, verdicts, host=host, guest=name, order=order, aptpl=aptpl
            )
            journals.store_file(self._options.state_dir, file.id, file.dump())
            for unit in file.units:
                entry = Entry(unit.lu, SOURCE, order, file.id, device=unit.device)
                opened[unit.lu].write(entry, time.time_ns())
        replaced = {move for one in opened.values() for move in one.replaced}
        journals.forget_unheard(self._options.state_dir, replaced)
        return file

    def check_arrival(
        self, file: SaveFile, devices: Mapping[str, str] | None = None, *, late: bool = False
    ) -> tuple[UnitVerdict, ...]:
        """On the destination: would prepare go well?  One look; nothing is registered or noted.

        late: as for prepare.
        """
        sides = self._there(file, devices or {})
        dry = Moves(replace(self._options, dry_run=True), self._observer)
        report = dry._run(Verb.PREPARE, file, sides, late=late)
        by_lu = {side.lu: side for side in sides}
        return tuple(
            arrival(_unit_of(file, by_lu[unit.lu]), by_lu[unit.lu], unit) for unit in report.units
        )

    def prepare(
        self,
        file: SaveFile,
        devices: Mapping[str, str] | None = None,
        *,
        late: bool = False,
    ) -> Report:
        """On the destination, while the guest runs on the source: register the key beside it.

        late: no load will come in the pause, but a late commit after the guest went on; refused
        where that is not possible (prtrace.move.arrival.late_veto).
        """
        return self._run(Verb.PREPARE, file, self._there(file, devices or {}), late=late)

    def load(
        self,
        file: SaveFile,
        devices: Mapping[str, str] | None = None,
        *,
        released: bool = False,
    ) -> Report:
        """On the destination, the guest being paused: commit.  A good report: it may run here.

        Without prepare it registers by itself, if PRGENERATION is the file's.  released: the
        source has released the reservation (see release) for this load to take.
        """
        sides = self._there(file, devices or {})
        return self._run(Verb.COMMIT, file, sides, released=released)

    def late_commit(self, file: SaveFile, devices: Mapping[str, str] | None = None) -> Report:
        """On the destination, after the guest went on here: commit beside the running guest.

        The caller holds the guest's PR OUT back until this has ended: they would race with the
        commit.  A report with the word "alarm": the guest is to be paused, its key does not prove
        that it may run; once it is paused, load is what may follow.
        """
        return self._run(Verb.LATE_COMMIT, file, self._there(file, devices or {}), late=True)

    def release(self, file: SaveFile) -> Report:
        """On the source, the guest being paused, for targets that cannot hand over: release."""
        return self._run(Verb.RELEASE, file, self._here(file))

    def finish(self, file: SaveFile) -> Report:
        """On the source, after load: give the key up here."""
        return self._run(Verb.FINISH, file, self._here(file))

    def finish_from_destination(self, file: SaveFile, *, paused: bool = False) -> Report:
        """On the destination, after load, the source's host being off: take the source's key.

        Only where the guest holds alone: one PREEMPT of its own key, which leaves it registered
        at every moment.  Elsewhere what the source left stays, is named by save, and does not
        stand in the way of the next move.  paused: the guest is, which several paths need.
        """
        sides = self._there(file, {})
        if not paused:
            for side in sides:
                if len(side.paths) > 1:
                    raise UsageError(
                        f"{side.name} has {len(side.paths)} paths: the PREEMPT takes the key from "
                        "all but one for a moment",
                        hint="pause the guest, and say so with --paused",
                    )
        return self._run(Verb.EVICT, file, sides)

    def rollback(
        self,
        file: SaveFile,
        *,
        side: str = "",
        runs: bool = False,
        destination_is_off: bool = False,
    ) -> Report:
        """Abort the move: this host's part of it.

        side: "source" or "destination", "" for what this host's journal says; UsageError where
        the journal does not say it, or contradicts side.  On the destination it takes away what
        the move registered here; the guest must not run here.  On the source, the guest being
        paused, a good report says that it may go on.  runs: it runs, so that there is nothing
        to do.  destination_is_off: proof from outside that the guest cannot run there.
        """
        claimed = side == SOURCE
        if not side:
            side = self._side_of(file)
        if side == DESTINATION:
            return self._run(Verb.WITHDRAW, file, self._there(file, {}))
        sides = self._here(file, claimed=claimed)
        return self._run(Verb.RECLAIM, file, sides, runs=runs, off=destination_is_off)

    def moves(self) -> tuple[Entry, ...]:
        """The newest move of each logical unit on this host, by side.

        A journal that is malformed is left out: unreadable() has it.
        """
        found = journals.entries(self._options.state_dir)
        return tuple(entry for entry in found if isinstance(entry, Entry))

    def unreadable(self) -> tuple[MalformedError, ...]:
        """What is wrong with journals of this host; their units are moved by nobody."""
        found = journals.entries(self._options.state_dir)
        return tuple(error for error in found if isinstance(error, MalformedError))

    def settle(self) -> tuple[Report | PrtraceError, ...]:
        """Finish what is in question here: look, then verify it or take it away.

        For an agent that starts; whatever else the move needs is left to its verbs.  What cannot
        be settled is returned as its error, and holds up nothing else.
        """
        settled: list[Report | PrtraceError] = [*self.unreadable()]
        for entry in self.moves():
            if not entry.lines.in_question or entry.verb is None:
                continue
            try:
                settled.append(self._settled(entry, entry.verb))
            except PrtraceError as error:
                settled.append(error)
        return tuple(settled)

    def _settled(self, entry: Entry, verb: Verb) -> Report:
        path = journals.stored_file(self._options.state_dir, entry.move)
        if path is None:
            raise StoreError(
                f"the file of move {entry.move} is not on this host any more",
                hint="copy it here from the other host, and call rollback with it",
            )
        try:
            file = savefile.parse(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise MalformedError(f"save file {path}", str(error)[:200]) from error
        only = replace(file, units=tuple(u for u in file.units if u.lu == entry.lu))
        sides = self._there(only, {}) if entry.side == DESTINATION else self._here(only)
        return self._run(verb, only, sides, settles=True)

    def _judged(
        self,
        sides: Sequence[Side],
        entries: Mapping[str, Iterable[Entry]],
        guest: str | None,
        pid: int | None,
        read: bool,
    ) -> tuple[Knowledge, Sender | None, tuple[UnitVerdict, ...]]:
        """entries: what this host's journals say, by designator."""
        asked, itself = asked_user(guest, pid)
        if self._observer is None:
            known = Knowledge(self._read(sides))
        else:
            known = learn(sides, self._observer, self._read if read else None)
        verdicts = tuple(
            self._verdict(side, known, entries[side.lu], asked, itself) for side in sides
        )
        return known, asked, verdicts

    def _verdict(
        self,
        side: Side,
        known: Knowledge,
        entries: Iterable[Entry],
        asked: Sender | None,
        itself: str,
    ) -> UnitVerdict:
        shown = known.units.get(side.lu)
        if shown is None:
            facts = Facts(side.lu, doubts=(("registrations", "never seen, never read"),))
        else:
            facts = Facts.from_show(shown)
        entries = tuple(entries)
        facts = replace(
            facts,
            registrations=tuple(
                replace(each, by=None) if _carried(each.by, entries) else each
                for each in facts.registrations
            ),
        )
        left = self._left_by(entries)
        unsettled = tuple(("move", words) for entry in entries if (words := _unsettled(entry)))
        users = tuple(user for user in known.users.get(side.lu, ()) if not _carried(user, entries))
        if asked is None:
            mine = own_registrations(side, facts).values()
            itself = itself_of((*(each.by for each in mine if each.by is not None), *users))
        return judge(
            side,
            replace(facts, doubts=(*facts.doubts, *unsettled)),
            asked=asked,
            users=users,
            moves_itself=itself,
            leftovers=left,
            hands_over=self._hands_over(side),
        )

    def _left_by(self, entries: Iterable[Entry]) -> Mapping[Nexus, str]:
        """The nexuses that may have kept the guest's key when it came here, and its move."""
        found: dict[Nexus, str] = {}
        for entry in entries:
            if entry.side != DESTINATION or not entry.lines.told:
                continue
            file = self._stored(entry.move)
            unit = None if file is None else file.unit(entry.lu)
            if unit is not None:
                names = [path.name for path in unit.paths if path.registered and path.named]
                found |= dict.fromkeys((*names, *unit.leftovers), entry.move)
        return found

    def _stored(self, move: str) -> SaveFile | None:
        """The file of a move that is kept here; None where it is gone or cannot be read."""
        try:
            path = journals.stored_file(self._options.state_dir, move)
            return None if path is None else savefile.parse(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, PrtraceError):
            return None

    def _read(self, sides: Iterable[Side]) -> dict[str, dict[str, Any]]:
        with self._options.parsers() as parser_of:
            return read_units(sides, parser_of)

    def _hands_over(self, side: Side) -> bool:
        if self._options.hands_over is not None:
            return self._options.hands_over
        return profile_of(side.target).self_preempt_clears is True

    def _scan(self) -> Inventory:
        with self._options.pages() as names_in:
            return scan(names_in=names_in)

    def _sides(self, devices: Sequence[str]) -> tuple[Side, ...]:
        if not devices:
            raise UsageError("no device is named")
        return find_sides(self._scan(), devices)

    def _there(self, file: SaveFile, devices: Mapping[str, str]) -> tuple[Side, ...]:
        """The destination's sides; where nothing is named, what an earlier verb used."""
        names, inventory = dict(devices), self._scan()
        for entry in self._entries(file):
            same = entry.move == file.id and entry.side == DESTINATION and entry.device
            if same and entry.lu not in names and not _named(file, entry.lu, devices):
                names[entry.lu] = _device_now(inventory, entry)
        return find_loading_sides(inventory, file, names)

    def _here(self, file: SaveFile, *, claimed: bool = False) -> tuple[Side, ...]:
        """The source's sides; claimed: somebody says that this host is the source.

        UsageError where this host's journal says that it is only the destination.
        """
        roles = self._roles(file)
        if roles == {DESTINATION}:
            raise UsageError(
                f"this host's journal says that it is the destination of move {file.id}",
                hint="run it on the source",
            )
        return find_saved_sides(self._scan(), file, by_address=claimed or SOURCE in roles)

    def _entries(self, file: SaveFile) -> list[Entry]:
        """What this host's journals say of file's units, whatever the move."""
        folder = self._options.state_dir
        return [entry for unit in file.units for entry in journals.read(folder, unit.lu)]

    def _roles(self, file: SaveFile) -> set[str]:
        """The sides of file's move that this host's journals have."""
        return {entry.side for entry in self._entries(file) if entry.move == file.id}

    def _side_of(self, file: SaveFile) -> str:
        roles = self._roles(file)
        if len(roles) == 1:
            return roles.pop()
        found = "both sides" if roles else "nothing"
        raise UsageError(
            f"this host's journal has {found} of move {file.id}: its role is not known",
            hint="say which side this host is: --as source, or --as destination",
        )

    def _run(
        self,
        verb: Verb,
        file: SaveFile,
        sides: Iterable[Side],
        *,
        released: bool = False,
        runs: bool = False,
        off: bool = False,
        late: bool = False,
        settles: bool = False,
    ) -> Report:
        options = self._options
        begun = time.monotonic()
        pairs = [(_unit_of(file, side), side) for side in sides]
        if not options.dry_run:
            journals.store_file(options.state_dir, file.id, file.dump())
        with ExitStack() as stack:
            carriers = []
            reports = []
            opened: list[Journal] = []
            parser_of = stack.enter_context(options.parsers())
            for unit, found in pairs:
                side = found
                journal, entries = None, journals.read(options.state_dir, unit.lu)
                if not options.dry_run:
                    journal = stack.enter_context(Journal(options.state_dir, unit.lu))
                    entries = tuple(journal.entries.values())
                    opened.append(journal)
                known = {entry.side: entry for entry in entries}
                here = known.get(side_name(verb))
                if here is not None and here.move == file.id:
                    known[here.side], side = rebound(here, side, boot_id())
                paths = stack.enter_context(Paths(side, options.until, parser_of))
                if unit.key is None:
                    reports.append(
                        _without_key(verb, file, unit, paths, journal, known, runs=runs)
                    )
                    continue
                veto = late_veto(unit, side) if late else ""
                if veto:
                    reports.append(UnitReport(side.lu, side.name, _VETOED[verb], veto))
                    continue
                plan = self._plan(verb, unit, side, released=released, runs=runs, off=off)
                plan = replace(plan, settles=settles)
                carriers.append(_carrier(plan, file, unit, paths, journal, known, options))
            list(each(Carrier.begin, carriers))
            bad = [report.lu for report in reports if not report.word.good]
            if verb not in _TOGETHER:
                bad = []
            reports += self._carry(verb, carriers, bad)
            if options.dry_run:
                reports = [_dry(report) for report in reports]
        report = Report(verb, file.id, tuple(reports), time.monotonic() - begun, options.dry_run)
        if report.good and not (options.dry_run or settles) and verb in _SPENT:
            # What is settled is one unit of a move whose others may need the file still.
            journals.forget_file(options.state_dir, file.id)
        unheard = {move for one in opened for move in one.replaced}
        heard = {entry.move for one in opened for entry in one.entries.values()}
        if opened and file.id not in heard:
            # No unit may begin, or nothing was to be sent.
            unheard.add(file.id)
        journals.forget_unheard(options.state_dir, unheard)
        return report

    def _carry(self, verb: Verb, carriers: list[Carrier], bad: list[str]) -> list[UnitReport]:
        options = self._options
        if options.dry_run:
            return [
                carrier.hold_back(Word.UNTOUCHED, "dry run: nothing was sent")
                if carrier.planned
                else carrier.report()
                for carrier in carriers
            ]
        for carrier in carriers:
            for words in carrier.planned:
                options.say(carrier.side.lu, f"plan: {words}")
        if any(carrier.planned for carrier in carriers) and not options.approve():
            return [
                carrier.hold_back(Word.REFUSED, "it was not agreed to") for carrier in carriers
            ]
        if verb in _TOGETHER:
            bad += [
                carrier.side.lu
                for carrier in carriers
                if isinstance(carrier.position.request, End)
                and not carrier.position.request.word.good
            ]

        def one(carrier: Carrier) -> UnitReport:
            # Of use for all units or for none; an abort and a finish do what they can.
            if bad and carrier.planned:
                return carrier.hold_back(Word.REFUSED, f"nothing was sent, because of {bad[0]}")
            return carrier.run()

        ended = list(each(one, carriers))
        if bad or not all(report.word.good for report in ended):
            # What the guest may do is told for all units or for none: a journal that said so of
            # one would let it run later, whatever it did on the source meanwhile.
            return ended
        return list(each(Carrier.tell, carriers))

    def _plan(
        self, verb: Verb, unit: SavedUnit, side: Side, *, released: bool, runs: bool, off: bool
    ) -> Plan:
        if unit.key is None:
            raise UsageError(f"{side.name}: there is no key to move")
        usable = [path for path in side.paths if path.usable]
        if not usable:
            raise UsageError(f"{side.name}: none of its paths takes commands")
        unasked: tuple[str, ...] = ()
        if verb.on_source:
            had = {_ports(path) for path in unit.paths if path.registered}
            usable = [path for path in usable if _local_ports(path.nexus) & had]
            deaf = [path.nexus for path in side.paths if not path.usable]
            unasked = tuple(
                nexus.nexus for nexus in (*deaf, *side.gone) if _was_among(nexus, unit)
            )
        elif verb is not Verb.WITHDRAW:
            # An abort touches nothing but what the journal lists.
            _refuse_source_paths(unit, side)
        if not verb.on_source:
            unasked = tuple(nexus.nexus for nexus in side.gone)
        view = Viewpoint(
            unit.key,
            verb.on_source,
            sum(path.registered for path in unit.paths),
            frozenset(unit.leftovers),
        )
        return Plan(
            verb,
            view,
            tuple(path.nexus.nexus for path in usable),
            unit.type,
            unit.held,
            generation=unit.generation if verb is Verb.COMMIT else None,
            hands_over=self._hands_over(side),
            reserve=unit.type if released and unit.held else None,
            runs=runs,
            off=off,
            unasked=unasked,
            left_here=not verb.on_source and _left_here(unit, side),
        )


def _next_order(orders: Iterable[int]) -> int:
    """Greater than the orders of every move that is known here; StoreError where none is left."""
    order = max([time.time_ns(), *(known + 1 for known in orders)])
    if order > savefile.MAX_ORDER:
        raise StoreError(
            f"a move that this host knows has order {order - 1}, and no move can be newer",
            hint="no clock makes such an order, so its file was made by hand: when prtrace moves "
            "--all shows nothing unfinished of it, remove the unit's journals, which have that "
            "order in them",
        )
    return order


def moves_view(found: Iterable[Entry]) -> dict[str, Any]:
    """The prtrace.moves/1 object."""
    return {
        "schema": "prtrace.moves/1",
        "moves": [
            {
                "id": entry.move,
                "order": str(entry.order),
                "lu": entry.lu,
                "side": entry.side,
                "device": entry.device,
                "verb": "save" if entry.verb is None else entry.verb.value,
                "end": None if entry.end is None else entry.end.value,
                "in_question": list(entry.lines.in_question),
                "time": entry.time,
                "next": next_step(entry),
            }
            for entry in found
        ],
    }


def _carried(sender: Sender | None, entries: Iterable[Entry]) -> bool:
    """Whether sender is a process that carried moves out here.

    What it sent it sent for the guest that moved: it is no user of its own beside it.
    """
    return sender is not None and any(
        carrier.is_process(sender.pid, sender.start_ns)
        for entry in entries
        for carrier in entry.carriers
    )


def _unsettled(entry: Entry) -> str:
    """Why what is registered here proves nothing while entry is the newest; "" where it does.

    A registration in question may be a key that was revived after a fence, and only this
    host's journal knows it.
    """
    verb = "save" if entry.verb is None else entry.verb.value
    if entry.lines.in_question:
        why = f"{verb} left {', '.join(entry.lines.in_question)} in question"
    elif entry.verb is not None and entry.end is None:
        why = f"{verb} runs, or was killed"
    else:
        return ""
    step = next_step(entry) or f"prtrace rollback {entry.move} --as {entry.side}"
    return f"{why} (move {entry.move}): {step}"


def next_step(entry: Entry) -> str:
    """What is to be done about a move on this host; "" where nothing is."""
    move = entry.move
    if entry.side == DESTINATION:
        undo = f"prtrace rollback {move} --as destination"
        match entry.verb, entry.end:
            case Verb.COMMIT | Verb.LATE_COMMIT, Word.COMMITTED | Word.DONE:
                return ""
            case Verb.EVICT, _:
                killed = entry.end is None
                return f"prtrace finish {move} --from-destination" if killed else ""
            case Verb.PREPARE, Word.PREPARED:
                return f"prtrace load {move} in the pause, or {undo}"
            case Verb.WITHDRAW, Word.SOURCE_FIRST:
                return f"rollback on the source, then {undo}"
            case _:
                return undo if entry.lines.nexuses or entry.end is None else ""
    match entry.verb, entry.end:
        case None, _:
            return (
                "nothing was sent for it: prepare and load it on the destination where the guest "
                f"is to move, leave it, or drop it by prtrace rollback {move} --as source"
            )
        case Verb.FINISH, None | Word.WAIT | Word.UNTAKEN | Word.IN_DOUBT:
            return f"prtrace finish {move}"
        case Verb.RELEASE, _:
            return f"load --released on the destination, or prtrace rollback {move} --as source"
        case Verb.RECLAIM, None | Word.IN_DOUBT:
            return f"prtrace rollback {move} --as source"
        case _:
            return ""


def read_units(sides: Iterable[Side], parser_of: ParserOf) -> dict[str, dict[str, Any]]:
    """The units of sides as one reading of each device shows them, by designator.

    It collects the unit attentions that wait for the nexus that is read over.
    """

    def one(side: Side) -> dict[str, Any]:
        now = time.time_ns()
        unit = LogicalUnit(side.lu, nexuses=tuple(path.nexus for path in side.paths))
        try:
            with Paths(side, parser_of=parser_of) as paths:
                state = paths.state(now)
        except ConflictError:
            # Only an SPC-2 reservation makes a device refuse PR IN.
            unread = new_state(side.lu, side.target, now)
            state = replace(unread, legacy_holder="another initiator")
        return unit_view(state, unit, now)

    return {unit["lu"]: unit for unit in each(one, sides)}


def _carrier(
    plan: Plan,
    file: SaveFile,
    unit: SavedUnit,
    paths: Paths,
    journal: Journal | None,
    entries: Mapping[str, Entry],
    options: MoveOptions,
) -> Carrier:
    other: tuple[LocalNexus, ...] = ()
    if not plan.verb.on_source:
        other = _source_paths(unit)
    return Carrier(plan, file, paths, other, journal, entries, options)


def _dry(report: UnitReport) -> UnitReport:
    """A dry run told nobody anything, and its journal does not say that it did."""
    if not (report.word.may_run or report.word is Word.NO_KEY):
        return report
    return replace(
        report, word=Word.UNTOUCHED, why=f"dry run: it would end as: {report.word.value}"
    )


def _source_paths(unit: SavedUnit) -> tuple[LocalNexus, ...]:
    return tuple(path.as_nexus(unit.lu, OTHER_SIDE + path.nexus) for path in unit.paths)


def _without_key(
    verb: Verb,
    file: SaveFile,
    unit: SavedUnit,
    paths: Paths,
    journal: Journal | None,
    entries: Mapping[str, Entry],
    *,
    runs: bool,
) -> UnitReport:
    """The guest had nothing here when the file was saved; it may have joined since."""
    side = paths.side
    refused = refusal(entries, file, verb)
    if refused is not None:
        return UnitReport(side.lu, side.name, *refused)
    word, why = (Word.GUEST_RUNS, "") if runs else _joined(verb, unit, paths)
    if journal is not None:
        entry = Entry(unit.lu, side_name(verb), file.order, file.id, verb, word, device=side.name)
        journal.write(entry, time.time_ns())
    return UnitReport(side.lu, side.name, word, why, reads=paths.reads)


def _joined(verb: Verb, unit: SavedUnit, paths: Paths) -> tuple[Word, str]:
    if verb is Verb.WITHDRAW:
        return Word.NOTHING, ""
    try:
        reading = paths.look(() if verb.on_source else _source_paths(unit))
    except PrtraceError as error:
        return Word.IN_DOUBT, error.message
    if reading.repeated:
        return Word.IN_DOUBT, f"the target lists a nexus twice: {', '.join(reading.repeated)}"
    if reading.blind and reading.others:
        keys = ", ".join(f"{one.key:#x}" for one in reading.others)
        return Word.IN_DOUBT, f"the target does not tell whether the guest registered: {keys}"
    if verb.on_source:
        joined = [f"{nexus} {key:#x}" for nexus, key in reading.own.items()]
    else:
        joined = [f"{one.nexus} {one.key:#x}" for one in reading.others if one.other_side]
        maybe = [
            f"{one.nexus} {one.key:#x}"
            for one in reading.others
            if not one.other_side and _may_be_one_of(one.nexus, _source_paths(unit))
        ]
        if maybe and not joined:
            return Word.IN_DOUBT, f"it may be the source that registered {', '.join(maybe)}"
    if not joined:
        return Word.NO_KEY, ""
    why = f"registered since the file was saved: {', '.join(joined)}"
    # On the source it is the guest's own doing, and stays where it is.
    return Word.RESTORED_CHANGED if verb is Verb.RECLAIM else Word.CHANGED, why


def _device_now(inventory: Inventory, entry: Entry) -> str:
    """What to use for a unit that entry is about: its device, whose node another path can have by
    now; then the path that the move registered, or all paths where it registered several or that
    one is gone."""
    unit = inventory.units.get(entry.lu)
    nexuses = () if unit is None else unit.nexuses
    boot = boot_id()
    now = [today(each, entry, nexuses, boot) for each in entry.nexuses]
    mine = [nexus for nexus in now if nexus is not None]
    try:
        side = find_side(inventory, entry.device)
        fits = side.lu == entry.lu and all(nexus in side.nexuses for nexus in mine)
    except NoSuchDeviceError:
        fits = False
    if fits or not entry.nexuses:
        return entry.device
    return (mine[0].device or mine[0].sg) if len(mine) == 1 else entry.lu


def _named(file: SaveFile, lu: str, devices: Mapping[str, str]) -> bool:
    unit = file.unit(lu)
    return unit is not None and unit.device in devices


Ports = tuple[str, int | None]


def _ports(path: savefile.SavedPath) -> Ports:
    if path.named:
        return (path.initiator_port or "").casefold(), path.relative_target_port
    return path.nexus, None


def _local_ports(nexus: LocalNexus) -> set[Ports]:
    named = (nexus.initiator_port or "").casefold(), nexus.relative_target_port
    return {named, (nexus.nexus, None)}


def _was_among(nexus: LocalNexus, unit: SavedUnit) -> bool:
    """Whether a nexus of the source had the key when the file was saved."""
    had = [path for path in unit.paths if path.registered]
    return any(nexus.nexus == path.name or _ports(path) in _local_ports(nexus) for path in had)


def _left_here(unit: SavedUnit, side: Side) -> bool:
    """Whether a nexus of the destination may be one that an earlier move left with the key."""
    nexuses = [path.nexus for path in side.paths]
    return any(_may_be_one_of(name, nexuses) for name in unit.leftovers)


def _may_be_one_of(name: Nexus, nexuses: Iterable[LocalNexus]) -> bool:
    """Whether what a reading calls name, "<initiator port>,<relative target port>", may be one of
    nexuses."""
    port, _, relative = name.rpartition(",")
    number = int(relative) if relative.isdecimal() else None
    return any(may_be(port, number, nexus) for nexus in nexuses)


def _refuse_source_paths(unit: SavedUnit, side: Side) -> None:
    saved = {_ports(path) for path in unit.paths if path.named}
    for path in side.paths:
        if _local_ports(path.nexus) & saved:
            raise UsageError(
                f"{path.node} is one of the source's own paths",
                hint="use another path of the destination: --device OLD=NEW; where the "
                "initiator port itself moves (NPIV) there is nothing to do",
            )


def _unit_of(file: SaveFile, side: Side) -> SavedUnit:
    unit = file.unit(side.lu)
    if unit is None:
        raise UsageError(f"{side.name} is {side.lu}, which the file does not speak of")
    return unit
