import pytest
from hypothesis import given
from hypothesis import strategies as st
from scsi_forms import parses_or_refuses, senses

from prtrace.errors import MalformedError
from prtrace.model import Attention
from prtrace.scsi.sense import Sense, attention

PREEMPTED_FIXED = bytes.fromhex("70 00 06 00000000 0a 00000000 2a 03 00 000000")
PREEMPTED_DESCRIPTOR = bytes.fromhex("72 06 2a 03 000000 00")


@given(senses)
def test_round_trip(sense):
    raw = sense.build()
    parsed = Sense.parse(raw)
    assert parsed == sense
    assert parsed.raw == raw
    # The kernel pads to 96 bytes, and bit 7 of a fixed response code is VALID.
    assert Sense.parse(raw.ljust(96, b"\0")) == sense
    assert Sense.parse(bytes([raw[0] | 0x80]) + raw[1:]) == sense


@given(st.binary(max_size=100) | st.binary(max_size=30).map(lambda raw: b"\x70" + raw))
def test_any_bytes(raw):
    sense = parses_or_refuses(Sense.parse, raw)
    if sense is not None:
        assert sense.text
        attention(sense)


@given(senses)
def test_cut_sense_never_invents_a_code(sense):
    raw = sense.build()
    for cut in range(len(raw)):
        part = parses_or_refuses(Sense.parse, raw[:cut])
        if part is not None:
            assert part.key == sense.key
            assert part.asc in (None, sense.asc)
            assert part.ascq in (None, sense.ascq)


@pytest.mark.parametrize("raw", [PREEMPTED_FIXED, PREEMPTED_DESCRIPTOR])
def test_both_formats(raw):
    sense = Sense.parse(raw)
    assert (sense.key, sense.asc, sense.ascq, sense.deferred) == (6, 0x2A, 3, False)
    assert sense.text == "UNIT ATTENTION 2A/03 RESERVATIONS PREEMPTED"
    assert sense.build() == raw


@pytest.mark.parametrize("code", [0x71, 0x73])
def test_deferred(code):
    sense = Sense(code, 4, 0x44, 0)
    assert Sense.parse(sense.build()).deferred
    assert sense.text == "HARDWARE ERROR 44/00 INTERNAL TARGET FAILURE (deferred)"


@pytest.mark.parametrize(
    ("raw", "asc", "ascq"),
    [
        (PREEMPTED_FIXED[:3], None, None),
        (PREEMPTED_FIXED[:12], None, None),
        (PREEMPTED_FIXED[:13], 0x2A, None),
        (PREEMPTED_FIXED[:14], 0x2A, 3),
        (PREEMPTED_FIXED[:7] + b"\0" + PREEMPTED_FIXED[8:], None, None),
        (PREEMPTED_FIXED[:7] + b"\5" + PREEMPTED_FIXED[8:], 0x2A, None),
        (PREEMPTED_DESCRIPTOR[:2], None, None),
        (PREEMPTED_DESCRIPTOR[:3], 0x2A, None),
    ],
)
def test_absent_codes_are_none(raw, asc, ascq):
    sense = Sense.parse(raw)
    assert (sense.key, sense.asc, sense.ascq) == (6, asc, ascq)


@pytest.mark.parametrize("raw", [b"", b"\x70", b"\x70\0", b"\x72", b"\x7f" + bytes(17), bytes(18)])
def test_no_sense_data_is_refused(raw):
    with pytest.raises(MalformedError):
        Sense.parse(raw)


@pytest.mark.parametrize(
    ("key", "asc", "ascq", "text"),
    [
        (6, 0x2A, 0x04, "UNIT ATTENTION 2A/04 RESERVATIONS RELEASED"),
        (6, 0x2A, 0x05, "UNIT ATTENTION 2A/05 REGISTRATIONS PREEMPTED"),
        (6, 0x29, 0x00, "UNIT ATTENTION 29/00 POWER ON, RESET, OR BUS DEVICE RESET OCCURRED"),
        (6, 0x29, 0x07, "UNIT ATTENTION 29/07 I_T NEXUS LOSS OCCURRED"),
        (5, 0x1A, 0x00, "ILLEGAL REQUEST 1A/00 PARAMETER LIST LENGTH ERROR"),
        (5, 0x20, 0x00, "ILLEGAL REQUEST 20/00 INVALID COMMAND OPERATION CODE"),
        (5, 0x24, 0x00, "ILLEGAL REQUEST 24/00 INVALID FIELD IN CDB"),
        (5, 0x26, 0x00, "ILLEGAL REQUEST 26/00 INVALID FIELD IN PARAMETER LIST"),
        (5, 0x26, 0x04, "ILLEGAL REQUEST 26/04 INVALID RELEASE OF PERSISTENT RESERVATION"),
        (5, 0x55, 0x04, "ILLEGAL REQUEST 55/04 INSUFFICIENT REGISTRATION RESOURCES"),
        (2, 0x08, 0x00, "NOT READY 08/00 LOGICAL UNIT COMMUNICATION FAILURE"),
        (6, 0x3F, 0x0E, "UNIT ATTENTION 3F/0E REPORTED LUNS DATA HAS CHANGED"),
        (3, 0x11, 0x00, "MEDIUM ERROR 11/00"),
        (6, 0x2A, None, "UNIT ATTENTION 2A/??"),
        (6, None, None, "UNIT ATTENTION"),
    ],
)
def test_text(key, asc, ascq, text):
    assert Sense(0x70, key, asc, ascq).text == text


@pytest.mark.parametrize(
    ("key", "asc", "ascq", "news"),
    [
        (6, 0x2A, 0x03, Attention.RESERVATIONS_PREEMPTED),
        (6, 0x2A, 0x04, Attention.RESERVATIONS_RELEASED),
        (6, 0x2A, 0x05, Attention.REGISTRATIONS_PREEMPTED),
        (6, 0x29, 0x00, Attention.RESET),
        (6, 0x29, 0x07, Attention.RESET),
        (6, 0x29, None, Attention.RESET),
        (6, 0x44, 0x01, Attention.INFORMATION_LOST),
        (4, 0x44, 0x01, Attention.INFORMATION_LOST),
        (6, 0x2A, 0x09, None),
        (6, 0x2A, None, None),
        (6, 0x44, 0x00, None),
        (5, 0x2A, 0x03, None),
        (6, None, None, None),
    ],
)
def test_attention(key, asc, ascq, news):
    assert attention(Sense(0x70, key, asc, ascq)) is news
