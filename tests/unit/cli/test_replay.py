"""The state from recorded events: from lines, from a store, and whether both agree."""

import json
from dataclasses import replace

import pytest
from shipped import valid

from cli.conftest import NOW, pr_out
from prtrace.cli.rebuild import Rebuilt
from prtrace.state.event import Command
from prtrace.store.database import FILE, Store


def history():
    """Two units: keys read empty, then registered and reserved on one, a conflict."""
    empty = {
        "command": Command.PR_IN,
        "cdb": bytes.fromhex("5e000000000000200000"),
        "data": bytes(8),
    }
    return [
        pr_out(1, "naa.1", **empty),
        pr_out(2, "naa.2", **empty),
        pr_out(3, "naa.1", action=0, sa_key=0xABC),
        pr_out(4, "naa.1", action=1, kind=5, key=0xABC),
        pr_out(
            5, "naa.1", action=1, kind=1, key=5, nexus="3:0:0:1", status="RESERVATION CONFLICT"
        ),
        pr_out(6, "naa.2", action=0, sa_key=0xDEF),
    ]


def stored(path, keep_events=1_000_000, batch=2, events=None):
    """A store as the agent makes it; gives its events."""
    with Store.open(path, keep_events=keep_events) as store:
        known, rebuilt = events or history(), Rebuilt()
        for start in range(0, len(known), batch):
            part = [
                rebuilt.add(event._replace(seq=seq))
                for seq, event in enumerate(known[start : start + batch], start + 1)
            ]
            touched = {event.lu for event in part}
            store.commit("e", part, [rebuilt.states[lu] for lu in touched])
        return list(store.events())


def as_lines(events):
    return "".join(json.dumps(event.to_json()) + "\n" for event in events)


def test_lines_and_store_give_the_same(prtrace, tmp_path):
    path = tmp_path / FILE
    text = as_lines(stored(path))
    (tmp_path / "events.jsonl").write_text(text)
    shown = [
        prtrace("replay", "--json", "--check", path),
        prtrace("replay", "--json", "--check", tmp_path / "events.jsonl"),
        prtrace("replay", "--json", "--check", "-", stdin=text),
    ]
    assert {(done.returncode, done.stderr) for done in shown} == {(0, "no differences\n")}
    assert shown[0].stdout == shown[1].stdout == shown[2].stdout
    units = valid(json.loads(shown[0].stdout), "show.1")["units"]
    first, second = units
    assert first["registrations"][0]["key"] == "0x0000000000000abc"
    assert first["registrations"][0]["device"] == "/dev/sda"
    assert first["reservation"]["holders"] == ["2:0:0:1"]
    assert first["generation"] == second["generation"] == 1
    assert first["doubt"] == second["doubt"] == []


def test_a_pruned_store_is_replayed_from_its_checkpoint(prtrace, tmp_path):
    path = tmp_path / FILE
    kept = stored(path, keep_events=3, batch=1)
    assert [event.seq for event in kept] == [4, 5, 6]
    done = prtrace("replay", "--json", "--check", path)
    assert (done.returncode, done.stderr) == (0, "no differences\n")
    units = {unit["lu"]: unit for unit in json.loads(done.stdout)["units"]}
    assert units["naa.1"]["reservation"]["type"] == "WERO"
    assert len(units["naa.2"]["registrations"]) == 1


def test_the_text_is_that_of_show(prtrace, tmp_path):
    text = as_lines(stored(tmp_path / FILE))
    done = prtrace("replay", "-", stdin=text)
    assert done.returncode == 0
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert "held by 2:0:0:1 (/dev/sda, guest web1), key 0x0000000000000abc" in done.stdout
    assert done.stdout.endswith("6 events, 2 logical units\n")


def test_doubt_is_an_exit_status(prtrace, tmp_path):
    done = prtrace("replay", "-", stdin=as_lines(stored(tmp_path / FILE)[3:]))
    assert done.returncode == 4
    assert "IN DOUBT" in done.stdout


def test_check_finds_what_was_changed(prtrace, tmp_path):
    events = stored(tmp_path / FILE)
    events[3] = events[3]._replace(effect="nothing at all", key=7)
    done = prtrace("replay", "--check", "-", stdin=as_lines(events))
    assert done.returncode == 1
    assert "event 4, naa.1: effect:\n  recorded:   nothing at all\n" in done.stderr
    assert "event 4, naa.1: key:" in done.stderr
    assert done.stderr.endswith(
        "prtrace: 2 differences between what was recorded and what is recomputed\n"
    )


def test_check_finds_a_state_that_does_not_follow(prtrace, tmp_path):
    path = tmp_path / FILE
    stored(path)
    with Store.open(path) as store:
        store.commit("e", [], [replace(store.states()["naa.1"], generation=99)])
    done = prtrace("replay", "--check", path)
    assert done.returncode == 1
    assert "state, naa.1: generation:\n  recorded:   99\n  recomputed: 1\n" in done.stderr


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("not json", "line 3: no JSON"),
        ("[]", "line 3: event: a JSON object"),
        ('{"schema":"prtrace.event/9"}', "line 3: event: schema"),
        ('{"seq":1}', "line 3: event: has no 'lu'"),
        ("[" * 100_000, "line 3: no JSON"),
        ('"' + "x" * (5 << 20) + '"', "line 3: is longer than any event"),
    ],
    ids=lambda text: text[:20],
)
def test_a_bad_line_is_named(prtrace, tmp_path, bad, said):
    good = as_lines(stored(tmp_path / FILE)[:1])
    done = prtrace("replay", "-", stdin=f"{good}\n{bad}\n")
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_events_out_of_order_are_refused(prtrace, tmp_path):
    events = stored(tmp_path / FILE)
    done = prtrace("replay", "-", stdin=as_lines([events[1], events[0]]))
    assert done.returncode == 1
    assert "event 1: events: number 1 comes after 2" in done.stderr


def test_without_events_there_are_no_units(prtrace):
    done = prtrace("replay", "-", stdin="")
    assert (done.returncode, done.stdout) == (0, "0 events, 0 logical units\n")


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_many_events(tmp_path, prtrace, count):
    many = history()[:2]
    for record in range(3, count):
        key = record if record % 2 else 0
        many.append(pr_out(record, f"naa.{record % 4 // 2 + 1}", action=6, sa_key=key))
    text = as_lines(event._replace(seq=n, time=NOW + n) for n, event in enumerate(many, 1))
    (tmp_path / "events.jsonl").write_text(text)
    done = prtrace("replay", tmp_path / "events.jsonl")
    assert done.returncode in (0, 4), done.stderr
    assert f"{len(many)} events, 2 logical units" in done.stdout


def test_a_command_without_its_bytes_is_named(prtrace, tmp_path):
    """Such an event fits the schema; a replay that left it out would show another state."""
    event = pr_out(1, "naa.1", action=0, sa_key=0xABC)._replace(seq=1, cdb=b"", data=b"")
    file = tmp_path / "events.jsonl"
    file.write_text(as_lines([event]))
    done = prtrace("replay", str(file))
    assert done.returncode == 1
    assert "a PR OUT without its CDB tells nothing" in done.stderr
