"""What this host remembers of moves: a journal for each logical unit and side, and a lock.

A journal has one JSON object a line, each on disk before the command goes out; the last whole line
counts.  It begins anew with each move, so the newest move is all that it knows: that is enough to
tell that another one is older.  The file that the move is about lies next to it until the move has
ended here.  Names are digests: designators can be long, and must not share a lock.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

from prtrace.errors import MalformedError, PrtraceError, StoreError
from prtrace.linux.closing import Closing
from prtrace.linux.lockfile import HeldError, LockFile
from prtrace.linux.process import boot_id, same_start, start_of
from prtrace.model import LocalNexus, Nexus
from prtrace.move.lines import Lines
from prtrace.move.machine import Newest
from prtrace.move.savefile import WithPorts, parse_order
from prtrace.move.table import Verb
from prtrace.move.word import Word
from prtrace.state.event import rfc3339

STATE_DIR: Final = Path("/var/lib/prtrace")
SCHEMA: Final = "prtrace.journal/2"
SOURCE, DESTINATION = "source", "destination"
_FOLDER: Final = "move"
_MOST_CARRIERS: Final = 64
"""Processes that a journal remembers; commands of those before count as somebody else's again."""


class UnderWayError(PrtraceError):
    """Another process moves the same logical unit now."""


@dataclass(frozen=True, slots=True)
class CarrierProcess:
    """A process that sent the commands of a move.  start_ns: since the boot called boot."""

    pid: int
    start_ns: int
    boot: str

    @classmethod
    def own(cls) -> Self:
        """This process."""
        pid = os.getpid()
        return cls(pid, start_of(pid) or 0, boot_id())

    def is_process(self, pid: int, start_ns: int) -> bool:
        """Whether it is the process with this id and start, ns since this boot."""
        return pid == self.pid and same_start(start_ns, self.start_ns) and self.boot == boot_id()


