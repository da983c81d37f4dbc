"""What pr_pendings says of a request: whether an end of it may be to come."""

from __future__ import annotations

import pytest

from prtrace.probe.record import PENDING, Pending, State

_NOW = 100_000_000_000


def pending(state: State, start_ns: int) -> Pending:
    fields: list[object] = [0] * 22
    fields[1], fields[8], fields[12], fields[14] = start_ns, 2, state, 0x5F
    fields[15], fields[16], fields[17:20] = b"", b"", (5, 3, 0)
    return Pending.parse(PENDING.pack(*fields))


def test_fields() -> None:
    seen = pending(State.ENDED, 7)
    assert (seen.start_ns, seen.generation, seen.opcode) == (7, 2, 0x5F)
    assert seen.nexus == "3:0:0:5"


@pytest.mark.parametrize(
    ("state", "age_s", "expected"),
    [
        (State.UNDER_WAY, 0, True),
        (State.UNDER_WAY, 99, True),
        (State.ENDED, 0, False),
        (State.MAY_RETURN, 1, True),
        (State.MAY_RETURN, 99, False),
    ],
)
def test_an_end_may_be_to_come(state: State, age_s: int, expected: bool) -> None:
    assert pending(state, _NOW - age_s * 1_000_000_000).may_end(_NOW) is expected
