"""prtrace show against a real socket."""

import json

from shipped import valid

from cli.conftest import REMOTE, lines
from prtrace.cli.knowledge import AgentObserver
from prtrace.state.unit import Fact


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


def test_show_asks_first_where_what_is_known_is_too_old(prtrace, served):
    done = prtrace("show", "/dev/sda", "--max-age", "0", "--json", "--socket", served.path)
    (unit,) = valid(json.loads(done.stdout), "show.1")["units"]
    assert unit["refresh"] == {"asked": True, "problem": None}
    done = prtrace("show", "/dev/sda", "--max-age", "60", "--json", "--socket", served.path)
    (unit,) = json.loads(done.stdout)["units"]
    assert unit["refresh"] == {"asked": False, "problem": None}


def test_what_is_to_move_is_asked_for_as_well(served):
    """check and save: what could not be confirmed in time is in doubt, fact by fact."""
    (unit,) = AgentObserver(str(served.path), 0).units(["/dev/sda"])
    assert unit["doubt"] == []
    served.source.refusal = "the agent may not read (--read-in-doubt no)"
    (unit,) = AgentObserver(str(served.path), 0).units(["/dev/sda"])
    assert [each["what"] for each in unit["doubt"]] == [fact.value for fact in Fact]
    assert {each["reason"] for each in unit["doubt"]} == {
        "older than --max-age allows: the agent may not read (--read-in-doubt no)"
    }
    (unit,) = AgentObserver(str(served.path)).units(["/dev/sda"])
    assert unit["doubt"] == [], "nobody asked for an age"


def test_show_says_that_it_could_not_ask(prtrace, served):
    served.source.refusal = "the agent may not read (--read-in-doubt no)"
    done = prtrace("show", "/dev/sda", "--max-age", "0", "--socket", served.path)
    assert done.returncode == 4
    assert "NOT ASKED     the agent may not read" in done.stdout
