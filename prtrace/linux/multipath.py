"""Device-mapper multipath maps, from sysfs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prtrace.linux.sysfs import names, read_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class MultipathMap:
    """name: the map's ("mpatha").  node: "dm-0".  number: "MAJOR:MINOR".  disks: its paths.

    lu: the designator that all its paths share, "" where they disagree or none is known.
    """

    name: str
    node: str
    number: str
    uuid: str
    disks: tuple[str, ...]
    lu: str


def multipath_maps(sys: Path, lu_of_disk: Mapping[str, str]) -> tuple[MultipathMap, ...]:
    """Every map over SCSI disks; lu_of_disk: designator by kernel name ("sda").

    multipathd gives its maps a uuid "mpath-…".  A map made by hand may have none: it counts
    where it stands on several whole disks that are all the same logical unit, which no other
    target type makes sense of.  Partitions of a map (uuid "part1-mpath-…") and volumes do not.
    """
    found = []
    for node in names(sys / "block"):
        if not node.startswith("dm-"):
            continue
        directory = sys / "block" / node
        uuid = read_text(directory / "dm/uuid") or ""
        disks = names(directory / "slaves")
        units = {lu_of_disk.get(disk, "") for disk in disks}
        lu = units.pop() if len(units) == 1 else ""
        if not uuid.startswith("mpath-") and (uuid or not lu or len(disks) < 2):
            continue
        name = read_text(directory / "dm/name")
        number = read_text(directory / "dev")
        if name and number:
            found.append(MultipathMap(name, node, number, uuid, disks, lu))
    return tuple(found)
