"""What the agent remembers of a reservation that is older than the events at hand (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prtrace.model import Nexus
from prtrace.state.event import nanoseconds
from prtrace.state.unit import Source


@dataclass(frozen=True, slots=True)
class Remembered:
    """A command that the state remembers."""

    who: str
    at: int
    """Nanoseconds since the epoch."""


class Memory:
    """The unit as Show has it, an element of prtrace.show/1's units; None where there is none."""

    def __init__(self, unit: Mapping[str, Any] | None = None) -> None:
        self._held = None if unit is None else unit["reservation"]

    def reserved(self, kind: str, nexus: Nexus | None) -> Remembered | None:
        """Who made the reservation of that type and holder, if it is the one that is there now."""
        held = self._held
        if held is None or held["by"] is None or held["source"] != Source.OBSERVED.value:
            return None
        if held["type"] != kind or (nexus is not None and held["holders"] != [nexus]):
            return None
        by = held["by"]
        name, pid = by["client_comm"] or by["comm"], by["client_pid"] or by["pid"]
        who = f"guest {by['guest']}" if by["guest"] else f"{name}[{pid}]"
        return Remembered(who, nanoseconds(held["at"]))
