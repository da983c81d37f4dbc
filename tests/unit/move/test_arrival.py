"""What the destination says before a move, the late commit's vetoes, and deadlines."""

import time

import pytest
import small_hosts
from small_hosts import D1, PEER, S1, Host, K, Target

from prtrace.errors import UsageError
from prtrace.model import ReservationType
from prtrace.move import verbs
from prtrace.move.verdict import Verdict
from prtrace.move.word import Word

R = ReservationType
SINGLE = (R.WE, R.EA, R.WERO, R.EARO)


@pytest.fixture
def hosts(tmp_path, monkeypatch):
    """The source's and the destination's host over one target."""

    def make(kind=R.WERO, *, holder=S1, there=(D1,), keys=None):
        target = Target({S1: K, PEER: 9} if keys is None else keys, holder if kind else None, kind)
        paths = {f"3:0:{place}:1": port for place, port in enumerate(there)}
        return (
            Host(target, {"2:0:0:1": S1}, tmp_path / "s", monkeypatch),
            Host(target, paths, tmp_path / "d", monkeypatch),
        )

    return make


def test_a_move_that_would_go_well_is_movable_and_leaves_no_trace(hosts):
    source, there = hosts()
    (verdict,) = there.moves().check_arrival(source.file(R.WERO, held=True))
    assert (verdict.verdict, verdict.key) == (Verdict.MOVABLE, K)
    assert verdict.would == ("register the guest's key on 3:0:0:1",)
    assert there.target.log == []
    assert not there.folder.exists()


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({S1: K, D1: 7}, "another key is registered here"),
        ({S1: K, D1: K}, "the key is here already"),
        ({S1: K, PEER: K}, "the key is on a third nexus"),
        ({PEER: 9}, "gone"),
        ({S1: 8, PEER: 9}, "changed since"),
    ],
)
def test_what_prepare_would_refuse_is_blocked(hosts, keys, says):
    source, there = hosts(None, keys=keys)
    file = source.file()
    (verdict,) = there.moves().check_arrival(file)
    assert verdict.verdict is Verdict.BLOCKED
    assert verdict.reasons[0].fact.startswith(says)
    assert there.target.log == []
    report = there.moves().prepare(file)
    assert report.units[0].word.value == says


@pytest.mark.parametrize("session", [D1, ("iqn.s,i,0x7", 1), ("iqn.d,i,0x7", 1)])
def test_a_session_that_the_target_mixes_with_one_of_the_move_is_named(hosts, session):
    """Another session of S's host as the destination; a stranger beside the source's, or ours."""
    there = ("iqn.s,i,0x2", 1) if session is D1 else D1
    source, host = hosts(keys={S1: K, session: 9} if session is not D1 else None, there=(there,))
    file = source.file(R.WERO, held=True)
    (verdict,) = host.moves().check_arrival(file)
    assert verdict.verdict is Verdict.BLOCKED
    named = "source 2:0:0:1" if session is D1 else f"{session[0]},1"
    assert verdict.reasons[0].fact.endswith(f"one of S or D: {named}")
    for verb in (host.moves().prepare, host.moves().load):
        report = verb(file)
        assert (report.units[0].word, report.exit_code) == (Word.REFUSED, 1)
        assert report.units[0].why.endswith(named)
    assert host.target.log == [], "a REGISTER would let the fenced guest of the source in again"


def test_a_guest_without_a_key_has_nothing_to_move(hosts):
    source, there = hosts(None, keys={PEER: 9})
    (verdict,) = there.moves().check_arrival(source.file(key=None))
    assert verdict.verdict is Verdict.CLEAR


@pytest.mark.parametrize("kind", [*R, None])
@pytest.mark.parametrize("paths", [(D1,), (D1, ("iqn.d,i,0x3", 1))], ids=["one", "two"])
def test_prepare_refuses_what_cannot_be_committed_late(hosts, kind, paths):
    source, there = hosts(kind, there=paths)
    file = source.file(kind, held=kind is not None)
    vetoed = kind in (R.WE, R.EA) or (kind in SINGLE and len(paths) == 2)
    (verdict,) = there.moves().check_arrival(file, late=True)
    assert (verdict.verdict is Verdict.BLOCKED) is vetoed
    report = there.moves().prepare(file, late=True)
    assert (report.units[0].word is Word.REFUSED) is vetoed
    assert (there.target.log == []) is vetoed
    if not vetoed:
        late = there.moves().late_commit(file)
        assert late.units[0].word is Word.DONE
        assert not late.may_run
        assert kind not in SINGLE or there.target.holder == D1


@pytest.mark.parametrize("kind", [R.EA, R.WE])
def test_a_late_commit_that_cannot_be_is_an_alarm_and_load_may_follow(hosts, kind):
    source, there = hosts(kind)
    file = source.file(kind, held=True)
    assert there.moves().prepare(file).good
    sent = len(there.target.log)
    assert there.moves().late_commit(file).units[0].word is Word.ALARM
    assert len(there.target.log) == sent
    # The guest was paused.
    assert there.moves().load(file).may_run


def test_a_late_commit_without_prepare_is_an_alarm(hosts):
    source, there = hosts()
    assert there.moves().late_commit(source.file(R.WERO, held=True)).units[0].word is Word.ALARM
    assert there.target.log == []


