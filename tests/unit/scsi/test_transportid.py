import pytest
from hypothesis import given
from hypothesis import strategies as st
from scsi_forms import iscsi_names, parses_or_refuses, transport_ids

from prtrace.errors import MalformedError
from prtrace.scsi.transportid import (
    FcPort,
    IscsiPort,
    SasPort,
    SopPort,
    SpiPort,
    SrpPort,
    UnknownPort,
    parse_contained,
    parse_transport_id,
)


@given(transport_ids)
def test_round_trip(port):
    raw = port.build()
    assert len(raw) % 4 == 0
    assert len(raw) >= 24
    assert parse_transport_id(raw) == (port, len(raw))
    assert parse_transport_id(raw + b"\xff" * 30) == (port, len(raw))
    assert parse_contained(raw) == port


@given(transport_ids)
def test_every_cut_is_refused(port):
    raw = port.build()
    for cut in range(len(raw)):
        with pytest.raises(MalformedError):
            parse_transport_id(raw[:cut])


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes(raw, whole):
    found = parses_or_refuses(lambda raw: parse_transport_id(raw, whole=whole), raw)
    if found is not None:
        port, used = found
        assert 0 < used <= len(raw)
        assert parse_transport_id(raw[:used], whole=whole) == found
        assert all(0x21 <= ord(char) <= 0x7E for char in port.text)


@given(transport_ids)
def test_text_is_printable(port):
    assert all(0x21 <= ord(char) <= 0x7E for char in port.text)


@pytest.mark.parametrize(
    ("raw", "port", "text"),
    [
        (
            "00 00000000000000 2100001b32aabbcc 0000000000000000",
            FcPort(0x2100001B32AABBCC),
            "naa.2100001b32aabbcc",
        ),
        ("01 00 0007 0000 0002" + "00" * 16, SpiPort(7, 2), "spi.7,2"),
        (
            "04 00000000000000 fe80000000000000 0002c90300a1b2c3",
            SrpPort(0xFE80000000000000_0002C90300A1B2C3),
            "srp.fe800000000000000002c90300a1b2c3",
        ),
        (
            "06 000000 5001405aabbccdde" + "00" * 12,
            SasPort(0x5001405AABBCCDDE),
            "naa.5001405aabbccdde",
        ),
        ("0a 00 0102" + "00" * 20, SopPort(0x0102), "sop.0102"),
        ("03" + "00" * 23, UnknownPort(b"\x03" + bytes(23)), "proto3.03" + "00" * 23),
        ("46" + "00" * 23, UnknownPort(b"\x46" + bytes(23)), "proto6.46" + "00" * 23),
    ],
    ids=["fc", "spi", "srp", "sas", "sop", "unknown protocol", "unknown format"],
)
def test_layout(raw, port, text):
    assert parse_transport_id(bytes.fromhex(raw)) == (port, 24)
    assert port.build() == bytes.fromhex(raw)
    assert port.text == text


def iscsi(field, format_code=0, additional=None):
    size = len(field) if additional is None else additional
    return bytes([format_code << 6 | 5, 0]) + size.to_bytes(2, "big") + field


def test_iscsi_format_0():
    raw = iscsi(b"iqn.2004-10.com.ubuntu:01:a".ljust(28, b"\0"))
    assert parse_transport_id(raw) == (IscsiPort(b"iqn.2004-10.com.ubuntu:01:a"), 32)
    assert IscsiPort(b"iqn.2004-10.com.ubuntu:01:a").build() == raw


def test_iscsi_format_1():
    port = IscsiPort(b"iqn.1993-08.org.debian:01:1", 0x00023D000001)
    raw = iscsi(b"iqn.1993-08.org.debian:01:1,i,0x00023d000001".ljust(48, b"\0"), 1)
    assert port.build() == raw
    assert parse_transport_id(raw) == (port, 52)
    assert port.text == "iqn.1993-08.org.debian:01:1,i,0x00023d000001"


