"""Device-mapper multipath maps, from sysfs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Self

from prtrace.linux.sysfs import names, read_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_MULTIPATHD: Final = "mpath-"


class MultipathMap(NamedTuple):
    """A map."""

    name: str
    """The map's, "mpatha"."""
    node: str
    """The kernel's, "dm-0"."""
    number: str
    """ "MAJOR:MINOR"."""
    uuid: str
    disks: tuple[str, ...]
    """The kernel names of its paths."""
    lu: str
    """The designator that all its paths share, "" where they disagree or have none."""

    @property
    def is_multipathds(self) -> bool:
        """Whether multipathd made it, and looks after it where it runs."""
        return self.uuid.startswith(_MULTIPATHD)

    def over(self, lu_of_disk: Mapping[str, str]) -> Self:
        """The same map, its disks being these units' now."""
        return self._replace(lu=_shared(self.disks, lu_of_disk))


def is_multipath(directory: Path) -> bool:
    """Whether the device-mapper node with this directory in sysfs is a multipath map.

    multipathd gives its maps a uuid "mpath-…"; whatever else has a uuid is something else
    (volumes, and partitions of maps: "part1-mpath-…").  A map that was made by hand may have no
    uuid.  It is told from volumes by its hardware queues: of the device-mapper targets only
    dm-mpath works on requests (drivers/md/dm-rq.c), and only what does has a blk-mq queue.
    """
    uuid = read_text(directory / "dm/uuid")
    if uuid:
        return uuid.startswith(_MULTIPATHD)
    return uuid is not None and bool(names(directory / "mq"))


def multipath_maps(sys: Path, lu_of_disk: Mapping[str, str]) -> tuple[MultipathMap, ...]:
    """Every map over SCSI disks; lu_of_disk: designator by kernel name ("sda")."""
    found = []
    for node in names(sys / "block"):
        if not node.startswith("dm-"):
            continue
        directory = sys / "block" / node
        if not is_multipath(directory):
            continue
        disks = names(directory / "slaves")
        name = read_text(directory / "dm/name")
        number = read_text(directory / "dev")
        if name and number:
            lu = _shared(disks, lu_of_disk)
            uuid = read_text(directory / "dm/uuid") or ""
            found.append(MultipathMap(name, node, number, uuid, disks, lu))
    return tuple(found)


def _shared(disks: tuple[str, ...], lu_of_disk: Mapping[str, str]) -> str:
    units = {lu_of_disk.get(disk, "") for disk in disks}
    return units.pop() if len(units) == 1 else ""
