"""The time at the beginning of a log line, as far as the line tells it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from prtrace.errors import UsageError

SECOND_NS: Final = 1_000_000_000
MOMENT_NS: Final = 100_000_000
"""Between lines of one command, at most."""
_ISO: Final = re.compile(
    r"(?P<date>\d{4}-\d{2}-\d{2})[T ](?P<time>\d{2}:\d{2}:\d{2})(?:[.,](?P<part>\d{1,9}))?"
    r"(?P<zone>Z|[+-]\d{2}:?\d{2})?(?=\s|$|\])"
)
_BOOT: Final = re.compile(r"\[\s*(?P<seconds>\d{1,10})\.(?P<part>\d{1,9})\]")
_HUMAN: Final = re.compile(
    r"\[?(?:\w{3} )?(?P<month>[A-Z][a-z]{2}) +(?P<day>\d{1,2}) (?P<time>\d{2}:\d{2}:\d{2})"
    r"(?:\.(?P<part>\d{1,9}))?(?: (?P<year>\d{4}))?\]?(?=\s|$)"
)
_ZONE: Final = re.compile(r"(?P<sign>[+-])(?P<hours>\d{2}):?(?P<minutes>\d{2})")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun",
                  "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Clock:
    """What the user says about times that lines tell in part."""

    boot_ns: int | None = None
    """When the machine started, nanoseconds since the epoch."""
    year: int | None = None
    zone: tzinfo | None = None


@dataclass(frozen=True, slots=True)
class Stamp:
    """A time as a line has it."""

    since_boot_ns: int | None = None
    """Nanoseconds since the machine started, where the line has nothing else."""
    local: datetime | None = None
    """The date and time; its tzinfo is None where the line has no zone."""
    part_ns: int = 0
    """Nanoseconds behind the full second of local."""
    year: bool = True
    """Whether the line has the year."""

    def ns(self, clock: Clock) -> int:
        """Nanoseconds since the epoch.

        UsageError where the line does not tell it, with the option that does.
        """
        if self.since_boot_ns is not None:
            if clock.boot_ns is None:
                raise UsageError(
                    "the time is counted from the start of the machine",
                    hint="name that with --boot TIME, or take the log by dmesg --time-format iso",
                )
            return clock.boot_ns + self.since_boot_ns
        if self.local is None:
            raise UsageError("there is no time in it")
        moment = self.local
        if not self.year:
            if clock.year is None:
                raise UsageError("the time has no year", hint="name it with --year")
            try:
                moment = moment.replace(year=clock.year)
            except ValueError:
                day = f"{moment:%b %d}"
                raise UsageError(f"{clock.year} has no {day}", hint="name its --year") from None
        if moment.tzinfo is None:
            if clock.zone is None:
                raise UsageError("the time has no zone", hint="name it with --zone +01:00")
            moment = moment.replace(tzinfo=clock.zone)
            if moment.utcoffset() != moment.replace(fold=1).utcoffset():
                raise UsageError(
                    "the zone's clocks were set in that hour: which time it is is not known",
                    hint="name the offset then with --zone +01:00",
                )
        since = moment - datetime(1970, 1, 1, tzinfo=UTC)
        return (since.days * 86_400 + since.seconds) * SECOND_NS + self.part_ns


def split_stamp(line: str) -> tuple[Stamp | None, str]:
    """A line's time, and the rest of the line; None where it begins with no time."""
    text = line.lstrip()
    if (found := _BOOT.match(text)) is not None:
        part = _part(found["part"])
        return Stamp(int(found["seconds"]) * SECOND_NS + part), text[found.end() :].strip()
    for form in (_ISO, _HUMAN):
        if (found := form.match(text)) is not None:
            stamp = _iso(found) if form is _ISO else _human(found)
            if stamp is not None:
                return stamp, text[found.end() :].strip()
    return None, text.rstrip()


def parse_zone(text: str) -> tzinfo:
    """A zone as "Z", "+01:00", "-0500" or "Europe/Berlin"; UsageError for anything else."""
    if "/" in text:
        try:
            return ZoneInfo(text)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            pass  # no such zone here, or no name of one
    found = _ZONE.fullmatch(text)
    if text in ("Z", "UTC"):
        return UTC
    if found is None or int(found["hours"]) > 14 or int(found["minutes"]) > 59:
        raise UsageError(f"{text!r} is no time zone", hint="+01:00, -05:00, Z or Europe/Berlin")
    offset = timedelta(hours=int(found["hours"]), minutes=int(found["minutes"]))
    return timezone(-offset if found["sign"] == "-" else offset)


def _part(digits: str | None) -> int:
    return int((digits or "").ljust(9, "0"))


def _iso(found: re.Match[str]) -> Stamp | None:
    zone = found["zone"]
    try:
        moment = datetime.fromisoformat(f"{found['date']}T{found['time']}")
    except ValueError:
        return None
    if zone is not None:
        moment = moment.replace(tzinfo=parse_zone(zone))
    return Stamp(local=moment, part_ns=_part(found["part"]))


def _human(found: re.Match[str]) -> Stamp | None:
    if found["month"] not in _MONTHS:
        return None
    month = _MONTHS.index(found["month"]) + 1
    hours, minutes, seconds = (int(each) for each in found["time"].split(":"))
    year = found["year"]
    try:
        moment = datetime(  # noqa: DTZ001  # the line has no zone
            int(year or 2000), month, int(found["day"]), hours, minutes, seconds
        )
    except ValueError:
        return None
    return Stamp(local=moment, part_ns=_part(found["part"]), year=year is not None)
