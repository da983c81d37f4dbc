"""Text for terminals: harmless, aligned, short."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prtrace.cli import text

NOW = datetime(2026, 11, 27, 18, 52, 38, tzinfo=UTC)


@given(st.text(max_size=60))
def test_what_others_chose_has_no_control_characters(name):
    assert text.plain(name).isprintable()


@given(st.text(alphabet="ab c-d", min_size=1, max_size=300))
def test_a_labelled_text_keeps_to_the_width_and_loses_no_word(words):
    found = text.labelled("reservation", words)
    assert all(len(line) <= text.WIDTH for line in found if " " in line.strip())
    assert " ".join(found).split() == ["reservation", *words.split()]


@given(st.lists(st.lists(st.text(max_size=8), min_size=3, max_size=3), max_size=5))
def test_the_cells_of_a_column_begin_one_below_the_other(rows):
    found = text.table([["KEY", "NEXUS", "BY"], *rows], indent=2)
    assert len(found) == len(rows) + 1
    second = found[0].index("NEXUS")
    for line, row in zip(found[1:], rows, strict=True):
        cell = text.plain(row[1]).rstrip()
        assert not cell or line[second : second + len(cell)] == cell


def test_a_table_without_rows_is_empty():
    assert text.table([]) == []


@pytest.mark.parametrize(
    ("moment", "said"),
    [
        ("2026-11-27T18:52:38Z", "0 s"),
        ("2026-11-27T18:51:39Z", "59 s"),
        ("2026-11-27T18:51:38Z", "1 min"),
        ("2026-11-27T16:52:38Z", "2 h"),
        ("2026-11-24T18:52:37Z", "3 d"),
        ("2026-11-27T18:52:42Z", "0 s"),  # two clocks differ a little
        ("2026-11-27T18:53:00Z", "?"),  # the clock was set back
        ("yesterday\x1b", "yesterday\\x1b"),
    ],
)
def test_age(moment, said):
    assert text.age(moment, NOW) == said


def test_a_time_of_today_has_no_date():
    assert text.clock("2026-11-27T18:00:00Z", NOW).count(":") == 2
    assert "-" not in text.clock(NOW.isoformat(), NOW)
    assert "-" in text.clock("2026-11-20T18:00:00Z", NOW)


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (16 << 20, "16 MiB"),
        (5 << 40, "5120 GiB"),
    ],
)
def test_amount(size, said):
    assert text.amount(size) == said


@given(st.text(max_size=30), st.integers(1, 40))
def test_cut_keeps_to_the_columns(words, columns):
    found = text.cut(words, columns)
    assert len(found) <= columns
    assert found == words or (found.endswith("…") and words.startswith(found[:-1]))
