"""Carrying one verb out for one logical unit: looks, commands, journal and report."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prtrace.errors import InDoubtError, PrtraceError, StoreError
from prtrace.linux.units import NamesIn
from prtrace.model import Action, LocalNexus, Outcome
from prtrace.move import multipathd
from prtrace.move.device import ParserOf, Paths, pages_here, parsers_here
from prtrace.move.journal import (
    DESTINATION,
    SOURCE,
    STATE_DIR,
    Entry,
    Journal,
    RegisteredNexus,
)
from prtrace.move.lines import Lines
from prtrace.move.machine import (
    End,
    Look,
    Plan,
    Position,
    Send,
    admit,
    answered,
    looked,
    start,
)
from prtrace.move.savefile import SaveFile
from prtrace.move.side import Side
from prtrace.move.table import Do, Row, Verb
from prtrace.move.word import Word
from prtrace.state.event import key_text

Progress = Callable[[str, str], None]
"""Called with the logical unit and a few words about what was done."""


@dataclass(frozen=True, slots=True)
class MoveOptions:
    """How a verb is carried out."""

    state_dir: Path = STATE_DIR
    """Where the journals are."""
    dry_run: bool = False
    """Look, say the next command, and send nothing."""
    approve: Callable[[], bool] = lambda: True
    """Asked before anything is sent; False ends it there."""
    progress: Progress = lambda _lu, _words: None
    checkpoint: Callable[[str], None] = lambda _point: None
    """Called at each moment at which the process may die: "look", "before REGISTER", …, "end"."""
    until: float | None = None
    """time.monotonic() from which on no look and no command begins; None: there is time."""
    parsers: Callable[[], AbstractContextManager[ParserOf]] = parsers_here
    """Gives, for one verb, who makes facts of the bytes of devices."""
    pages: Callable[[], AbstractContextManager[NamesIn]] = pages_here
    """Gives, for one look at sysfs, who says which names are in VPD pages 83h."""
    hands_over: bool | None = None
    """Whether the target keeps a registrant that preempts the holder's key, which it has, too;
    None: as far as prtrace knows the target."""

    def say(self, lu: str, words: str) -> None:
        """Report progress.  That nobody reads it, or that its disk is full, ends no verb between
        two commands: the report at the end is what somebody relies on."""
        with contextlib.suppress(OSError):
            self.progress(lu, words)


@dataclass(frozen=True, slots=True)
class SentCommand:
    """A command and its outcome."""

    command: Send
    aptpl: bool
    outcome: Outcome
    milliseconds: float

    def to_json(self) -> dict[str, Any]:
        """As reports show it."""
        sent = self.command
        return {
            "step": sent.do.value,
            "nexus": sent.nexus,
            "action": sent.action.value,
            "key": key_text(sent.key),
            "sa_key": key_text(sent.sa_key),
            "type": None if sent.type is None else sent.type.name,
            "aptpl": self.aptpl,
            "outcome": self.outcome.value,
            "milliseconds": round(self.milliseconds, 3),
        }


@dataclass(frozen=True, slots=True)
class UnitReport:
    """What became of one logical unit."""

    lu: str
    device: str
    word: Word
    why: str = ""
    sent: tuple[SentCommand, ...] = ()
    attentions: tuple[str, ...] = ()
    """What the device delivered on the way: nobody else will see it."""
    reads: int = 0
    writes: int = 0
    """PR IN and PR OUT commands sent, repetitions included."""
    planned: tuple[str, ...] = ()
    remains: tuple[str, ...] = ()
    """What is left or lacking here, for people: paths, keys that multipathd keeps."""
    removed: tuple[str, ...] = ()
    stands: bool = False
    """Something that the move did here stands, by this call or by an earlier one."""

    def to_json(self) -> dict[str, Any]:
        """One element of "units" of prtrace.move/2."""
        return {
            "lu": self.lu,
            "device": self.device,
            "result": self.word.value,
            "may_run": self.word.may_run or self.word is Word.NO_KEY,
            "why": self.why or None,
            "steps": [each.to_json() for each in self.sent],
            "attentions": list(self.attentions),
            "reads": self.reads,
            "writes": self.writes,
            "planned": list(self.planned),
            "remains": list(self.remains),
            "removed": list(self.removed),
        }


def side_name(verb: Verb) -> str:
    """The side whose journal a verb writes."""
    return SOURCE if verb.on_source else DESTINATION


def refusal(entries: Mapping[str, Entry], file: SaveFile, verb: Verb) -> tuple[Word, str] | None:
    """Why verb may not begin on a logical unit, None where it may.

    entries: what the unit's journals say, by side.
    """
    here = side_name(verb)
    for entry in entries.values():
        newest = entry.newest
        if entry.side != here:
            newest = replace(newest, verb=None)
        word = admit(newest, file.order, file.id, verb)
        if word is not None:
            return word, f"{entry.verb.value if entry.verb else 'save'} of move {entry.move}"
    known = entries.get(here)
    if known is None or known.move == file.id:
        return None
    begins = verb in (Verb.PREPARE, Verb.COMMIT) and known.lines.nexuses and not known.lines.told
    if begins or known.lines.in_question:
        return Word.REFUSED, (
            f"move {known.move} is unfinished here: "
            f"prtrace rollback {known.move} --as {known.side}"
        )
    return None


_MAY_PERSIST = (
    "whether the registrations of this unit persist through power loss is not known: the device "
    "does not know REPORT CAPABILITIES, and the source's agent has not seen it; a REGISTER "
    "without APTPL would end it for everybody: save anew with --aptpl yes or no, as the array is "
    "set up"
)

_TITLES = {
    Do.REGISTER: "register the guest's key on",
    Do.REGISTER_ONE: "register the guest's key on",
    Do.UNREGISTER: "take the guest's key away from",
    Do.TOUCH: "touch",
    Do.PREEMPT: "take the reservation over on",
    Do.RELEASE: "release the reservation on",
    Do.RESERVE: "reserve on",
}


def title(command: Send) -> str:
    """The command in a few words."""
    kind = "" if command.type is None else f" ({command.type.name})"
    return f"{_TITLES[command.do]} {command.nexus}{kind}"


@dataclass(slots=True)
class Carrier:
    """One verb on open paths.

    other: the source's nexuses, as readings name them.  journal is None for a dry run.
    entries: what the unit's journals said at the beginning, by side; known: this side's.  The
    first look is made by begin(), everything else by run().
    """

    plan: Plan
    file: SaveFile
    paths: Paths
    other: tuple[LocalNexus, ...]
    journal: Journal | None
    entries: Mapping[str, Entry]
    options: MoveOptions
    known: Entry | None = field(init=False)
    position: Position = field(init=False)
    sent: list[SentCommand] = field(default_factory=list)
    why: str = ""
    removed: list[str] = field(default_factory=list)
    remains: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.known = self.entries.get(side_name(self.plan.verb))
        same = self.known is not None and self.known.move == self.file.id
        lines = self.known.lines if same and self.known is not None else Lines()
        self.position = start(lines)

    @property
    def side(self) -> Side:
        """The logical unit and its paths here."""
        return self.paths.side

    @property
    def planned(self) -> tuple[str, ...]:
        """The next command in words, where there is one."""
        request = self.position.request
        return (title(request),) if isinstance(request, Send) else ()

    def begin(self) -> None:
        """See whether the verb may begin, and look for the first time."""
        refused = refusal(self.entries, self.file, self.plan.verb)
        if refused is not None:
            self._stop(*refused)
        elif self.paths.late:
            self._stop_late()
        else:
            self._look()

    def hold_back(self, word: Word, why: str) -> UnitReport:
        """End before anything was sent; the journal says nothing of it."""
        planned = self.planned
        self._stop(word, why)
        return self.report(planned)

    def run(self) -> UnitReport:
        """Go on to the end; also where the journal cannot be written any more, with what was
        done until then.  An end that lets the guest run waits for tell().
        """
        return self._kept(self._to_the_end)

    def tell(self) -> UnitReport:
        """Every unit of the move lets the guest run: the journal says so, and then the report."""
        return self._kept(self._tell)

    def _kept(self, work: Callable[[], None]) -> UnitReport:
        begun = bool(self.position.lines.nexuses)
        try:
            work()
        except StoreError as error:
            # What is on the device is not in the journal: nobody may rely on either.
            word = Word.IN_DOUBT if begun or self.sent else Word.REFUSED
            self._stop(word, f"{error.message}; {error.hint}")
        return self.report()

    def _to_the_end(self) -> None:
        while True:
            request = self.position.request
            good = isinstance(request, End) and request.word.good
            if (good or not isinstance(request, End)) and self.paths.late:
                self._stop_late()
                return
            match request:
                case Look():
                    self._look()
                case Send():
                    self._send(request)
                case End():
                    if not request.word.may_run:
                        self._end(request)
                    return

    def _tell(self) -> None:
        request = self.position.request
        if isinstance(request, End) and request.word.may_run:
            if self.paths.late:
                self._stop_late()
            else:
                self._end(request)

    def report(self, planned: tuple[str, ...] = ()) -> UnitReport:
        """What was done so far."""
        request = self.position.request
        word = Word.IN_DOUBT
        lacking: tuple[str, ...] = ()
        if isinstance(request, End):
            word, lacking = self._fenced(request.word), request.remains
            self.why = self.why or ("" if request.row is None else request.row.value)
        unusable = [path.nexus.nexus for path in self.side.paths if not path.usable]
        gone = [nexus.nexus for nexus in self.side.gone]
        remains = [
            f"{nexus} could not be served" for nexus in lacking if nexus not in (*unusable, *gone)
        ]
        if self.sent or lacking or not word.good or word in (Word.PREPARED, Word.COMMITTED):
            remains += [f"{nexus} takes no commands" for nexus in unusable]
            remains += [f"no path here is known to be {nexus} now" for nexus in gone]
        return UnitReport(
            self.side.lu,
            self.side.name,
            word,
            self.why,
            tuple(self.sent),
            tuple(self.paths.attentions),
            self.paths.reads,
            self.paths.writes,
            planned,
            (*remains, *self.remains),
            tuple(self.removed),
            bool(self.sent or self.position.lines.nexuses or self.position.lines.told),
        )

    def _stop(self, word: Word, why: str) -> None:
        self.why = why
        self.position = replace(self.position, request=End(word))

    def _stop_late(self) -> None:
        """The caller does not wait any longer, so that nobody would hear of a good end."""
        begun = bool(self.sent or self.position.lines.nexuses)
        self._stop(Word.IN_DOUBT if begun else Word.REFUSED, "the deadline has passed")

    def _look(self) -> None:
        self.options.checkpoint("look")
        try:
            reading = self.paths.look(self.other)
        except PrtraceError as error:
            hint = f"; {error.hint}" if error.hint else ""
            self._stop(Word.IN_DOUBT, error.message + hint)
            return
        self.position = looked(self.plan, self.position, reading)
        request = self.position.request
        if isinstance(request, End) and request.row is Row.MIXED:
            self.why = f"{Row.MIXED.value}: {', '.join(reading.mixed)}"

    def _send(self, request: Send) -> None:
        self._write(None)
        self.options.checkpoint(f"before {request.do.value}")
        try:
            aptpl = request.action is Action.REGISTER and self._persists()
        except PrtraceError as error:
            self._stop(Word.IN_DOUBT, error.message)
            return
        begun = time.monotonic()
        outcome = self.paths.send(request, aptpl=aptpl)
        took = (time.monotonic() - begun) * 1000
        self.options.checkpoint(f"after {request.do.value}")
        self.sent.append(SentCommand(request, aptpl, outcome, took))
        self.options.say(self.side.lu, f"{title(request)}: {outcome.value}")
        if outcome is Outcome.NOT_EXECUTED:
            # As often as a device may be busy; the machine tries another path or gives up.
            outcome = Outcome.UNKNOWN
        self.position = answered(self.plan, self.position, outcome)

    def _persists(self) -> bool:
        """APTPL of a REGISTER: the newest one decides for the whole logical unit."""
        says = self.paths.persists()
        unit = self.file.unit(self.side.lu)
        known = unit.aptpl if says is None and unit is not None else says
        if known is None:
            raise InDoubtError(_MAY_PERSIST)
        return known

    def _end(self, end: End) -> None:
        self.options.checkpoint("end")
        if end.word not in (Word.SUPERSEDED, Word.REFUSED) or self.sent:
            self._write(end.word)
        self._tell_multipathd(end.word)
        self.options.say(self.side.lu, end.word.value)

    def _write(self, end: Word | None) -> None:
        if self.journal is None:
            raise TypeError("a dry run sends nothing")
        verb: Verb | None = self.plan.verb
        if self.plan.settles and self.known is not None:
            verb, end = self.known.verb, self.known.end
        entry = Entry(
            self.side.lu,
            side_name(self.plan.verb),
            self.file.order,
            self.file.id,
            verb,
            end,
            self.position.lines,
            self.side.name,
            nexuses=tuple(
                RegisteredNexus.of(nexus)
                for nexus in self.side.nexuses
                if nexus.nexus in self.position.lines.listed
            ),
        )
        self.journal.write(entry, time.time_ns())

    def _tell_multipathd(self, word: Word) -> None:
        counted = word is Word.COMMITTED and self.position.lines.counted
        if word is Word.PREPARED or counted:
            multipathd.remember(self.side, self.plan.key, self.remains)
        elif (word is Word.DONE and self.plan.verb is Verb.FINISH) or (
            not self.plan.verb.on_source
            and any(each.command.do is Do.UNREGISTER for each in self.sent)
        ):
            multipathd.forget(self.side, self.plan.key, self.removed, self.remains)

    def _fenced(self, word: Word) -> Word:
        """Gone is fenced where the device said so to a nexus of the destination."""
        told = any("REGISTRATIONS PREEMPTED" in each for each in self.paths.attentions)
        fits = word is Word.GONE and not self.plan.verb.on_source and told
        return Word.FENCED if fits else word
