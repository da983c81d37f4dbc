"""What pr_pendings says of a request: whether an end of it may be to come."""

from __future__ import annotations

import pytest

from prtrace.probe.record import NEXUS, PENDING, Pending, State

_NOW = 100_000_000_000


def pending(state: State, start_ns: int) -> Pending:
    nexus = NEXUS.build(lun=5, host=3)
    return Pending.parse(
        PENDING.build(
            start_ns=start_ns,
            generation=2,
            state=state,
            opcode=0x5F,
            nexus=nexus,
            page83=b"\1\2\3",
            page83_length=3,
        )
    )


def test_the_fields_are_where_the_programs_write_them() -> None:
    seen = pending(State.ENDED, 7)
    assert (seen.start_ns, seen.generation, seen.opcode) == (7, 2, 0x5F)
    assert (seen.nexus, seen.page83) == ("3:0:0:5", b"\1\2\3")


@pytest.mark.parametrize(
    ("state", "age_s", "expected"),
    [
        (State.UNDER_WAY, 0, True),
        (State.UNDER_WAY, 99, True),
        (State.TIMED_OUT, 99, True),
        (State.ENDED, 0, False),
        (State.MAY_RETURN, 1, True),
        (State.MAY_RETURN, 99, False),
    ],
)
def test_an_end_may_be_to_come(state: State, age_s: int, expected: bool) -> None:
    assert pending(state, _NOW - age_s * 1_000_000_000).may_end(_NOW) is expected


@pytest.mark.parametrize(
    ("state", "age_s", "expected"),
    [
        (State.UNDER_WAY, 99, False),
        (State.TIMED_OUT, 99, False),
        (State.ENDED, 1, False),
        (State.ENDED, 99, True),
        (State.MAY_RETURN, 1, False),
        (State.MAY_RETURN, 99, True),
    ],
)
def test_what_can_be_forgotten(state: State, age_s: int, expected: bool) -> None:
    assert pending(state, _NOW - age_s * 1_000_000_000).forgettable(_NOW) is expected
