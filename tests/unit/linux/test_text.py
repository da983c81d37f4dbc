from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prtrace.linux.text import clean


@pytest.mark.parametrize(
    ("text", "limit", "wanted"),
    [
        ("qemu-kvm", 16, "qemu-kvm"),
        ("", 16, ""),
        ("größe", 16, "größe"),
        ("a\nb", 16, r"a\x0ab"),
        ("\x1b[2J", 16, r"\x1b[2J"),
        ("\x7f\x85", 16, r"\x7f\x85"),
        ("a\u202eb", 16, r"a\u202eb"),
        (b"\xff".decode("utf-8", "surrogateescape"), 16, r"\udcff"),
        ("abcdef", 6, "abcdef"),
        ("abcdefg", 6, "abcde…"),
        ("\n\n\n", 6, r"\x0a\…"),
    ],
)
def test_only_printable_text_is_left(text: str, limit: int, wanted: str) -> None:
    assert clean(text, limit) == wanted


@given(st.text(alphabet=st.characters(), max_size=64), st.integers(1, 64))
def test_any_text_becomes_printable_and_bounded(text: str, limit: int) -> None:
    result = clean(text, limit)
    assert result.isprintable()
    assert len(result) <= limit
    result.encode()


@given(st.text(max_size=64))
def test_cleaning_twice_changes_nothing(text: str) -> None:
    assert clean(clean(text, 80), 80) == clean(text, 80)
