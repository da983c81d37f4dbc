import pytest
from hypothesis import given
from hypothesis import strategies as st
from scsi_forms import (
    capabilities,
    full_statuses,
    parses_or_refuses,
    read_keys,
    read_reservations,
)

from prtrace.errors import MalformedError
from prtrace.model import ReservationType
from prtrace.scsi.codes import InAction, ReservedCode
from prtrace.scsi.reply import (
    FullStatusDescriptor,
    ReadFullStatus,
    ReadKeys,
    ReadReservation,
    ReportCapabilities,
    ReservationDescriptor,
    parse_reply,
)
from prtrace.scsi.transportid import IscsiPort, SasPort

SAS = SasPort(0x5001405AABBCCDDE)


@given(read_keys | read_reservations | capabilities | full_statuses)
def test_round_trip(reply):
    raw = reply.build()
    assert type(reply).parse(raw) == reply
    assert type(reply).parse(raw + b"\xff" * 40) == reply


@given(st.sampled_from(InAction), st.binary(max_size=400))
def test_any_bytes(action, raw):
    parses_or_refuses(lambda raw: parse_reply(action, raw), raw)


@given(st.sampled_from(InAction), st.integers(0, 200), st.binary(max_size=200))
def test_any_bytes_behind_a_sane_header(action, claimed, body):
    raw = bytes(4) + claimed.to_bytes(4, "big") + body
    parses_or_refuses(lambda raw: parse_reply(action, raw), raw)


