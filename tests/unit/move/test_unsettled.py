"""What is in question on this host is in doubt for check and save."""

import pytest
from small_hosts import LU, PEER, S1, Host, K, Target

from prtrace.errors import StoreError
from prtrace.model import FullStatusRead, ReservationType
from prtrace.move import savefile
from prtrace.move.journal import DESTINATION, SOURCE, Entry, Journal
from prtrace.move.lines import Lines, Worth
from prtrace.move.saving import DoubtError
from prtrace.move.table import Verb
from prtrace.move.verdict import Verdict
from prtrace.move.word import Word
from prtrace.state.apply import apply, new_state
from prtrace.state.view import unit_view

NOW = 10**18
QUESTION = Lines((("1:0:0:0", Worth.IN_QUESTION),))


class Observer:
    """An agent that knows what the target has."""

    def __init__(self, host):
        self.host = host

    def units(self, _lus):
        unit, target = self.host.unit, self.host.target
        read = FullStatusRead(
            lu=LU, nexus=unit.nexuses[0].nexus, time=NOW, generation=target.generation,
            registrations=target.statuses(), truncated=False, paths=unit.nexuses,
        )  # fmt: skip
        return [unit_view(apply(new_state(LU, self.host.kind, NOW), read).state, unit, NOW)]

    def events(self, _lu):
        return iter(())


@pytest.mark.parametrize(
    ("side", "verb", "end", "lines"),
    [
        (SOURCE, Verb.RECLAIM, None, QUESTION),
        (SOURCE, Verb.RECLAIM, Word.IN_DOUBT, QUESTION),
        (DESTINATION, Verb.PREPARE, Word.PREPARED, QUESTION),
        (DESTINATION, Verb.COMMIT, None, Lines()),
        (SOURCE, Verb.FINISH, None, Lines()),
        (SOURCE, Verb.RECLAIM, Word.RESTORED, Lines()),
        (SOURCE, None, None, Lines()),
        (DESTINATION, Verb.COMMIT, Word.COMMITTED, Lines(told=True)),
    ],
)
def test_what_is_in_question_here_is_in_doubt_for_check_and_save(
    tmp_path, monkeypatch, side, verb, end, lines
):
    # The peer has fenced; the key here is one that a killed abort has revived.
    target = Target({S1: K, PEER: 0xB}, PEER, ReservationType.WERO)
    host = Host(target, {"1:0:0:0": S1}, tmp_path, monkeypatch)
    entry = Entry(LU, side, 7, "ab" * 16, verb, end, lines)
    with Journal(tmp_path, LU) as journal:
        journal.write(entry, 1)
    moves = host.moves(Observer(host))
    (verdict,) = moves.check(["/dev/sda"])
    before = [path.read_bytes() for path in sorted((tmp_path / "move").glob("*.journal"))]
    if lines.in_question or (verb is not None and end is None):
        assert verdict.verdict is Verdict.IN_DOUBT
        assert "ab" * 16 in verdict.reasons[0].fact
        with pytest.raises(DoubtError):
            moves.save(["/dev/sda"])
        after = [path.read_bytes() for path in sorted((tmp_path / "move").glob("*.journal"))]
        assert after == before
    else:
        assert verdict.verdict is Verdict.MOVABLE
        file = moves.save(["/dev/sda"])
        (saved,) = [each for each in moves.moves() if each.side == SOURCE]
        assert saved.move == file.id
        assert file.order > 7


def test_no_move_is_saved_after_the_last_order_there_is(tmp_path, monkeypatch):
    """A file with more digits would be one that nobody can read."""
    target = Target({S1: K}, S1, ReservationType.WERO)
    source = Host(target, {"1:0:0:0": S1}, tmp_path, monkeypatch)
    for order, readable in ((savefile.MAX_ORDER - 1, True), (savefile.MAX_ORDER, False)):
        with Journal(tmp_path, LU) as journal:
            journal.write(Entry(LU, DESTINATION, order, f"{order:032x}"), 1)
        if readable:
            saved = source.moves(source.observer()).save(["/dev/sda"])
            assert savefile.parse(saved.dump()).order == savefile.MAX_ORDER
        else:
            with pytest.raises(StoreError, match="no move can be newer"):
                source.moves(source.observer()).save(["/dev/sda"])