def test_iscsi_short_isid_means_the_same():
    raw = iscsi(b"iqn.x,i,0x23D000001".ljust(20, b"\0"), 1)
    assert parse_transport_id(raw)[0].text == "iqn.x,i,0x00023d000001"


def test_iscsi_text_ignores_case():
    assert IscsiPort(b"IQN.A:Host", 1).text == IscsiPort(b"iqn.a:host", 1).text


def test_iscsi_short_name_is_padded_to_the_least_length():
    assert IscsiPort(b"iqn.x").build() == iscsi(b"iqn.x".ljust(20, b"\0"))


def test_iscsi_name_of_full_length_needs_no_nul():
    assert parse_transport_id(iscsi(b"iqn.abcdefghijklmnop"))[0].text == "iqn.abcdefghijklmnop"


def test_iscsi_hostile_name():
    port, _ = parse_transport_id(iscsi(b"iqn.\x1b[2J\n\xff\\ x".ljust(20, b"\0")))
    assert port.text == r"iqn.\x1b[2j\x0a\xff\x5c\x20x"


def test_iscsi_name_cannot_pretend_to_carry_an_isid():
    plain, _ = parse_transport_id(iscsi(b"iqn.x,i,0x000000000001".ljust(24, b"\0")))
    assert plain.text == r"iqn.x\x2ci\x2c0x000000000001"
    assert plain.text != IscsiPort(b"iqn.x", 1).text


@given(iscsi_names, iscsi_names)
def test_iscsi_text_tells_names_apart(one, other):
    if one.lower() != other.lower():
        assert IscsiPort(one).text != IscsiPort(other).text


@pytest.mark.parametrize(
    "raw",
    [
        iscsi(b"iqn.x".ljust(20, b"\0"), 1),
        iscsi(b"iqn.x\0,i,0x\0\0\0\0\x0000\0".ljust(20, b"\0"), 1),
        iscsi(b"iqn.x,i,0x".ljust(20, b"\0"), 1),
        iscsi(b"iqn.x,i,0xnothex".ljust(20, b"\0"), 1),
        iscsi(b"iqn.x,i,0x0123456789abc".ljust(24, b"\0"), 1),
        iscsi(b",i,0x1".ljust(20, b"\0"), 1),
        iscsi(b"iqn.x".ljust(20, b"\0"), 2),
        iscsi(b"\0" * 20),
        iscsi(b""),
    ],
    ids=[
        "no mark",
        "old LIO",
        "no digits",
        "no hex",
        "13 digits",
        "no name",
        "format 2",
        "NULs",
        "nothing",
    ],
)
def test_iscsi_without_a_form_is_kept_raw(raw):
    assert parse_transport_id(raw) == (UnknownPort(raw), len(raw))


def test_iscsi_additional_length_is_a_claim():
    with pytest.raises(MalformedError, match="65539 bytes, 24 are there"):
        parse_transport_id(iscsi(b"iqn.x".ljust(20, b"\0"), additional=65535))


def test_iscsi_name_longer_than_the_standard_allows():
    with pytest.raises(MalformedError, match="224"):
        parse_transport_id(iscsi(b"x" * 224))


@pytest.mark.parametrize("name", [b"", b"a\0b", b"x" * 224])
def test_iscsi_name_that_cannot_be_sent(name):
    with pytest.raises(MalformedError):
        IscsiPort(name).build()


def test_unknown_protocol_takes_its_whole_container():
    raw = b"\x09" + bytes(31)
    assert parse_transport_id(raw, whole=True) == (UnknownPort(raw), 32)
    assert parse_transport_id(raw) == (UnknownPort(raw[:24]), 24)


def test_zeros_behind_a_contained_one_are_padding_other_bytes_are_not():
    raw = SasPort(1).build()
    assert parse_contained(raw + bytes(4)) == SasPort(1)
    with pytest.raises(MalformedError, match="4 bytes are left over"):
        parse_contained(raw + b"\0\0\0\1")
