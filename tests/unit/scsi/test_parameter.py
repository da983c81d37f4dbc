import pytest
from hypothesis import given
from hypothesis import strategies as st
from scsi_forms import basic_lists, move_lists, parses_or_refuses

from prtrace.errors import MalformedError
from prtrace.model import Action
from prtrace.scsi.parameter import BasicList, MoveList, parse_list
from prtrace.scsi.transportid import IscsiPort, SasPort

KEYS = "0000000000123abc 00000000000000ff"


@given(basic_lists)
def test_basic_round_trip(value):
    assert BasicList.parse(value.build()) == value


@given(move_lists)
def test_move_round_trip(value):
    assert MoveList.parse(value.build()) == value


@given(basic_lists)
def test_basic_cut_anywhere(value):
    raw = value.build()
    for cut in range(len(raw)):
        if cut < 24:
            with pytest.raises(MalformedError):
                BasicList.parse(raw[:cut])
            continue
        part = BasicList.parse(raw[:cut])
        assert part.truncated
        assert part.problem
        assert (part.key, part.sa_key) == (value.key, value.sa_key)
        assert part.transport_ids == value.transport_ids[: len(part.transport_ids)]


@given(move_lists)
def test_move_cut_anywhere(value):
    raw = value.build()
    for cut in range(len(raw)):
        if cut < 24:
            with pytest.raises(MalformedError):
                MoveList.parse(raw[:cut])
            continue
        part = MoveList.parse(raw[:cut])
        assert part.truncated
        assert part.problem
        assert part.transport_id is None
        assert (part.key, part.sa_key) == (value.key, value.sa_key)


@given(st.binary(max_size=200), st.sampled_from(Action))
def test_any_bytes(raw, action):
    value = parses_or_refuses(lambda raw: parse_list(raw, action), raw)
    assert (value is None) == (len(raw) < 24)


@pytest.mark.parametrize(
    ("byte", "flags"),
    [
        (0x08, {"spec_i_pt": True, "truncated": True}),
        (0x04, {"all_tg_pt": True}),
        (0x01, {"aptpl": True}),
        (0xF2, {}),
    ],
)
def test_basic_flags(byte, flags):
    raw = bytes.fromhex(KEYS + "00000000") + bytes([byte, 0, 0, 0])
    value = BasicList.parse(raw)
    names = ("spec_i_pt", "all_tg_pt", "aptpl", "truncated")
    assert {name: True for name in names if getattr(value, name)} == flags
    assert (value.key, value.sa_key) == (0x123ABC, 0xFF)


def test_basic_obsolete_fields():
    value = BasicList.parse(bytes.fromhex(KEYS + "01020304 00 00 0506"))
    assert (value.obsolete_address, value.obsolete_extent) == (0x01020304, 0x0506)


@pytest.mark.parametrize(
    ("byte", "unreg", "aptpl"), [(2, True, False), (1, False, True), (0xFC, False, False)]
)
def test_move_flags(byte, unreg, aptpl):
    raw = bytes.fromhex(KEYS) + bytes([0, byte]) + bytes.fromhex("0102 00000018")
    value = MoveList.parse(raw + SasPort(5).build())
    assert value == MoveList(0x123ABC, 0xFF, 0x0102, SasPort(5), unreg, aptpl)


def test_spec_i_pt_counts_for_registers_only():
    raw = BasicList(
        1, 2, spec_i_pt=True, transport_ids=(SasPort(1), IscsiPort(b"iqn.a", 1))
    ).build()
    for action in Action:
        if action is Action.REGISTER_AND_MOVE:
            continue
        value = parse_list(raw, action)
        assert value.spec_i_pt
        expected = 2 if action in (Action.REGISTER, Action.REGISTER_AND_IGNORE) else 0
        assert len(value.transport_ids) == expected


def test_parse_list_picks_the_form():
    assert isinstance(parse_list(bytes(48), Action.REGISTER_AND_MOVE), MoveList)
    assert isinstance(parse_list(bytes(24), Action.CLEAR), BasicList)


def test_spec_i_pt_length_that_ends_inside_a_transport_id():
    port = SasPort(1).build()
    raw = BasicList(1, 2, spec_i_pt=True).build()[:24] + bytes([0, 0, 0, 30]) + port + port
    value = BasicList.parse(raw)
    assert value.transport_ids == (SasPort(1),)
    assert not value.truncated
    assert value.problem == "TransportID: needs 24 bytes, has 6"


def test_spec_i_pt_length_of_4_gib():
    raw = BasicList(1, 2, spec_i_pt=True).build()[:24] + b"\xff" * 4 + SasPort(1).build()
    value = BasicList.parse(raw)
    assert value.truncated
    assert value.transport_ids == (SasPort(1),)


def test_move_with_a_damaged_transport_id_keeps_the_keys():
    raw = bytes.fromhex(KEYS + "00 00 0001 00000008 0600000000000000")
    value = MoveList.parse(raw)
    assert (value.key, value.transport_id, value.truncated) == (0x123ABC, None, False)
    assert value.problem == "TransportID: needs 24 bytes, has 8"


def test_move_without_a_transport_id():
    value = MoveList.parse(MoveList(1, 2, 3, None).build())
    assert value.problem == "TransportID: is empty"
