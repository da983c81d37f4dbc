"""A nexus is its ports: a line of the journal is about it wherever it is, or about nobody."""

import json
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from small_hosts import D1, LU, S1, Host, K, Target

from prtrace.model import LocalNexus, ReservationType
from prtrace.move.journal import (
    DESTINATION,
    CarrierProcess,
    Entry,
    RegisteredNexus,
    stored_file,
)
from prtrace.move.lines import Lines, Worth
from prtrace.move.rebinding import rebound, today
from prtrace.move.side import LocalPath, Side
from prtrace.move.word import Word

WERO = ReservationType.WERO
E1 = ("iqn.e,i,0x3", 1)


def prepared(tmp_path, monkeypatch):
    target = Target({S1: K}, S1, WERO)
    source = Host(target, {"1:0:0:0": S1}, tmp_path / "s", monkeypatch)
    there = Host(target, {"2:0:0:0": D1}, tmp_path / "d", monkeypatch)
    file = source.file(WERO, held=True)
    assert there.moves().prepare(file).good

    def now(paths):
        return Host(target, paths, tmp_path / "d", monkeypatch)

    return target, file, now


@pytest.mark.parametrize("others", [{}, {"2:0:0:0": E1}], ids=["free", "another's"])
def test_a_session_that_came_back_at_another_address_moves_on(tmp_path, monkeypatch, others):
    target, file, now = prepared(tmp_path, monkeypatch)
    there = now({**others, "5:0:0:0": D1})
    assert there.moves().load(file).may_run
    assert target.holder == D1


@pytest.mark.parametrize("others", [{}, {"2:0:0:0": E1}], ids=["free", "another's"])
def test_its_key_is_taken_away_at_the_other_address(tmp_path, monkeypatch, others):
    target, file, now = prepared(tmp_path, monkeypatch)
    # The same key on a nexus that the move did not register is not the move's.
    target.keys.update(dict.fromkeys(others.values(), K))
    (unit,) = now({**others, "5:0:0:0": D1}).moves().rollback(file, side="destination").units
    assert unit.word is Word.WITHDRAWN
    assert set(target.keys) == {S1, *others.values()}


def test_a_session_that_did_not_come_back_keeps_the_key_and_is_named(tmp_path, monkeypatch):
    target, file, now = prepared(tmp_path, monkeypatch)
    there = now({"2:0:0:0": E1})
    for _ in range(2):  # told once, it is told again
        (unit,) = there.moves().rollback(file, side="destination").units
        assert unit.word is Word.IN_DOUBT
        assert any(D1[0] in words for words in unit.remains)
    assert set(target.keys) == {S1, D1}
    (unit,) = now({"7:0:0:0": D1}).moves().rollback(file, side="destination").units
    assert unit.word is Word.WITHDRAWN
    assert set(target.keys) == {S1}


def test_a_guest_that_was_told_does_not_run_without_a_path_that_has_its_key(tmp_path, monkeypatch):
    target, file, now = prepared(tmp_path, monkeypatch)
    assert now({"2:0:0:0": D1}).moves().load(file).may_run
    report = now({"3:0:0:0": E1}).moves().load(file)
    assert ([unit.word for unit in report.units], report.may_run) == ([Word.IN_DOUBT], False)
    assert target.holder == D1
    assert now({"4:0:0:0": D1}).moves().load(file).may_run


def test_a_journal_that_has_addresses_alone_proves_nothing(tmp_path, monkeypatch):
    """As written before nexuses were remembered."""
    target, file, now = prepared(tmp_path, monkeypatch)
    there = now({"2:0:0:0": D1})
    (path,) = (tmp_path / "d" / "move").glob("*.destination.journal")
    line = json.loads(path.read_text().splitlines()[-1])
    del line["nexuses"]
    path.write_text(json.dumps(line) + "\n")
    (unit,) = there.moves().rollback(file, side="destination").units
    assert unit.word is Word.IN_DOUBT
    assert stored_file(tmp_path / "d", file.id) is not None
    assert D1 in target.keys


NAMES = st.sampled_from([("naa.a", 1), ("naa.b", 1), ("naa.a", 2), (None, None)])
NEXUSES = st.dictionaries(
    st.sampled_from(["1:0:0:0", "2:0:0:0", "3:0:0:0"]), st.tuples(NAMES, st.integers(1, 2))
)


@given(NEXUSES, NEXUSES, st.sampled_from(["boot", "another"]))
@example({"1:0:0:0": ((None, None), 1)}, {"1:0:0:0": (("naa.a", 1), 1)}, "boot")
def test_a_line_is_about_the_same_ports_or_about_no_path(before, after, boot):
    registered = tuple(RegisteredNexus(n, *ports, life) for n, (ports, life) in before.items())
    lines = Lines()
    for nexus in before:
        lines = lines.with_line(nexus, Worth.VERIFIED)
    entry = Entry(LU, DESTINATION, 1, "a" * 32, lines=lines, nexuses=registered)
    entry = replace(entry, carriers=(CarrierProcess(1, 1, "boot"),))
    paths = tuple(
        LocalPath(
            LocalNexus(n, LU, initiator_port=port, relative_target_port=number, life=life),
            "/dev/x",
        )
        for n, ((port, number), life) in after.items()
    )
    found, side = rebound(entry, Side("/dev/x", LU, "", paths), boot)
    gone = {nexus.nexus for nexus in side.gone}
    for name in found.lines.listed:
        if name in gone:
            continue
        ports, life = after[name]
        as_it_was = boot == "boot" and before.get(name) in (((None, None), life), (ports, life))
        # Ports that were not known then may be known now: within its life a device has no others.
        same_ports = ports[0] is not None and ports in [each for each, _ in before.values()]
        assert as_it_was or same_ports
    assert not gone & set(after)


def test_an_address_without_a_life_and_without_ports_is_nobody():
    line = RegisteredNexus("2:0:0:0")
    entry = Entry(LU, DESTINATION, 1, "f" * 32, nexuses=(line,))
    paths = (LocalNexus("2:0:0:0", LU),)
    assert line.life == 0
    assert today(line, entry, paths, "boot") is None
    known = replace(line, life=7)
    assert today(known, entry, (replace(paths[0], life=7),), "boot") is not None
