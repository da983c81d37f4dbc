import pytest

from prtrace.model import Action, ReservationType
from prtrace.scsi.codes import (
    OUT_ACTIONS,
    OUT_CODES,
    InAction,
    Opcode,
    ReservedCode,
    host_byte_name,
    in_action,
    out_action,
    reservation_type,
    status_title,
    titled_type,
    type_code,
)


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (0, "REGISTER"),
        (1, "RESERVE"),
        (2, "RELEASE"),
        (3, "CLEAR"),
        (4, "PREEMPT"),
        (5, "PREEMPT AND ABORT"),
        (6, "REGISTER AND IGNORE EXISTING KEY"),
        (7, "REGISTER AND MOVE"),
        (8, "REPLACE LOST RESERVATION"),
    ],
)
def test_out_action(code, name):
    assert out_action(code) is Action(name)
    assert OUT_CODES[Action(name)] == code


def test_every_action_has_a_code():
    assert set(OUT_ACTIONS.values()) == set(Action)


@pytest.mark.parametrize("code", range(9, 32))
def test_other_out_actions_are_reserved(code):
    assert out_action(code) == ReservedCode("PR OUT service action", code)


@pytest.mark.parametrize(
    ("code", "title"),
    [
        (0, "READ KEYS"),
        (1, "READ RESERVATION"),
        (2, "REPORT CAPABILITIES"),
        (3, "READ FULL STATUS"),
    ],
)
def test_in_action(code, title):
    action = in_action(code)
    assert isinstance(action, InAction)
    assert action.title == title


def test_other_in_actions_are_reserved():
    assert in_action(4) == ReservedCode("PR IN service action", 4)
    assert in_action(4).text == "reserved PR IN service action 0x4"


@pytest.mark.parametrize(
    ("code", "name"),
    [(1, "WE"), (3, "EA"), (5, "WERO"), (6, "EARO"), (7, "WEAR"), (8, "EAAR")],
)
def test_reservation_type(code, name):
    kind = reservation_type(code)
    assert kind is ReservationType[name]
    assert type_code(kind) == code


@pytest.mark.parametrize("code", [0, 2, 4, *range(9, 16)])
def test_other_types_are_reserved_and_keep_their_code(code):
    assert reservation_type(code) == ReservedCode("TYPE", code)
    assert type_code(reservation_type(code)) == code


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("Write Exclusive", ReservationType.WE),
        ("write exclusive, registrants only", ReservationType.WERO),
        ("Exclusive Access All Registrants", ReservationType.EAAR),
        ("", None),
        ("write exclusive?!", ReservationType.WE),
        ("write exclusively", None),
    ],
)
def test_a_type_is_known_by_its_title(words, kind):
    assert titled_type(words) is kind


def test_no_type_is_code_0():
    assert type_code(None) == 0


@pytest.mark.parametrize(
    ("code", "title"),
    [
        (0x00, "GOOD"),
        (0x02, "CHECK CONDITION"),
        (0x04, "CONDITION MET"),
        (0x08, "BUSY"),
        (0x18, "RESERVATION CONFLICT"),
        (0x28, "TASK SET FULL"),
        (0x30, "ACA ACTIVE"),
        (0x40, "TASK ABORTED"),
    ],
)
def test_status(code, title):
    assert status_title(code) == title


def test_unknown_status_keeps_its_number():
    assert status_title(0x22) == "STATUS 0x22"


def test_host_bytes():
    assert host_byte_name(0) == "DID_OK"
    assert host_byte_name(1) == "DID_NO_CONNECT"
    assert host_byte_name(3) == "DID_TIME_OUT"
    assert host_byte_name(7) == "DID_ERROR"
    assert host_byte_name(0x0F) == "DID_TRANSPORT_FAILFAST"
    assert host_byte_name(0x11) == "DID_NEXUS_FAILURE"
    assert host_byte_name(0x14) == "DID_TRANSPORT_MARGINAL"
    assert host_byte_name(0x77) == "DID_0x77"


def test_opcodes():
    assert (Opcode.PR_IN, Opcode.PR_OUT) == (0x5E, 0x5F)
    assert (Opcode.RESERVE_6, Opcode.RELEASE_6) == (0x16, 0x17)
    assert (Opcode.RESERVE_10, Opcode.RELEASE_10) == (0x56, 0x57)
