"""What is known of a logical unit, as far as a move needs it (pure).

Taken from one element of "units" of prtrace.show/1, whoever made it: the agent, or a
reading of the device (prtrace.move.device.observed).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from prtrace.errors import MalformedError
from prtrace.model import Nexus, ReservationType
from prtrace.state.unit import Fact

_WHAT = "prtrace.show/1 unit"


@dataclass(frozen=True, slots=True)
class Sender:
    """Somebody who sent a reservation command.

    guest is "" where no guest is known.  helpers: of a guest, the processes that send its
    commands for it, and nobody else's.  start_ns: when the process started, ns since boot;
    0 where that is not known.  uuid: the guest's, "" where none is known.
    """

    pid: int
    comm: str
    guest: str = ""
    helpers: frozenset[int] = frozenset()
    start_ns: int = 0
    uuid: str = ""

    @property
    def text(self) -> str:
        """For people."""
        return f"guest {self.guest}" if self.guest else f"{self.comm}[{self.pid}]"


@dataclass(frozen=True, slots=True)
class Registered:
    """One registration.  source: "observed" or "read"; at: RFC 3339."""

    nexus: Nexus
    key: int
    initiator_port: str | None
    relative_target_port: int | None
    source: str
    at: str
    by: Sender | None = None
    maybe_local: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """The state of one unit.

    type is None where nothing is reserved.  holders: nexuses; every registrant for the
    all-registrants types.  doubts: (fact, reason), those about PRGENERATION alone left out,
    for a move does not depend on it.  unplaced: keys whose nexus is not known.  unknowable:
    (fact, reason) of what no command on this host can tell.  aptpl: registrations persist through
    power loss; None where that is not known.  capable: the target answered REPORT CAPABILITIES.
    """

    lu: str
    target: str = ""
    generation: int | None = None
    registrations: tuple[Registered, ...] = ()
    type: ReservationType | None = None
    scope: str = "LU"
    holders: tuple[Nexus, ...] = ()
    unplaced: tuple[int, ...] = ()
    unknowable: tuple[tuple[str, str], ...] = ()
    aptpl: bool | None = None
    capable: bool = True
    legacy_holder: Nexus | None = None
    doubts: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_show(cls, unit: Mapping[str, Any]) -> Facts:
        """Take one element of "units"; MalformedError where it is not what the schema says."""
        try:
            return _from_show(unit)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MalformedError(_WHAT, f"{type(error).__name__}: {error}"[:200]) from None


def _from_show(unit: Mapping[str, Any]) -> Facts:
    held = unit["reservation"]
    return Facts(
        lu=str(unit["lu"]),
        target=str(unit.get("target") or ""),
        generation=None if unit["generation"] is None else int(unit["generation"]),
        registrations=tuple(_registered(each) for each in unit["registrations"]),
        type=None if held is None else ReservationType[held["type"]],
        scope="LU" if held is None else str(held["scope"]),
        holders=() if held is None else tuple(str(nexus) for nexus in held["holders"]),
        unplaced=tuple(int(key, 16) for key in unit.get("unattributed_keys") or ()),
        legacy_holder=unit.get("legacy_reservation"),
        unknowable=_reasons(unit.get("unknowable") or ()),
        aptpl=None if unit.get("aptpl") is None else bool(unit["aptpl"]),
        capable=unit.get("capabilities") is not None,
        doubts=_reasons(unit["doubt"]),
    )


def _reasons(given: Iterable[Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (str(each["what"]), str(each["reason"]))
        for each in given
        if each["what"] != Fact.GENERATION.value
    )


def _registered(each: Mapping[str, Any]) -> Registered:
    by = each.get("by")
    return Registered(
        nexus=str(each["nexus"]),
        key=int(each["key"], 16),
        initiator_port=each.get("initiator_port"),
        relative_target_port=each.get("relative_target_port"),
        source=str(each["source"]),
        at=str(each["at"]),
        by=None
        if by is None
        else Sender(
            int(by["pid"]),
            str(by["comm"]),
            str(by.get("guest") or ""),
            start_ns=int(by.get("process_start_ns") or 0),
            uuid=str(by.get("uuid") or ""),
        ),
        maybe_local=bool(each.get("maybe_local", False)),
    )
