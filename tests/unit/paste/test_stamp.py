from datetime import UTC, datetime, timedelta, timezone

import pytest

from prtrace.errors import UsageError
from prtrace.paste.stamp import Clock, parse_zone, split_stamp

SECOND = 1_000_000_000
NOON = int(datetime(2026, 11, 27, 12, tzinfo=UTC).timestamp()) * SECOND


@pytest.mark.parametrize(
    ("line", "ns"),
    [
        ("2026-11-27T12:00:00Z rest", NOON),
        ("2026-11-27T12:00:00.25Z rest", NOON + SECOND // 4),
        ("2026-11-27T13:00:00,123456+01:00 rest", NOON + 123_456_000),
        ("2026-11-27T07:00:00-0500 rest", NOON),
        ("  2026-11-27 12:00:00.000000001+00:00 rest", NOON + 1),
    ],
)
def test_whole_times(line, ns):
    stamp, rest = split_stamp(line)
    assert stamp.ns(Clock()) == ns
    assert rest == "rest"


@pytest.mark.parametrize(
    ("line", "clock", "ns"),
    [
        ("[    1.500000] rest", Clock(boot_ns=NOON), NOON + 3 * SECOND // 2),
        ("Nov 27 12:00:00 rest", Clock(year=2026, zone=UTC), NOON),
        ("Nov  7 12:00:00 rest", Clock(year=2026, zone=UTC), NOON - 20 * 86_400 * SECOND),
        ("[Fri Nov 27 13:00:00 2026] rest", Clock(zone=timezone(timedelta(hours=1))), NOON),
        ("2026-11-27T12:00:00 rest", Clock(zone=UTC), NOON),
    ],
)
def test_what_the_line_lacks_comes_from_the_user(line, clock, ns):
    stamp, rest = split_stamp(line)
    assert stamp.ns(clock) == ns
    assert rest == "rest"
    with pytest.raises(UsageError) as caught:
        stamp.ns(Clock())
    assert caught.value.hint


@pytest.mark.parametrize(
    "line",
    ["", "rest", "2026-13-27T12:00:00Z x", "Nov 31 12:00:00 x", "Foo 27 12:00:00 x", "[x] y"],
)
def test_no_time(line):
    assert split_stamp(line)[0] is None


def test_a_day_that_the_year_has_not_is_refused():
    stamp, _ = split_stamp("Feb 29 12:00:00 rest")
    assert stamp.ns(Clock(year=2028, zone=UTC))
    with pytest.raises(UsageError, match="2026 has no Feb 29"):
        stamp.ns(Clock(year=2026, zone=UTC))


def test_zones():
    assert parse_zone("Z") is UTC
    summer, winter = (datetime(2026, month, 1, tzinfo=UTC) for month in (7, 12))
    berlin = parse_zone("Europe/Berlin")
    hours = [each.astimezone(berlin).hour for each in (summer, winter)]
    assert hours == [2, 1]
    assert parse_zone("-0530").utcoffset(None) == -timedelta(hours=5, minutes=30)
    for text in ("", "+1", "CET", "+99:00", "+01:60", "No/Where", "../../etc/passwd", "Europe/"):
        with pytest.raises(UsageError):
            parse_zone(text)
