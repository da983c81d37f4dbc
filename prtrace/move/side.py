"""A side of a move: a logical unit and the paths to it that belong to the guest here.

What the user names decides: a disk or sg node is that one path, a multipath map its disks, a
designator or a by-id link every path of this host.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from prtrace.errors import NoSuchDeviceError, UsageError
from prtrace.linux.units import Inventory
from prtrace.model import LocalNexus, LogicalUnit, Nexus
from prtrace.move.savefile import SavedPath, SavedUnit, SaveFile
from prtrace.state.binding import port_names

_RUNNING = "running"


@dataclass(frozen=True, slots=True)
class LocalPath:
    """nexus: the I_T nexus.  node: the device node that commands for it go through."""

    nexus: LocalNexus
    node: str

    @property
    def usable(self) -> bool:
        """Whether the midlayer lets commands through."""
        return self.nexus.state in (_RUNNING, "")


@dataclass(frozen=True, slots=True)
class Side:
    """name: as the user named it.  target: "VENDOR/PRODUCT/REVISION".  maps: names of the
    multipath maps that stand on the paths.  gone: of a side that was saved, the nexuses whose
    device is not on this host any more; the key can still be on them."""

    name: str
    lu: str
    target: str
    paths: tuple[LocalPath, ...]
    maps: tuple[str, ...] = ()
    gone: tuple[LocalNexus, ...] = ()

    @property
    def nexuses(self) -> tuple[LocalNexus, ...]:
        """What a look takes for this side's own."""
        return (*(path.nexus for path in self.paths), *self.gone)

    def path(self, nexus: Nexus) -> LocalPath | None:
        """The path with this nexus."""
        return next((path for path in self.paths if path.nexus.nexus == nexus), None)


def find_side(inventory: Inventory, name: str) -> Side:
    """The side that name stands for; NoSuchDeviceError where it stands for none."""
    resolved = inventory.resolve(name)
    unit = resolved.lu
    disks: set[str] | None = None
    number = _block_number(name)
    for found in inventory.maps:
        if number == found.number:
            disks = {f"/dev/{disk}" for disk in found.disks}
    if resolved.nexus is not None:
        nexuses: tuple[LocalNexus, ...] = (resolved.nexus,)
    elif disks is not None:
        nexuses = tuple(nexus for nexus in unit.nexuses if nexus.device in disks)
    else:
        nexuses = unit.nexuses
    return _side(inventory, name, unit, nexuses, through_sg=_is_char(name))


def _side(
    inventory: Inventory,
    name: str,
    unit: LogicalUnit,
    nexuses: tuple[LocalNexus, ...],
    *,
    through_sg: bool,
) -> Side:
    paths = tuple(
        LocalPath(nexus, nexus.sg if through_sg and nexus.sg else nexus.device or nexus.sg)
        for nexus in nexuses
    )
    if not paths or not all(path.node for path in paths):
        raise NoSuchDeviceError(
            f"{name}: a path of it has no device node", hint="load sd_mod or sg (modprobe sg)"
        )
    ours = {path.nexus.device for path in paths}
    return Side(
        name,
        unit.lu,
        unit.target,
        paths,
        tuple(
            found.name
            for found in inventory.maps
            if found.lu == unit.lu and ours & {f"/dev/{disk}" for disk in found.disks}
        ),
    )


def find_sides(inventory: Inventory, names: Iterable[str]) -> tuple[Side, ...]:
    """The sides of several names; UsageError where two name the same logical unit."""
    sides: dict[str, Side] = {}
    for name in names:
        side = find_side(inventory, name)
        if side.lu in sides:
            raise UsageError(
                f"{sides[side.lu].name} and {name} are the same logical unit {side.lu}",
                hint="name the multipath map, or the designator for all its paths",
            )
        sides[side.lu] = side
    return tuple(sides.values())


def _block_number(name: str) -> str:
    try:
        status = os.stat(name)
    except (OSError, ValueError):
        return ""  # an address or a designator: resolve() has answered for it
    if not stat.S_ISBLK(status.st_mode):
        return ""
    return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


def _is_char(name: str) -> bool:
    try:
        return stat.S_ISCHR(os.stat(name).st_mode)
    except (OSError, ValueError):
        return False


def find_loading_sides(
    inventory: Inventory, file: SaveFile, names: Mapping[str, str]
) -> tuple[Side, ...]:
    """This host's side for each unit of file.

    names: what to use for a unit, by its designator or its name on the source; without one,
    all paths of this host.  UsageError where a name is another unit, or fits none.
    """
    known = {each for unit in file.units for each in (unit.lu, unit.device)}
    for old in names:
        if old not in known:
            raise UsageError(
                f"the file does not speak of {old}", hint="it names " + ", ".join(sorted(known))
            )
    sides = []
    for unit in file.units:
        name = names.get(unit.lu) or names.get(unit.device) or unit.lu
        side = find_side(inventory, name)
        if side.lu != unit.lu:
            raise UsageError(f"{name} is {side.lu}, and {unit.device} of the file is {unit.lu}")
        sides.append(side)
    return tuple(sides)


def find_saved_sides(
    inventory: Inventory, file: SaveFile, *, by_address: bool
) -> tuple[Side, ...]:
    """The source's sides as they were saved, found again by their port names.

    by_address: this host is known to be the source, so that a path that was saved without port
    names is found by its H:C:T:L; other hosts have the same addresses.  NoSuchDeviceError where
    a unit has none of its saved paths here.
    """
    return tuple(_saved_side(inventory, unit, by_address=by_address) for unit in file.units)


def _saved_side(inventory: Inventory, unit: SavedUnit, *, by_address: bool) -> Side:
    here = inventory.units.get(unit.lu)
    nexuses = () if here is None else here.nexuses
    ports = {port_names(path.as_nexus(unit.lu, path.nexus)) for path in unit.paths if path.named}
    addresses = {path.nexus for path in unit.paths if not path.named and by_address}
    found = tuple(
        nexus for nexus in nexuses if port_names(nexus) in ports or nexus.nexus in addresses
    )
    if here is None or not found:
        raise NoSuchDeviceError(
            f"{unit.lu}: none of the paths that were saved is known to be on this host",
            hint="finish, release and the source's rollback need the source's paths: bring the "
            "same session back (a new login of iSCSI has a new port name)",
        )
    side = _side(inventory, unit.device, here, found, through_sg=False)
    present = {names for nexus in found for names in (port_names(nexus), nexus.nexus)}
    gone = (path for path in unit.paths if _names(path) not in present)
    # A nexus without port names may be any that a look finds, which blinds the look: one that had
    # no key is not worth it.
    return replace(
        side,
        gone=tuple(
            path.as_nexus(unit.lu, path.name) for path in gone if path.named or path.registered
        ),
    )


def _names(path: SavedPath) -> tuple[str, int | None] | Nexus:
    return port_names(path.as_nexus("", path.nexus)) if path.named else path.nexus
