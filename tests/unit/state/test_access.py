"""What a reservation lets a nexus do, against the standard's table row by row."""

from dataclasses import replace
from types import MappingProxyType

import pytest

from prtrace.model import LocalNexus, ReservationType
from prtrace.scsi.commands import Access
from prtrace.state.access import Standing, may, ruling, standing
from prtrace.state.unit import Doubt, Fact, LuState, Path, Registration, Reservation, Source

# SPC-4, "commands that are allowed in the presence of various reservations", by type:
# (not registered reads, writes; registered and not the holder reads, writes).
TABLE = {
    ReservationType.WE: (True, False, True, False),
    ReservationType.EA: (False, False, False, False),
    ReservationType.WERO: (True, False, True, True),
    ReservationType.EARO: (False, False, True, True),
    ReservationType.WEAR: (True, False, True, True),
    ReservationType.EAAR: (False, False, True, True),
}


@pytest.mark.parametrize("held", ReservationType)
def test_the_standards_table(held):
    told = tuple(
        ruling(held, each, access).allowed
        for each in (Standing.NOT_REGISTERED, Standing.REGISTERED)
        for access in (Access.READ, Access.WRITE)
    )
    assert told == TABLE[held]
    for access in Access:
        assert ruling(held, Standing.HOLDER, access).allowed
        assert ruling(None, Standing.UNKNOWN, access).allowed
    assert ruling(held, Standing.NOT_REGISTERED, Access.NONE).allowed


@pytest.mark.parametrize("held", ReservationType)
@pytest.mark.parametrize("access", [Access.READ, Access.WRITE])
def test_what_is_not_known_is_said_only_where_every_possibility_agrees(held, access):
    possible = {
        ruling(held, each, access).allowed for each in Standing if each is not Standing.UNKNOWN
    }
    told = ruling(held, Standing.UNKNOWN, access).allowed
    assert told == (possible.pop() if len(possible) == 1 else None)


ME, OTHER = "1:0:0:0", "2:0:0:0"


def state(kind=ReservationType.WERO, *registered, holder=OTHER, **facts):
    registrations = {
        nexus: Registration(nexus, 1, local=True, source=Source.READ, at=1) for nexus in registered
    }
    held = kind and Reservation(
        kind, 0, None if kind.all_registrants else holder, 1, Source.READ, 1
    )
    return LuState(
        "naa.1", registrations=MappingProxyType(registrations), reservation=held, **facts
    )


def test_a_nexus_is_a_holder_a_registrant_or_neither():
    assert standing(state(ReservationType.WERO, ME, OTHER), ME) is Standing.REGISTERED
    assert standing(state(ReservationType.WERO, ME, OTHER), OTHER) is Standing.HOLDER
    assert standing(state(ReservationType.WEAR, ME, OTHER), ME) is Standing.HOLDER
    assert standing(state(ReservationType.WERO, OTHER), ME) is Standing.NOT_REGISTERED


def test_what_is_in_doubt_rules_nothing():
    doubted = state(
        ReservationType.WERO, ME, OTHER, doubts=(Doubt(Fact.REGISTRATIONS, "lost", 1),)
    )
    assert standing(doubted, ME) is Standing.UNKNOWN
    assert may(doubted, ME, Access.WRITE).allowed is None
    assert may(doubted, ME, Access.READ).allowed is True
    reserved = replace(doubted, doubts=(Doubt(Fact.RESERVATION, "lost", 1),))
    assert may(reserved, ME, Access.READ).allowed is None
    assert standing(state(ReservationType.WERO, OTHER, unattributed=(7,)), ME) is Standing.UNKNOWN


def test_a_registration_that_may_be_one_path_s_is_not_another_port_s():
    """Where the target port of a path is not known, its initiator port tells whose it is not."""
    port, other = "naa.1", "naa.2"
    paths = {
        nexus: Path(LocalNexus(nexus, "naa.6", initiator_port=each))
        for nexus, each in ((ME, port), (OTHER, other))
    }
    one = Registration(
        f"{port},1", 1, initiator_port=port, relative_target_port=1,
        local=False, maybe_local=True, source=Source.READ, at=1,
    )  # fmt: skip
    known = LuState(
        "naa.6", registrations=MappingProxyType({one.nexus: one}), paths=MappingProxyType(paths)
    )
    assert standing(known, ME) is Standing.UNKNOWN
    assert standing(known, OTHER) is Standing.NOT_REGISTERED
    assert standing(known, "9:0:0:0") is Standing.UNKNOWN, "no path that is known"


def test_an_spc2_reservation_refuses_everybody_else():
    reserved = state(None, ME, legacy_holder=OTHER)
    assert may(reserved, OTHER, Access.WRITE).allowed is True
    assert may(reserved, ME, Access.READ).allowed is False
    assert "SPC-2" in may(reserved, ME, Access.READ).why
    assert may(reserved, ME, Access.NONE).allowed is True


