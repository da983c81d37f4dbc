"""Several hosts' recordings are one history, in whatever order they are given."""

import json
import random
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from explain import story
from explain.story import LU
from explain.test_skew import START, recorded
from prtrace.cli.history import in_order, look
from prtrace.explain.account import account
from prtrace.explain.joined import join
from prtrace.explain.recording import Recording

SECOND = 10**9
STORIES = Path(story.__file__).with_name("stories")
SEVERAL = [file for file in sorted(STORIES.glob("*.txt")) if file.read_text().count("\nhost ") > 1]


def recordings(file):
    return [Recording(host, tuple(each)) for host, each in story.read(file).hosts.items()]


def facts(given_):
    """The account without what stands in the order of the files."""
    looked = look(given_, LU)
    told = account(looked.unit, looked.steps, joined=looked.joined)
    told.pop("recorded")
    return json.loads(json.dumps(told))


def test_several_stories_have_several_hosts():
    assert len(SEVERAL) >= 5


@pytest.mark.parametrize("file", SEVERAL, ids=lambda file: file.stem)
def test_the_order_of_the_files_makes_no_difference(file):
    each_order = [facts(list(order)) for order in permutations(recordings(file))]
    assert all(told == each_order[0] for told in each_order)


@pytest.mark.parametrize("file", SEVERAL, ids=lambda file: file.stem)
def test_every_event_is_listed_once_and_each_host_s_in_its_order(file):
    given_ = recordings(file)
    listed = in_order(given_, ())
    for each in given_:
        assert [event.seq for host, event in listed if host == each.host] == [
            event.seq for event in each.events
        ]


@given(
    st.lists(st.tuples(st.integers(1, 2), st.sampled_from(["REGISTER", "READ"])), max_size=12),
    st.integers(-200, 200).map(lambda each: each * SECOND),
)
def test_what_is_said_to_be_ordered_is_ordered(happened, ahead):
    """Whatever the clocks: of two hosts' events the earlier one is never said to be the later."""
    one, other = recorded(happened, 1, 0), recorded(happened, 2, ahead)
    joined = join([("a", one), ("b", other)], LU)
    truth = {}
    for host, steps, skew in (("a", one, 0), ("b", other, ahead)):
        for step in steps:
            truth[host, step.event.seq] = step.event.time - skew
    for first in joined.origins:
        for second in joined.origins:
            if first.host == second.host:
                continue
            at, then = truth[first.host, first.event.seq], truth[second.host, second.event.seq]
            if first.span.is_before(second.span):
                assert at <= then, (first, second)


def test_a_history_that_the_clocks_contradict_is_in_doubt():
    one = recorded([(1, "READ"), (1, "REGISTER"), (1, "READ"), (1, "REGISTER"), (1, "READ")], 1, 0)
    happened = [(2, "READ"), (1, "REGISTER"), (2, "READ"), (1, "REGISTER"), (2, "READ")]
    early = recorded(happened[:1], 2, 60 * SECOND)
    late = recorded(happened, 2, 0)[1:]
    events = [
        (host, [step.event._replace(seq=seq) for seq, step in enumerate(steps, 1)])
        for host, steps in (("a", one), ("b", early + late))
    ]
    looked = look([Recording(host, tuple(each)) for host, each in events], LU)
    told = account(looked.unit, looked.steps, joined=looked.joined)
    assert any("no difference of the hosts' clocks" in each["reason"] for each in told["doubt"])


def test_until_a_time_of_the_first_host_s_clock():
    """What the other host did before that moment is in it, whatever its own clock said."""
    given_ = recordings(STORIES / "fenced-and-not-to-fence-back.txt")
    lost = next(each for each in facts(given_)["incidents"] if each["kind"] == "lost registration")
    for order in permutations(given_):
        looked = look(list(order), LU, until=given_[0].events[6].time + SECOND // 2)
        if order[0].host == "stor1":
            told = account(looked.unit, looked.steps, joined=looked.joined)
            assert lost["chain"][0] in [
                link for each in told["incidents"] for link in each["chain"]
            ]


def test_two_recordings_of_one_host_are_one_host_s():
    whole = recordings(STORIES / "cleared-by-a-third-host.txt")
    events = whole[0].events
    parts = [
        Recording("hv1", events[:4]),
        Recording("hv1", tuple(each._replace(seq=n) for n, each in enumerate(events[4:], 1))),
    ]
    random.Random(START).shuffle(parts)
    assert facts([*parts, *whole[1:]])["incidents"] == [
        {**each, "chain": each["chain"]} for each in facts(whole)["incidents"]
    ]


def test_a_recording_that_has_nothing_of_the_unit_changes_nothing():
    whole = recordings(STORIES / "cleared-by-a-third-host.txt")
    alone = whole[:1]
    other = Recording("other", tuple(each._replace(lu="naa.9") for each in whole[1].events))
    for given_ in ([other, *alone], [*alone, other]):
        assert facts(given_) == facts(alone)
    assert facts([other, *whole]) == facts(whole)


def test_an_effect_in_the_list_is_that_of_the_common_history():
    """The host that preempted had not seen the other's key itself."""
    given_ = [
        Recording(host, tuple(each))
        for host, each in story.read(STORIES / "fenced-by-a-host-that-recorded.txt").hosts.items()
    ]
    (preempt,) = [event for _, event in in_order(given_, ()) if event.action == "PREEMPT"]
    assert "preempted 1 registration" in preempt.effect
    assert "of node2" in preempt.effect
