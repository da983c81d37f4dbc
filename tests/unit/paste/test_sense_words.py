"""Sense data in numbers and in words."""
# ruff: noqa: E501  # log lines are as long as they are

import pytest

from paste.lines import only
from prtrace.errors import MalformedError
from prtrace.paste.reader import read_text
from prtrace.paste.seen import SenseTriple


@pytest.mark.parametrize(
    ("text", "triple"),
    [
        ("06/2a/03", (6, 0x2A, 3)),
        ("0x5 0x20 0x0", (5, 0x20, 0)),
        ("5/24/0", (5, 0x24, 0)),
        ("6h/2Ah/05h", (6, 0x2A, 5)),
        ("062a01", (6, 0x2A, 1)),
        ("sense data: 0x6 0x2a 0x5.", (6, 0x2A, 5)),
        ("9447 LTFS30201D CDB check condition: sense = 062a03, Reservations Preempted.", (6, 0x2A, 3)),
        ("SENSE KEY:ILLEGAL_REQUEST(5) ASCQ:INVALID_FIELD_IN_CDB(0x2400)", (5, 0x24, 0)),
        ("Sense Key : Unit Attention [current]", (6, None, None)),
        ("Sense Key : Unit Attention [current]\nAdd. Sense: Reservations preempted", (6, 0x2A, 3)),
        ("Sense Key : Illegal Request [current]\nAdd. Sense: ASC=0x99 ASCQ=0x1", (5, 0x99, 1)),
    ],
)  # fmt: skip
def test_sense_in_numbers_and_words(text, triple):
    assert only(text).triple == SenseTriple(*triple)


def test_three_bytes_are_sense_where_they_are_a_known_code():
    assert isinstance(read_text("0abcde"), bytes), "it may be a key"


@pytest.mark.parametrize("text", ["6 4 0", "6 29 00", "6 2a 5", "06 29 05", "6,0x29,0"])
def test_numbers_that_are_hex_or_the_same_in_decimal_are_sense(text):
    assert only(text).triple.key == 6


@pytest.mark.parametrize("text", ["6 41 0", "6, 41, 3", "5 32 0", "6,29,5"])
def test_numbers_that_may_be_decimal_are_refused(text):
    with pytest.raises(MalformedError, match="decimal") as caught:
        only(text)
    assert "0x" in caught.value.hint
