"""What one or several lines say about one command, one device, or nothing but themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from prtrace.model import Action
from prtrace.paste.stamp import Stamp
from prtrace.scsi.codes import InAction

GOOD: Final = 0x00


@dataclass(frozen=True, slots=True)
class SenseTriple:
    """Sense key, additional sense code and its qualifier, where nothing else was printed."""

    key: int
    asc: int | None = None
    ascq: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One thing that was read.  What the lines do not tell has its default."""

    source: str
    """Whose words they are: "sg_persist", "Linux kernel", "ESXi", …"""
    line: int
    """The number of the first line, from 1."""
    more: tuple[int, ...] = ()
    """The numbers of the other lines that told of it, as far as they are known."""
    file: str = ""
    """The file that has the line, where several are read."""
    stamp: Stamp | None = None
    host: str = ""
    """The host that logged the line, as the log names it."""
    nexus: str = ""
    """H:C:T:L."""
    device: str = ""
    """The name of a disk node, without /dev/."""
    lu: str = ""
    """The designator: "naa.…"."""
    opcode: int | None = None
    """The operation code, where it is all that was printed of a CDB."""
    cdb: bytes = b""
    asks: Action | InAction | None = None
    """The service action, where it is all that was printed of a CDB."""
    parameter_list: bytes = b""
    reply: bytes = b""
    reply_kind: str = ""
    """What the reply is, as `decode --as` names it; "" where the lines do not tell."""
    header: bool | None = True
    """Whether the header of 8 bytes is there with which a reply to READ KEYS, READ RESERVATION or
    READ FULL STATUS begins: in reply, or in raw where that is one.  None where the lines do not
    tell: sg_persist -H leaves it out, and prints the rest as -HH prints the whole."""
    status: int | None = None
    """The SAM status."""
    host_byte: str = ""
    """Linux's name of the host byte, "" for DID_OK or where it was not printed."""
    timed_out: bool = False
    under_way: bool = False
    """Whether the lines tell that it began and nothing of its end."""
    sense: bytes = b""
    triple: SenseTriple | None = None
    attached: bool = False
    """Whether a disk was attached there: what had this address or name before may be another."""
    started: bool = False
    """Whether the machine started here: addresses, names and times since the start are others."""
    raw: bytes = b""
    """Bytes of which no line says what they are."""
    facts: tuple[tuple[str, str], ...] = ()
    """What the lines state in words, name and value."""
    perhaps: int = 0
    """The line that tells of a conflict which may be this one's, 0 where none does.  Log lines of
    several commands interleave: these are two observations, of one command or of two."""
