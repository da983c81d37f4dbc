"""The note that a guest's live metadata carry to the destination (pure).

    {"version": 1, "uuid": …, "host": …, "boot": …, "count": 3,
     "disks": {"sda": "naa.6001405…"}, "file": {prtrace.save/2} or null, "why": ""}

It is a hint with a date: it cannot change while the guest migrates, it comes back from save files,
and another one may have been given with `virsh migrate --xml`.  What the device says decides; the
move's file has an order of its own, by which older ones are refused.
"""

from __future__ import annotations

import dataclasses
import json
import uuid
from dataclasses import dataclass
from typing import Any, Final
from xml.sax.saxutils import escape

from prtrace.errors import MalformedError, PrtraceError
from prtrace.libvirt.domain import Domain
from prtrace.libvirt.machine import Given
from prtrace.move import savefile

VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Note:
    """What the source knows of the guest's reservations."""

    uuid: str
    host: str
    """The source's host name."""
    boot: str
    """The boot ID of the source's kernel."""
    count: int
    """The number of this note among the guest's notes on the source."""
    disks: dict[str, str]
    """The designator of each LUN's logical unit, by the target's name ("sda")."""
    file: dict[str, Any] | None
    """The prtrace.save/2 object; None where the reservation cannot move."""
    why: str = ""
    """Without a file, what keeps the reservation where it is."""

    @property
    def given(self) -> Given:
        """For the machine."""
        return Given.BLOCKED if self.file is None else Given.FILE

    @property
    def holds(self) -> bool:
        """Whether the file says that the guest alone holds a reservation."""
        if self.file is None:
            return False
        units = savefile.from_document(self.file).units
        return any(
            unit.held and unit.type is not None and not unit.type.all_registrants for unit in units
        )

    def fresh(self, now: int, newest: int = 0) -> dict[str, Any]:
        """The file, as a move of its own; see renewed().

        The source hears of a migration that failed only where it was paused for it, and then
        sends the same note again: the destination has withdrawn that move, and would take the
        second try for a late call of the first.  TypeError without a file.
        """
        if self.file is None:
            raise TypeError("the note has no file")
        return renewed(self.file, now, newest)

    def devices(self, there: Domain) -> dict[str, str]:
        """The destination's node of each logical unit, by its designator."""
        return {
            lu: there.luns[target] for target, lu in self.disks.items() if there.luns.get(target)
        }

    def unspoken(self, there: Domain) -> str:
        """Why the file is not enough for the guest that comes with it; "" where it is.

        A LUN that was plugged in after the note was written has a reservation of which the file
        says nothing: it would stay behind.
        """
        if self.file is None:
            return ""
        names = ", ".join(name for name in there.luns if name not in self.disks)
        return there.without_node or (
            names
            and f"the note does not speak of the LUN {names}, which was plugged in since: wait "
            "for the source's prtrace-libvirt to write it anew, then migrate again"
        )

    def element(self) -> str:
        """The element that virDomainSetMetadata takes."""
        text = json.dumps(
            {
                "version": VERSION,
                "uuid": self.uuid,
                "host": self.host,
                "boot": self.boot,
                "count": self.count,
                "disks": self.disks,
                "file": self.file,
                "why": self.why,
            },
            separators=(",", ":"),
        )
        return f"<note>{escape(text)}</note>"


def renewed(file: dict[str, Any], now: int, newest: int) -> dict[str, Any]:
    """The file of a move of its own that begins now.

    file: a prtrace.save/2 object, as what is returned.  now: nanoseconds since the epoch.
    newest: the order of the newest move of its units that this host knows; without it, a clock
    that is behind would give every try the order of the last one.  MalformedError for another
    object.
    """
    given = savefile.from_document(file)
    order = max(given.order + 1, now, newest + 1)
    return dataclasses.replace(given, id=uuid.uuid4().hex, order=order).to_document()


def parse(domain: Domain) -> Note | None:
    """The domain's note, None where it has none.

    Raises MalformedError where it is damaged, of another version, or another guest's: it is no
    ground to do anything, and not the same as none.
    """
    if not domain.note:
        return None
    try:
        given = json.loads(domain.note)
        if given["version"] != VERSION:
            raise MalformedError("note", f"version {given['version']!r:.20}, not {VERSION}")
        note = Note(
            uuid=str(given["uuid"]),
            host=str(given["host"]),
            boot=str(given["boot"]),
            count=int(given["count"]),
            disks={str(name): str(lu) for name, lu in given["disks"].items()},
            file=given["file"],
            why=str(given["why"]),
        )
        if note.file is not None:
            savefile.from_document(note.file)
    except PrtraceError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise MalformedError("note", f"{type(error).__name__}: {error}"[:100]) from None
    if note.uuid != domain.uuid:
        raise MalformedError("note", f"it is about guest {note.uuid:.36}")
    return note
