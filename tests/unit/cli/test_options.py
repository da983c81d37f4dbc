"""Options that several commands have: --since in each of its forms, and what is none."""

from datetime import UTC, datetime, timedelta

import click
import pytest

from prtrace.cli.options import Seconds, parse_since

CONTEXT = click.Context(click.Command("events"))
PARAMETER = click.Option(["--since"])


def since(text):
    return parse_since(CONTEXT, PARAMETER, text)


def test_nothing_and_a_number():
    assert since(None) == (0, None)
    assert since("17") == (17, None)


@pytest.mark.parametrize(
    ("text", "ago"),
    [
        ("30s", timedelta(seconds=30)),
        ("10m", timedelta(minutes=10)),
        ("10min", timedelta(minutes=10)),
        ("2h", timedelta(hours=2)),
        ("3d", timedelta(days=3)),
    ],
)
def test_an_age(text, ago):
    sequence, moment = since(text)
    assert sequence == 0
    passed = datetime.now(UTC) - datetime.fromisoformat(moment)
    assert timedelta(0) <= passed - ago < timedelta(minutes=1)


def test_an_age_before_all_clocks_is_their_beginning():
    assert datetime.fromisoformat(since("99999999d")[1]) == datetime(1970, 1, 1, tzinfo=UTC)


def test_a_time_with_and_without_zone():
    zoned = datetime.fromisoformat(since("2026-01-31T12:00:00+02:00")[1])
    assert zoned == datetime(2026, 1, 31, 10, tzinfo=UTC)
    assert datetime.fromisoformat(since("2026-01-31T12:00")[1]).tzinfo is not None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "10x",
        "-5",
        "2026-13-01",
        "10 mm",
        "0001-01-01",
        "9" * 5000,
        "9" * 40 + "s",
    ],
)
def test_another_text_is_refused_with_the_forms(text):
    with pytest.raises(click.BadParameter, match="no age"):
        since(text)


def test_no_number_lies_in_no_range():
    with pytest.raises(click.BadParameter, match="no number of seconds"):
        Seconds(0.5, 600).convert("nan", None, None)
    assert Seconds(0.5, 600).convert("5", None, None) == 5
