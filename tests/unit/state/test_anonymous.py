"""Other names, the same story: nothing that was a name is left, and nothing else changes."""

import json
import re
from pathlib import Path

import pytest
from unit.explain.story import LU, read

from prtrace.explain.causes import incidents
from prtrace.explain.timeline import timeline
from prtrace.state.anonymous import Anonymous

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
