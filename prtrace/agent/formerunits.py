"""Units that an address led to a moment ago (pure).

The kernel gives an H:C:T:L to one scsi_device after the other.  What was counted on an address and
is told a moment later may be of the unit that was there before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prtrace.linux.units import Inventory
    from prtrace.model import LocalNexus, Nexus

REMEMBERED_NS: Final = 30_000_000_000
"""Nanoseconds for which a unit is remembered: counters are told within seconds."""


class FormerUnits:
    """Which units went from which addresses, and when (CLOCK_MONOTONIC)."""

    def __init__(self) -> None:
        self._went: dict[Nexus, dict[str, int]] = {}

    def note(self, before: Iterable[LocalNexus], now: Inventory, now_ns: int) -> None:
        """Compare what was known of addresses with the inventory of now_ns."""
        for hctl, units in list(self._went.items()):
            self._went[hctl] = {lu: at for lu, at in units.items() if now_ns - at <= REMEMBERED_NS}
            if not self._went[hctl]:
                del self._went[hctl]
        for nexus in before:
            there = now.nexus(nexus.nexus)
            if there is None or there.lu != nexus.lu:
                self._went.setdefault(nexus.nexus, {})[nexus.lu] = now_ns

    def of(self, hctl: Nexus, now_ns: int) -> frozenset[str]:
        """The units that the address led to until a moment before now_ns."""
        went = self._went.get(hctl, {})
        return frozenset(lu for lu, at in went.items() if now_ns - at <= REMEMBERED_NS)
