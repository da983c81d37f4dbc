"""PERSISTENT RESERVE OUT parameter lists (SPC-4 6.16.3 and 6.16.4).

Basic, 24 bytes: 0-7 RESERVATION KEY; 8-15 SERVICE ACTION RESERVATION KEY; 16-19 obsolete
(scope-specific address); 20 SPEC_I_PT 08h, ALL_TG_PT 04h, APTPL 01h; 22-23 obsolete (extent
length).  With SPEC_I_PT: 24-27 TRANSPORTID PARAMETER DATA LENGTH, then TransportIDs.
REGISTER AND MOVE: 0-7 and 8-15 as above; 17 UNREG 02h, APTPL 01h; 18-19 RELATIVE TARGET PORT
IDENTIFIER; 20-23 TRANSPORTID LENGTH; then one TransportID.

Both forms parse as far as they can: the two keys are worth having even where a TransportID
behind them is cut off or damaged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from prtrace.errors import MalformedError
from prtrace.model import Action
from prtrace.scsi.transportid import TransportId, parse_contained, parse_transport_id
from prtrace.scsi.wire import Layout

_BASIC = Layout("PR OUT parameter list", "QQIBxH", "key sa_key address flags extent")
_MOVE = Layout(
    "REGISTER AND MOVE parameter list", "QQxBHI", "key sa_key flags relative_target_port length"
)
_LENGTH = Layout("SPEC_I_PT list", "I", "length")

_SPEC_I_PT = 0x08
_ALL_TG_PT = 0x04
_APTPL = 0x01
_UNREG = 0x02

# The actions whose list may go on behind byte 24.  SPC-4 forbids SPEC_I_PT with REGISTER AND
# IGNORE EXISTING KEY; SPC-3 allowed it.
_MAY_SPECIFY = (Action.REGISTER, Action.REGISTER_AND_IGNORE)


@dataclass(frozen=True, slots=True)
class BasicList:
    """The list that every action but REGISTER AND MOVE takes.

    transport_ids are those that arrived whole; they are there only where spec_i_pt is set.
    truncated: the SPEC_I_PT list claims more than arrived.  problem: why the rest of that
    list could not be read, or "".
    """

    key: int
    sa_key: int
    spec_i_pt: bool = False
    all_tg_pt: bool = False
    aptpl: bool = False
    transport_ids: tuple[TransportId, ...] = ()
    obsolete_address: int = 0
    obsolete_extent: int = 0
    truncated: bool = False
    problem: str = ""

    @classmethod
    def parse(cls, raw: bytes, action: Action = Action.REGISTER) -> Self:
        """Decode the list of action; MalformedError when fewer than 24 bytes arrived."""
        c = _BASIC.parse(raw)
        spec_i_pt = bool(c.flags & _SPEC_I_PT)
        ports: tuple[TransportId, ...] = ()
        truncated, problem = False, ""
        if spec_i_pt and action in _MAY_SPECIFY:
            ports, truncated, problem = _parse_ports(raw[_BASIC.size :])
        return cls(
            c.key,
            c.sa_key,
            spec_i_pt,
            bool(c.flags & _ALL_TG_PT),
            bool(c.flags & _APTPL),
            ports,
            c.address,
            c.extent,
            truncated,
            problem,
        )

    def build(self) -> bytes:
        """24 bytes, and the TransportIDs where spec_i_pt is set."""
        fixed = _BASIC.build(
            key=self.key,
            sa_key=self.sa_key,
            address=self.obsolete_address,
            flags=(_SPEC_I_PT if self.spec_i_pt else 0)
            | (_ALL_TG_PT if self.all_tg_pt else 0)
            | (_APTPL if self.aptpl else 0),
            extent=self.obsolete_extent,
        )
        if not self.spec_i_pt:
            return fixed
        ports = b"".join(port.build() for port in self.transport_ids)
        return fixed + _LENGTH.build(length=len(ports)) + ports


@dataclass(frozen=True, slots=True)
class MoveList:
    """The list of REGISTER AND MOVE: the destination nexus gets sa_key and the reservation.

    transport_id is None where it did not arrive whole (truncated) or is damaged (problem
    says how).
    """

    key: int
    sa_key: int
    relative_target_port: int
    transport_id: TransportId | None
    unreg: bool = False
    aptpl: bool = False
    truncated: bool = False
    problem: str = ""

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Decode the list; MalformedError when fewer than 24 bytes arrived."""
        c = _MOVE.parse(raw)
        port: TransportId | None = None
        truncated = c.length > len(raw) - _MOVE.size
        problem = f"TRANSPORTID LENGTH is {c.length}, {len(raw) - _MOVE.size} bytes arrived"
        if not truncated:
            try:
                port = parse_contained(raw[_MOVE.size : _MOVE.size + c.length])
                problem = ""
            except MalformedError as error:
                problem = error.message
        return cls(
            c.key,
            c.sa_key,
            c.relative_target_port,
            port,
            bool(c.flags & _UNREG),
            bool(c.flags & _APTPL),
            truncated,
            problem,
        )

    def build(self) -> bytes:
        """24 bytes and the TransportID."""
        port = b"" if self.transport_id is None else self.transport_id.build()
        fixed = _MOVE.build(
            key=self.key,
            sa_key=self.sa_key,
            flags=(_UNREG if self.unreg else 0) | (_APTPL if self.aptpl else 0),
            relative_target_port=self.relative_target_port,
            length=len(port),
        )
        return fixed + port


ParameterList = BasicList | MoveList


def parse_list(raw: bytes, action: Action) -> ParameterList:
    """Decode the parameter list of action; MalformedError when fewer than 24 bytes arrived."""
    if action is Action.REGISTER_AND_MOVE:
        return MoveList.parse(raw)
    return BasicList.parse(raw, action)


def _parse_ports(raw: bytes) -> tuple[tuple[TransportId, ...], bool, str]:
    """The TransportIDs behind a basic list, whether they are cut off, and what is wrong."""
    if len(raw) < _LENGTH.size:
        return (), True, f"SPEC_I_PT is set, {len(raw)} of 4 bytes of its list's length arrived"
    claimed: int = _LENGTH.parse(raw).length
    left = raw[_LENGTH.size :][:claimed]
    truncated = claimed > len(left)
    problem = f"the SPEC_I_PT list has {claimed} bytes, {len(left)} arrived" if truncated else ""
    ports: list[TransportId] = []
    while left:
        try:
            port, used = parse_transport_id(left)
        except MalformedError as error:
            # Only the end of the bytes can stop it, and in a cut-off list that is no news.
            return tuple(ports), truncated, problem or error.message
        ports.append(port)
        left = left[used:]
    return tuple(ports), truncated, problem