@dataclass(frozen=True, slots=True)
class RegisteredNexus(WithPorts):
    """What a nexus that the lines name was when they were written; see LocalNexus.

    nexus: its address then, which another can have by now.
    """

    nexus: Nexus
    initiator_port: str | None = None
    relative_target_port: int | None = None
    life: int = 0

    @classmethod
    def of(cls, nexus: LocalNexus) -> Self:
        """What is to be remembered of a nexus."""
        return cls(nexus.nexus, nexus.initiator_port, nexus.relative_target_port, nexus.life)

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Self:
        """Take back what asdict() gave; KeyError, TypeError or ValueError where it is not that."""
        port, relative = given["initiator_port"], given["relative_target_port"]
        return cls(
            str(given["nexus"]),
            None if port is None else str(port),
            None if relative is None else int(relative),
            int(given["life"]),
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """The newest line of a journal.

    order, move: as in the file.  verb: None where the file was only saved or stored.  end: None
    while the verb runs or when it was killed.  device: what this side used for the unit.
    carriers: who sent commands of moves over this side's nexuses, this move's and earlier ones':
    a guest that came by a move has its registration from one of them.  nexuses: what those that
    the lines name were; journals of before have none.
    """

    lu: str
    side: str
    order: int
    move: str
    verb: Verb | None = None
    end: Word | None = None
    lines: Lines = field(default_factory=Lines)
    device: str = ""
    time: str = ""
    carriers: tuple[CarrierProcess, ...] = ()
    nexuses: tuple[RegisteredNexus, ...] = ()

    @property
    def boot(self) -> str:
        """Names the time since the start of the kernel under which it was written; "" unknown."""
        return self.carriers[-1].boot if self.carriers else ""

    @property
    def newest(self) -> Newest:
        """For prtrace.move.machine.admit."""
        return Newest(self.order, self.move, self.verb, self.end)

    def to_json(self) -> dict[str, Any]:
        """One line."""
        return {
            "schema": SCHEMA,
            "lu": self.lu,
            "side": self.side,
            "order": str(self.order),
            "move": self.move,
            "verb": None if self.verb is None else self.verb.value,
            "end": None if self.end is None else self.end.value,
            "lines": self.lines.to_json(),
            "device": self.device,
            "time": self.time,
            "carriers": [
                {"pid": each.pid, "start_ns": each.start_ns, "boot": each.boot}
                for each in self.carriers
            ],
            "nexuses": [asdict(each) for each in self.nexuses],
        }

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Self:
        """Take back a line; MalformedError where it is something else."""
        try:
            if given["schema"] != SCHEMA:
                raise ValueError(f"schema {given['schema']!r:.40}")  # noqa: TRY301
            verb, end = given["verb"], given["end"]
            return cls(
                lu=str(given["lu"]),
                side=str(given["side"]),
                order=parse_order(str(given["order"])),
                move=str(given["move"]),
                verb=None if verb is None else Verb(verb),
                end=None if end is None else Word(end),
                lines=Lines.from_json(given["lines"]),
                device=str(given["device"]),
                time=str(given["time"]),
                carriers=tuple(
                    CarrierProcess(int(each["pid"]), int(each["start_ns"]), str(each["boot"]))
                    for each in given.get("carriers", ())
                ),
                nexuses=tuple(map(RegisteredNexus.from_json, given.get("nexuses", ()))),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise MalformedError("journal", f"{type(error).__name__}: {error}"[:200]) from None


class Journal(Closing):
    """One logical unit's journals on this host, and the lock on the unit; a context manager.

    Raises UnderWayError where somebody else has the lock, StoreError where a journal cannot be
    used, MalformedError where one holds what this program did not write.  replaced: the moves that
    newer ones took the place of.
    """

    __slots__ = ("_folder", "_lock", "_lu", "_name", "entries", "replaced")

    def __init__(self, state_dir: Path, lu: str) -> None:
        self._folder = state_dir / _FOLDER
        self._lu = lu
        self._name = _name(lu)
        self._lock: LockFile | None = None
        self.entries: dict[str, Entry] = {}
        self.replaced: set[str] = set()
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = LockFile(self._folder / f"{self._name}.lock")
            for side in (SOURCE, DESTINATION):
                entry = _last(self._path(side))
                if entry is not None:
                    self.entries[side] = entry
        except HeldError as error:
            raise UnderWayError(
                f"{lu} is being moved by process {error.holder}",
                hint="wait until that process has ended, then try again",
            ) from error
        except OSError as error:
            self.close()
            raise _unusable(self._folder, error) from error
        except PrtraceError:
            self.close()
            raise

    def close(self) -> None:
        """Give the unit free; a second call does nothing."""
        if self._lock is not None:
            self._lock.close()

    def write(self, entry: Entry, time: int) -> None:
        """Make entry the newest line of its side, on disk; time in nanoseconds since the epoch."""
        known = self.entries.get(entry.side)
        carriers = () if known is None else known.carriers
        if entry.verb is not None:
            own = CarrierProcess.own()
            carriers = (*(each for each in carriers if each != own), own)[-_MOST_CARRIERS:]
        entry = replace(entry, time=rfc3339(time), carriers=carriers)
        path = self._path(entry.side)
        raw = json.dumps(entry.to_json(), separators=(",", ":")).encode() + b"\n"
        try:
            if known is not None and known.move == entry.move:
                _append(path, raw)
            else:
                _replace(path, raw)
        except OSError as error:
            raise _unusable(path, error) from error
        if known is not None and known.move != entry.move:
            self.replaced.add(known.move)
        self.entries[entry.side] = entry

    def _path(self, side: str) -> Path:
        return _journal(self._folder, self._lu, side)


def read(state_dir: Path, lu: str) -> tuple[Entry, ...]:
    """The newest line of each side's journal of one logical unit; takes no lock.

    Raises StoreError and MalformedError as Journal does.
    """
    folder = state_dir / _FOLDER
    try:
        found = [_last(_journal(folder, lu, side)) for side in (SOURCE, DESTINATION)]
    except OSError as error:
        raise _unusable(folder, error) from error
    return tuple(entry for entry in found if entry is not None)


def entries(state_dir: Path) -> Iterator[Entry | MalformedError]:
    """The newest line of every journal, or what is wrong with the journal; takes no lock.

    Raises StoreError where this process may not look: that is not the same as no journal.
    """
    folder = state_dir / _FOLDER
    try:
        # Path.glob() takes a folder that may not be read for an empty one.
        names = sorted(name for name in os.listdir(folder) if name.endswith(".journal"))
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unusable(folder, error) from error
    for name in names:
        try:
            entry = _last(folder / name)
        except MalformedError as error:
            yield error
            continue
        except OSError as error:
            raise _unusable(folder / name, error) from error
        if entry is not None:
            yield entry


def store_file(state_dir: Path, move: str, text: str) -> Path:
    """Put the file of a move on disk, before anything is sent for it; return where."""
    path = state_dir / _FOLDER / f"{move}.json"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _replace(path, text.encode())
    except OSError as error:
        raise _unusable(path, error) from error
    return path


def stored_file(state_dir: Path, move: str) -> Path | None:
    """Where the file of a move is, None where there is none; StoreError where nobody may look."""
    if not re.fullmatch("[0-9a-f]{32}", move):
        return None
    path = state_dir / _FOLDER / f"{move}.json"
    try:
        path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path, error) from error
    return path


def forget_file(state_dir: Path, move: str) -> None:
    """The move has ended on this host."""
    with contextlib.suppress(OSError):
        (state_dir / _FOLDER / f"{move}.json").unlink(missing_ok=True)


def forget_unheard(state_dir: Path, moves: Iterable[str]) -> None:
    """Remove the files of those moves that no journal of this host is about, not any more or not
    at all: a guest can have a file saved for each of its commands.
    """
    unheard = set(moves)
    with contextlib.suppress(PrtraceError):
        for entry in entries(state_dir) if unheard else ():
            if isinstance(entry, MalformedError):
                return  # it may be about any of them
            unheard.discard(entry.move)
        for move in unheard:
            forget_file(state_dir, move)


def _name(lu: str) -> str:
    return hashlib.sha256(lu.encode()).hexdigest()[:32]


def _journal(folder: Path, lu: str, side: str) -> Path:
    return folder / _journal_name(lu, side)


def _journal_name(lu: str, side: str) -> str:
    return f"{_name(lu)}.{side}.journal"


def _last(path: Path) -> Entry | None:
    """The last whole line; one that was cut off was never acted on."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    whole, _, _cut = raw.rpartition(b"\n")
    try:
        # The first line is written with the file: one that is cut off is no crash of ours.
        entry = Entry.from_json(json.loads(whole.rpartition(b"\n")[2]))
        if path.name != _journal_name(entry.lu, entry.side):
            # Restored or copied to a wrong name, it would make what is in question there proof.
            raise ValueError(f"it speaks of the {entry.side} of {entry.lu}")  # noqa: TRY301
    except (ValueError, RecursionError, MalformedError) as error:
        raise MalformedError(
            f"journal {path}",
            str(error)[:200],
            hint="it may have said that a key here is in question: let no guest run on the "
            "strength of that key, look who is registered (prtrace read, on both hosts), and keep "
            "the file until the move is settled by hand",
        ) from error
    return entry


def _append(path: Path, raw: bytes) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        # What a kill or a full disk has cut off ends here, so that the next line is whole.
        tail = os.pread(fd, size, 0)
        keep = tail.rfind(b"\n") + 1
        if keep != size:
            os.ftruncate(fd, keep)
        if os.pwrite(fd, raw, keep) != len(raw):
            raise OSError(28, "No space left on device")
        os.fdatasync(fd)
    finally:
        os.close(fd)


def _replace(path: Path, raw: bytes) -> None:
    """The whole file at once, on disk."""
    fresh = path.with_name(f".{path.name}.new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        if os.write(fd, raw) != len(raw):
            raise OSError(28, "No space left on device")
        os.fsync(fd)
    finally:
        os.close(fd)
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _unusable(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{path} cannot be used: {os.strerror(error.errno or 0)}",
        hint="run as root, or name another --state-dir",
    )
