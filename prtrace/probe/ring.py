"""Read a BPF ring buffer by mapping it.

The reader owns the consumer position.  It moves only when the caller says that what it
read is safe (commit), so that a reader killed in between sees the same records again.
Layout: Linux kernel commit 457f44363a88 ("bpf: Implement BPF ring buffer and verifier
support for it") (in v5.8): a page with the consumer position, a page with the producer
position, then the data, mapped twice in a row so that no record is split.

The kernel fills a mapping at once, so that all of it counts as resident.  The data is
mapped a window at a time: a large ring costs the reader no memory of its own.
"""

from __future__ import annotations

import mmap
import os
import struct

from prtrace.linux.closing import Closing

_HEADER = struct.Struct("<II")
_POSITION = struct.Struct("@Q")
"""In native mode a number is moved as a whole.  With "<" it is written byte by byte, the lowest
first, so that the kernel could read a position that is none: 0x1000000 would pass through 0."""
_BUSY = 1 << 31
_DISCARD = 1 << 30
_LENGTH = _DISCARD - 1
_WINDOW = 64 << 10
"""Bytes of data mapped at a time; no record is as long as half of it."""


class Ring(Closing):
    """A mapped ring of size bytes, the map's max_entries; fd stays the caller's."""

    def __init__(self, fd: int, size: int) -> None:
        self._page = os.sysconf("SC_PAGE_SIZE")
        self.fd = fd
        self.size = size
        self._mask = size - 1
        self._consumer = mmap.mmap(
            fd, self._page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE
        )
        self._producer = self._mapped(self._page, self._page)
        self._first = 0
        self._data = self._window(0)
        self._position = 0
        self.rewind()

    def close(self) -> None:
        """Unmap; what was read and not committed will be read again by the next reader."""
        self._consumer.close()
        self._producer.close()
        self._data.close()

    def read(self, limit: int) -> list[bytes]:
        """At most limit records that are complete, oldest first; copies, without waiting."""
        records: list[bytes] = []
        producer = _POSITION.unpack_from(self._producer)[0]
        while self._position < producer and len(records) < limit:
            at = (self._position & self._mask) - self._first
            if not 0 <= at <= _WINDOW // 2:
                at = self._move()
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
        self._position = _POSITION.unpack_from(self._consumer)[0]

    @property
    def position(self) -> int:
        """Where the next read begins, in bytes since the ring was made."""
        return self._position

    @property
    def unread(self) -> int:
        """Bytes between what was read and what the programs have reserved."""
        return int(_POSITION.unpack_from(self._producer)[0]) - self._position

    def _move(self) -> int:
        """Map the window that holds the next record; returns where in it that begins."""
        at = self._position & self._mask
        first = at & -self._page
        window = self._window(first)
        # Not before there is another one: mapping can fail, and is then tried again.
        self._data.close()
        self._first, self._data = first, window
        return at - first

    def _window(self, first: int) -> mmap.mmap:
        length = min(_WINDOW, 2 * self.size - first)
        return self._mapped(2 * self._page + first, length)

    def _mapped(self, offset: int, length: int) -> mmap.mmap:
        return mmap.mmap(self.fd, length, mmap.MAP_SHARED, mmap.PROT_READ, offset=offset)
