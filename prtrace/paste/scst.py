"""What SCST, a Linux target beside the kernel's own, keeps of registrations over a power loss.

A file of a unit below /var/lib/scst/pr, binary (scst/src/scst_pres.c, scst_pr_sync_device_file):

    8 signature   8 version   1 APTPL   1 reserved   1 type   1 scope
    for each registration: 1 holds   TransportID   8 key   2 relative target port identifier

Key and TransportID are as on the wire, the other numbers in the target machine's byte order, which
the signature tells.  It is zero while the file is written.  The file is there only as long as the
last registration was made with APTPL.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, Literal

from prtrace.errors import MalformedError
from prtrace.paste.seen import Seen
from prtrace.scsi.codes import ReservedCode, reservation_type
from prtrace.scsi.transportid import parse_transport_id

SOURCE: Final = "SCST"

_SIGNATURE: Final = 0xBBEEEEAAEEBBDD77
_ORDERS: Final[dict[bytes, Literal["little", "big"]]] = {
    _SIGNATURE.to_bytes(8, "little"): "little",
    _SIGNATURE.to_bytes(8, "big"): "big",
}
_VERSION: Final = 1
_HEAD: Final = struct.Struct("=8s8sBBBB")
_AFTER: Final = struct.Struct("=8s2s")
"""What follows a TransportID."""
_FILE: Final = "SCST's file"


def is_file(content: bytes) -> bool:
    """Whether it is such a file."""
    return content[:8] in _ORDERS


def read(content: bytes) -> Iterator[Seen]:
    """What the unit's state is, then one for each registration.

    Raises MalformedError for another version, and where the file is cut off.
    """
    if len(content) < _HEAD.size:
        raise MalformedError(_FILE, "it is cut off")
    order = _ORDERS[content[:8]]
    _, version, aptpl, reserved, kind, _ = _HEAD.unpack_from(content)
    if int.from_bytes(version, order) != _VERSION:
        raise MalformedError(_FILE, f"version {int.from_bytes(version, order)} is not known")
    state = [("aptpl", "enabled" if aptpl else "disabled")]
    state.append(("reservation type", _type(kind)) if reserved else ("reservation", "none"))
    yield Seen(source=SOURCE, line=1, facts=tuple(state))
    at = _HEAD.size
    while at < len(content):
        port, size = parse_transport_id(content[at + 1 :])
        end = at + 1 + size + _AFTER.size
        if end > len(content):
            raise MalformedError(_FILE, "it is cut off in a registration")
        key, relative = _AFTER.unpack_from(content, at + 1 + size)
        yield Seen(
            source=SOURCE,
            line=1,
            facts=(
                ("registered", port.text),
                ("reservation key", f"0x{key.hex()}"),
                ("holds the reservation", "yes" if content[at] else "no"),
                ("relative target port identifier", str(int.from_bytes(relative, order))),
            ),
        )
        at = end


def _type(code: int) -> str:
    kind = reservation_type(code)
    return f"{code}" if isinstance(kind, ReservedCode) else f"{kind.value} ({kind.title})"