def test_a_device_without_reservations_lets_everybody_in():
    assert may(state(None, supported=False), ME, Access.WRITE).allowed is True


@pytest.mark.parametrize("held", [each for each in ReservationType if not each.all_registrants])
@pytest.mark.parametrize("access", [Access.READ, Access.WRITE])
def test_a_registered_nexus_may_be_the_holder_that_is_not_known(held, access):
    mine = Registration("2:0:0:1", 1, local=True, source=Source.OBSERVED, at=1)
    state = LuState(
        "naa.6",
        registrations=MappingProxyType({mine.nexus: mine}),
        reservation=Reservation(held, 0, None, 1, Source.READ, 1),
        names_nexuses=False,
    )
    found = may(state, mine.nexus, access).allowed
    assert found is (True if ruling(held, Standing.REGISTERED, access).allowed else None)


RENAMED = "SYNOLOGY/iSCSI Storage/4.0"
"""LIO under the name of whoever ships it, as far as prtrace can tell."""
FORMER = "iqn.x:me,i,0x00023d000002"


def sessions(kind, isid, *, target="LIO-ORG/disk/4.0", holder=f"{FORMER},3", other=FORMER):
    """ME is a session of the initiator of which another one is registered at the same port."""
    own = LocalNexus(ME, "naa.1", initiator_port=f"iqn.x:me,i,0x{isid}", relative_target_port=3)
    name = f"{other},3"
    registered = {
        name: Registration(
            name, 1, local=False, source=Source.READ, at=1, initiator_port=other,
            relative_target_port=3,
        )
    }  # fmt: skip
    held = Reservation(kind, 0, None if kind.all_registrants else holder, 1, Source.READ, 1)
    return LuState(
        "naa.1", target=target, registrations=MappingProxyType(registered), reservation=held,
        paths=MappingProxyType({ME: Path(own)}),
    )  # fmt: skip


@pytest.mark.parametrize("kind", ReservationType)
def test_lio_may_take_a_session_for_another_one_of_its_initiator(kind):
    """It compares 8 digits of the ISID with the holder's, and asks one bit who is registered."""
    near, far = sessions(kind, "00023d000003"), sessions(kind, "00023d010000")
    refused = ruling(kind, Standing.NOT_REGISTERED, Access.WRITE)
    assert standing(near, ME) is Standing.NOT_REGISTERED
    assert may(near, ME, Access.WRITE).allowed is None
    if not kind.all_registrants:
        assert may(far, ME, Access.WRITE) == refused
    for target in ("LIO-ORG/disk/4.0", RENAMED):
        stranger = sessions(
            kind, "00023d000003", target=target, other="iqn.x:you,i,0x00023d000002"
        )
        assert may(stranger, ME, Access.WRITE) == refused
    renamed = sessions(kind, "00023d000003", target=RENAMED)
    assert may(renamed, ME, Access.WRITE).allowed is None
    one_by_one = sessions(kind, "00023d000003", target="SCST_BIO/x/370")
    assert may(one_by_one, ME, Access.WRITE) == refused


@pytest.mark.parametrize("kind", ReservationType)
@pytest.mark.parametrize("target", ["LIO-ORG/disk/4.0", RENAMED, "SCST_BIO/x/370"])
def test_lio_may_have_forgotten_a_registration_with_another_session_s(kind, target):
    mine = Registration(ME, 1, local=True, source=Source.OBSERVED, at=1, overlooked=True)
    other = None if kind.all_registrants else "iqn.y,i,0x1,3"
    state = LuState(
        "naa.1",
        target=target,
        registrations=MappingProxyType({ME: mine}),
        reservation=Reservation(kind, 0, other, 1, Source.READ, 1),
    )
    told = ruling(kind, standing(state, ME), Access.WRITE)
    differs = told.allowed and not target.startswith("SCST")
    assert may(state, ME, Access.WRITE).allowed is (None if differs else told.allowed)
    seen = MappingProxyType({ME: replace(mine, overlooked=False)})
    assert may(replace(state, registrations=seen), ME, Access.WRITE) == told


def test_lio_lets_every_session_of_a_registered_initiator_in():
    held_by_another = sessions(ReservationType.WERO, "00023d010000", holder="iqn.y,i,0x1,3")
    assert may(held_by_another, ME, Access.WRITE).allowed is None
    assert may(held_by_another, ME, Access.READ).allowed
    alone = sessions(ReservationType.WE, "00023d010000", holder="iqn.y,i,0x1,3")
    assert may(alone, ME, Access.WRITE).allowed is False
