import pytest
from hypothesis import given
from hypothesis import strategies as st
from scsi_forms import parses_or_refuses

from prtrace.errors import MalformedError
from prtrace.scsi.hexfile import parse_hex


@pytest.mark.parametrize(
    "text",
    ["5e 00 12", "5E0012", "0x5e 0X00 0x12", "5e # ff\n00\t12\n# 33", "\n\n5e00\r\n12\n"],
)
def test_forms(text):
    assert parse_hex(text) == b"\x5e\x00\x12"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no bytes"),
        ("# 5e\n", "holds no bytes"),
        ("5e\n5", "line 2: '5' has an odd number"),
        ("5e 0x", "line 1: '0x' is not hex"),
        ("5e zz", "'zz' is not hex"),
        ("5e, 00", "'5e,' is not hex"),
        ("\N{ARABIC-INDIC DIGIT ONE}\N{ARABIC-INDIC DIGIT ONE}", "is not hex"),
        ("x" * 1000, "line 1: '" + "x" * 40 + "' is not hex"),
    ],
)
def test_refused(text, words):
    with pytest.raises(MalformedError, match=words):
        parse_hex(text)


@given(st.binary(min_size=1, max_size=100), st.sampled_from(["", " ", "\n", " # c\n"]))
def test_round_trip(raw, between):
    assert parse_hex(between.join(f"{byte:02x}" for byte in raw)) == raw


@given(st.text(max_size=100) | st.text("0123456789abcdefxX# \n", max_size=100))
def test_any_text(text):
    parses_or_refuses(parse_hex, text)
