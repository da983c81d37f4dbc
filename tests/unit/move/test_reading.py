"""Whose registrations a reading says they are, and when it is blind."""

from __future__ import annotations

import pytest

from prtrace.model import FullStatus, LocalNexus
from prtrace.move.reading import OTHER_SIDE, Reading, of_full_status

LU = "naa.6"
NAME = "iqn.2020-01.a:x"
SESSION = f"{NAME},i,0x00023d000001"
ELSEWHERE = f"{NAME},i,0x00023d000009"


def path(nexus: str, port: str | None, relative: int | None = 1) -> LocalNexus:
    return LocalNexus(nexus, LU, initiator_port=port, relative_target_port=relative)


def listed(port: str, key: int, *, every: bool = False) -> FullStatus:
    return FullStatus(
        initiator_port=port,
        relative_target_port=0 if every else 1,
        key=key,
        holder=False,
        all_target_ports=every,
        type=None,
    )


def reading(*registrations: FullStatus, own: LocalNexus, other: tuple[LocalNexus, ...] = ()):
    return of_full_status(3, registrations, (own,), other, "LIO-ORG/x/4.0")


def told(answer: Reading) -> tuple[dict[str, int], list[tuple[str, int]], bool]:
    return dict(answer.own), [(each.nexus, each.key) for each in answer.others], answer.blind


def test_port_names_tell_the_sides() -> None:
    source = path(f"{OTHER_SIDE}9:0:0:0", ELSEWHERE)
    answer = reading(
        listed(SESSION, 1),
        listed(ELSEWHERE, 2),
        listed("naa.7", 3),
        own=path("1:0:0:0", SESSION),
        other=(source,),
    )
    assert told(answer) == ({"1:0:0:0": 1}, [(source.nexus, 2), ("naa.7,1", 3)], False)
    assert [each.other_side for each in answer.others] == [True, False]


@pytest.mark.parametrize(
    ("port", "own"),
    [(NAME, SESSION), (SESSION, NAME), (SESSION, None)],
    ids=["listed without ISID", "path without ISID", "path without name"],
)
@pytest.mark.parametrize("every", [False, True])
def test_a_registration_that_may_be_this_sides_makes_the_reading_blind(
    port: str, own: str | None, every: bool
) -> None:
    """The session may be new, and the registration that of the session before the login."""
    answer = reading(listed(port, 1, every=every), own=path("1:0:0:0", own))
    assert told(answer) == ({}, [("?", 1)], True)


def test_a_registration_without_isid_of_somebody_else_blinds_nobody() -> None:
    answer = reading(listed("iqn.2020-01.b:y", 1), own=path("1:0:0:0", SESSION))
    assert told(answer) == ({}, [("iqn.2020-01.b:y,1", 1)], False)
    # This side's own registration is listed by its whole name.
    both = listed(NAME, 1), listed(SESSION, 2)
    assert told(reading(*both, own=path("1:0:0:0", SESSION)))[0] == {"1:0:0:0": 2}


def test_a_nexus_that_is_listed_twice_is_no_nexus_with_the_first_key() -> None:
    own = path("1:0:0:0", SESSION)
    answer = reading(listed(SESSION, 1), listed(NAME + "z", 8), listed(NAME + "z", 7), own=own)
    assert answer.repeated == (f"{NAME}z,1",)
    assert reading(listed(SESSION, 1), listed(SESSION, 2), own=own).repeated == ("1:0:0:0",)
    assert reading(listed(SESSION, 1), listed(ELSEWHERE, 1), own=own).repeated == ()
