"""APTPL of a move's REGISTERs, where the device does not say whether registrations persist."""

from dataclasses import replace

import pytest
from small_hosts import D1, S1, Host, K, Target

from prtrace.model import ReservationType
from prtrace.move import savefile, verbs
from prtrace.move.word import Word

WERO = ReservationType.WERO


@pytest.mark.parametrize("says", [True, False, None])
@pytest.mark.parametrize("observed", [True, False, None])
def test_what_the_device_does_not_say_the_source_may_know(tmp_path, monkeypatch, says, observed):
    target = Target({S1: K}, S1, WERO)
    source = Host(target, {"1:0:0:0": S1}, tmp_path / "s", monkeypatch)
    there = Host(target, {"2:0:0:0": D1}, tmp_path / "d", monkeypatch)
    file = source.file(WERO, held=True)
    units = tuple(replace(unit, aptpl=observed) for unit in file.units)
    file = savefile.parse(replace(file, units=units).dump())
    moves, sent = there.moves(), []

    class Paths(verbs.Paths):
        def persists(self):
            return says

        def send(self, command, *, aptpl):
            sent.append(aptpl)
            return super().send(command, aptpl=False)

    monkeypatch.setattr(verbs, "Paths", Paths)
    (unit,) = moves.prepare(file).units
    known = observed if says is None else says
    if known is None:
        assert (unit.word, sent) == (Word.IN_DOUBT, [])
        assert "power loss" in unit.why
        assert D1 not in target.keys
    else:
        assert (unit.word, sent) == (Word.PREPARED, [known])


@pytest.mark.parametrize("told", [True, False, None])
def test_who_set_the_array_up_can_say_it(tmp_path, monkeypatch, told):
    target = Target({S1: K}, S1, WERO)
    source = Host(target, {"1:0:0:0": S1}, tmp_path / "s", monkeypatch)
    file = source.moves(source.observer()).save(["/dev/sda"], aptpl=told)
    assert [unit.aptpl for unit in savefile.parse(file.dump()).units] == [told]
