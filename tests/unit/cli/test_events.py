"""prtrace events against a real socket."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from api.conftest import wait_for
from shipped import valid

from cli.conftest import lines, pr_out
from prtrace.api import recent
from prtrace.explain.recording import Recording
from prtrace.model import Issuer
from prtrace.state.decode import decode


def store(served, *events):
    def both():
        stored = served.source.store.commit("epoch", list(events))
        served.server.publish(stored)

    served.run(both)


EVENTS = [
    pr_out(1, action=0, sa_key=0x123ABC),
    pr_out(2, action=1, kind=5, key=0x123ABC),
    pr_out(3, "naa.2", action=1, kind=5, key=1, status="RESERVATION CONFLICT"),
]


def decoded(events):
    return [decode(event)[0] for event in events]


def test_events_are_one_line_each(prtrace, served):
    store(served, *decoded(EVENTS))
    done = prtrace("events", "--socket", served.path, TZ="UTC")
    assert done.returncode == 0
    day, *found = lines(done)
    assert day == "-- Tuesday, 2023-11-14 --"
    assert found == [
        "22:13:21.000 sda       REGISTER        GOOD     guest web1  0→123abc",
        "22:13:22.000 sda       RESERVE         GOOD     guest web1  123abc WERO",
        "22:13:23.000 sda       RESERVE         CONFLICT guest web1  1 WERO",
    ]
    verbose = prtrace("events", "-v", "--socket", served.path, TZ="UTC")
    assert "lu          naa.2" in "\n".join(lines(verbose))
    assert "SG_IO block" in verbose.stdout


def test_events_name_the_client_and_what_it_asked_for(prtrace, served):
    """The client is named, and not the proxy that issued the command for it."""
    by = Issuer(7, "prx000000000001", client_pid=8, client_comm="qemu\x1b[31m")
    other = pr_out(2, action=6, sa_key=0xD).cdb
    asked = pr_out(2, action=0, key=0xA, sa_key=0xD)
    store(
        served,
        *decoded(
            [
                pr_out(1, sa_key=0xA, issuer=replace(by, guest="web2")),
                pr_out(
                    2, sa_key=0xD, cdb=other, issuer=by, asked=asked.cdb, asked_data=asked.data
                ),
                pr_out(3, key=0xD, issuer=by, asked=b"\xff"),
            ]
        ),
    )
    done = prtrace("events", "--socket", served.path, TZ="UTC")
    assert lines(done)[1:] == [
        "22:13:21.000 sda       REGISTER        GOOD     guest web2  0→a",
        "22:13:22.000 sda       REGISTER IGNORE GOOD     qemu\\x1b[31m  0→d  for REGISTER",
        "             a→d",
        "22:13:23.000 sda       REGISTER        GOOD     qemu\\x1b[31m  d  for ff",
    ]
    verbose = "\n".join(lines(prtrace("events", "-v", "--socket", served.path)))
    assert "asked       REGISTER a→d" in verbose
    assert "client pid  8" in verbose
    for line in prtrace("events", "--json", "--socket", served.path).stdout.splitlines():
        valid(json.loads(line), "event.1")


def test_events_json_is_in_the_schema(prtrace, served):
    store(served, *EVENTS)
    done = prtrace("events", "--json", "--socket", served.path)
    found = [valid(json.loads(line), "event.1") for line in done.stdout.splitlines()]
    assert [event["seq"] for event in found] == [1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "seqs"),
    [
        (["--last", "1"], [3]),
        (["--since", "1"], [2, 3]),
        (["--since", "2023-11-14T22:13:22Z"], [2, 3]),
        (["--since", "1m"], []),
        (["/dev/sdb"], [3]),
        (["naa.1", "--last", "1"], [2]),
    ],
    ids=str,
)
def test_events_can_be_chosen(prtrace, served, arguments, seqs):
    store(served, *EVENTS)
    done = prtrace("events", "--json", *arguments, "--socket", served.path)
    assert [json.loads(line)["seq"] for line in done.stdout.splitlines()] == seqs


def test_following_prints_as_it_happens(served):
    """A line is printed before the next event happens."""
    store(served, EVENTS[0])
    with subprocess.Popen(
        [sys.executable, "-m", "prtrace", "events", "-f", "--json", "--socket", str(served.path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))},
    ) as process:
        assert json.loads(process.stdout.readline())["seq"] == 1
        for event in EVENTS[1:]:
            store(served, event)
            assert json.loads(process.stdout.readline())["record"] == event.record
        process.kill()


def test_a_slow_follower_comes_back_for_the_rest(served, monkeypatch):
    monkeypatch.setattr(recent, "MAX_BYTES", 1 << 18)
    with subprocess.Popen(
        [sys.executable, "-m", "prtrace", "events", "-f", "--json", "--socket", str(served.path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))},
    ) as process:
        served.happen(1)
        assert json.loads(process.stdout.readline())["seq"] == 1
        # Until then the follower reads what is stored, and misses nothing however slow it is.
        wait_for(lambda: [each for each in served.server._followers if each.live])
        last = 1
        while served.run(served.server.statistics)["followers"]:
            last = served.happen(20, data=bytes(8192))[-1]
        got = [json.loads(process.stdout.readline())["seq"] for _ in range(2, last + 1)]
        process.kill()
    assert got == list(range(2, last + 1))


def test_events_of_two_hosts_that_happened_at_once(prtrace, tmp_path):
    """Both hosts give their event the same time and the same number."""
    for host in ("node1", "node2"):
        recording = Recording(host, tuple(decoded([EVENTS[0]._replace(seq=1)])))
        (tmp_path / host).write_text("".join(f"{text}\n" for text in recording.lines()))
    done = prtrace("events", tmp_path / "node1", tmp_path / "node2", TZ="UTC")
    assert done.returncode == 0, done.stderr
    assert [host in done.stdout for host in ("on node1", "on node2")] == [True, True]
