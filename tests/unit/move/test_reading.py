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


NEXT = f"{NAME},i,0x00023d010000"
STRANGER = "iqn.2020-01.b:y,i,0x00023d000001"
SOURCE = path(f"{OTHER_SIDE}9:0:0:0", STRANGER)


OWN = path("1:0:0:0", SESSION)


def mixed(
    *registrations: FullStatus,
    own: LocalNexus = OWN,
    other: LocalNexus = SOURCE,
    target: str = "LIO-ORG/x/4.0",
) -> tuple[str, ...]:
    return of_full_status(3, registrations, (own,), (other,), target).mixed


def test_sessions_of_one_initiator_are_mixed_across_the_sides() -> None:
    source = path(f"{OTHER_SIDE}9:0:0:0", NEXT)
    assert mixed(other=source) == (source.nexus,), "registered or not: the guest is let in by it"
    assert mixed(listed(NEXT, 1), other=source) == (source.nexus,)
    assert mixed(other=path(f"{OTHER_SIDE}9:0:0:0", NAME)) == (f"{OTHER_SIDE}9:0:0:0",)
    assert mixed(other=path(f"{OTHER_SIDE}9:0:0:0", NEXT, 2)) == (), "another target port"
    assert mixed(other=path(f"{OTHER_SIDE}9:0:0:0", NEXT, None)) == (f"{OTHER_SIDE}9:0:0:0",)
    assert mixed(other=SOURCE) == ()
    assert mixed(other=source, target="SCST_BIO/x/1") == ()
    wwn = path("1:0:0:0", "naa.1"), path(f"{OTHER_SIDE}9:0:0:0", "naa.1")
    assert mixed(own=wwn[0], other=wwn[1]) == (), "no session, the same port"


def test_a_third_session_that_is_registered_is_mixed_with_either_side() -> None:
    assert mixed(listed(NEXT, 7)) == (f"{NEXT},1",)
    assert mixed(listed(SESSION, 7), listed(STRANGER, 7)) == ()
    former = STRANGER.replace("0000", "0100")
    assert mixed(listed(former, 7)) == (f"{former},1",)
    assert mixed(listed(NEXT, 7, every=True)) == (f"{NEXT},*",)
    assert mixed(listed("iqn.2020-01.c:z,i,0x00023d000001", 7)) == ()


def test_sessions_of_one_side_are_that_sides_own() -> None:
    own = path("1:0:0:0", SESSION), path("2:0:0:0", NEXT)
    answer = of_full_status(3, [listed(SESSION, 7), listed(NEXT, 7)], own, (), "LIO-ORG/x/4.0")
    assert answer.mixed == ()


def test_a_blind_reading_says_what_is_mixed() -> None:
    answer = reading(
        listed(NAME, 1),
        own=path("1:0:0:0", SESSION),
        other=(path(f"{OTHER_SIDE}9:0:0:0", NEXT),),
    )
    assert (answer.blind, answer.mixed) == (True, (f"{OTHER_SIDE}9:0:0:0",))
