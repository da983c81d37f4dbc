"""No verb says 0 or "may run" that device and journal do not prove."""

from dataclasses import replace

import pytest
from small_hosts import D1, PEER, S1, Host, K, Target

from prtrace.errors import MalformedError
from prtrace.model import ReservationType
from prtrace.move import savefile, verbs
from prtrace.move.word import Word

WE, WERO = ReservationType.WE, ReservationType.WERO


def words(report):
    return [unit.word for unit in report.units]


def pair(target, tmp_path, monkeypatch):
    return (
        Host(target, {"1:0:0:0": S1}, tmp_path / "s", monkeypatch),
        Host(target, {"2:0:0:0": D1}, tmp_path / "d", monkeypatch),
    )


@pytest.mark.parametrize("blind", [False, True])
def test_a_registration_that_the_file_does_not_know_moves_nothing(tmp_path, monkeypatch, blind):
    target = Target({S1: K}, S1, WE, blind=blind)
    source, there = pair(target, tmp_path, monkeypatch)
    file = source.file(key=None)
    expected = Word.IN_DOUBT if blind else Word.CHANGED
    for report in (
        there.moves().prepare(file),
        there.moves().load(file),
        source.moves().finish(file),
    ):
        assert (words(report), report.may_run) == ([expected], False)
    assert target.log == []


@pytest.mark.parametrize("named", [False, True])
def test_whoever_registered_may_be_the_guest_on_the_source(tmp_path, monkeypatch, named):
    """A source path without port names, or a target that lists iSCSI ports without ISID."""
    listed = ("iqn.s", 1) if named else S1
    target = Target({listed: K}, listed, WE)
    source = Host(target, {"1:0:0:0": S1}, tmp_path / "s", monkeypatch, named=named)
    there = Host(target, {"2:0:0:0": D1}, tmp_path / "d", monkeypatch)
    file = source.file(key=None)
    for report in (there.moves().prepare(file), there.moves().load(file)):
        assert (words(report), report.may_run) == ([Word.IN_DOUBT], False)
    assert target.log == []


def test_a_guest_that_registered_nothing_moves_without_a_command(tmp_path, monkeypatch):
    target = Target({}, blind=True)
    source, there = pair(target, tmp_path, monkeypatch)
    file = source.file(key=None)
    prepared = there.moves().prepare(file)
    assert (words(prepared), prepared.good, prepared.may_run) == ([Word.NO_KEY], True, False)
    assert not prepared.to_json()["units"][0]["may_run"]
    assert there.moves().load(file).may_run
    assert not source.moves().finish(file).may_run
    assert words(there.moves().rollback(file)) == [Word.NOTHING]
    assert words(there.moves().load(file)) == [Word.SUPERSEDED]


def test_an_old_file_without_a_key_is_superseded(tmp_path, monkeypatch):
    source, there = pair(Target({}), tmp_path, monkeypatch)
    old, new = source.file(key=None, order=1), source.file(key=None, order=2)
    assert there.moves().prepare(new).good
    assert words(there.moves().load(old)) == [Word.SUPERSEDED]
    assert there.moves().load(new).may_run


@pytest.mark.parametrize("blind", [False, True])
def test_a_registered_path_that_takes_no_commands_is_named(tmp_path, monkeypatch, blind):
    target = Target({S1: K, D1: K, PEER: 0xB}, PEER, WERO, blind=blind)
    source = Host(target, {"1:0:0:0": S1, "1:0:1:0": (S1[0], 2)}, tmp_path, monkeypatch)
    file = source.file(WERO)
    first, second = file.units[0].paths
    unit = replace(file.units[0], paths=(first, replace(second, registered=False)))
    file = replace(file, units=(unit,))
    nexuses = (replace(source.unit.nexuses[0], state="offline"), source.unit.nexuses[1])
    source.unit = replace(source.unit, nexuses=nexuses)
    report = source.moves().finish(file)
    assert any("1:0:0:0" in words for words in report.units[0].remains)
    if blind:
        assert words(report) == [Word.IN_DOUBT]


def test_a_dry_run_reads_the_journal_and_tells_nobody_to_run(tmp_path, monkeypatch):
    target = Target({S1: K}, S1, WERO)
    source, there = pair(target, tmp_path, monkeypatch)
    file = source.file(WERO, held=True)
    never = there.moves(dry_run=True).load(file)
    assert (never.exit_code, never.may_run) == (1, False)
    assert there.moves().prepare(file).good
    sent = len(target.log)
    dry = there.moves(dry_run=True).load(file)
    assert (words(dry), dry.exit_code, dry.may_run) == ([Word.UNTOUCHED], 1, False)
    assert dry.units[0].planned
    assert there.moves().load(file).may_run
    again = there.moves(dry_run=True).load(file)
    assert (words(again), again.exit_code, again.may_run) == ([Word.UNTOUCHED], 1, False)
    assert len(target.log) == sent + 1
    assert words(there.moves(dry_run=True).prepare(file)) == [Word.SUPERSEDED]


def test_a_file_without_units_is_refused(tmp_path, monkeypatch):
    source, _ = pair(Target({}), tmp_path, monkeypatch)
    with pytest.raises(MalformedError, match="no logical unit"):
        savefile.parse(replace(source.file(), units=()).dump())


