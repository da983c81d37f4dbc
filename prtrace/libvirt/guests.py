"""What the service remembers of each guest: a file of its own, on disk before anything is done.

STATE/UUID.json   {"version": 1, "phase": …, "move": {"file": …, "devices": …}, …}
RUN/incoming/UUID  there while the guest may only go on here after somebody said so: the plugin
                   asks nobody about other guests
RUN/outgoing/UUID  made when a migration from here begins: by the plugin, or by the service where
                   libvirt does not tell the plugin
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from prtrace.errors import MalformedError, StoreError
from prtrace.libvirt.agent import Move
from prtrace.libvirt.machine import GuestRecord, Phase

_VERSION: Final = 1


@dataclass(slots=True)
class Guest:
    """One guest on this host."""

    uuid: str
    record: GuestRecord = field(default_factory=GuestRecord)
    move: Move | None = None
    """What the agent's calls are about.  At HOME it is the newest file that was saved here."""
    coming: Move | None = None
    """What a hook brought along; the machine says when it takes the place of move."""
    late: bool = False
    """Whether nobody will commit in the pause."""
    count: int = 0
    """How many notes were written."""
    broken: str = ""
    """What is wrong with the record on disk; "" where nothing is."""
    epoch: int = 0
    """How often hook and plugin called.  What libvirt said before the last call is old."""
    wait: float = 0.0
    """Seconds from the last look to the next, while something is unfinished."""
    due: float = 0.0
    """time.monotonic() of the next look."""
    note_due: float = 0.0
    """time.monotonic() of the next note at the earliest."""
    missed: bool = False
    """Whether an event came and the guest could not be looked at."""
    left: bool = False
    """Whether libvirt said in a missed event that the guest left by migration."""
    lock: threading.RLock = field(default_factory=threading.RLock)
    """Held while any other field is read or written."""

    def to_json(self) -> dict[str, Any]:
        """What is stored."""
        record = self.record
        return {
            "version": _VERSION,
            "phase": record.phase.value,
            "announced": record.announced,
            "suspended": record.suspended,
            "resume": record.resume,
            "late": self.late,
            "count": self.count,
            "move": None
            if self.move is None
            else {"file": self.move.file, "devices": self.move.devices},
        }

    def take(self, given: Mapping[str, Any]) -> None:
        """Take back what was stored; MalformedError where it is something else."""
        try:
            if given["version"] != _VERSION:
                raise MalformedError("guest's record", f"version {given['version']!r:.20}")
            move = given["move"]
            self.record = GuestRecord(
                Phase(given["phase"]),
                announced=bool(given["announced"]),
                suspended=bool(given["suspended"]),
                resume=bool(given["resume"]),
            )
            self.late = bool(given["late"])
            self.count = int(given["count"])
            self.move = None if move is None else Move(dict(move["file"]), dict(move["devices"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MalformedError("guest's record", f"{type(error).__name__}: {error}") from None


class Guests:
    """All guests of this host that somebody asked about."""

    def __init__(self, state: Path, run: Path) -> None:
        """Raises StoreError where the folders cannot be used."""
        self._state = state
        self._incoming = run / "incoming"
        self._outgoing = run / "outgoing"
        self._guests: dict[str, Guest] = {}
        self._lock = threading.Lock()
        try:
            for folder in (state, self._incoming, self._outgoing):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Path.glob() takes a folder that may not be read for an empty one.
            names = sorted(name for name in os.listdir(state) if name.endswith(".json"))
            for file in (state / name for name in names):
                guest = self._guests[file.stem] = _read(file)
                if guest.record.incoming or guest.broken:
                    # The run folder may be new; without its mark the plugin would not ask.
                    (self._incoming / file.stem).touch(mode=0o600)
        except OSError as error:
            raise _unusable(error) from error

    def get(self, uuid: str) -> Guest:
        """The guest with this UUID; one that was never heard of is at home."""
        with self._lock:
            return self._guests.setdefault(uuid, Guest(uuid))

    def all(self) -> list[Guest]:
        """Every guest that was heard of."""
        with self._lock:
            return list(self._guests.values())

    def store(self, guest: Guest) -> None:
        """Put guest on disk, and its mark where the plugin looks; StoreError where that fails."""
        file = self._state / f"{guest.uuid}.json"
        mark = self._incoming / guest.uuid
        try:
            if guest.record.incoming:
                mark.touch(mode=0o600)
            if guest.record == GuestRecord() and guest.move is None:
                # Its move is over.  The count of notes begins anew with the next restart.
                file.unlink(missing_ok=True)
            else:
                _write(file, json.dumps(guest.to_json()))
            if not guest.record.incoming:
                mark.unlink(missing_ok=True)
        except OSError as error:
            raise _unusable(error) from error

    def forget(self, guest: Guest) -> bool:
        """Remove what is stored of a guest that libvirt does not know; guest.lock is held.

        Not while a call about it is under way or something may be left here of its move: False
        then.  StoreError where it cannot be removed.
        """
        record = guest.record
        idle = record.phase is Phase.HOME and record.asked is None and record.caller is None
        if guest.broken or guest.missed or not idle:
            return False
        guest.record, guest.move, guest.coming = GuestRecord(), None, None
        guest.late, guest.count = False, 0
        try:
            self.store(guest)
            self.stays(guest.uuid)
        except OSError as error:
            raise _unusable(error) from error
        return True

    def outgoing(self, uuid: str) -> bool:
        """Whether a migration from here began since the guest last went on."""
        return (self._outgoing / uuid).exists()

    def leaves(self, uuid: str) -> None:
        """A migration from here begins; StoreError where that cannot be marked."""
        try:
            (self._outgoing / uuid).touch(mode=0o600)
        except OSError as error:
            raise _unusable(error) from error

    def stays(self, uuid: str) -> None:
        """The guest goes on here."""
        (self._outgoing / uuid).unlink(missing_ok=True)


def _read(file: Path) -> Guest:
    guest = Guest(file.stem)
    try:
        guest.take(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, MalformedError) as error:
        # Nothing is done about it, and it is let neither come nor go on after a move.
        guest.broken = f"{file} is damaged ({error}): see prtrace moves, then remove it"
    return guest


def _write(file: Path, text: str) -> None:
    part = file.with_suffix(".part")
    with part.open("w", encoding="utf-8") as written:
        written.write(text)
        written.flush()
        os.fsync(written.fileno())
    part.rename(file)
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _unusable(error: OSError) -> StoreError:
    return StoreError(
        f"{error.filename}: {error.strerror}", hint="see that the disk has room and is writable"
    )
