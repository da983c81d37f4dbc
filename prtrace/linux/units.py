"""The logical units of this host, their nexuses and every name they go by, from sysfs alone.

No command is sent: the designator comes from the VPD page 0x83 that the kernel read when the
device was found (sysfs vpd_pg83), so that no unit attention is collected on the way.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from sys import intern
from typing import TYPE_CHECKING, Final, NamedTuple

from prtrace.linux.directory import ADDRESS, Directory, Resolved
from prtrace.linux.multipath import MultipathMap, multipath_maps
from prtrace.linux.nodes import DeviceNodes
from prtrace.linux.ports import InitiatorPorts
from prtrace.linux.sysfs import SYS, inode, names, read_bytes, read_text, target
from prtrace.model import LOCAL_NAME, LocalNexus, LogicalUnit, Nexus
from prtrace.scsi.designator import PageNames, page_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from prtrace.linux.directory import Look

DEV: Final = Path("/dev")
NamesIn = Callable[[Nexus, bytes], PageNames]
"""The names in a VPD page 83h of a nexus, "H:C:T:L"."""

_NO_UNIT: Final = frozenset({0x1E, 0x1F})  # well-known logical unit; no device
_GOING: Final = frozenset({"cancel", "deleted"})
_KINDS: Final = {
    0x00: "disk",
    0x01: "tape",
    0x04: "write-once disk",
    0x05: "optical",
    0x07: "optical",
    0x08: "changer",
    0x0C: "array controller",
    0x0D: "enclosure",
    0x0E: "simplified disk",
    0x11: "object store",
    0x14: "zoned disk",
}


class Inventory(NamedTuple):
    """What scan found.  units: by designator, in the order of their lowest address."""

    units: Mapping[str, LogicalUnit]
    maps: tuple[MultipathMap, ...]
    directory: Directory
    devices: Mapping[str, ScsiDevice]
    """By "H:C:T:L", what each scsi_device looked like."""

    def refreshed(self, addresses: Iterable[str], *, maps: bool = False) -> Inventory:
        """This inventory with another look at the devices with these addresses, and no others.

        maps: whether device-mapper nodes may have changed too.  Raises as scan does.
        """
        sys, dev = self.directory.sys, self.directory.dev
        ports = InitiatorPorts(sys)
        devices = dict(self.devices)
        for hctl in addresses:
            device = _device(sys / "bus/scsi/devices" / hctl, ports, dev)
            if device is None:
                devices.pop(hctl, None)
            else:
                devices[hctl] = device
        devices = {hctl: devices[hctl] for hctl in _addresses(devices)}
        return _inventory(sys, dev, devices, None if maps else self.maps)

    def leading_to(self, found: Mapping[str, str]) -> Inventory:
        """This inventory with the devices at these addresses leading to these units.

        For what a device itself said, where the kernel still has what it said before.
        """
        devices = dict(self.devices)
        for hctl, lu in found.items():
            device = devices[hctl]
            nexus = replace(device.nexus, lu=lu)
            devices[hctl] = ScsiDevice(nexus, device.nodes, LogicalUnit(lu, kind=device.unit.kind))
        return _inventory(self.directory.sys, self.directory.dev, devices, self.maps)

    def nexus(self, hctl: str) -> LocalNexus | None:
        """The local nexus with this "H:C:T:L", if it is here."""
        return self.directory.nexuses.get(hctl)

    def resolve(self, name: str, look: Look = os.stat) -> Resolved:
        """Find the logical unit, and the nexus where the name says one.

        name: a node (/dev/sda, /dev/sg0, /dev/bsg/H:C:T:L, /dev/mapper/mpatha, any link to
        one; by device number, not by name), "H:C:T:L", or a designator.  Raises
        NoSuchDeviceError, whose hint says what to name instead.  look: see Directory.resolve.
        """
        return self.directory.resolve(name, look)

    def requested_name(self, number: str) -> str:
        """A node's name for a block device's "MAJOR:MINOR"; the number itself if unknown."""
        return self.directory.block_name(number)


class ScsiDevice(NamedTuple):
    """One SCSI device: its nexus and nodes, and the unit as this path describes it."""

    nexus: LocalNexus
    nodes: DeviceNodes
    unit: LogicalUnit


def names_here(_nexus: Nexus, page: bytes) -> PageNames:
    """The process itself looks into the page."""
    return page_names(page)


def scan(sys: Path = SYS, dev: Path = DEV, names_in: NamesIn = names_here) -> Inventory:
    """Look at every SCSI device once; one that vanishes meanwhile is left out.

    names_in: looks into VPD pages 83h, which are bytes of the devices.  Raises UnavailableError
    where sysfs may not be read, and what names_in raises.
    """
    ports = InitiatorPorts(sys)
    root = sys / "bus/scsi/devices"
    found = {hctl: _device(root / hctl, ports, dev, names_in) for hctl in _addresses(names(root))}
    devices = {hctl: device for hctl, device in found.items() if device is not None}
    return _inventory(sys, dev, devices, None)


def _inventory(
    sys: Path, dev: Path, devices: Mapping[str, ScsiDevice], maps: tuple[MultipathMap, ...] | None
) -> Inventory:
    """Put devices together, in the order of their addresses; maps: None to look for them."""
    found = list(devices.values())
    lu_of_disk = {each.nodes.disk: each.nexus.lu for each in found if each.nodes.disk}
    if maps is None:
        maps = multipath_maps(sys, lu_of_disk)
    else:
        maps = tuple(each.over(lu_of_disk) for each in maps)
    units = _units(found, maps, dev)
    directory = Directory(
        sys,
        dev,
        units,
        {each.nexus.nexus: each.nexus for each in found},
        {each.nodes.block: each.nexus.nexus for each in found if each.nodes.block},
        {number: each.nexus.nexus for each in found for number in each.nodes.chars},
        {each.number: each for each in maps},
    )
    return Inventory(units, maps, directory, devices)


def _addresses(entries: Iterable[str]) -> list[str]:
    """The entries that are "H:C:T:L", in the order of the numbers."""
    addresses = [entry for entry in entries if ADDRESS.fullmatch(entry)]
    return sorted(addresses, key=lambda hctl: [int(part) for part in hctl.split(":")])


def _device(
    link: Path, ports: InitiatorPorts, dev: Path, names_in: NamesIn = names_here
) -> ScsiDevice | None:
    directory = target(link)
    code = None if directory is None else read_text(directory / "type")
    if directory is None or code is None or not code.isdecimal() or int(code) in _NO_UNIT:
        return None
    hctl = link.name
    page = read_bytes(directory / "vpd_pg83") or b""
    nodes = DeviceNodes.of(directory)
    # Read last: attributes vanish with the device, and a page that is missing for that reason
    # must not become a unit without a designator.
    state = read_text(directory / "state", 32)
    if state is None or state in _GOING:
        return None
    port = ports.of(hctl, directory)
    told = names_in(hctl, page) if page else PageNames()
    nexus = LocalNexus(
        nexus=hctl,
        lu=_designator(told.lu, directory, hctl),
        device=f"{dev}/{nodes.disk}" if nodes.disk else "",
        sg=f"{dev}/{nodes.sg}" if nodes.sg else "",
        bsg=f"{dev}/bsg/{nodes.bsg}" if nodes.bsg else "",
        initiator_port=port.text,
        target_port=told.target_port,
        relative_target_port=told.relative_target_port,
        transport=port.transport,
        state=intern(state),
        life=inode(directory),
    )
    unit = LogicalUnit(
        nexus.lu,
        vendor=read_text(directory / "vendor", 32) or "",
        product=read_text(directory / "model", 64) or "",
        revision=read_text(directory / "rev", 16) or "",
        kind=_KINDS.get(int(code), f"type 0x{int(code):02x}"),
    )
    return ScsiDevice(nexus, nodes, unit)


def _designator(name: str | None, directory: Path, hctl: str) -> str:
    """The unit's name; "hctl.H:C:T:L" rather than one that other units may have too.

    A vendor specific designator need not be unique (SPC-4 table 604).  sysfs wwid is the
    kernel's own choice from the same page, for a page that is damaged further on.
    """
    if name is None:
        name = read_text(directory / "wwid", 300) or ""
        name = "\\x20".join(name.split(" "))
    # One string for all the paths of a unit, not one each.
    return local_name(hctl) if not name or name.startswith("vendor.") else intern(name)


def local_name(hctl: str) -> str:
    """The name of a unit that gives no designator: it is this one's for as long as it is here."""
    return f"{LOCAL_NAME}{hctl}"


def _units(
    devices: Sequence[ScsiDevice], maps: Sequence[MultipathMap], dev: Path
) -> dict[str, LogicalUnit]:
    members: dict[str, list[ScsiDevice]] = {}
    for device in devices:
        members.setdefault(device.nexus.lu, []).append(device)
    mapped: dict[str, list[str]] = {}
    for found in maps:
        mapped.setdefault(found.lu, []).extend(
            (f"{dev}/mapper/{found.name}", f"{dev}/{found.node}")
        )
    units = {}
    for lu, paths in members.items():
        first = paths[0].unit
        nodes = [
            f"{dev}/{name}"
            for path in paths
            for name in (path.nodes.disk, *path.nodes.other, path.nodes.sg)
            if name
        ]
        units[lu] = LogicalUnit(
            lu,
            first.vendor,
            first.product,
            first.revision,
            nexuses=tuple(path.nexus for path in paths),
            devices=(*nodes, *mapped.get(lu, ())),
            kind=first.kind,
        )
    return units
