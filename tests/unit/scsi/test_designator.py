import pytest
from hypothesis import given
from hypothesis import strategies as st
from scsi_forms import pages, parses_or_refuses

from prtrace.errors import MalformedError
from prtrace.scsi.designator import (
    Association,
    Designator,
    IdentificationPage,
    Kind,
    lu_name,
    lu_name_partial,
    relative_target_port,
    target_port,
)

LU, PORT = Association.LOGICAL_UNIT, Association.TARGET_PORT
NAA6 = Designator(LU, Kind.NAA, 1, bytes.fromhex("6001405aabbccdd00112233445566778"))
NAA5 = Designator(LU, Kind.NAA, 1, bytes.fromhex("5000c50012345678"))
NAA3 = Designator(LU, Kind.NAA, 1, bytes.fromhex("3000c50012345678"))
NAA2 = Designator(LU, Kind.NAA, 1, bytes.fromhex("2000c50012345678"))
EUI = Designator(LU, Kind.EUI64, 1, bytes.fromhex("0011223344556677"))
NAME = Designator(LU, Kind.NAME_STRING, 3, b"iqn.2001-04.com.example:lu1\0")
UUID = Designator(LU, Kind.UUID, 1, b"\x10\0" + bytes.fromhex("00112233445566778899aabbccddeeff"))
T10 = Designator(LU, Kind.T10, 2, b"LIO-ORG disk0:abc\0")
VENDOR = Designator(LU, Kind.VENDOR, 2, b"disk one")
RTPI = Designator(PORT, Kind.RELATIVE_TARGET_PORT, 1, bytes.fromhex("00000102"), 5)
BEST_FIRST = [NAA6, NAA5, NAA3, NAA2, EUI, NAME, UUID, T10, VENDOR]


def page(*designators):
    return IdentificationPage(designators).build()


@given(pages)
def test_round_trip(value):
    raw = value.build()
    assert IdentificationPage.parse(raw) == value
    assert IdentificationPage.parse(raw + b"\xff" * 8) == value


@given(pages)
def test_cut_page_is_a_prefix(value):
    raw = value.build()
    for cut in range(len(raw)):
        part = parses_or_refuses(IdentificationPage.parse, raw[:cut])
        if part is not None:
            assert part.truncated
            assert part.designators == value.designators[: len(part.designators)]


@given(pages)
def test_a_name_from_a_cut_page_is_the_name(value):
    raw = value.build()
    whole = lu_name_partial(raw)
    for cut in range(4, len(raw)):
        assert lu_name_partial(raw[:cut]) in (None, whole)


@given(st.binary(max_size=120) | st.binary(max_size=60).map(lambda raw: b"\0\x83\0\x30" + raw))
def test_any_bytes(raw):
    for read in (lu_name, lu_name_partial, relative_target_port, target_port):
        found = parses_or_refuses(read, raw)
        if isinstance(found, str):
            assert all(0x21 <= ord(char) <= 0x7E for char in found)


@pytest.mark.parametrize(
    ("designator", "text"),
    [
        (NAA6, "naa.6001405aabbccdd00112233445566778"),
        (NAA5, "naa.5000c50012345678"),
        (EUI, "eui.0011223344556677"),
        (NAME, "name.iqn.2001-04.com.example:lu1"),
        (UUID, "uuid.00112233-4455-6677-8899-aabbccddeeff"),
        (T10, r"t10.LIO-ORG\x20disk0:abc"),
        (VENDOR, r"vendor.disk\x20one"),
        (Designator(LU, Kind.NAA, 1, NAA6.value[:15]), None),
        (Designator(LU, Kind.NAA, 1, b""), None),
        (Designator(LU, Kind.NAA, 2, NAA5.value), None),
        (Designator(LU, Kind.EUI64, 1, bytes(9)), None),
        (Designator(LU, Kind.UUID, 1, bytes(18)), None),
        (Designator(LU, Kind.T10, 2, b" \0"), None),
        (Designator(LU, Kind.MD5, 1, bytes(16)), None),
        (Designator(LU, 15, 1, bytes(8)), None),
    ],
)
def test_text(designator, text):
    assert designator.text == text
    if text is None:
        assert lu_name_partial(page(designator)) is None
        with pytest.raises(MalformedError, match="names no logical unit"):
            lu_name(page(designator))
    else:
        assert lu_name(page(designator)) == text


@pytest.mark.parametrize("at", range(len(BEST_FIRST) - 1))
def test_the_better_name_wins(at):
    better, worse = BEST_FIRST[at : at + 2]
    assert lu_name(page(worse, better)) == better.text
    assert lu_name(page(better, worse)) == better.text


def test_first_of_equals_wins():
    other = Designator(LU, Kind.NAA, 1, b"\x60" + bytes(15))
    assert lu_name(page(NAA6, other)) == NAA6.text


def test_names_of_ports_and_devices_are_not_the_unit():
    port = Designator(PORT, Kind.NAA, 1, NAA5.value)
    device = Designator(Association.TARGET_DEVICE, Kind.NAA, 1, NAA6.value)
    assert lu_name(page(port, device, VENDOR)) == VENDOR.text


def test_cut_page_names_by_naa_6_only():
    assert lu_name_partial(page(T10, NAA6, RTPI)[:-1]) == NAA6.text
    assert lu_name(page(T10, NAA6, RTPI)[:-1]) == NAA6.text
    assert lu_name_partial(page(NAA5, NAA6)[:-1]) is None
    with pytest.raises(MalformedError, match="cut off"):
        lu_name(page(NAA5, NAA6)[:-1])


def test_descriptor_that_runs_past_the_page():
    raw = bytearray(page(NAA5, T10))
    raw[4 + 12 + 3] = 200
    parsed = IdentificationPage.parse(bytes(raw))
    assert parsed.designators == (NAA5,)
    assert not parsed.truncated
    assert parsed.problem == "descriptor 1 runs past the end"
    assert lu_name(bytes(raw)) == NAA5.text


def test_another_page_is_refused():
    with pytest.raises(MalformedError, match="0x80"):
        lu_name(bytes.fromhex("00800004 41424344"))


def test_relative_target_port():
    assert relative_target_port(page(NAA6, RTPI)) == 0x0102
    assert relative_target_port(page(NAA6)) is None
    assert relative_target_port(page(NAA6, RTPI)[:-1]) is None


def test_target_port():
    naa = Designator(PORT, Kind.NAA, 1, bytes.fromhex("5001405aabbccdde"), 6)
    name = Designator(PORT, Kind.NAME_STRING, 3, b"iqn.2003-01.org.x:t,t,0x0001\0", 5)
    assert target_port(page(NAA6, naa)) == "naa.5001405aabbccdde"
    assert target_port(page(NAA6, name)) == "iqn.2003-01.org.x:t,t,0x0001"
    assert target_port(page(name, naa)) == "naa.5001405aabbccdde"
    assert target_port(page(NAA6, RTPI)) is None
