"""Read a BPF ring buffer by mapping it.

The reader owns the consumer position.  It moves only when the caller says that what it
read is safe (commit), so that a reader killed in between sees the same records again.
Layout: Linux kernel commit 457f44363a88 ("bpf: Implement BPF ring buffer and verifier
support for it") (in v5.8): a page with the consumer position, a page with the producer
position, then the data, mapped twice in a row so that no record is split.
"""

from __future__ import annotations

import mmap
import os
import struct
from types import TracebackType
from typing import Self

_HEADER = struct.Struct("<II")
_POSITION = struct.Struct("<Q")
_BUSY = 1 << 31
_DISCARD = 1 << 30
_LENGTH = _DISCARD - 1


class Ring:
    """A mapped ring of size bytes, the map's max_entries; fd stays the caller's."""

    def __init__(self, fd: int, size: int) -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        self.fd = fd
        self.size = size
        self._mask = size - 1
        self._consumer = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._data = mmap.mmap(fd, page + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._start = page
        self._position = 0
        self.rewind()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unmap; what was read and not committed will be read again by the next reader."""
        self._consumer.close()
        self._data.close()

    def read(self, limit: int) -> list[bytes]:
        """At most limit records that are complete, oldest first; copies, without waiting."""
        records: list[bytes] = []
        producer = _POSITION.unpack_from(self._data)[0]
        while self._position < producer and len(records) < limit:
            at = self._start + (self._position & self._mask)
            length = _HEADER.unpack_from(self._data, at)[0]
            if length & _BUSY:
                break
            size = length & _LENGTH
            if not length & _DISCARD:
                records.append(self._data[at + 8 : at + 8 + size])
            self._position += (size + 8 + 7) & ~7
        return records

    def commit(self) -> None:
        """Give the room of everything read so far back to the kernel."""
        _POSITION.pack_into(self._consumer, 0, self._position)

    def rewind(self) -> None:
        """Go back to what was committed: the records since then will be read again."""
        self._position = int.from_bytes(self._consumer[:8], "little")

    @property
    def unread(self) -> int:
        """Bytes between what was read and what the programs have reserved."""
        return int.from_bytes(self._data[:8], "little") - self._position