@pytest.mark.parametrize("verb", ["prepare", "load"])
def test_nothing_begins_after_the_deadline(hosts, verb):
    source, there = hosts()
    file = source.file(R.WERO, held=True)
    report = getattr(there.moves(until=time.monotonic()), verb)(file)
    assert (report.units[0].word, report.may_run) == (Word.REFUSED, False)
    assert there.target.log == []


@pytest.mark.parametrize("number", range(1, 8))
def test_a_deadline_in_the_middle_lets_nobody_run_and_the_verb_goes_on_later(hosts, number):
    source, there = hosts(there=(D1, ("iqn.d,i,0x3", 1)))
    file = source.file(R.WERO, held=True)
    assert there.moves().prepare(file).good
    sent = len(there.target.log)
    clock, points = [0.0], []

    def pass_on(point):
        points.append(point)
        if len(points) >= number:
            clock[0] = 10.0

    there.monkeypatch.setattr(small_hosts.time, "monotonic", lambda: clock[0])
    report = there.moves(checkpoint=pass_on, until=5.0).load(file)
    ended = report.units[0].word is Word.COMMITTED
    assert ended or report.units[0].word is Word.IN_DOUBT
    assert report.may_run is ended
    clock[0] = 0.0
    assert there.moves().load(file).may_run
    assert len(there.target.log) > sent


@pytest.mark.parametrize("verb", ["prepare", "load"])
def test_a_look_that_ends_behind_the_deadline_tells_no_good_end(hosts, verb):
    source, there = hosts(holder=PEER)
    file = source.file(R.WERO)
    assert there.moves().prepare(file).good
    moves = there.moves(until=time.monotonic() + 5)
    clock, look = [0.0], verbs.Paths.look

    def slow(paths, other):
        reading = look(paths, other)
        clock[0] = 10.0**9
        return reading

    there.monkeypatch.setattr(small_hosts.time, "monotonic", lambda: clock[0])
    there.monkeypatch.setattr(verbs.Paths, "look", slow)
    report = getattr(moves, verb)(file)
    assert (report.units[0].word, report.may_run) == (Word.IN_DOUBT, False)
    assert not any(entry.lines.told for entry in there.moves().moves())
    clock[0] = 0.0
    assert getattr(there.moves(), verb)(file).good


def test_what_a_dead_source_left_is_taken_away_from_the_destination(hosts):
    source, there = hosts()
    file = source.file(R.WERO, held=True)
    assert there.moves().prepare(file).good
    early = there.moves().finish_from_destination(file)
    assert (early.units[0].word, there.target.keys[S1]) == (Word.REFUSED, K)
    assert there.moves().load(file).may_run
    # The source's host was restarted, and registered again what it believed to be its own.
    there.target.keys[S1] = K
    assert there.moves().finish_from_destination(file).units[0].word is Word.DONE
    assert there.target.keys == {D1: K, PEER: 9}
    assert there.target.holder == D1
    # Whatever belongs to the move comes too late now.
    assert there.moves().rollback(file, side="destination").units[0].word is Word.SUPERSEDED
    assert there.moves().load(file).units[0].word is Word.SUPERSEDED


def test_a_follower_keeps_what_a_dead_source_left_and_moves_on(hosts):
    source, there = hosts(holder=PEER)
    file = source.file(R.WERO)
    assert there.moves().prepare(file).good
    assert there.moves().load(file).may_run
    assert there.moves().finish_from_destination(file).units[0].word is Word.REFUSED
    assert there.target.keys[S1] == K
    (verdict,) = there.moves(there.observer()).check(["/dev/sda"])
    assert verdict.verdict is Verdict.MOVABLE
    assert verdict.leftovers == ("iqn.s,i,0x1,1",)
    assert any(file.id in note for note in verdict.notes)
    onward = there.moves(there.observer()).save(["/dev/sda"])
    assert onward.units[0].leftovers == ("iqn.s,i,0x1,1",)
    third = Host(there.target, {"4:0:0:1": ("iqn.e,i,0x5", 1)}, there.folder / "e",
                 there.monkeypatch)  # fmt: skip
    assert third.moves().prepare(onward).good
    assert third.moves().load(onward).may_run


def test_another_nexus_with_the_key_is_no_leftover(hosts):
    source, there = hosts(holder=PEER)
    file = source.file(R.WERO)
    assert there.moves().prepare(file).good
    assert there.moves().load(file).may_run
    there.target.keys["iqn.x,i,0x7", 1] = K
    (verdict,) = there.moves(there.observer()).check(["/dev/sda"])
    assert verdict.verdict is Verdict.BLOCKED


def test_several_paths_need_a_paused_guest(hosts):
    source, there = hosts(there=(D1, ("iqn.d,i,0x3", 1)))
    file = source.file(R.WERO, held=True)
    assert there.moves().prepare(file).good
    assert there.moves().load(file).may_run
    there.target.keys[S1] = K
    with pytest.raises(UsageError):
        there.moves().finish_from_destination(file)
    assert there.moves().finish_from_destination(file, paused=True).good
    assert S1 not in there.target.keys
    assert len([key for key in there.target.keys.values() if key == K]) == 2
