"""scsi_devices that lead to another unit than the kernel remembers (pure).

An array can map another unit to an address.  The kernel asks no device a second time which unit
it is by itself, so what the device says stands before what the kernel remembers: for one life of
the scsi_device, until the kernel remembers otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from prtrace.linux.units import Inventory
    from prtrace.model import LocalNexus

MOST: Final = 8
"""Units that one scsi_device may name in its life: more, and it is not believed any more."""


@dataclass(frozen=True, slots=True)
class _Remapped:
    """What one scsi_device said of itself."""

    life: int
    """LocalNexus.life of the scsi_device."""
    remembered: str
    """The unit that the kernel says it is."""
    found: str
    """The unit that the device says it is."""
    named: int
    """How often the device has named another unit than the kernel does."""


class Remapped:
    """The devices of an inventory that said which unit they are, and that it is another one."""

    def __init__(self) -> None:
        self._devices: dict[str, _Remapped] = {}

    @property
    def addresses(self) -> frozenset[str]:
        """The "H:C:T:L" of devices whose unit is to be looked up in sysfs again."""
        return frozenset(self._devices)

    def believes(self, hctl: str, found: str) -> bool:
        """Whether the device is believed that it is the unit found.

        A device that names one unit after the other would make a unit of each answer.
        """
        device = self._devices.get(hctl)
        return device is None or found == device.remembered or device.named < MOST

    def note(self, known: LocalNexus, found: str) -> None:
        """Note that the device at a nexus says it is the unit found.

        known: the nexus as the inventory has it, what was noted before included.
        """
        before = self._devices.get(known.nexus) or _Remapped(known.life, known.lu, known.lu, 0)
        other = found not in (before.remembered, before.found)
        self._devices[known.nexus] = replace(before, found=found, named=before.named + other)

    def unit(self, hctl: str, name: str) -> str:
        """The unit that name, as the kernel remembers it, stands for at an address."""
        device = self._devices.get(hctl)
        return name if device is None or device.remembered != name else device.found

    def applied(self, inventory: Inventory) -> Inventory:
        """The inventory, fresh from sysfs, with what the devices say; forgets what is over."""
        self._devices = {
            hctl: each
            for hctl, each in self._devices.items()
            if (now := inventory.nexus(hctl)) is not None
            and (now.life, now.lu) == (each.life, each.remembered)
        }
        found = {hctl: each.found for hctl, each in self._devices.items()}
        return inventory.leading_to(found) if found else inventory
