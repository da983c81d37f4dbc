"""Which nexus of today each line of the journal is about (pure).

A line says what a move registered on a nexus.  A nexus is its ports; its H:C:T:L is one life's,
and is another nexus's after a new login or a restart of the host.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from prtrace.model import LocalNexus
from prtrace.move.journal import Entry, RegisteredNexus
from prtrace.move.side import Side
from prtrace.state.binding import port_names

_AS_REGISTERED = " (as it was registered)"


def rebound(entry: Entry, side: Side, boot: str) -> tuple[Entry, Side]:
    """entry with today's names of its nexuses, and side with those that are no path of it now.

    Such a nexus is one of side.gone, by its ports: the key can still be on it, and no command
    goes to it.  boot: names the time since this host's kernel started.
    """
    names, gone = {}, {nexus.nexus: nexus for nexus in side.gone}
    known = {each.nexus for each in entry.nexuses}
    # A journal of before has addresses alone, and nobody knows whose they were.
    unknown = (RegisteredNexus(name, life=-1) for name in entry.lines.listed if name not in known)
    for each in (*entry.nexuses, *unknown):
        found = today(each, entry, (path.nexus for path in side.paths), boot)
        if found is None:
            name = _name(each)
            gone.setdefault(name, each.as_nexus(entry.lu, name))
            names[each.nexus] = name
        else:
            names[each.nexus] = found.nexus
    return (
        replace(entry, lines=entry.lines.renamed(names)),
        replace(side, gone=tuple(gone.values())),
    )


def today(
    each: RegisteredNexus, entry: Entry, nexuses: Iterable[LocalNexus], boot: str
) -> LocalNexus | None:
    """The one of nexuses that each is, None where none or more than one may be it.

    Without port names only the life tells; one that is not known tells nothing.
    """
    nexuses = tuple(nexuses)
    as_it_was = [
        nexus
        for nexus in nexuses
        if nexus.nexus == each.nexus and nexus.life == each.life != 0 and entry.boot in ("", boot)
    ]
    if not each.named:
        return as_it_was[0] if as_it_was else None
    ports = port_names(each.as_nexus(entry.lu, each.nexus))
    found = [nexus for nexus in nexuses if port_names(nexus) == ports]
    if len(found) > 1:
        # Newer kernels' tcm_loop gives all its target ports one number.
        found = [nexus for nexus in found if nexus in as_it_was]
    return found[0] if len(found) == 1 else None


def _name(each: RegisteredNexus) -> str:
    """As readings name a nexus that is not of this host."""
    if each.named:
        return f"{each.initiator_port},{each.relative_target_port}"
    return each.nexus.removesuffix(_AS_REGISTERED) + _AS_REGISTERED
