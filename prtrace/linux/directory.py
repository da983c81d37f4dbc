"""From a name that somebody typed to the logical unit, and the nexus where the name says one."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from prtrace.errors import NoSuchDeviceError, UnavailableError
from prtrace.linux.devnode import NAMING
from prtrace.linux.sysfs import names, read_text, target
from prtrace.linux.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from prtrace.linux.multipath import MultipathMap
    from prtrace.model import LocalNexus, LogicalUnit

    Look = Callable[[str], os.stat_result]

ADDRESS: Final = re.compile(r"\d+:\d+:\d+:\d+")
"""A nexus as the kernel names its scsi_device: H:C:T:L."""
_BY_NUMBER: Final = re.compile(r"(block|char)/(\d+:\d+)")


class Resolved(NamedTuple):
    """nexus is None where the name stands for the logical unit over all its nexuses."""

    lu: LogicalUnit
    nexus: LocalNexus | None = None


class Directory(NamedTuple):
    """Every name of the scanned devices."""

    sys: Path
    dev: Path
    units: Mapping[str, LogicalUnit]
    nexuses: Mapping[str, LocalNexus]
    block: Mapping[str, str]
    """ "H:C:T:L" by the block node's "MAJOR:MINOR"."""
    char: Mapping[str, str]
    """ "H:C:T:L" by the character node's "MAJOR:MINOR"."""
    maps: Mapping[str, MultipathMap]

    def resolve(self, name: str, look: Look = os.stat) -> Resolved:
        """Find what name stands for; NoSuchDeviceError says what to name instead.

        look: gives the status of a node by its name.
        """
        if ADDRESS.fullmatch(name):
            return self._of_nexus(name, name)
        unit = self.units.get(name) or self.units.get(name.lower())
        if unit is not None:
            return Resolved(unit)
        if not name.startswith("/"):
            raise NoSuchDeviceError(f"{clean(name, 200)} names nothing here", hint=NAMING)
        kind, number = self._number(name, look)
        if kind == "char":
            if number not in self.char:
                raise NoSuchDeviceError(f"{clean(name, 200)} is no SCSI node", hint=NAMING)
            return self._of_nexus(self.char[number], name)
        if number in self.block:
            found = self._of_nexus(self.block[number], name)
            return Resolved(found.lu) if self._is_of_unit(name) else found
        if number in self.maps:
            return self._of_map(self.maps[number])
        raise self._refusal(name, number)

    def block_name(self, number: str) -> str:
        """A name for the block device "MAJOR:MINOR": its node's, or the number itself."""
        if number in self.maps:
            return f"{self.dev}/mapper/{self.maps[number].name}"
        nexus = self.nexuses.get(self.block.get(number, ""))
        if nexus is not None and nexus.device:
            # Nearly every command's: no file is read for it.
            return nexus.device
        device = target(self.sys / "dev/block" / number)
        if device is None:
            return number
        mapped = read_text(device / "dm/name")
        return f"{self.dev}/mapper/{mapped}" if mapped else f"{self.dev}/{device.name}"

    def _number(self, name: str, look: Look) -> tuple[str, str]:
        """("block" or "char", "MAJOR:MINOR") of the node."""
        try:
            status = look(name)
        except PermissionError as error:
            raise UnavailableError(f"{clean(name, 200)}: permission denied") from error
        except (OSError, ValueError, NoSuchDeviceError) as error:
            # udev makes /dev/block and /dev/char; in a container they may be missing.
            by_number = _BY_NUMBER.fullmatch(name.removeprefix(f"{self.dev}/"))
            if by_number:
                return by_number[1], by_number[2]
            if isinstance(error, NoSuchDeviceError):
                raise
            raise NoSuchDeviceError(f"{clean(name, 200)} does not exist", hint=NAMING) from error
        number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
        if stat.S_ISBLK(status.st_mode):
            return "block", number
        if stat.S_ISCHR(status.st_mode):
            return "char", number
        raise NoSuchDeviceError(f"{clean(name, 200)} is no device node", hint=NAMING)

    def _is_of_unit(self, name: str) -> bool:
        """Whether the name is udev's for a unit: the link then leads to any of its paths."""
        return name.startswith(f"{self.dev}/disk/by-id/")

    def _of_nexus(self, hctl: str, name: str) -> Resolved:
        nexus = self.nexuses.get(hctl)
        if nexus is None:
            raise NoSuchDeviceError(f"{clean(name, 200)}: no such SCSI device here", hint=NAMING)
        return Resolved(self.units[nexus.lu], nexus)

    def _of_map(self, found: MultipathMap) -> Resolved:
        if found.lu not in self.units:
            raise NoSuchDeviceError(
                f"{found.name}: its paths lead to no one logical unit",
                hint="name one of its disks: " + (", ".join(found.disks) or "it has none"),
            )
        return Resolved(self.units[found.lu])

    def _refusal(self, name: str, number: str) -> NoSuchDeviceError:
        """Say what the block device is, that no logical unit answers for."""
        shown = clean(name, 200)
        device = target(self.sys / "dev/block" / number)
        if device is None:
            return NoSuchDeviceError(f"{shown}: the device is gone", hint=NAMING)
        if read_text(device / "partition") is not None:
            return NoSuchDeviceError(
                f"{shown} is a partition; reservations are those of the whole logical unit",
                hint=f"name the disk: {self.dev}/{device.parent.name}",
            )
        if read_text(device / "dm/name") is not None:
            below = ", ".join(f"{self.dev}/{slave}" for slave in names(device / "slaves"))
            return NoSuchDeviceError(
                f"{shown} is a volume; reservations are those of the logical units below it",
                hint=f"name what it stands on: {below or 'nothing'}",
            )
        return NoSuchDeviceError(f"{shown} is no SCSI device", hint=NAMING)
