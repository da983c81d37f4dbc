from hypothesis import given
from hypothesis import strategies as st

from prtrace.scsi.text import escape


@given(st.binary(max_size=60), st.sampled_from([b"", b",", b"abc"]))
def test_text_is_printable_and_nothing_is_lost(raw, also):
    text = escape(raw, also=also)
    assert all(0x21 <= ord(char) <= 0x7E for char in text)
    assert text.encode().decode("unicode_escape").encode("latin-1") == raw


def test_forms():
    assert escape(b"iqn.2004-10.com.x:a") == "iqn.2004-10.com.x:a"
    assert escape(b"a b\x1b\\\x7f\xe9") == r"a\x20b\x1b\x5c\x7f\xe9"
    assert escape(b"a,b", also=b",") == r"a\x2cb"
