"""The reader's walk over a ring, in a file that is laid out as the kernel lays out its memory."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from prtrace.probe.ring import Ring

_PAGE = os.sysconf("SC_PAGE_SIZE")
_BUSY, _DISCARD = 1 << 31, 1 << 30


class Producer:
    """Writes as bpf_ringbuf_reserve() and _submit() do; the data is there twice in a row."""

    def __init__(self, size: int) -> None:
        self.fd = os.memfd_create("ring")
        self.size = size
        self.position = 0
        os.ftruncate(self.fd, 2 * _PAGE + 2 * size)

    def put(self, record: bytes, flags: int = 0) -> bool:
        room = (len(record) + 8 + 7) & ~7
        consumer = int.from_bytes(os.pread(self.fd, 8, 0), "little")
        if self.position + room - consumer > self.size - 1:
            return False
        whole = (len(record) | flags).to_bytes(4, "little") + bytes(4) + record
        at = self.position % self.size
        for copy in (at, at + self.size, at - self.size):
            start = max(0, -copy)
            part = whole[start : max(start, 2 * self.size - copy)]
            os.pwrite(self.fd, part, 2 * _PAGE + copy + start)
        self.position += room
        os.pwrite(self.fd, self.position.to_bytes(8, "little"), _PAGE)
        return True


@contextmanager
def ring_of(size: int) -> Iterator[tuple[Producer, Ring]]:
    producer = Producer(size)
    try:
        with Ring(producer.fd, size) as ring:
            yield producer, ring
    finally:
        os.close(producer.fd)


@pytest.mark.parametrize("size", [4096, 65536, 262144, 1 << 20])
def test_every_record_is_read_once_and_in_order(size: int) -> None:
    rng = random.Random(size)
    with ring_of(size) as (producer, ring):
        sent: list[bytes] = []
        got: list[bytes] = []
        wanted = 5 * size
        while producer.position < wanted:
            record = rng.randbytes(rng.randrange(1, min(14000, size // 4)))
            if rng.random() < 0.1:
                producer.put(record, _DISCARD)
            elif producer.put(record):
                sent.append(record)
            if rng.random() < 0.3:
                got += ring.read(rng.randrange(1, 100))
                ring.commit()
        while records := ring.read(100):
            got += records
        assert got == sent
        assert ring.unread == 0


def test_what_was_not_committed_is_read_again() -> None:
    with ring_of(1 << 20) as (producer, ring):
        sent = [bytes((number,)) * 5000 for number in range(120)]
        for record in sent:
            assert producer.put(record)
        assert ring.read(100) == sent[:100]
        ring.rewind()
        assert ring.read(200) == sent


def test_a_record_that_is_being_written_ends_the_walk() -> None:
    with ring_of(4096) as (producer, ring):
        producer.put(b"one")
        producer.put(b"two", _BUSY)
        producer.put(b"three")
        assert ring.read(10) == [b"one"]
        assert ring.unread > 0