def test_a_source_path_that_is_gone_may_have_the_key(tmp_path, monkeypatch):
    """Its registration is the source's, however few of its paths are left."""
    second = (S1[0], 2)
    target = Target({S1: K, second: K, D1: K, PEER: 0xB}, PEER, WERO)
    source = Host(target, {"1:0:0:0": S1, "1:0:1:0": second}, tmp_path, monkeypatch)
    file = source.file(WERO)
    source.unit = replace(source.unit, nexuses=source.unit.nexuses[:1])
    report = source.moves().finish(file)
    assert words(report) == [Word.IN_DOUBT]
    assert report.units[0].remains == (f"no path here is known to be {second[0]},2 now",)
    assert set(target.keys) == {second, D1, PEER}
    # The file is kept for when the path returns.
    (left,) = verbs.moves_view(source.moves().moves())["moves"]
    assert left["order"] == str(file.order)
    assert left["next"] == f"prtrace finish {file.id}"
    source.unit = Host(target, source.paths, tmp_path, monkeypatch).unit
    assert words(source.moves().finish(file)) == [Word.DONE]
    assert set(target.keys) == {D1, PEER}


def test_a_source_path_that_is_offline_and_has_the_key_leaves_finish_in_doubt(
    tmp_path, monkeypatch
):
    second = (S1[0], 2)
    target = Target({S1: K, second: K, D1: K, PEER: 0xB}, PEER, WERO)
    source = Host(target, {"1:0:0:0": S1, "1:0:1:0": second}, tmp_path, monkeypatch)
    file = source.file(WERO)
    first, other = source.unit.nexuses
    source.unit = replace(source.unit, nexuses=(first, replace(other, state="offline")))
    report = source.moves().finish(file)
    assert (words(report), report.exit_code) == ([Word.IN_DOUBT], 4)
    assert report.units[0].remains == ("1:0:1:0 takes no commands",)


def left_by(file, *nexuses):
    """The file as save writes it where an earlier move left nexuses with the key."""
    names = tuple(f"{port},{relative}" for port, relative in nexuses)
    return replace(file, units=(replace(file.units[0], leftovers=names),))


def test_where_an_earlier_move_left_the_key_is_no_destination_of_this_one(tmp_path, monkeypatch):
    """Its finish came late, and what it registers now would pass for what it left."""
    target = Target({S1: K, PEER: 0xB}, PEER, WERO)
    source, there = pair(target, tmp_path, monkeypatch)
    file = left_by(source.file(WERO), D1)
    report = there.moves().prepare(file)
    assert (words(report), target.log) == ([Word.REFUSED], [])
    assert "an earlier move left" in report.units[0].why
    assert words(there.moves().load(file)) == [Word.REFUSED]
    assert there.moves().prepare(source.file(WERO, order=2000)).good


def test_a_key_elsewhere_is_the_other_sides_whoever_left_it_there(tmp_path, monkeypatch):
    """A form of prtrace without the rule before may have registered it for this move."""
    for holder in (D1, PEER):
        target = Target({S1: K, D1: K, PEER: 0xB}, holder, WERO)
        source, _ = pair(target, tmp_path / holder[0], monkeypatch)
        file = left_by(source.file(WERO, held=holder == D1), D1)
        report = source.moves().rollback(file, side="source")
        if holder == D1:
            assert "PREEMPT" in [step for _, step, _ in target.log]
            assert (words(report), D1 in target.keys) == ([Word.RESTORED], False)
        else:
            assert (words(report), target.log) == ([Word.IN_DOUBT], [])


@pytest.mark.parametrize("verb", ["finish", "rollback", "release"])
def test_where_a_target_lists_a_nexus_twice_nothing_is_sent(tmp_path, monkeypatch, verb):
    """The registration that a dictionary would drop may be the committed destination's."""
    target = Target({S1: K, ("iqn.d", 1): 8, PEER: 0xB}, None, None)
    source, _ = pair(target, tmp_path, monkeypatch)
    file = source.file(WERO)
    once = target.statuses
    target.statuses = lambda: (*once(), replace(once()[1], key=K))
    call = getattr(source.moves(), verb)
    report = call(file, side="source") if verb == "rollback" else call(file)
    assert (words(report), target.log) == ([Word.IN_DOUBT], [])
    assert "twice" in report.units[0].why


def test_where_a_target_lists_a_nexus_twice_the_destination_sends_nothing(tmp_path, monkeypatch):
    target = Target({S1: K, PEER: 0xB}, PEER, WERO)
    source, there = pair(target, tmp_path, monkeypatch)
    file = source.file(WERO)
    once = target.statuses
    target.statuses = lambda: (*once(), replace(once()[1], key=0xC))
    assert (words(there.moves().prepare(file)), target.log) == ([Word.IN_DOUBT], [])
    target.statuses = once
    assert there.moves().prepare(file).good
    target.statuses = lambda: (*once(), replace(once()[1], key=0xC))
    sent = len(target.log)
    assert words(there.moves().load(file)) == [Word.IN_DOUBT]
    assert words(there.moves().late_commit(file)) == [Word.ALARM]
    assert words(there.moves().rollback(file)) == [Word.IN_DOUBT]
    assert len(target.log) == sent
    target.statuses = once
    assert words(there.moves().rollback(file)) == [Word.WITHDRAWN]
