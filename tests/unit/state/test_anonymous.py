"""Other names, the same story: nothing that was a name is left, and nothing else changes."""

import json
import re
from pathlib import Path

import pytest
from unit.explain.story import LU, read

from prtrace.explain.causes import incidents
from prtrace.explain.timeline import timeline
from prtrace.model import Issuer
from prtrace.state.anonymous import Anonymous
from prtrace.state.event import Command, Event
from prtrace.state.quirks import profile_of

STORIES = sorted((Path(__file__).parents[1] / "explain" / "stories").glob("*.txt"))
BY = Anonymous(b"secret")


@pytest.mark.parametrize("file", STORIES, ids=lambda file: file.stem)
def test_a_story_without_its_names_is_the_same_story(file):
    for events in read(file).hosts.values():
        others = [BY.event(event) for event in events]
        before, after = (timeline(each, LU) for each in (events, others))
        assert [step.after.doubts for step in before] == [step.after.doubts for step in after]
        assert [len(step.after.registrations) for step in before] == [
            len(step.after.registrations) for step in after
        ]
        assert [(each.kind, each.count) for each in incidents(before)] == [
            (each.kind, each.count) for each in incidents(after)
        ]
        text = json.dumps([step.event.to_json() for step in after])
        known = json.dumps([event.to_json() for event in events])
        for word in set(re.findall(r"naa\.2[0-9a-f]{15}|iqn\.[\w.:-]+|\bdb[12]\b", known)):
            assert word not in text
            assert word.encode().hex() not in text
        for key in set(re.findall(r"0x0{8}[0-9a-f]{8}", known)) - {"0x" + "0" * 16}:
            assert key not in text
            assert key.removeprefix("0x") not in text


def test_two_hosts_with_one_secret_still_fit_together():
    port = "iqn.2026-11.org.example:node1,i,0x00023d000001"
    assert Anonymous(b"one").port(port) == Anonymous(b"one").port(port)
    assert Anonymous(b"one").port(port) != Anonymous(b"two").port(port)
    other = "iqn.2026-11.org.example:node1,i,0x00023d000002"
    name, _, isid = BY.port(port).partition(",i,0x")
    assert BY.port(other).startswith(f"{name},i,0x")
    assert not BY.port(other).endswith(isid), "another session is another port of one name"


def test_no_key_stays_no_key():
    assert BY.key(0) == 0
    assert BY.key(0xA1) not in (0, 0xA1)


def test_names_that_somebody_chose_go_with_the_guest():
    """As a process's name, a map's alias, a program's path and the alias of LIO's backstore."""
    issuer = Issuer(
        1, "qemu:payroll-db", guest="payroll-db", client_pid=7, client_comm="payrolld",
        requested="/dev/mapper/payroll-db",
    )  # fmt: skip
    event = Event(
        Command.LOST,
        lu="naa.1",
        nexus="1:0:0:0",
        device="/dev/mapper/payroll-db",
        target="LIO-ORG/payroll-db/4.0",
        exe="/srv/payroll-db/qemu",
        unit="machine-qemu-1-payroll-db.scope",
        problem="the map /dev/mapper/payroll-db of guest payroll-db went away",
        issuer=issuer,
    )
    other = BY.event(event)
    assert "payroll" not in json.dumps(other.to_json())
    assert other.issuer is not None
    assert other.issuer.comm.startswith("qemu:")
    assert other.problem.startswith("the map /dev/node-")
    assert profile_of(other.target) is profile_of(event.target)


@pytest.mark.parametrize(
    "word", ["sg_persist", "multipathd", "(udev-worker)", "kworker/0:1H", "qemu-system-x86"]
)
def test_what_every_host_has_keeps_its_name(word):
    assert BY.program(word) == word


def test_a_worker_s_name_that_somebody_made_up_goes():
    assert "payroll" not in BY.program("kworker/payroll-db")


def test_a_program_of_the_distribution_keeps_its_path():
    assert BY.executable("/usr/bin/sg_persist") == "/usr/bin/sg_persist"
    assert BY.executable("/srv/payroll/sg_persist").startswith("program-")


@pytest.mark.parametrize("word", ["/dev/sda1", "sdb", "/dev/dm-0", "/dev/sg3", "8:16", "2:0:0:1"])
def test_nodes_that_the_kernel_named_stay(word):
    assert BY.node(word) == word


@pytest.mark.parametrize(
    "port", ["naa.600140512345678912345678abcdef01", "iqn.2000-01.x:y,i,0x123456789012345678"]
)
def test_a_port_of_no_known_form_becomes_another_word(port):
    assert BY.port(port) != port


def test_half_a_surrogate_pair_is_a_name_too():
    assert BY.name("guest", "a\ud800") != BY.name("guest", "a")
