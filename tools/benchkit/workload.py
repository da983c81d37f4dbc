"""A cluster's reservation traffic, made up: seeded, consistent with what a target would answer.

Rounds repeat on each logical unit: all nexuses register, one
reserves, others read and collide, one is preempted, the round ends with CLEAR.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from prtrace.model import Action, ReservationType
from prtrace.probe.record import ABI, RECORD, RecordKind
from prtrace.scsi.cdb import PrInCdb, PrOutCdb
from prtrace.scsi.codes import InAction, Status
from prtrace.scsi.parameter import BasicList
from prtrace.scsi.reply import ReadKeys, ReadReservation, ReservationDescriptor

_NS_APART = 200_000
_LIO = b"LIO-ORG lun             4.0 "


def lu(unit: int) -> str:
    """The unit's name, as its page 83h below has it."""
    return f"naa.6001405{unit:025x}"


def page83(unit: int) -> bytes:
    """VPD page 83h with one NAA designator of the logical unit."""
    designator = bytes.fromhex(lu(unit).removeprefix("naa."))
    body = bytes((0x01, 0x03, 0, len(designator))) + designator
    return bytes((0, 0x83)) + len(body).to_bytes(2, "big") + body


@dataclass(slots=True)
class _Unit:
    number: int
    generation: int = 0
    keys: dict[int, int] = field(default_factory=dict)
    held: tuple[int, ReservationType] | None = None


@dataclass(slots=True)
class Workload:
    """Raw records as the ring would hold them, numbered from 1."""

    units: int
    pid: int
    issuer_start_ns: int
    seed: int = 1
    nexuses: int = 4
    seq: int = 0

    def joined(self) -> Iterator[bytes]:
        """Every nexus registers with its unit, and the first one reserves it."""
        for number in range(self.units):
            unit = _Unit(number)
            for nexus in range(self.nexuses):
                key = number << 16 | nexus + 1
                yield self._out(unit, nexus, Action.REGISTER_AND_IGNORE, 0, key)
            kind = ReservationType.WERO
            yield self._out(unit, 0, Action.RESERVE, number << 16 | 1, 0, kind)

    def records(self, count: int) -> Iterator[bytes]:
        """count records; units take turns, a few steps each."""
        rng = random.Random(self.seed)
        targets = [_Unit(number) for number in range(self.units)]
        rounds = [self._steps(unit, rng) for unit in targets]
        while True:
            for steps in rng.sample(rounds, len(rounds)):
                for _ in range(rng.randrange(1, 4)):
                    if count == 0:
                        return
                    count -= 1
                    yield next(steps)

    def _steps(self, unit: _Unit, rng: random.Random) -> Iterator[bytes]:
        clear = True
        while True:
            kind = rng.choice(list(ReservationType))
            for nexus in range(self.nexuses):
                key = rng.getrandbits(63) | 1
                unit.keys[nexus] = key
                unit.generation += 1
                yield self._out(unit, nexus, Action.REGISTER_AND_IGNORE, 0, key)
            holder, other, third = rng.sample(range(self.nexuses), 3)
            unit.held = holder, kind
            yield self._out(unit, holder, Action.RESERVE, unit.keys[holder], 0, kind)
            yield self._keys(unit, other)
            yield self._reservation(unit, other)
            if not kind.all_registrants:
                yield self._out(
                    unit,
                    other,
                    Action.RESERVE,
                    unit.keys[other],
                    0,
                    kind,
                    Status.RESERVATION_CONFLICT,
                )
                old = unit.keys.pop(holder)
                unit.held = third, kind
                unit.generation += 1
                yield self._out(unit, third, Action.PREEMPT, unit.keys[third], old, kind)
            yield self._keys(unit, third)
            yield self._reservation(unit, third)
            clear = not clear
            if clear:
                unit.generation += 1
                yield self._out(unit, third, Action.CLEAR, unit.keys[third], 0)
                unit.keys.clear()
            else:
                yield self._out(unit, third, Action.RELEASE, unit.keys[third], 0, kind)
            unit.held = None

    def _out(
        self,
        unit: _Unit,
        nexus: int,
        action: Action,
        key: int,
        sa_key: int,
        kind: ReservationType | None = None,
        status: int = Status.GOOD,
    ) -> bytes:
        sent = BasicList(key, sa_key).build()
        return self._record(unit, nexus, PrOutCdb(action, 0, kind).build(), sent, sent, status)

    def _keys(self, unit: _Unit, nexus: int) -> bytes:
        reply = ReadKeys.of(unit.generation, *unit.keys.values()).build()
        return self._record(unit, nexus, PrInCdb(InAction.READ_KEYS, 8192).build(), reply)

    def _reservation(self, unit: _Unit, nexus: int) -> bytes:
        held = None
        if unit.held is not None:
            holder, kind = unit.held
            held = ReservationDescriptor(0 if kind.all_registrants else unit.keys[holder], kind)
        reply = ReadReservation(unit.generation, held).build()
        return self._record(unit, nexus, PrInCdb(InAction.READ_RESERVATION, 8192).build(), reply)

    def _record(
        self,
        unit: _Unit,
        nexus: int,
        cdb: bytes,
        data: bytes,
        head: bytes = b"",
        status: int = Status.GOOD,
    ) -> bytes:
        self.seq += 1
        at = 1_000_000_000 + self.seq * _NS_APART
        fields: dict[str, Any] = {
            "seq": self.seq,
            "submit_ns": at,
            "start_ns": at + 1000,
            "done_ns": at + 50_000,
            "lun": unit.number,
            "host": nexus,
            "result": status,
            "pid": self.pid,
            "issuer_start_ns": self.issuer_start_ns,
            "cgroup": 1,
            "transfer_length": len(data),
            "data_length": len(data),
            "attempt": 1,
            "generation": 1,
            "abi": ABI,
            "kind": RecordKind.DONE,
            "issue": 1,
            "cdb_length": len(cdb),
            "page83_length": len(page83(unit.number)),
            "comm": b"cluster",
            "cdb": cdb,
            "head": head,
            "head_length": len(head),
            "inquiry": _LIO,
            "page83": page83(unit.number),
        }
        return RECORD.build(**fields) + data
