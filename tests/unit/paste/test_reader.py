"""Any text: it is read, or refused with a hint."""
# ruff: noqa: E501  # log lines are as long as they are

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prtrace.errors import MalformedError
from prtrace.paste.reader import read_text
from prtrace.paste.shown import shown


@pytest.mark.parametrize(
    "text", ["hello world", "nvme0n1: reservation conflict", "Nov 27 21:43 x"]
)
def test_what_is_not_understood_is_refused_with_a_hint(text):
    with pytest.raises(MalformedError) as caught:
        read_text(f"{text}\n{text}")
    assert caught.value.hint


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text):
    try:
        found = read_text(text)
    except MalformedError:
        return
    if not isinstance(found, bytes):
        for each in found:
            try:
                list(shown(each, "keys"))
            except MalformedError:
                continue


_WORDS = st.sampled_from([
    "sd 1:0:0:0: ", "[sda] ", "tag#1 ", "reservation conflict", "CDB: ", "5f 01 ", "Result: hostbyte=",
    "Sense Key : ", "Unit Attention", "PR generation=0x1, ", "Additional length=8", "\n", " 00     ",
    "00 11 22", "H:0x0 D:0x18 P:0x0", "cmnd=(X - raw=5f)", "Raw sense data\n", "PR_REG_START: 0\n",
    "sa_res_key=x\n", "PR_REG_END: 0\n", "Reservation follows", "Key=0x", "99999999999", "sense = 062a03",
])  # fmt: skip


@given(st.lists(_WORDS, max_size=12).map("".join))
def test_pieces_in_any_order_are_read_or_refused(text):
    test_any_text_is_read_or_refused.hypothesis.inner_test(text)
