"""TransportIDs: the name of an initiator port on its protocol (SPC-4 7.6.4).

Byte 0: FORMAT CODE bits 6-7, PROTOCOL IDENTIFIER bits 0-3.  All but iSCSI's take 24 bytes:
    FC 0     8-15 N_PORT_NAME
    SPI 1    2-3 SCSI ADDRESS, 6-7 RELATIVE TARGET PORT IDENTIFIER
    SRP 4    8-23 INITIATOR PORT IDENTIFIER (RDMA: InfiniBand and RoCE)
    SAS 6    4-11 SAS ADDRESS
    SOP 10   2-3 ROUTING ID
iSCSI 5: 2-3 ADDITIONAL LENGTH, 4-n name, NUL terminated and padded to 4 bytes; with FORMAT
CODE 1 the name is followed by ",i,0x" and the ISID in hex.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from prtrace.errors import MalformedError
from prtrace.scsi.text import escape
from prtrace.scsi.wire import Layout

_WHAT = "TransportID"
_SIZE = 24
_FORMAT_SHIFT = 6
_PROTOCOL = 0x0F
_ISID_MARK = b",i,0x"
_ISID_DIGITS = 12
_ISCSI_NAME_MAX = 223  # RFC 3720 3.2.6.1
_ISCSI_MIN_ADDITIONAL = 20

_FC = Layout(_WHAT, "B7xQ8x", "protocol address")
_SPI = Layout(_WHAT, "BxH2xH16x", "protocol address target_port")
_SRP = Layout(_WHAT, "B7xQQ", "protocol high low")
_SAS = Layout(_WHAT, "B3xQ12x", "protocol address")
_SOP = Layout(_WHAT, "BxH20x", "protocol address")
_ISCSI = Layout("iSCSI TransportID", "BxH", "protocol additional")


@dataclass(frozen=True, slots=True)
class FcPort:
    """Fibre Channel: the 64-bit N_Port name."""

    PROTOCOL: ClassVar[int] = 0
    address: int

    @property
    def text(self) -> str:
        """The canonical port name: "naa.<16 hex digits>"."""
        return f"naa.{self.address:016x}"

    def build(self) -> bytes:
        """The 24 bytes."""
        return _FC.build(protocol=self.PROTOCOL, address=self.address)


@dataclass(frozen=True, slots=True)
class SpiPort:
    """Parallel SCSI: the initiator's address, seen from a relative target port."""

    PROTOCOL: ClassVar[int] = 1
    address: int
    relative_target_port: int

    @property
    def text(self) -> str:
        """The canonical port name: "spi.<address>,<relative target port>"."""
        return f"spi.{self.address},{self.relative_target_port}"

    def build(self) -> bytes:
        """The 24 bytes."""
        return _SPI.build(
            protocol=self.PROTOCOL, address=self.address, target_port=self.relative_target_port
        )


@dataclass(frozen=True, slots=True)
class SrpPort:
    """SRP over RDMA: the 128-bit initiator port identifier."""

    PROTOCOL: ClassVar[int] = 4
    identifier: int

    @property
    def text(self) -> str:
        """The canonical port name: "srp.<32 hex digits>"."""
        return f"srp.{self.identifier:032x}"

    def build(self) -> bytes:
        """The 24 bytes."""
        return _SRP.build(
            protocol=self.PROTOCOL, high=self.identifier >> 64, low=self.identifier & (1 << 64) - 1
        )


