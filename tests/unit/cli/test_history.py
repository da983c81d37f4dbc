"""Recordings as commands are given them: overlapping ones, and names that several units had."""

from dataclasses import replace

import pytest

from prtrace.cli.files import read_recordings
from prtrace.cli.history import by_host, find_unit
from prtrace.errors import NoSuchDeviceError, UsageError
from prtrace.explain.recording import Recording
from prtrace.model import LocalNexus
from prtrace.state.event import Command, Event

LU, OTHER = "naa.6001405000000001", "naa.6001405000000002"
SECOND = 1_000_000_000


def conflict(seq, *, record=None, second=None, lu=LU):
    return Event(
        Command.CONFLICT,
        seq=seq,
        epoch="e",
        record=seq if record is None else record,
        time=(seq if second is None else second) * SECOND,
        lu=lu,
        nexus="1:0:0:0",
        device="/dev/sda",
        status="RESERVATION CONFLICT",
    )


def seconds(recording):
    return [event.time // SECOND for event in recording.events]


@pytest.mark.parametrize("host", ["node1", ""])
def test_what_two_recordings_of_a_host_have_is_there_once(host):
    older = Recording(host, tuple(map(conflict, (1, 2, 3))))
    newer = Recording(host, tuple(map(conflict, (2, 3, 4))))
    for given in ([older, newer], [newer, older]):
        (found,) = by_host(given).values()
        assert seconds(found) == [1, 2, 3, 4]
        assert [event.seq for event in found.events] == [1, 2, 3, 4]


def test_what_a_log_has_twice_is_there_twice():
    """Lines of a log have no record, and two of one second are two conflicts."""
    line = conflict(1, record=0, second=7)
    twice = Recording("node1", (line, line._replace(seq=2)))
    assert seconds(by_host([twice])["node1"]) == [7, 7]
    assert seconds(by_host([twice, twice])["node1"]) == [7, 7]
    once = Recording("node1", (line,))
    assert seconds(by_host([once, twice])["node1"]) == [7, 7]


def test_events_of_two_hosts_are_two_although_they_look_alike():
    one = Recording("node1", (conflict(1, record=0),))
    assert list(by_host([one, replace(one, host="node2")])) == ["node1", "node2"]


def test_a_clock_that_was_set_back_changes_no_order_of_its_recording():
    jumped = Recording("node1", (conflict(1, second=100), conflict(2, second=50)))
    later = Recording("node1", (conflict(3, second=51), conflict(4, second=120)))
    assert [event.record for event in by_host([jumped, later])["node1"].events] == [3, 1, 2, 4]


def path(node, lu):
    return LocalNexus("1:0:0:0", lu, device=node)


def test_a_name_that_two_units_had_names_none():
    events = tuple(
        Event(Command.PATHS, seq=seq, time=seq * SECOND, lu=lu, paths=(path("/dev/sdb", lu),))
        for seq, lu in ((1, LU), (2, OTHER))
    )
    both = Recording("node1", events)
    with pytest.raises(UsageError, match=f"{LU} until 1970-01-01T00:00:01Z; {OTHER} until"):
        find_unit("sdb", [both])
    assert find_unit(OTHER, [both]) == OTHER
    assert find_unit("/dev/sdb", [Recording("node1", events[1:])]) == OTHER
    # Another host's node is another one.
    with pytest.raises(NoSuchDeviceError):
        find_unit("/dev/sdb", [Recording("node2", ()), both])


def written(folder, name, recording):
    (folder / name).write_text("".join(f"{line}\n" for line in recording.lines()))
    return folder / name


def other(seq):
    return conflict(seq)._replace(epoch="f")


def test_hosts_of_one_name_are_told_apart_by_their_ports(tmp_path):
    """Every machine that nobody has named is "localhost"."""
    iscsi = "iqn.2026-11.org.example:a,i,0x00023d00000"
    first = Recording("localhost", (conflict(1),), (f"{iscsi}1",))
    files = [
        written(tmp_path, "one", first),
        # After a new login: the same initiator.
        written(tmp_path, "two", replace(first, events=(conflict(2),), ports=(f"{iscsi}2",))),
        written(tmp_path, "three", replace(first, events=(other(1),), ports=("naa.5",))),
        written(tmp_path, "four", replace(first, events=(other(2),), ports=("naa.6", "naa.5"))),
    ]
    hosts = by_host(read_recordings(files))
    assert [len(each.events) for each in hosts.values()] == [2, 2]
    assert list(hosts) == ["localhost", f"localhost ({tmp_path}/three)"]
