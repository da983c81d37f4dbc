"""The programs' counters, as events: conflicts and attentions of ordinary I/O, and losses.

A counter only grows.  What was already told is kept in the store, in the same transaction
as the events that tell it, so that a restart neither repeats nor forgets a count.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from prtrace.agent.surroundings import Surroundings
from prtrace.errors import MalformedError
from prtrace.model import Attention, Nexus
from prtrace.probe import libbpf
from prtrace.probe.misses import Skipped
from prtrace.probe.record import NEXUS, Cause, Counts, Loss, Pending, Record, Stat
from prtrace.scsi.codes import Opcode, Status, status_title
from prtrace.scsi.sense import Sense, attention
from prtrace.state.draft import LONG_AGO
from prtrace.state.event import Command, Event

_U64: Final = 8
_CAUSES: Final = len(Cause)
_ATTENTIONS: Final = {
    Cause.RESERVATIONS_PREEMPTED: Attention.RESERVATIONS_PREEMPTED,
    Cause.RESERVATIONS_RELEASED: Attention.RESERVATIONS_RELEASED,
    Cause.REGISTRATIONS_PREEMPTED: Attention.REGISTRATIONS_PREEMPTED,
    Cause.RESET: Attention.RESET,
    Cause.INFORMATION_LOST: Attention.INFORMATION_LOST,
}
_BUSY: Final = 2.5
"""Seconds for which a sample makes its nexus's counters worth reading."""
RING_FULL: Final = "the ring was full"
ENDED_UNSEEN: Final = "its end was not seen: a program was busy, or no driver took it"
WHOSE_UNKNOWN: Final = "nobody knows of which unit"
SIGN_UNSEEN: Final = (
    "a unit attention or a conflict was missed: a program was busy, or no counter free"
)
_GONE_S: Final = 30.0
"""Seconds for which a nexus has to be gone before the programs forget what they counted on it."""
_UNCOUNTED: Final = -1
"""In the place of a generation: signs for which no counter had room."""
MAY_HAVE_ENDED: Final = "a program was busy, so that it may have ended unseen"

_KINDS: Final = frozenset({"count", "loss", "skipped", "signs", "unplaced", "newest", "missing"})


@dataclass(slots=True)
class Told:
    """How far each counter has been told: nexus -> counts, nexus -> losses by cause,
    generation -> how often its programs were skipped.  newest: the greatest number of a
    record that is stored, None for none.  missing, no_room: see Sequence.  last_ns: nexus -> when
    the newest of its counts was counted (CLOCK_MONOTONIC); a former version did not store that.
    """

    counts: dict[str, tuple[int, ...]] = field(default_factory=dict)
    last_ns: dict[str, int] = field(default_factory=dict)
    losses: dict[str, tuple[int, int]] = field(default_factory=dict)
    skipped: dict[int, int] = field(default_factory=dict)
    signs: dict[int, int] = field(default_factory=dict)
    unplaced: int = 0
    newest: int | None = None
    missing: list[tuple[int, int]] = field(default_factory=list)
    no_room: int | None = None

    @classmethod
    def from_meta(cls, epoch: str, meta: Mapping[str, str]) -> Told:
        """Take back what to_meta() gave for this epoch; another epoch's counters began anew."""
        told = cls()
        for name, text in meta.items():
            kind, _, of = name.partition("/")
            if kind not in _KINDS or not text:
                continue
            of_epoch, value = json.loads(text)
            if of_epoch != epoch:
                continue
            if kind == "count":
                told.counts[of] = tuple(value[:_CAUSES])
                if len(value) > _CAUSES:
                    told.last_ns[of] = value[_CAUSES]
            elif kind == "loss":
                told.losses[of] = (value[0], value[1])
            elif kind == "skipped":
                told.skipped[int(of)] = value
            elif kind == "signs":
                told.signs[int(of)] = value
            elif kind == "newest":
                told.newest = value
            elif kind == "missing":
                told.no_room = value[0]
                told.missing = [(first, last) for first, last in value[1]]
            else:
                told.unplaced = value
        return told

    def of(self, counts: Counts) -> tuple[int, ...]:
        """What was told of an entry of pr_counts.

        An entry whose counts all began after the newest one that was told is another than that.
        """
        began = min((at for at in counts.first_ns[:_CAUSES] if at), default=0)
        if began > self.last_ns.get(counts.nexus, began):
            return (0,) * _CAUSES
        return self.counts.get(counts.nexus, (0,) * _CAUSES)


@dataclass(frozen=True, slots=True)
class CounterReading:
    """New events, and the facts that make them told once they are stored; "" for a fact that is
    over.

    events: one without a unit is of every unit that is here or known.
    suspects: requests that were told to have ended unseen: scsi_cmnd -> Pending.start_ns.
    """

    events: tuple[Event, ...]
    meta: Mapping[str, str]
    suspects: Mapping[bytes, int] = field(default_factory=dict)


