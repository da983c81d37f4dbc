"""Which host an initiator port belongs to (pure).

`prtrace ports --json` prints those of a host, from its agent or from sysfs, as

    {"schema": "prtrace.ports/1", "host": "node1", "ports": ["naa.21000024ff…", "iqn.…,i,0x…"]}

and whatever people have carries these files to where somebody asks.  An iSCSI port has an ISID,
which is another one after each login of some initiators: the same iSCSI name with another ISID is
an earlier or a parallel session of the same host.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Self

from prtrace.errors import MalformedError

SCHEMA: Final = "prtrace.ports/1"
_ISID: Final = ",i,0x"


@dataclass(frozen=True, slots=True)
class Ports:
    """The initiator ports of one host."""

    host: str
    ports: frozenset[str]

    def to_json(self) -> dict[str, Any]:
        """The prtrace.ports/1 object."""
        return {"schema": SCHEMA, "host": self.host, "ports": sorted(self.ports)}

    @classmethod
    def from_json(cls, given: object, name: str) -> Self:
        """Take back what to_json() gave; MalformedError names the file."""
        if not isinstance(given, dict) or given.get("schema") != SCHEMA:
            raise MalformedError(name, f"a {SCHEMA} object is expected: see prtrace ports --json")
        host, ports = given.get("host"), given.get("ports")
        if not isinstance(host, str) or not isinstance(ports, list):
            raise MalformedError(name, "host is a string and ports is a list")
        if not all(isinstance(port, str) for port in ports):
            raise MalformedError(name, "ports is a list of strings")
        return cls(host, frozenset(ports))


@dataclass(frozen=True, slots=True)
class PortOwner:
    """The host that a port belongs to."""

    names: tuple[str, ...] = ()
    """The hosts that are said to have it: none where nobody told, several where it cannot be told
    which one it is.  A port name is one host's, unless a disk was cloned or a list is old."""
    session: str = ""
    """What is to be said of the port beside its host, "" where nothing is."""

    @property
    def name(self) -> str:
        """The host, "" where it is not known which one it is."""
        return self.names[0] if len(self.names) == 1 else ""

    def __str__(self) -> str:
        words = " or ".join(self.names) or "a host that is not known"
        if len(self.names) > 1:
            words += " (each is said to have this name)"
        return f"{words}, {self.session}" if self.session else words


def host_of(port: str, known: Iterable[Ports]) -> PortOwner:
    """Whose port it is."""
    having: dict[str, None] = {}
    former: dict[str, None] = {}
    for each in known:
        if port in each.ports:
            having[each.host] = None
        elif iscsi_name(port) and any(
            iscsi_name(other) == iscsi_name(port) for other in each.ports
        ):
            former[each.host] = None
    if having or not former:
        return PortOwner(tuple(having))
    return PortOwner(tuple(former), "in an iSCSI session that it does not have now")


def iscsi_name(port: str) -> str:
    """The iSCSI name of a port that has an ISID, "" for other ports."""
    name, isid, _ = port.partition(_ISID)
    return name if isid else ""
