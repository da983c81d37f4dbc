"""TransportIDs: the name of an initiator port on its protocol (SPC-4 7.6.4).

All but iSCSI's take 24 bytes.  iSCSI's is a name, NUL terminated and padded to 4 bytes; with
FORMAT CODE 1 the name is followed by ",i,0x" and the ISID in hex.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from prtrace.errors import MalformedError
from prtrace.scsi import forms
from prtrace.scsi.text import escape

_SIZE: Final = forms.FC_TRANSPORT_ID.size
"""Of every TransportID but iSCSI's."""
_WHAT: Final = forms.FC_TRANSPORT_ID.what
_ISID_MARK: Final = b",i,0x"
_ISID_DIGITS: Final = 12
ISCSI_NAME_MAX: Final = 223
"""Bytes of a name (RFC 3720 3.2.6.1)."""
_ISCSI_MIN_ADDITIONAL: Final = 20


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
        return forms.FC_TRANSPORT_ID.build(byte_0=self.PROTOCOL, n_port_name=self.address)


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
        return forms.SPI_TRANSPORT_ID.build(
            byte_0=self.PROTOCOL,
            scsi_address=self.address,
            relative_target_port_identifier=self.relative_target_port,
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
        identifier = self.identifier.to_bytes(16, "big")
        return forms.SRP_TRANSPORT_ID.build(
            byte_0=self.PROTOCOL, initiator_port_identifier=identifier
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
        if not 0 < len(self.name) <= ISCSI_NAME_MAX or 0 in self.name:
            raise MalformedError(
                forms.ISCSI_TRANSPORT_ID.what, "the name is empty, too long or has a NUL"
            )
        field = self.name
        if self.isid is not None:
            field += _ISID_MARK + b"%012x" % self.isid
        size = max(len(field) // 4 * 4 + 4, _ISCSI_MIN_ADDITIONAL)
        format_code = 0 if self.isid is None else 1
        byte_0 = format_code << forms.FORMAT_CODE_SHIFT | self.PROTOCOL
        header = forms.ISCSI_TRANSPORT_ID.build(byte_0=byte_0, additional_length=size)
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
        return forms.SAS_TRANSPORT_ID.build(byte_0=self.PROTOCOL, sas_address=self.address)


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
        return forms.SOP_TRANSPORT_ID.build(byte_0=self.PROTOCOL, routing_id=self.routing_id)


@dataclass(frozen=True, slots=True)
class UnknownPort:
    """A TransportID of another protocol or format, with its header, byte for byte."""

    raw: bytes

    @property
    def text(self) -> str:
        """The canonical port name: "proto<identifier>.<hex of the whole TransportID>"."""
        return f"proto{self.raw[0] & forms.PROTOCOL_IDENTIFIER}.{self.raw.hex()}"

    def build(self) -> bytes:
        """The same bytes."""
        return self.raw


TransportId = FcPort | SpiPort | SrpPort | IscsiPort | SasPort | SopPort | UnknownPort


def parse_transport_id(raw: bytes, *, whole: bool = False) -> tuple[TransportId, int]:
    """Decode the TransportID at the start of raw; gives it and the bytes it takes.

    whole: raw is one TransportID's container, so an unknown protocol's takes all of it
    (otherwise 24 bytes).  MalformedError when raw ends before the TransportID does.
    """
    if not raw:
        raise MalformedError(_WHAT, "is empty")
    protocol = raw[0] & forms.PROTOCOL_IDENTIFIER
    format_code = raw[0] >> forms.FORMAT_CODE_SHIFT
    if protocol == IscsiPort.PROTOCOL:
        return _parse_iscsi(raw, format_code)
    if len(raw) < _SIZE:
        raise MalformedError(_WHAT, f"needs {_SIZE} bytes, has {len(raw)}")
    if format_code == 0:
        match protocol:
            case FcPort.PROTOCOL:
                return FcPort(forms.FC_TRANSPORT_ID.parse(raw).n_port_name), _SIZE
            case SpiPort.PROTOCOL:
                c = forms.SPI_TRANSPORT_ID.parse(raw)
                return SpiPort(c.scsi_address, c.relative_target_port_identifier), _SIZE
            case SrpPort.PROTOCOL:
                c = forms.SRP_TRANSPORT_ID.parse(raw)
                return SrpPort(int.from_bytes(c.initiator_port_identifier, "big")), _SIZE
            case SasPort.PROTOCOL:
                return SasPort(forms.SAS_TRANSPORT_ID.parse(raw).sas_address), _SIZE
            case SopPort.PROTOCOL:
                return SopPort(forms.SOP_TRANSPORT_ID.parse(raw).routing_id), _SIZE
            case _:
                pass  # an UnknownPort, below
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
    form = forms.ISCSI_TRANSPORT_ID
    size = form.size + form.parse(raw).additional_length
    if size > len(raw):
        raise MalformedError(
            form.what, f"ADDITIONAL LENGTH makes it {size} bytes, {len(raw)} are there"
        )
    # What follows the first NUL is padding.
    name = raw[form.size : size].partition(b"\0")[0]
    isid: int | None = None
    if format_code == 1:
        mark = name.lower().rfind(_ISID_MARK)
        digits = name[mark + len(_ISID_MARK) :]
        if mark < 0 or not _is_isid(digits):
            # LIO up to 2020 ends the name with a NUL before the mark and cuts the ISID off.
            # By the name alone the sessions of one initiator would become one nexus, so the
            # bytes are kept.
            return UnknownPort(raw[:size]), size
        name, isid = name[:mark], int(digits, 16)
    if format_code > 1 or not name:
        return UnknownPort(raw[:size]), size
    if len(name) > ISCSI_NAME_MAX:
        raise MalformedError(
            form.what, f"the name has {len(name)} bytes, more than {ISCSI_NAME_MAX}"
        )
    return IscsiPort(name, isid), size


def _is_isid(digits: bytes) -> bool:
    return 0 < len(digits) <= _ISID_DIGITS and all(c in b"0123456789abcdefABCDEF" for c in digits)