@dataclass(frozen=True, slots=True)
class IscsiPort:
    """iSCSI: the node name as it came, and the 48-bit ISID where format 1 carries one.

    Two names that differ in case only are one port: compare text, not name.
    """

    PROTOCOL: ClassVar[int] = 5
    name: bytes
    isid: int | None = None

    @property
    def text(self) -> str:
        """The canonical port name: "iqn.…" or "iqn.…,i,0x<12 hex digits>".

        A comma inside the name is escaped, so that no name can pretend to carry an ISID.
        """
        name = escape(self.name.lower(), also=b",")
        return name if self.isid is None else f"{name},i,0x{self.isid:012x}"

    def build(self) -> bytes:
        """4 bytes and the padded name; MalformedError when the name cannot be sent."""
        if not 0 < len(self.name) <= _ISCSI_NAME_MAX or 0 in self.name:
            raise MalformedError(_ISCSI.what, "the name is empty, too long or has a NUL")
        field = self.name
        if self.isid is not None:
            field += _ISID_MARK + b"%012x" % self.isid
        size = max(len(field) // 4 * 4 + 4, _ISCSI_MIN_ADDITIONAL)
        format_code = 0 if self.isid is None else 1
        header = _ISCSI.build(protocol=format_code << _FORMAT_SHIFT | 5, additional=size)
        return header + field.ljust(size, b"\0")


@dataclass(frozen=True, slots=True)
class SasPort:
    """SAS: the 64-bit address."""

    PROTOCOL: ClassVar[int] = 6
    address: int

    @property
    def text(self) -> str:
        """The canonical port name: "naa.<16 hex digits>"."""
        return f"naa.{self.address:016x}"

    def build(self) -> bytes:
        """The 24 bytes."""
        return _SAS.build(protocol=self.PROTOCOL, address=self.address)


@dataclass(frozen=True, slots=True)
class SopPort:
    """SCSI over PCIe: the 16-bit routing id."""

    PROTOCOL: ClassVar[int] = 10
    routing_id: int

    @property
    def text(self) -> str:
        """The canonical port name: "sop.<4 hex digits>"."""
        return f"sop.{self.routing_id:04x}"

    def build(self) -> bytes:
        """The 24 bytes."""
        return _SOP.build(protocol=self.PROTOCOL, address=self.routing_id)


@dataclass(frozen=True, slots=True)
class UnknownPort:
    """A protocol or format that has no form above, kept as it came, header included."""

    raw: bytes

    @property
    def text(self) -> str:
        """The canonical port name: "proto<identifier>.<hex of the whole TransportID>"."""
        return f"proto{self.raw[0] & _PROTOCOL}.{self.raw.hex()}"

    def build(self) -> bytes:
        """The bytes as they came."""
        return self.raw


TransportId = FcPort | SpiPort | SrpPort | IscsiPort | SasPort | SopPort | UnknownPort


def parse_transport_id(raw: bytes, *, whole: bool = False) -> tuple[TransportId, int]:
    """Decode the TransportID at the start of raw; gives it and the bytes it takes.

    whole: raw is one TransportID's container, so an unknown protocol's takes all of it
    (otherwise 24 bytes).  MalformedError when raw ends before the TransportID does.
    """
    if not raw:
        raise MalformedError(_WHAT, "is empty")
    protocol, format_code = raw[0] & _PROTOCOL, raw[0] >> _FORMAT_SHIFT
    if protocol == IscsiPort.PROTOCOL:
        return _parse_iscsi(raw, format_code)
    if len(raw) < _SIZE:
        raise MalformedError(_WHAT, f"needs {_SIZE} bytes, has {len(raw)}")
    if format_code == 0:
        match protocol:
            case FcPort.PROTOCOL:
                return FcPort(_FC.parse(raw).address), _SIZE
            case SpiPort.PROTOCOL:
                c = _SPI.parse(raw)
                return SpiPort(c.address, c.target_port), _SIZE
            case SrpPort.PROTOCOL:
                c = _SRP.parse(raw)
                return SrpPort(c.high << 64 | c.low), _SIZE
            case SasPort.PROTOCOL:
                return SasPort(_SAS.parse(raw).address), _SIZE
            case SopPort.PROTOCOL:
                return SopPort(_SOP.parse(raw).address), _SIZE
            case _:
                pass  # kept as it came, below
    size = len(raw) if whole else _SIZE
    return UnknownPort(raw[:size]), size


def parse_contained(raw: bytes) -> TransportId:
    """Decode the TransportID that raw, its container, consists of.

    MalformedError when it does not fit, or leaves bytes over that are not zero.
    """
    port, used = parse_transport_id(raw, whole=True)
    if any(raw[used:]):
        raise MalformedError(_WHAT, f"{len(raw) - used} bytes are left over behind it")
    return port


def _parse_iscsi(raw: bytes, format_code: int) -> tuple[TransportId, int]:
    size = _ISCSI.size + _ISCSI.parse(raw).additional
    if size > len(raw):
        raise MalformedError(
            _ISCSI.what, f"ADDITIONAL LENGTH makes it {size} bytes, {len(raw)} are there"
        )
    # What follows the first NUL is padding.
    name = raw[_ISCSI.size : size].partition(b"\0")[0]
    isid: int | None = None
    if format_code == 1:
        mark = name.lower().rfind(_ISID_MARK)
        digits = name[mark + len(_ISID_MARK) :]
        if mark < 0 or not _is_isid(digits):
            # LIO up to 2020 ends the name with a NUL before the mark and cuts the ISID off.
            # Without it the sessions of one initiator would become one nexus: kept as it came.
            return UnknownPort(raw[:size]), size
        name, isid = name[:mark], int(digits, 16)
    if format_code > 1 or not name:
        return UnknownPort(raw[:size]), size
    if len(name) > _ISCSI_NAME_MAX:
        raise MalformedError(
            _ISCSI.what, f"the name has {len(name)} bytes, more than {_ISCSI_NAME_MAX}"
        )
    return IscsiPort(name, isid), size


def _is_isid(digits: bytes) -> bool:
    return 0 < len(digits) <= _ISID_DIGITS and all(c in b"0123456789abcdefABCDEF" for c in digits)