@given(read_keys)
def test_cut_keys_are_a_prefix(reply):
    raw = reply.build()
    for cut in range(len(raw)):
        if cut < 8:
            with pytest.raises(MalformedError):
                ReadKeys.parse(raw[:cut])
            continue
        part = ReadKeys.parse(raw[:cut])
        assert part.truncated
        assert part.keys == reply.keys[: (cut - 8) // 8]
        assert (part.generation, part.additional_length) == (
            reply.generation,
            reply.additional_length,
        )


@given(read_reservations)
def test_cut_reservation_is_refused(reply):
    raw = reply.build()
    for cut in range(len(raw)):
        with pytest.raises(MalformedError):
            ReadReservation.parse(raw[:cut])


@given(full_statuses)
def test_cut_full_status_is_a_prefix(reply):
    raw = reply.build()
    for cut in range(len(raw)):
        if cut < 8:
            with pytest.raises(MalformedError):
                ReadFullStatus.parse(raw[:cut])
            continue
        part = ReadFullStatus.parse(raw[:cut])
        assert part.truncated
        assert part.descriptors == reply.descriptors[: len(part.descriptors)]
        assert part.additional_length == reply.additional_length


def test_read_keys_layout():
    raw = bytes.fromhex("00000007 00000010 0000000000123abc 0000000000123abc")
    assert ReadKeys.parse(raw) == ReadKeys(7, (0x123ABC, 0x123ABC), 16)


def test_read_keys_length_of_broken_keys():
    with pytest.raises(MalformedError, match="no multiple of 8"):
        ReadKeys.parse(bytes.fromhex("00000007 0000000c") + bytes(16))


def test_read_keys_claim_of_4_gib():
    reply = ReadKeys.parse(bytes.fromhex("00000007 fffffff8") + bytes(16))
    assert reply == ReadKeys(7, (0, 0), 0xFFFFFFF8, truncated=True)


@pytest.mark.parametrize(
    ("allocation_length", "may_be_cut"), [(8, True), (24, True), (31, True), (32, False)]
)
def test_a_full_buffer_may_hide_keys(allocation_length, may_be_cut):
    assert ReadKeys.of(1, 2, 3).may_be_cut(allocation_length) is may_be_cut


def test_nothing_reserved():
    assert ReadReservation.parse(bytes.fromhex("00000007 00000000")) == ReadReservation(7, None)


def test_all_registrants_reservation_has_key_0():
    raw = bytes.fromhex("00000007 00000010 0000000000000000 00000000 00 07 0000")
    assert ReadReservation.parse(raw).reservation == ReservationDescriptor(0, ReservationType.WEAR)


def test_reserved_type_and_scope_are_kept():
    raw = bytes.fromhex("00000007 00000010 0000000000000001 00000000 00 29 0000")
    assert ReadReservation.parse(raw).reservation == ReservationDescriptor(
        1, ReservedCode("TYPE", 9), 2
    )


@pytest.mark.parametrize("claimed", [1, 8, 15, 17, 32, 0xFFFFFFFF])
def test_reservation_of_another_length_is_refused(claimed):
    with pytest.raises(MalformedError, match="neither 0 nor 16"):
        ReadReservation.parse(bytes(4) + claimed.to_bytes(4, "big") + bytes(64))


@pytest.mark.parametrize(
    ("at", "bit", "name"),
    [
        (2, 0x80, "rlr_c"),
        (2, 0x10, "crh"),
        (2, 0x08, "sip_c"),
        (2, 0x04, "atp_c"),
        (2, 0x01, "ptpl_c"),
        (3, 0x80, "tmv"),
        (3, 0x01, "ptpl_a"),
    ],
)
def test_capability_bits(at, bit, name):
    raw = bytearray.fromhex("0008 00 00 0000 0000")
    raw[at] = bit
    assert ReportCapabilities.parse(bytes(raw)) == ReportCapabilities(**{name: True})


@pytest.mark.parametrize(
    ("mask", "kind"),
    [
        ("0200", ReservationType.WE),
        ("0800", ReservationType.EA),
        ("2000", ReservationType.WERO),
        ("4000", ReservationType.EARO),
        ("8000", ReservationType.WEAR),
        ("0001", ReservationType.EAAR),
    ],
)
def test_type_mask_bits(mask, kind):
    raw = bytes.fromhex("0008 00 80" + mask + "0000")
    assert ReportCapabilities.parse(raw).types == {kind}


def test_lio_capabilities():
    reply = ReportCapabilities.parse(bytes.fromhex("0008 1d 91 ea01 0000"))
    assert reply == ReportCapabilities(
        crh=True,
        sip_c=True,
        atp_c=True,
        ptpl_c=True,
        tmv=True,
        allow_commands=1,
        ptpl_a=True,
        types=frozenset(ReservationType),
    )


@pytest.mark.parametrize("raw", ["0008 1d 91 ea01 00", "0007 1d 91 ea01 0000", "0000" + "00" * 6])
def test_short_capabilities_are_refused(raw):
    with pytest.raises(MalformedError):
        ReportCapabilities.parse(bytes.fromhex(raw))


def test_allow_commands_has_three_bits():
    with pytest.raises(MalformedError):
        ReportCapabilities(allow_commands=8).build()


def test_full_status_layout():
    raw = bytes.fromhex(
        "00000003 00000030"
        "0000000000123abc 00000000 01 05 00000000 0001 00000018"
        "06000000 5001405aabbccdde 000000000000000000000000"
    )
    descriptor = FullStatusDescriptor(
        0x123ABC, 1, SAS, holder=True, type=ReservationType.WERO, scope=0
    )
    assert ReadFullStatus.parse(raw) == ReadFullStatus(3, (descriptor,), 48)
    assert ReadFullStatus.of(3, descriptor).build() == raw


def test_all_tg_pt_is_bit_1():
    raw = bytearray(ReadFullStatus.of(3, FullStatusDescriptor(1, 1, SAS)).build())
    raw[8 + 12] = 0x02
    assert ReadFullStatus.parse(bytes(raw)).descriptors[0].all_tg_pt
    assert not ReadFullStatus.parse(bytes(raw)).descriptors[0].holder


def test_type_of_one_that_is_no_holder_is_not_read():
    raw = bytearray(ReadFullStatus.of(3, FullStatusDescriptor(1, 1, SAS)).build())
    raw[8 + 13] = 0x27
    assert ReadFullStatus.parse(bytes(raw)).descriptors[0] == FullStatusDescriptor(1, 1, SAS)


def test_a_holder_without_a_type_has_a_reserved_type():
    raw = bytearray(ReadFullStatus.of(3, FullStatusDescriptor(1, 1, SAS)).build())
    raw[8 + 12] = 0x01
    assert ReadFullStatus.parse(bytes(raw)).descriptors[0].type == ReservedCode("TYPE", 0)


def test_64_descriptors():
    descriptors = [
        FullStatusDescriptor(key, 1, IscsiPort(b"iqn.2004-10.com.example:%d" % key, key))
        for key in range(64)
    ]
    reply = ReadFullStatus.of(1, *descriptors)
    assert ReadFullStatus.parse(reply.build()).descriptors == tuple(descriptors)


def contradictory(change):
    raw = bytearray(
        ReadFullStatus.of(
            3, FullStatusDescriptor(1, 1, SAS), FullStatusDescriptor(2, 2, SAS)
        ).build()
    )
    change(raw)
    return bytes(raw)


def set_u32(raw, at, value):
    raw[at : at + 4] = value.to_bytes(4, "big")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda raw: set_u32(raw, 8 + 20, 0xFFFFFFFF), "descriptor 0 runs past"),
        (lambda raw: set_u32(raw, 56 + 20, 25), "descriptor 1 runs past"),
        (lambda raw: set_u32(raw, 4, 49), "1 bytes are left over"),
        (lambda raw: set_u32(raw, 8 + 20, 0), "is empty"),
        (lambda raw: set_u32(raw, 8 + 20, 40), "left over"),
    ],
    ids=["4 GiB", "past the end", "left over", "no TransportID", "container too large"],
)
def test_contradictory_full_status_is_refused(change, words):
    with pytest.raises(MalformedError, match=words):
        ReadFullStatus.parse(contradictory(change))


def test_lio_stops_at_what_does_not_fit():
    """LIO reports the length of what fitted, so the reply looks complete."""
    reply = ReadFullStatus.of(3, FullStatusDescriptor(1, 1, SAS))
    assert not reply.truncated
    assert reply.may_be_cut(80)
    assert not reply.may_be_cut(8192)


@pytest.mark.parametrize(
    ("action", "form"),
    [
        (InAction.READ_KEYS, ReadKeys),
        (InAction.READ_RESERVATION, ReadReservation),
        (InAction.READ_FULL_STATUS, ReadFullStatus),
    ],
)
def test_parse_reply(action, form):
    assert isinstance(parse_reply(action, bytes(8)), form)
    assert isinstance(
        parse_reply(InAction.REPORT_CAPABILITIES, b"\0\x08" + bytes(6)), ReportCapabilities
    )
