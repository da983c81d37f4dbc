"""PERSISTENT RESERVE OUT parameter lists (SPC-4 6.16.3 and 6.16.4), as values.

Both lists parse as far as they can: the two keys are worth having even where a TransportID
behind them is cut off or damaged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple, Self

from prtrace.errors import MalformedError
from prtrace.model import Action
from prtrace.scsi import forms
from prtrace.scsi.transportid import TransportId, parse_contained, parse_transport_id

# The actions whose list may go on behind byte 24.  SPC-4 forbids SPEC_I_PT with REGISTER AND
# IGNORE EXISTING KEY; SPC-3 allowed it.
_MAY_SPECIFY: Final = (Action.REGISTER, Action.REGISTER_AND_IGNORE)


class BasicList(NamedTuple):
    """The parameter list of every service action but REGISTER AND MOVE (SPC-4 6.16.3)."""

    key: int
    sa_key: int
    spec_i_pt: bool = False
    all_tg_pt: bool = False
    aptpl: bool = False
    transport_ids: tuple[TransportId, ...] = ()
    """Those that arrived whole; none where spec_i_pt is not set."""
    obsolete_address: int = 0
    obsolete_extent: int = 0
    truncated: bool = False
    """Whether the SPEC_I_PT list claims more bytes than arrived."""
    problem: str = ""
    """Why the rest of the SPEC_I_PT list could not be read, or ""."""

    @classmethod
    def parse(cls, raw: bytes, action: Action = Action.REGISTER) -> Self:
        """Decode the list of action; MalformedError when fewer than 24 bytes arrived."""
        c = forms.BASIC_PARAMETER_LIST.parse(raw)
        flags = c.flags
        spec_i_pt = bool(flags & forms.SPEC_I_PT)
        ports: tuple[TransportId, ...] = ()
        truncated, problem = False, ""
        if spec_i_pt and action in _MAY_SPECIFY:
            ports, truncated, problem = _parse_ports(raw)
        return cls(
            c.reservation_key,
            c.service_action_reservation_key,
            spec_i_pt,
            bool(flags & forms.ALL_TG_PT),
            bool(flags & forms.APTPL),
            ports,
            c.obsolete_scope_specific_address,
            c.obsolete_extent_length,
            truncated,
            problem,
        )

    def build(self) -> bytes:
        """24 bytes, and the TransportIDs where spec_i_pt is set."""
        fixed = forms.BASIC_PARAMETER_LIST.build(
            reservation_key=self.key,
            service_action_reservation_key=self.sa_key,
            obsolete_scope_specific_address=self.obsolete_address,
            flags=(forms.SPEC_I_PT if self.spec_i_pt else 0)
            | (forms.ALL_TG_PT if self.all_tg_pt else 0)
            | (forms.APTPL if self.aptpl else 0),
            obsolete_extent_length=self.obsolete_extent,
        )
        if not self.spec_i_pt:
            return fixed
        ports = b"".join(port.build() for port in self.transport_ids)
        length = forms.SPEC_I_PT_LIST.build(transportid_parameter_data_length=len(ports))
        return fixed + length + ports


class MoveList(NamedTuple):
    """The parameter list of REGISTER AND MOVE (SPC-4 6.16.4).

    The I_T nexus of transport_id and relative_target_port gets sa_key and the reservation.
    """

    key: int
    sa_key: int
    relative_target_port: int
    transport_id: TransportId | None
    """None where it did not arrive whole, or cannot be read."""
    unreg: bool = False
    aptpl: bool = False
    truncated: bool = False
    """Whether the TransportID did not arrive whole."""
    problem: str = ""
    """Why transport_id is None, or ""."""

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Decode the list; MalformedError when fewer than 24 bytes arrived."""
        c = forms.REGISTER_AND_MOVE_LIST.parse(raw)
        port: TransportId | None = None
        at, length = forms.REGISTER_AND_MOVE_LIST.size, c.transportid_length
        truncated = length > len(raw) - at
        problem = f"TRANSPORTID LENGTH is {length}, {len(raw) - at} bytes arrived"
        if not truncated:
            try:
                port = parse_contained(raw[at : at + length])
                problem = ""
            except MalformedError as error:
                problem = error.message
        return cls(
            c.reservation_key,
            c.service_action_reservation_key,
            c.relative_target_port_identifier,
            port,
            bool(c.flags & forms.MOVE_UNREG),
            bool(c.flags & forms.MOVE_APTPL),
            truncated,
            problem,
        )

    def build(self) -> bytes:
        """24 bytes and the TransportID."""
        port = b"" if self.transport_id is None else self.transport_id.build()
        fixed = forms.REGISTER_AND_MOVE_LIST.build(
            reservation_key=self.key,
            service_action_reservation_key=self.sa_key,
            flags=(forms.MOVE_UNREG if self.unreg else 0)
            | (forms.MOVE_APTPL if self.aptpl else 0),
            relative_target_port_identifier=self.relative_target_port,
            transportid_length=len(port),
        )
        return fixed + port


ParameterList = BasicList | MoveList


def parse_list(raw: bytes, action: Action) -> ParameterList:
    """Decode the parameter list of action; MalformedError when fewer than 24 bytes arrived."""
    if action is Action.REGISTER_AND_MOVE:
        return MoveList.parse(raw)
    return BasicList.parse(raw, action)


def transport_ids(raw: bytes) -> Iterator[tuple[int, int, TransportId]]:
    """Each whole TransportID of a basic list with SPEC_I_PT, and its offset and end in raw.

    raw has the list's length field.  MalformedError where a TransportID does not end before
    the list does.
    """
    offset = forms.BASIC_PARAMETER_LIST.size + forms.SPEC_I_PT_LIST.size
    claimed = forms.SPEC_I_PT_LIST.parse(raw, forms.BASIC_PARAMETER_LIST.size)
    end = min(len(raw), offset + claimed.transportid_parameter_data_length)
    while offset < end:
        port, used = parse_transport_id(raw[offset:end])
        yield offset, offset + used, port
        offset += used


def _parse_ports(raw: bytes) -> tuple[tuple[TransportId, ...], bool, str]:
    """The TransportIDs behind a basic list, whether they are cut off, and what is wrong."""
    behind = len(raw) - forms.BASIC_PARAMETER_LIST.size
    size = forms.SPEC_I_PT_LIST.size
    if behind < size:
        return (), True, f"SPEC_I_PT is set, {behind} of {size} bytes of its list's length arrived"
    c = forms.SPEC_I_PT_LIST.parse(raw, forms.BASIC_PARAMETER_LIST.size)
    claimed: int = c.transportid_parameter_data_length
    arrived = min(behind - size, claimed)
    truncated = claimed > arrived
    problem = f"the SPEC_I_PT list has {claimed} bytes, {arrived} arrived" if truncated else ""
    ports: list[TransportId] = []
    try:
        for _, _, port in transport_ids(raw):
            ports.append(port)  # what came before an error is kept
    except MalformedError as error:
        # In a list that was cut off the last TransportID is expected to be incomplete.
        problem = problem or error.message
    return tuple(ports), truncated, problem
