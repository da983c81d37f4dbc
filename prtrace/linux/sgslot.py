"""SG_IO with buffers that are used again: one command at a time, for one thread.

The layout of struct sg_io_hdr is that of prtrace.linux.sgio, whose SgDevice makes its buffers anew
for every command and blocks signals around each.  Here a guest waits: the thread that owns a slot
has all signals blocked already (see prtrace.prhelper.lanes).
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import struct
from typing import Final

from prtrace.linux.sgio import SG_DXFER_FROM_DEV, SG_DXFER_NONE, SG_DXFER_TO_DEV, SG_IO, Reply

_GIVEN: Final = struct.Struct("@iiBBHIPPPIIi4xP24x")
"""interface_id to usr_ptr of struct sg_io_hdr (include/scsi/sg.h), and room for the rest."""
_GOT: Final = struct.Struct("@B2xBHHiI")
"""status to duration, the last but one of its fields."""
_GOT_AT: Final = 64
_CDB_SIZE: Final = 16
_DATA_SIZE: Final = 8192
_STATUS_MASK: Final = 0x7E
"""SAM-2 left bits 0 and 7 of the status byte to the vendor."""
_SENSE_SIZE: Final = 252
_SLACK: Final = 4096
"""LIO writes past the buffer of a READ FULL STATUS that is too short (see prtrace.linux.sgio)."""


class SgSlot:
    """The buffers of one thread."""

    __slots__ = ("_cdb", "_cdb_at", "_data", "_data_at", "_sense", "_sense_at")

    def __init__(self) -> None:
        # Whole pages: the kernel maps them, and need not copy.
        self._data = mmap.mmap(-1, _DATA_SIZE + _SLACK)
        self._data_at = ctypes.addressof(ctypes.c_char.from_buffer(self._data))
        self._cdb = ctypes.create_string_buffer(_CDB_SIZE)
        self._cdb_at = ctypes.addressof(self._cdb)
        self._sense = ctypes.create_string_buffer(_SENSE_SIZE)
        self._sense_at = ctypes.addressof(self._sense)

    def pr_in(self, fd: int, cdb: bytes, room: int, timeout_ms: int) -> Reply | int:
        """Send a data-in command; at most room bytes of the reply, or an errno."""
        # What another guest was answered is not left where a driver transfers less than it says.
        ctypes.memset(self._data_at, 0, room)
        return self._send(fd, cdb, SG_DXFER_FROM_DEV, _DATA_SIZE, room, timeout_ms)

    def pr_out(self, fd: int, cdb: bytes, parameter: bytes, timeout_ms: int) -> Reply | int:
        """Send a data-out command with its parameter list; an errno where SG_IO failed."""
        size = len(parameter)
        self._data[:size] = parameter
        direction = SG_DXFER_TO_DEV if parameter else SG_DXFER_NONE
        return self._send(fd, cdb, direction, size, 0, timeout_ms)

    def _send(
        self, fd: int, cdb: bytes, direction: int, size: int, room: int, timeout_ms: int
    ) -> Reply | int:
        self._cdb.raw = cdb
        header = bytearray(
            _GIVEN.pack(
                ord("S"), direction, len(cdb), _SENSE_SIZE, 0, size,
                self._data_at, self._cdb_at, self._sense_at, timeout_ms, 0, 0, 0,
            )
        )  # fmt: skip
        try:
            fcntl.ioctl(fd, SG_IO, header)
        except OSError as error:
            return error.errno or 0
        status, sense_size, host, driver, resid, duration = _GOT.unpack_from(header, _GOT_AT)
        arrived = min(size - min(max(resid, 0), size), room)
        return Reply(
            status & _STATUS_MASK,
            host,
            driver,
            self._sense.raw[:sense_size] if sense_size else b"",
            self._data[:arrived] if arrived else b"",
            duration,
        )
