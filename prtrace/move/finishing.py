"""finish: nothing of the guest is left on the source, or it is said what is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from prtrace.errors import PrtraceError
from prtrace.model import Action, Outcome
from prtrace.move import multipathd
from prtrace.move.device import Paths
from prtrace.move.handover import Send, Step
from prtrace.move.parallel import each
from prtrace.move.reading import Reading
from prtrace.move.savefile import SavedUnit, SaveFile
from prtrace.move.side import Side

SCHEMA: Final = "prtrace.finish/1"


@dataclass(frozen=True, slots=True)
class UnitRemains:
    """removed: what finish took away.  remains: what it found and may not or cannot touch."""

    lu: str
    device: str
    removed: tuple[str, ...] = ()
    remains: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """One element of "units" of prtrace.finish/1."""
        return {
            "lu": self.lu,
            "device": self.device,
            "removed": list(self.removed),
            "remains": list(self.remains),
        }


def finish_view(units: Iterable[UnitRemains], file: SaveFile) -> dict[str, Any]:
    """The prtrace.finish/1 object."""
    units = tuple(units)
    return {
        "schema": SCHEMA,
        "id": file.id,
        "clean": not any(unit.remains for unit in units),
        "units": [unit.to_json() for unit in units],
    }


def finish(file: SaveFile, sides: Iterable[Side]) -> tuple[UnitRemains, ...]:
    """Look at each unit once more, from the source, after a migration that succeeded.

    A key of the guest that is still on a path here is taken away where the destination has
    it as well (multipathd registers its stored key on a path that returns), and so is the key
    that multipathd stores.  A key that is nowhere else is left alone: the guest needs it.
    """

    def one(side: Side) -> UnitRemains:
        unit = file.unit(side.lu)
        if unit is None or unit.key is None:
            return UnitRemains(side.lu, side.name)
        return _finish(unit, unit.key, side)

    return tuple(each(one, sides))


def _finish(unit: SavedUnit, key: int, side: Side) -> UnitRemains:
    removed: list[str] = []
    remains: list[str] = []
    with Paths(side) as paths:
        try:
            reading = paths.look(side.paths[0].nexus.nexus, ())
            needed = key in reading.own.values() and not reading.elsewhere(key)
            if needed:
                remains.append(f"key {key:#x} is on no other nexus: the destination lacks it")
            elif _clear_paths(unit, key, paths, reading, removed):
                reading = paths.look(side.paths[0].nexus.nexus, ())
            remains += _left(unit, key, reading)
        except PrtraceError as error:
            needed = True
            remains.append(error.message)
    if not needed:
        multipathd.forget(side, key, removed, remains)
    return UnitRemains(side.lu, side.name, tuple(removed), tuple(remains))


def _clear_paths(
    unit: SavedUnit, key: int, paths: Paths, reading: Reading, removed: list[str]
) -> bool:
    """Take our keys away from the side's paths; whether anything was sent."""
    sent = False
    ours = {key, unit.temporary_load, unit.temporary_rollback}
    for nexus, found in reading.own.items():
        single = reading.type is not None and not reading.type.all_registrants
        if found not in ours or (single and reading.own_holds):
            continue
        command = Send(Step.WITHDRAW, nexus, Action.REGISTER, found, 0)
        sent = True
        if paths.send(command) is Outcome.DONE:
            removed.append(f"key {found:#x} on {nexus}")
    return sent


def _left(unit: SavedUnit, key: int, reading: Reading) -> list[str]:
    names = {
        key: "the guest's key",
        unit.temporary_load: "a temporary key",
        unit.temporary_rollback: "a temporary key",
    }
    left = [
        f"{names[found]} {found:#x} on {nexus}"
        for nexus, found in reading.own.items()
        if found in names
    ]
    left += [
        f"{names[entry.key]} {entry.key:#x} on {entry.nexus}"
        for entry in reading.others
        if entry.key in names and entry.key != key
    ]
    if reading.blind:
        left.append("this host's port names are not known: which nexus has the key is in doubt")
    return left
