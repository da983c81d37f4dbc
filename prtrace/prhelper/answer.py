"""What the guest is told of a command that went through SG_IO (pure).

The host byte and errno are translated as QEMU does (scsi/utils.c, scsi_sense_from_host_status
and scsi_sense_from_errno), with one difference: QEMU takes a host byte that it does not know
for success.  Here it is a communication failure, because nobody knows what the command did.

What the transport decided is told in words that a device has for a command without effect, too
(BUSY, a unit attention of a reset): Response.unsure keeps the difference.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from prtrace.prhelper.protocol import Response
from prtrace.scsi.codes import Status
from prtrace.scsi.sense import FIXED, ILLEGAL_REQUEST, NOT_READY, UNIT_ATTENTION, Sense

if TYPE_CHECKING:
    from prtrace.linux.sgio import Reply

_MEDIUM_ERROR: Final = 0x3
_HARDWARE_ERROR: Final = 0x4
_DATA_PROTECT: Final = 0x7
_ABORTED_COMMAND: Final = 0xB
_DRIVER_TIMEOUT: Final = 0x06
_DRIVER_SENSE: Final = 0x08
_DRIVER_MASK: Final = 0x0F

_BUSY_HOST: Final = 0x02
_CONFLICT_HOST: Final = 0x11

Code = tuple[int, int, int]
"""Sense key, additional sense code and its qualifier."""
COMMUNICATION_FAILURE: Final[Code] = (_ABORTED_COMMAND, 0x08, 0x00)
IO_ERROR: Final[Code] = (_ABORTED_COMMAND, 0x00, 0x06)
INVALID_OPCODE: Final[Code] = (ILLEGAL_REQUEST, 0x20, 0x00)
LIST_LENGTH: Final[Code] = (ILLEGAL_REQUEST, 0x1A, 0x00)
INVALID_CDB: Final[Code] = (ILLEGAL_REQUEST, 0x24, 0x00)
INVALID_LIST: Final[Code] = (ILLEGAL_REQUEST, 0x26, 0x00)
INSUFFICIENT_RESOURCES: Final[Code] = (ILLEGAL_REQUEST, 0x55, 0x03)
INSUFFICIENT_REGISTRATIONS: Final[Code] = (ILLEGAL_REQUEST, 0x55, 0x04)

_OF_HOST: Final[dict[int, Code]] = {
    0x01: (_ABORTED_COMMAND, 0x05, 0x00),  # DID_NO_CONNECT: does not respond to selection
    0x03: (_ABORTED_COMMAND, 0x2E, 0x02),  # DID_TIME_OUT: timeout during processing
    0x04: COMMUNICATION_FAILURE,  # DID_BAD_TARGET
    0x05: (_ABORTED_COMMAND, 0x2F, 0x02),  # DID_ABORT: cleared by device server
    0x08: (UNIT_ATTENTION, 0x29, 0x00),  # DID_RESET
    0x0E: (_ABORTED_COMMAND, 0x29, 0x07),  # DID_TRANSPORT_DISRUPTED: nexus loss
    0x10: (_HARDWARE_ERROR, 0x44, 0x00),  # DID_TARGET_FAILURE
    0x12: (_DATA_PROTECT, 0x27, 0x07),  # DID_ALLOC_FAILURE
    0x13: (_MEDIUM_ERROR, 0x11, 0x00),  # DID_MEDIUM_ERROR
}
_OF_ERRNO: Final[dict[int, Code]] = {
    errno.ENODATA: (_MEDIUM_ERROR, 0x11, 0x00),
    errno.EREMOTEIO: (_HARDWARE_ERROR, 0x44, 0x00),
    errno.ENOMEM: (_HARDWARE_ERROR, 0x44, 0x00),
    errno.ENOMEDIUM: (NOT_READY, 0x3A, 0x00),
    errno.EINVAL: (ILLEGAL_REQUEST, 0x24, 0x00),
    errno.ENOSPC: (_DATA_PROTECT, 0x27, 0x07),
}


def check(code: Code) -> Response:
    """CHECK CONDITION with fixed sense data of this key, ASC and ASCQ."""
    return Response(Status.CHECK_CONDITION, Sense(FIXED, *code).build())


def of_errno(number: int) -> Response:
    """What the guest is told when SG_IO itself failed."""
    if number == errno.EDOM:
        return Response(Status.TASK_SET_FULL, unsure=True)
    if number == errno.EBADE:
        return Response(Status.RESERVATION_CONFLICT, unsure=True)
    return check(_OF_ERRNO.get(number, IO_ERROR))


def of_reply(reply: Reply) -> Response:
    """What the guest is told of a command that came back."""
    if not (reply.status or reply.host_status or reply.driver_status):
        return Response(0, b"", reply.received)
    return _translated(reply)._replace(unsure=reply.transport_fault)


def _translated(reply: Reply) -> Response:
    host = reply.host_status
    if host == _CONFLICT_HOST:
        return Response(Status.RESERVATION_CONFLICT)
    if host == _BUSY_HOST:
        return Response(Status.BUSY)
    if host:
        return check(_OF_HOST.get(host, COMMUNICATION_FAILURE))
    driver = reply.driver_status & _DRIVER_MASK
    if driver == _DRIVER_TIMEOUT:
        return Response(Status.BUSY)
    if driver & ~_DRIVER_SENSE:
        return check(COMMUNICATION_FAILURE)
    if reply.status == Status.CHECK_CONDITION:
        return Response(reply.status, reply.sense) if reply.sense else check(IO_ERROR)
    if reply.status:
        return Response(reply.status)
    if driver:
        return Response(Status.CHECK_CONDITION, reply.sense)
    return Response(Status.GOOD, b"", reply.received)
