"""Recordings as files."""

import io
import json

import pytest

from explain.story import LU, read
from explain.test_causes import STORIES
from prtrace.cli.rebuild import read_lines
from prtrace.errors import MalformedError
from prtrace.explain.recording import Gathered, Recording
from prtrace.model import LocalNexus
from prtrace.state.event import Command

EVENTS = tuple(next(iter(read(STORIES[0]).hosts.values())))


def test_a_recording_and_back():
    paths = (LocalNexus("1:0:0:0", LU, "/dev/sda", initiator_port="naa.1"),)
    recording = Recording("node1", EVENTS, ("naa.1",), paths=paths)
    assert Recording.parse(recording.lines(), "x") == recording


def test_paths_at_the_end_are_those_of_before_where_no_event_tells_others():
    paths = (LocalNexus("1:0:0:0", LU), LocalNexus("2:0:0:0", "naa.7"))
    told = Recording("node1", EVENTS, paths=paths)
    assert told.paths_of(LU) == ()
    silent = tuple(event for event in EVENTS if event.command is not Command.PATHS)
    assert Recording("node1", silent, paths=paths).paths_of(LU) == paths[:1]


def test_events_alone_are_a_recording_of_a_host_that_is_not_named():
    lines = list(Recording("node1", EVENTS).lines())[1:]
    assert Recording.parse(lines, "x") == Recording("", EVENTS)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["{"], "x, line 1.*not JSON"),
        (['{"schema":"prtrace.recording/1","host":1,"ports":[]}'], "host is a string"),
        (['{"schema":"prtrace.recording/1","host":"a","ports":[1]}'], "list of strings"),
        (['{"schema":"prtrace.recording/1","paths":[]}'], "list of paths"),
        (['{"schema":"prtrace.recording/1","paths":{"naa.6":[{}]}}'], "list of paths"),
        (["", "{}"], "x, line 2"),
        (["[" * 100_000], "not JSON"),
        (['{"schema":"prtrace.gathered/1","name":"x","command":"x","output":""}'], "gathered"),
        (['{"schema":"prtrace.gathered/1","name":"x","command":[1],"output":""}'], "gathered"),
        (['{"schema":"prtrace.gathered/1","name":"x","command":[],"output":null}'], "gathered"),
    ],
)
def test_what_is_wrong_is_named_by_its_line(lines, why):
    with pytest.raises(MalformedError, match=why):
        Recording.parse(lines, "x")


def test_events_out_of_order_are_refused():
    lines = list(Recording("", EVENTS).lines())
    with pytest.raises(MalformedError, match="sort the file by seq"):
        Recording.parse([*lines[1:], lines[1]], "x")


def test_what_other_programs_said_is_beside_the_events():
    said = Gathered("disks", ("lsscsi", "-g"), 0, "[0:0:0:0] disk\n")
    made = Recording("node1", (), ("naa.1",), (said,))
    lines = list(made.lines())
    assert json.loads(lines[1])["output"] == said.output
    assert Recording.parse(lines, "file") == made
    assert list(read_lines(io.BytesIO("\n".join(lines).encode()), "file")) == []