class Skips(Protocol):
    """Who has the programs: prtrace.probe.misses.Misses, or another process that does."""

    def skipped(self) -> Skipped:
        """See Misses.skipped."""
        ...


class Counters:
    """Reads pr_stats, pr_counts and pr_losses of the running programs."""

    def __init__(
        self,
        maps: Mapping[str, int],
        epoch: str,
        misses: Skips,
        told: Told,
        surroundings: Surroundings,
    ) -> None:
        self._maps = maps
        self._misses = misses
        self._skipped = Skipped({}, {})
        self._suspects: dict[bytes, int] = {}
        self._epoch = epoch
        self._told = told
        self._surroundings = surroundings
        self._samples: dict[str, dict[Cause | None, Record]] = {}
        """By nexus and by what was counted: another cause's command is no example of it."""
        self._busy: dict[str, float] = {}
        self._gone: dict[str, float] = {}
        """Since when nexuses that have counts are not here."""
        self._displaced = 0
        """Entries that grew while they were taken away, and could not be put back."""
        self._over: set[str] = set()
        """Facts of the store about entries that are no more."""

    @property
    def newest(self) -> int | None:
        """The greatest number of a record that was stored; None for none."""
        return self._told.newest

    @property
    def no_room(self) -> int:
        """How many records are told to have found no room; see Sequence."""
        if self._told.no_room is not None:
            return self._told.no_room
        return sum(full for full, _ in self._told.losses.values()) + self._told.unplaced

    @property
    def missing(self) -> list[tuple[int, int]]:
        """The numbers of records that a former agent still waited for; see Sequence."""
        return self._told.missing

    def numbers_meta(
        self, newest: int, no_room: int, missing: list[tuple[int, int]]
    ) -> dict[str, str]:
        """What keeps in the store which numbers have come; see Sequence."""
        return {
            "newest/": self._told_text(newest),
            "missing/": self._told_text([no_room, missing]),
        }

    def resume(self, meta: Mapping[str, str]) -> None:
        """Be as the store says, whatever was read meanwhile."""
        self._told = Told.from_meta(self._epoch, meta)

    def stats(self) -> dict[str, int]:
        """Every figure of pr_stats, by its name in lower case, and what the kernel skipped.

        What it skipped is as of the last read(): to ask for it takes a turn of another process.
        """
        figures = {each.name.lower(): self.stat(each) for each in Stat}
        return {
            **figures,
            "skipped": sum(self._skipped.ends.values()),
            "signs_skipped": sum(self._skipped.signs.values()),
        }

    def stat(self, stat: Stat) -> int:
        """One figure of pr_stats."""
        key = int(stat).to_bytes(4, "little")
        value = libbpf.bpf_map_lookup_elem(self._maps["pr_stats"], key, _U64)
        return int.from_bytes(value or b"", "little")

    def idle(self, nexuses: Iterable[Nexus]) -> frozenset[Nexus]:
        """Those of nexuses on which the kernel has no PR command under way; none if it lost count.

        Raises OSError where pr_pendings cannot be read.
        """
        if self.stat(Stat.PENDING_FULL):
            return frozenset()
        now = time.monotonic_ns()
        items = libbpf.map_items(self._maps["pr_pendings"])
        pendings = (Pending.parse(value) for _, value in items)
        return frozenset(nexuses) - {each.nexus for each in pendings if each.may_end(now)}

    def note(self, record: Record) -> None:
        """A sample: its nexus has something to count, and its CDB serves as an example."""
        self._samples.setdefault(record.nexus, {})[_cause(record)] = record
        self._busy[record.nexus] = time.monotonic()

    def read(self, *, all_nexuses: bool, sample: Callable[[], None]) -> CounterReading:
        """What was counted and not yet told, on the nexuses of late samples or on all.

        sample: has note() called for what has arrived.  The programs count a command before they
        submit its sample, so the samples of what was counted are there once the counts were read.
        """
        self._skipped = self._misses.skipped()
        events: list[Event] = []
        meta = dict.fromkeys(self._over, "")
        skew = time.time_ns() - time.monotonic_ns()
        found = list(self._counts(all_nexuses))
        sample()
        for counts in found:
            told = self._told.of(counts)
            grown = [now - before for now, before in zip(counts.count, told, strict=False)]
            if not any(grown):
                continue
            meta[f"count/{counts.nexus}"] = self._told_text(
                [*counts.count[:_CAUSES], max(counts.last_ns[:_CAUSES])]
            )
            for cause in Cause:
                if grown[cause]:
                    events += self.counted(counts, cause, grown[cause], skew)
        events += self._losses(meta, skew)
        suspects = self._unfinished(meta)
        events += (
            self._lost(
                self._surroundings.unit_of(each.nexus, each.page83, each.life),
                each.nexus,
                MAY_HAVE_ENDED,
            )
            for each in suspects.values()
        )
        events += self._unseen_signs(meta)
        started = {command: each.start_ns for command, each in suspects.items()}
        return CounterReading(tuple(events), meta, started)

    def accept(self, reading: CounterReading) -> None:
        """The reading is stored."""
        kept = Told.from_meta(self._epoch, reading.meta)
        self._told.counts.update(kept.counts)
        self._told.last_ns.update(kept.last_ns)
        self._over -= reading.meta.keys()
        self._told.losses.update(kept.losses)
        self._told.skipped.update(kept.skipped)
        self._told.signs.update(kept.signs)
        self._suspects.update(reading.suspects)
        self._told.unplaced = max(self._told.unplaced, kept.unplaced)
        self._samples.clear()

    def prune(self) -> tuple[Event, ...]:
        """Have the programs forget what they counted on nexuses that are gone for long.

        Host numbers are given once, so that each log-in leaves an entry.  One goes when all of it
        is told and nothing can be counted on it: there is no scsi_device and no command of one.
        Returns what to tell where somebody counted all the same.  Raises OSError.
        """
        fd, now = self._maps["pr_counts"], time.monotonic()
        told: dict[str, bytes] = {}
        gone: dict[str, float] = {}
        for key, value in libbpf.map_items(fd):
            counts = Counts.parse(key, value)
            if self._surroundings.is_here(counts.nexus):
                continue
            since = gone[counts.nexus] = self._gone.get(counts.nexus, now)
            if now - since >= _GONE_S and counts.count[:_CAUSES] == self._told.of(counts):
                told[counts.nexus] = key
        self._gone = gone
        size = libbpf.bpf_map_get_info(fd).value_size
        for nexus in self.idle(told) if told else ():
            taken = libbpf.bpf_map_lookup_and_delete_elem(fd, told[nexus], size)
            if taken is None:
                continue
            counts = Counts.parse(told[nexus], taken)
            if counts.count[:_CAUSES] == self._told.of(counts):
                self._told.counts.pop(nexus, None)
                self._told.last_ns.pop(nexus, None)
                self._over.add(f"count/{nexus}")
            else:
                # Somebody counted after it was looked at: as if nothing had been done.
                self._displaced += 1
                if libbpf.bpf_map_create_elem(fd, told[nexus], taken):
                    self._displaced -= 1
        lost, self._displaced = self._displaced, 0
        return (self._lost("", "", SIGN_UNSEEN, lost),) if lost else ()

    def _counts(self, all_nexuses: bool) -> Iterable[Counts]:
        fd = self._maps["pr_counts"]
        if all_nexuses:
            return [Counts.parse(key, value) for key, value in libbpf.map_items(fd)]
        # A nexus stays of interest a little longer than the second that limits its samples.
        horizon = time.monotonic() - _BUSY
        self._busy = {nexus: at for nexus, at in self._busy.items() if at > horizon}
        if not self._busy:
            return []
        size = libbpf.bpf_map_get_info(fd).value_size
        found = []
        for nexus in self._busy:
            host, channel, target, lun = (int(part) for part in nexus.split(":"))
            key = NEXUS.build(lun=lun, host=host, channel=channel, target=target)
            value = libbpf.bpf_map_lookup_elem(fd, key, size)
            if value is not None:
                found.append(Counts.parse(key, value))
        return found

    def counted(self, counts: Counts, cause: Cause, grown: int, skew: int) -> Iterator[Event]:
        """The events of what was counted of one cause on one nexus.

        A sample shows of which unit one of them is; where there is none, the address does.  Where
        that led to another unit a moment ago, all units in question are in doubt for the rest.
        """
        samples = self._samples.get(counts.nexus, {})
        sample = samples.get(cause)
        page83 = next((each.page83 for each in samples.values()), b"")
        nexus = self._surroundings.nexus(counts.nexus)
        conflict = cause is Cause.CONFLICT
        lu = self._surroundings.unit(counts.nexus, page83 if sample is None else sample.page83)
        former = self._surroundings.former_units(counts.nexus) - {lu}
        if former and (sample is None or grown > 1):
            for each in sorted(former if sample is not None else {lu, *former}):
                yield self._lost(each, counts.nexus, SIGN_UNSEEN)
            if sample is None:
                return
        yield Event(
            epoch=self._epoch,
            time=counts.last_ns[cause] + skew,
            # When an attention's command was submitted was not counted: it may have been before
            # whatever raised one.
            start_ns=counts.last_ns[cause] if conflict else LONG_AGO,
            done_ns=counts.last_ns[cause],
            lu=lu,
            nexus=counts.nexus,
            device="" if nexus is None else nexus.device,
            command=Command.CONFLICT if conflict else Command.UNIT_ATTENTION,
            status=status_title(
                Status.RESERVATION_CONFLICT if conflict else Status.CHECK_CONDITION
            ),
            count=grown,
            cdb=b"" if sample is None else sample.cdb,
            sense_bytes=b"" if conflict else _sense(_ATTENTIONS[cause]),
        )

    def _losses(self, meta: dict[str, str], skew: int) -> Iterable[Event]:
        lost = self.stat(Stat.RING_FULL) + self.stat(Stat.MISSED)
        if lost > sum(map(sum, self._told.losses.values())) + self._told.unplaced:
            for key, value in libbpf.map_items(self._maps["pr_losses"]):
                loss = Loss.parse(key, value)
                now = (loss.count, loss.missed)
                told = self._told.losses.get(loss.nexus, (0, 0))
                if now == told:
                    continue
                meta[f"loss/{loss.nexus}"] = self._told_text(now)
                lu = self._surroundings.unit_of(loss.nexus, loss.page83)
                at = loss.last_ns + skew
                for cause, grown in (
                    (RING_FULL, now[0] - told[0]),
                    (ENDED_UNSEEN, now[1] - told[1]),
                ):
                    if grown:
                        yield self._lost(lu, loss.nexus, cause, grown, at, loss.target)
        # After the entries: see pr_note_loss() in bpf/pr_count.h.
        unplaced = self.stat(Stat.LOST_MAP_FULL)
        if unplaced > self._told.unplaced:
            # Nobody knows whose records they were, so everybody's state is in doubt.
            meta["unplaced/"] = self._told_text(unplaced)
            yield self._lost("", "", WHOSE_UNKNOWN, unplaced - self._told.unplaced)

    def _unfinished(self, meta: dict[str, str]) -> dict[bytes, Pending]:
        """Where programs were skipped: the commands that may have ended meanwhile.

        Most that is skipped is ordinary I/O, and most that is found here is under way
        still; then a doubt comes and goes for nothing.  PR IN changes no state.
        """
        grown = {
            key: n for key, n in self._skipped.ends.items() if n > self._told.skipped.get(key, 0)
        }
        if not grown:
            return {}
        meta.update((f"skipped/{key}", self._told_text(n)) for key, n in grown.items())
        items = libbpf.map_items(self._maps["pr_pendings"])
        now = time.monotonic_ns()
        return {
            command: each
            for command, each in ((key, Pending.parse(value)) for key, value in items)
            if each.may_end(now)
            and each.opcode != Opcode.PR_IN
            and self._suspects.get(command) != each.start_ns
        }

    def _unseen_signs(self, meta: dict[str, str]) -> Iterable[Event]:
        """Conflicts and unit attentions of other commands that are counted nowhere.

        One of them may have told that a registration or a reservation is gone: nobody knows of
        which unit.  It happens rarely, and a reading settles it.
        """
        signs = {**self._skipped.signs, _UNCOUNTED: self.stat(Stat.COUNT_MAP_FULL)}
        grown = {key: n for key, n in signs.items() if n > self._told.signs.get(key, 0)}
        if not grown:
            return
        meta.update((f"signs/{key}", self._told_text(n)) for key, n in grown.items())
        yield self._lost("", "", SIGN_UNSEEN)

    def _told_text(self, value: object) -> str:
        """With the epoch, because the next one's counters begin anew."""
        return json.dumps([self._epoch, value])

    def _lost(
        self, lu: str, nexus: str, cause: str, count: int = 1, at: int = 0, target: str = ""
    ) -> Event:
        now = time.monotonic_ns()
        return Event(
            epoch=self._epoch,
            time=at or time.time_ns(),
            lu=lu,
            nexus=nexus,
            target=target,
            command=Command.LOST,
            problem=cause,
            count=count,
            start_ns=now,
            done_ns=now,
        )


def _cause(record: Record) -> Cause | None:
    """What a sample is of, None where its sense data are of nothing that is counted."""
    if record.header.result & 0xFF == Status.RESERVATION_CONFLICT:
        return Cause.CONFLICT
    try:
        told = attention(Sense.parse(record.sense))
    except MalformedError:
        return None
    return next((cause for cause, each in _ATTENTIONS.items() if each is told), None)


def _sense(told: Attention) -> bytes:
    """Fixed format sense data that says told; a counter keeps no ASCQ of 29h."""
    asc, ascq = told.value
    return bytes((0x70, 0, 6, 0, 0, 0, 0, 10, 0, 0, 0, 0, asc, ascq or 0, 0, 0, 0, 0))
