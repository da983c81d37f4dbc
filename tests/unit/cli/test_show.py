"""show, events and status against a real socket."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from cli.conftest import REMOTE, pr_out, valid
from prtrace.model import Issuer
from prtrace.state.decode import decode


def lines(done):
    found = done.stdout.splitlines()
    assert all(len(line) <= 80 for line in found)
    assert "\x1b" not in done.stdout
    return found


def test_show_is_readable_and_says_when_in_doubt(prtrace, served):
    done = prtrace("show", PRTRACE_SOCKET=served.path)
    assert done.returncode == 4
    text = "\n".join(lines(done))
    assert "naa.1  LIO-ORG disk1 4.0" in text
    assert "Write Exclusive, Registrants Only (WERO)" in text
    assert "held by 2:0:0:1 (/dev/sda, guest web1), key 0x0000000000123abc" in text
    assert "*  0x0000000000123abc  2:0:0:1  /dev/sda" in text
    assert f"     {REMOTE}" in text
    assert text.count("IN DOUBT") == 2
    assert "registrations, reservation, generation: host error DID_TIME_OUT" in " ".join(
        text.split()
    )


def test_show_of_a_unit_that_is_certain(prtrace, served):
    done = prtrace("show", "/dev/sda", "--socket", served.path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "naa.2" not in done.stdout
    assert "DOUBT" not in done.stdout


def test_show_json_is_in_the_schema(prtrace, served):
    done = prtrace("show", "--json", "--socket", served.path)
    shown = valid(json.loads(done.stdout), "show.1")
    assert done.returncode == 4
    assert [unit["lu"] for unit in shown["units"]] == ["naa.1", "naa.2"]
    assert shown["units"][0]["registrations"][0]["nexus"] == "2:0:0:1"


def test_an_unknown_device(prtrace, served):
    done = prtrace("show", "/dev/sdz\x1b[2J", "--socket", served.path)
    assert done.returncode == 3
    assert done.stderr.splitlines() == [
        "prtrace: /dev/sdz\\x1b[2J names nothing here",
        "hint: name a disk",
    ]


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
    """Not the proxy that issued it."""
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
    """Without buffering: a line is there before the next event happens."""
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


def test_a_slow_follower_comes_back_for_the_rest(served):
    with subprocess.Popen(
        [sys.executable, "-m", "prtrace", "events", "-f", "--json", "--socket", str(served.path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))},
    ) as process:
        served.happen(1)
        assert json.loads(process.stdout.readline())["seq"] == 1
        for _ in range(30):
            served.happen(20, data=bytes(4096))
        assert not served.run(served.server.statistics)["followers"]
        got = [json.loads(process.stdout.readline())["seq"] for _ in range(600)]
        process.kill()
    assert got == list(range(2, 602))


def test_status(prtrace, served):
    done = prtrace("status", "--socket", served.path)
    assert done.returncode == 0
    text = "\n".join(lines(done))
    assert "1 of 2 programs" in text
    assert "without it: timeouts" in text
    assert "because: this kernel has no such tracepoint" in text
    assert "lost            nothing" in text
    done = prtrace("status", "--json", "--socket", served.path)
    assert valid(json.loads(done.stdout), "status.1")["pid"] == 4711


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"in_doubt": 1}, 4, "1 in doubt"),
        ({"loss": [{"cause": "the ring was full", "count": 9}]}, 0, "9: the ring was full"),
        (
            {"self_test": {"result": "failed", "at": None, "detail": "nothing was seen"}},
            1,
            "failed (nothing was seen)",
        ),
        (
            {"store": {"path": "x", "events": 1, "bytes": 1, "problem": "the disk is full"}},
            1,
            "NOTHING IS STORED: the disk is full",
        ),
    ],
    ids=lambda value: str(next(iter(value))) if isinstance(value, dict) else None,
)
def test_status_says_what_is_wrong(prtrace, served, changes, status, said):
    served.source.report.update(changes)
    done = prtrace("status", "--socket", served.path)
    assert done.returncode == status
    assert said in "\n".join(lines(done))


def test_show_asks_first_where_what_is_known_is_too_old(prtrace, served):
    done = prtrace("show", "/dev/sda", "--max-age", "0", "--json", "--socket", served.path)
    (unit,) = valid(json.loads(done.stdout), "show.1")["units"]
    assert unit["refresh"] == {"asked": True, "problem": None}
    done = prtrace("show", "/dev/sda", "--max-age", "60", "--json", "--socket", served.path)
    (unit,) = json.loads(done.stdout)["units"]
    assert unit["refresh"] == {"asked": False, "problem": None}


def test_show_says_that_it_could_not_ask(prtrace, served):
    served.source.refusal = "the agent may not read (--read-in-doubt no)"
    done = prtrace("show", "/dev/sda", "--max-age", "0", "--socket", served.path)
    assert done.returncode == 4
    assert "NOT ASKED     the agent may not read" in done.stdout
