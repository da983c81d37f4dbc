import pytest
from hypothesis import given
from hypothesis import strategies as st
from scsi_forms import bits, flag, made, parses_or_refuses, types

from prtrace.errors import MalformedError
from prtrace.model import Action, ReservationType
from prtrace.scsi.cdb import LegacyCdb, OtherCdb, PrInCdb, PrOutCdb, parse_cdb
from prtrace.scsi.codes import InAction, ReservedCode

pr_out = made(
    PrOutCdb,
    st.sampled_from(Action)
    | st.integers(9, 31).map(lambda code: ReservedCode("PR OUT service action", code)),
    bits(4),
    st.none() | types,
    bits(32),
    bits(8),
)
pr_in = made(
    PrInCdb,
    st.sampled_from(InAction)
    | st.integers(4, 31).map(lambda code: ReservedCode("PR IN service action", code)),
    bits(16),
    bits(8),
)
legacy = made(
    LegacyCdb,
    flag,
    st.just(6),
    third_party=flag,
    third_party_id=bits(3),
    extent=flag,
    reservation_id=bits(8),
    parameter_length=bits(16),
    control=bits(8),
) | made(
    LegacyCdb,
    flag,
    st.just(10),
    third_party=flag,
    third_party_id=bits(8),
    long_id=flag,
    extent=flag,
    reservation_id=bits(8),
    parameter_length=bits(16),
    control=bits(8),
)


@given(pr_out | pr_in | legacy)
def test_round_trip(cdb):
    raw = cdb.build()
    assert parse_cdb(raw) == cdb
    assert parse_cdb(raw.ljust(32, b"\xff")) == cdb
    for cut in range(len(raw)):
        with pytest.raises(MalformedError):
            parse_cdb(raw[:cut])


@given(st.binary(max_size=40))
def test_any_bytes(raw):
    parses_or_refuses(parse_cdb, raw)


def test_pr_out_layout():
    cdb = PrOutCdb(Action.PREEMPT, 0, ReservationType.WERO, 0x01020304, 0xC0)
    assert cdb.build() == bytes.fromhex("5f 04 05 00 00 01020304 c0")


def test_pr_out_scope_is_the_high_nibble():
    assert parse_cdb(bytes.fromhex("5f 01 f8 0000 00000018 00")) == PrOutCdb(
        Action.RESERVE, 15, ReservationType.EAAR, 24
    )


def test_type_0_is_no_type():
    assert parse_cdb(bytes.fromhex("5f 00 00 0000 00000018 00")) == PrOutCdb(Action.REGISTER)


def test_bits_5_to_7_of_the_service_action_byte_are_ignored():
    assert parse_cdb(bytes.fromhex("5f e3 00 0000 00000018 00")) == PrOutCdb(Action.CLEAR)


def test_pr_in_layout():
    assert PrInCdb(InAction.READ_FULL_STATUS, 0x2000).build() == bytes.fromhex(
        "5e 03 00 00000000 2000 00"
    )


@pytest.mark.parametrize(
    ("raw", "cdb"),
    [
        ("16 00 00 0000 00", LegacyCdb(release=False, length=6)),
        ("17 00 00 0000 00", LegacyCdb(release=True, length=6)),
        ("16 1e 00 0000 00", LegacyCdb(False, 6, third_party=True, third_party_id=7)),
        (
            "16 01 07 0102 00",
            LegacyCdb(False, 6, extent=True, reservation_id=7, parameter_length=258),
        ),
        ("56 00 00 00 000000 0000 00", LegacyCdb(release=False, length=10)),
        ("57 00 00 00 000000 0000 00", LegacyCdb(release=True, length=10)),
        (
            "56 12 00 09 000000 0008 00",
            LegacyCdb(False, 10, True, 9, long_id=True, parameter_length=8),
        ),
    ],
)
def test_legacy_layout(raw, cdb):
    assert parse_cdb(bytes.fromhex(raw)) == cdb
    assert cdb.build() == bytes.fromhex(raw)


def test_other_commands_are_kept():
    read_10 = bytes.fromhex("28 00 00000000 00 0008 00")
    cdb = parse_cdb(read_10)
    assert cdb == OtherCdb(read_10)
    assert (cdb.opcode, cdb.build()) == (0x28, read_10)


@pytest.mark.parametrize(
    "cdb",
    [
        PrOutCdb(Action.REGISTER, parameter_length=1 << 32),
        PrOutCdb(Action.REGISTER, scope=16),
        PrInCdb(InAction.READ_KEYS, 1 << 16),
        LegacyCdb(False, 6, third_party_id=8),
        LegacyCdb(False, 6, long_id=True),
        LegacyCdb(False, 10, third_party_id=256),
    ],
)
def test_what_does_not_fit_is_refused(cdb):
    with pytest.raises(MalformedError):
        cdb.build()
