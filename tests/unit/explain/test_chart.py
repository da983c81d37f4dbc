"""Lanes, bands and marks of stories, and the same as trace events."""

import json
from pathlib import Path

import pytest

from explain.story import LU, read
from prtrace.cli.history import look
from prtrace.explain.chart import EVERY_LANE, Lasting, Sort, chart
from prtrace.explain.perfetto import trace
from prtrace.explain.recording import Recording
from prtrace.explain.timeline import timeline

STORIES = sorted(Path(__file__).with_name("stories").glob("*.txt"))


def drawn(name):
    file = next(each for each in STORIES if each.stem == name)
    return chart(LU, [(host, timeline(events, LU)) for host, events in read(file).hosts.items()])


def test_a_nexus_that_two_hosts_saw_has_one_lane():
    made = drawn("fenced-by-a-host-that-recorded")
    assert made.lanes == ["node1 /dev/sda 1:0:0:0", "node2 /dev/sdc 5:0:0:0"]
    held = [each for each in made.bands if each.what is Lasting.HOLDER]
    assert {each.lane for each in held} == {0, 1}
    assert all("WERO" in each.text for each in held)


def test_a_band_lasts_from_the_command_that_began_it_to_the_one_that_ended_it():
    made = drawn("it-left-by-itself")
    (registered,) = (each for each in made.bands if each.what is Lasting.REGISTERED)
    changes = [each.at for each in made.marks if each.sort is Sort.CHANGED]
    assert [registered.begin, registered.end] == changes


def test_a_time_that_nobody_watched_is_a_band_of_the_whole_unit():
    bands = drawn("nobody-watched").bands
    (gap,) = (each for each in bands if each.what is Lasting.NOT_WATCHED)
    assert gap.lane == EVERY_LANE
    assert gap.end - gap.begin > 3000 * 10**6
    others = [each for each in bands if each is not gap]
    assert others
    assert all(each.end <= gap.begin or each.begin >= gap.end for each in others)


def test_an_address_that_becomes_another_nexus_has_another_lane(tmp_path):
    """The first nexus comes back under another address, too."""
    file = tmp_path / "story.txt"
    file.write_text(
        "paths sda=1:0:0:0@naa.2100000000000aaa,1\n"
        "12:00:00 prtrace sda FULL 0\n"
        "12:01:00 paths sda=1:0:0:0@naa.2100000000000bbb,1\n"
        "12:02:00 fence_scsi sda REGISTER 0 b1\n"
        "12:03:00 paths sda=1:0:0:0@naa.2100000000000bbb,1 sdb=2:0:0:0@naa.2100000000000aaa,1\n"
        "12:04:00 fence_scsi sdb REGISTER 0 a1\n"
    )
    made = chart(LU, [("h", timeline(read(file).hosts[""], LU))])
    keys = {band.lane: band.text[-2:] for band in made.bands if band.what is Lasting.REGISTERED}
    assert keys == {0: "a1", 1: "b1"}
    changed = [each.lane for each in made.marks if each.sort is Sort.CHANGED]
    assert changed == [1, 0]


@pytest.mark.parametrize("file", STORIES, ids=lambda file: file.stem)
def test_every_event_is_drawn_in_the_page_and_in_the_trace(file):
    story = read(file)
    made = drawn(file.stem)
    assert made.start % 1_000_000 == 0, "a page's times end at milliseconds"
    told = json.loads(json.dumps(made.to_json()))
    steps = [timeline(events, LU) for events in story.hosts.values()]
    assert len(told["marks"]) == sum(map(len, steps))
    assert [each[0] for each in told["marks"]] == sorted(each[0] for each in told["marks"])
    for lane, kind, begin, end, text in told["bands"]:
        assert -1 <= lane < len(told["lanes"])
        assert begin <= end
        assert told["words"][text]
        assert told["lasting"][kind]
    events = trace([made])["traceEvents"]
    assert len([each for each in events if each["ph"] == "i"]) == len(told["marks"])
    assert len([each for each in events if each["ph"] == "X"]) == len(told["bands"])
    named = {each["tid"] for each in events if each["name"] == "thread_name"}
    assert {each["tid"] for each in events} <= named


def test_a_cause_of_another_host_is_drawn_before_its_effect():
    """The other host's clock is 90 s ahead."""
    hosts = read(STORIES[0].with_name("fenced-and-not-to-fence-back.txt")).hosts
    looked = look([Recording(host, tuple(each)) for host, each in hosts.items()], LU)
    made = chart(LU, looked.steps, looked.joined.ahead)
    (cause,) = [each for each in made.marks if each.what.startswith("PREEMPT ")]
    (effect,) = [each for each in made.marks if each.sort is Sort.ATTENTION]
    assert cause.at < effect.at


def test_what_a_mark_says_is_what_the_common_history_shows():
    """The host that preempted had not seen the other's key itself."""
    hosts = read(STORIES[0].with_name("fenced-by-a-host-that-recorded.txt")).hosts
    looked = look([Recording(host, tuple(each)) for host, each in hosts.items()], LU)
    made = chart(LU, looked.steps, looked.joined.ahead)
    (cause,) = [each for each in made.marks if each.what.startswith("PREEMPT ")]
    assert "preempted 1 registration" in cause.result
