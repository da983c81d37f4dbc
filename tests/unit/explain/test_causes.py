"""Incidents as stories: what must be said of each, and what must not."""

import re
from pathlib import Path

import jsonschema
import pytest
from shipped import valid

from explain.story import LU, Story, read
from prtrace.cli.explain import account_lines
from prtrace.cli.history import look, paths_of
from prtrace.cli.rebuild import Rebuilt
from prtrace.explain.account import account
from prtrace.explain.causes import incidents
from prtrace.explain.moved import moves
from prtrace.explain.recording import Recording
from prtrace.explain.timeline import timeline
from prtrace.state.view import unit_view

STORIES = sorted(Path(__file__).with_name("stories").glob("*.txt"))


def told(story: Story) -> dict[str, object]:
    """The account of the unit, from every recording."""
    looked = look([Recording(host, tuple(each)) for host, each in story.hosts.items()], LU)
    return account(looked.unit, looked.steps, joined=looked.joined, ports=story.ports)


def story_of(name):
    return read(next(file for file in STORIES if file.stem == name))


def unwrapped(lines):
    """Lines, those with a label with what was wrapped below them."""
    found = []
    for text in lines:
        if found and text.startswith(" " * 4) and found[-1].startswith("  "):
            found[-1] += f" {text}"
        else:
            found.append(text)
    return found


@pytest.mark.parametrize("file", STORIES, ids=lambda file: file.stem)
def test_the_story(file):
    story = read(file)
    document = valid(told(story), "explain.1")
    links = [
        (incident["kind"], link["certainty"], link["text"])
        for incident in document["incidents"]
        for link in incident["chain"]
    ]
    for kind, certainty, text in story.says:
        assert any((kind, certainty) == link[:2] and text in link[2] for link in links), (
            f"nobody says {kind} {certainty}: {text}\n" + "\n".join(map(str, links))
        )
    for text in story.never:
        assert not [link for link in links if text in link[2] and link[1] != "not known"]
    printed = [" ".join(text.split()) for text in unwrapped(account_lines(document))]
    assert not {each["kind"] for each in document["incidents"]} & set(story.no)
    offered = [(each["what"], each["command"] or "") for each in document["remedies"]]
    assert not [each for each in offered if any(word in each[1] for word in story.offers_no)]
    for label, text in story.lines:
        if label == "may be done":
            assert any(text in " ".join(each) for each in offered), offered
            continue
        assert any(each.startswith(label) and text in each for each in printed), printed
    if story.quiet:
        assert not document["incidents"]
    if story.harmless:
        assert all(incident["harmless"] for incident in document["incidents"])
    for text in account_lines(document):
        fits_a_terminal = len(text) <= 80 or text.strip().startswith("sg_persist")
        assert fits_a_terminal, text


@pytest.mark.parametrize(
    ("exe", "harmless"), [("", True), ("/usr/sbin/lvm", True), ("/srv/writer", False)]
)
def test_a_scanner_is_told_by_what_it_executes_and_not_by_its_name(exe, harmless):
    file = next(file for file in STORIES if file.stem == "a-scan-by-lvm")
    events = [event._replace(exe=exe) for event in read(file).hosts[""]]
    (found,) = incidents(timeline(events, LU))
    assert bool(found.harmless) is harmless


def test_a_remedy_that_takes_access_away_says_from_whom():
    remedies = told(story_of("held-by-a-host-that-is-not-known"))["remedies"]
    taking = [each for each in remedies if re.search("--(preempt|clear)", each["command"] or "")]
    assert len(taking) == 2
    for each in taking:
        assert "loses its registration" in each["costs"]
        # The path of this host was fenced: the device would refuse it.
        assert "Only a path that is registered" in each["what"]


def test_a_holder_of_this_host_is_not_to_be_preempted_by_it():
    remedies = told(story_of("a-scan-by-lvm"))["remedies"]
    assert not [each for each in remedies if "--preempt" in (each["command"] or "")]
    assert any("Have the program that reserved it release it" in each["what"] for each in remedies)
    (clear,) = [each for each in remedies if "--clear" in (each["command"] or "")]
    assert "/dev/sda loses its registration" in clear["costs"]
    assert clear["command"].endswith("/dev/sda")
    assert "Only a path" not in clear["what"]


@pytest.mark.parametrize(
    ("name", "gains"), [("other-process-of-this-host", True), ("a-scan-by-lvm", False)]
)
def test_registering_gives_access_where_registrants_have_it(name, gains):
    (remedy,) = [
        each
        for each in told(story_of(name))["remedies"]
        if "--register " in (each["command"] or "")
    ]
    assert ("may then write beside the others" in remedy["costs"]) is gains
    assert ("the holder alone may write" in remedy["costs"]) is not gains


def newest_alone(name, count):
    """The account of what an agent gives that has the newest events of a story, and its state."""
    events = story_of(name).hosts[""]
    rebuilt = Rebuilt()
    for event in events:
        rebuilt.add(event)
    state = rebuilt.states[LU]
    unit = unit_view(state, rebuilt.unit(state), rebuilt.newest)
    recording = Recording("", tuple(events[-count:]), paths=paths_of(unit))
    return account(unit, [("", timeline(recording.events, LU, recording.paths_of(LU)))])


def chains(document, kind):
    return [
        (link["certainty"], link["text"])
        for incident in document["incidents"]
        for link in incident["chain"]
        if incident["kind"] == kind
    ]


def test_what_is_older_than_the_newest_events_is_not_denied():
    """A monitor's readings fill what is looked at; the path was registered before them."""
    document = newest_alone("fenced-after-a-day-of-readings", 5)
    lost = chains(document, "lost registration")
    assert ("observed", "a reading of the device shows 1:0:0:0 unregistered") in lost
    conflict = chains(document, "reservation conflict")
    assert any("1:0:0:0 was registered until then" in text for _, text in conflict)


def test_who_reserved_is_remembered_longer_than_the_command():
    document = newest_alone("reserved-before-a-day-of-readings", 2)
    told_of = chains(document, "reservation conflict")
    (certainty,) = [each for each, text in told_of if text.startswith("lvmlockd[100] reserved it")]
    assert certainty == "observed"
    assert not any("or it is older" in text for _, text in told_of)


def test_every_story_says_something():
    for file in STORIES:
        story = read(file)
        assert story.says or story.lines or story.quiet, file


def test_the_schema_refuses_what_is_not_an_account():
    with pytest.raises(jsonschema.ValidationError):
        valid({"schema": "prtrace.explain/1"}, "explain.1")


@pytest.mark.parametrize(
    ("exe", "recorded"),
    [("", True), ("/usr/bin/qemu-system-x86_64", True), ("/usr/bin/python3.11", True),
     ("/usr/local/sbin/fence", False)],
)  # fmt: skip
def test_a_program_that_calls_itself_qemu_is_what_it_executes(exe, recorded):
    (happened,) = story_of("moved-by-qemu-rightly").hosts.values()
    events = [event._replace(exe=exe) for event in happened]
    ((_, steps),) = look([Recording("", tuple(events))], LU).steps
    (moved,) = [each.moved for each in moves(steps, []) if each.moved is not None]
    assert moved.recorded is recorded
