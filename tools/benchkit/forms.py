"""forms: a record and a PERSISTENT RESERVE OUT list, read and built, beside struct by hand.

The peer is what a form would be without a declaration: a struct.Struct of the same format, a
named tuple of the same names, and a check of the length.  Both are timed in
turns, in many short batches; the shortest batch is the figure, because whatever else the machine
does only adds.
"""

from __future__ import annotations

import struct
import timeit
from collections import namedtuple
from collections.abc import Callable, Iterator
from typing import Any, Final

from benchkit.figure import Figure, Ratio, Series
from prtrace.errors import MalformedError
from prtrace.probe.record import ABI, RECORD, Record
from prtrace.scsi.form import Form
from prtrace.scsi.forms import BASIC_PARAMETER_LIST
from prtrace.scsi.parameter import BasicList

_ROUNDS: Final = 400
_CALLS: Final = 200
_AIM: Final = 1.1
_named_tuple: Any = namedtuple


class _ByHand:
    def __init__(self, form: Form) -> None:
        self._what = form.what
        self._struct = struct.Struct(form.format)
        self._fields = _named_tuple("ByHand", [each.name for each in form.declared])

    def parse(self, raw: bytes, offset: int = 0) -> Any:
        if len(raw) - offset < self._struct.size:
            raise MalformedError(self._what, "too short")
        return self._fields._make(self._struct.unpack_from(raw, offset))

    def build(self, **fields: Any) -> bytes:
        try:
            return self._struct.pack(*self._fields(**fields))
        except struct.error as error:
            raise MalformedError(self._what, str(error)) from error


def run() -> Iterator[Figure]:
    """Figures for both directions of both forms, and for the values made of them."""
    record = RECORD.build(abi=ABI, cdb=b"\x5f" + bytes(15), cdb_length=10, data_length=24)
    record += bytes(24)
    listed = BASIC_PARAMETER_LIST.build(reservation_key=1, service_action_reservation_key=2)
    yield from _figures("record", RECORD, record, Record.parse)
    yield from _figures("PR OUT list", BASIC_PARAMETER_LIST, listed, BasicList.parse)


def _figures(
    name: str, form: Form, raw: bytes, whole: Callable[[bytes], object]
) -> Iterator[Figure]:
    peer = _ByHand(form)
    fields = form.parse(raw)._asdict()
    yield _beside(f"fields of a {name}", lambda: form.parse(raw), lambda: peer.parse(raw), _AIM)
    yield _beside(
        f"build a {name}", lambda: form.build(**fields), lambda: peer.build(**fields), _AIM
    )
    yield _beside(f"a {name} as a value", lambda: whole(raw), lambda: peer.parse(raw), None)


def _beside(
    name: str, ours: Callable[[], object], peer: Callable[[], object], aim: float | None
) -> Figure:
    """Time of both, in turns; microseconds a call."""
    took: dict[str, list[float]] = {"prtrace": [], "by hand": []}
    for _ in range(_ROUNDS):
        for who, call in (("prtrace", ours), ("by hand", peer)):
            took[who].append(timeit.timeit(call, number=_CALLS) / _CALLS * 1e6)
    best = {who: min(times) for who, times in took.items()}
    return Figure(
        name,
        (Ratio(best["prtrace"] / best["by hand"], "the time of fields by hand", aim),),
        {who: Series.of([each], "us") for who, each in best.items()},
    )
