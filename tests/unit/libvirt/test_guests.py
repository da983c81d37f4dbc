"""What is stored of guests, and what of it is read again."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from prtrace.libvirt.agent import Move
from prtrace.libvirt.guests import Guests
from prtrace.libvirt.machine import Caller, GuestRecord, MoveCall, Phase

UUID = "11111111-2222-4333-8444-555555555555"


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "state", tmp_path / "run"


@pytest.mark.parametrize("phase", list(Phase))
def test_a_restart_forgets_callers_and_nothing_else(
    places: tuple[Path, Path], phase: Phase
) -> None:
    guests = Guests(*places)
    guest = guests.get(UUID)
    kept = GuestRecord(phase, announced=True, suspended=True, resume=True)
    guest.record = replace(kept, caller=Caller.COMES, asked=MoveCall.PREPARE)
    guest.move = Move({"id": "x"}, {"naa.1": "/dev/lun"})
    guest.late, guest.count = True, 7
    guests.store(guest)
    found = Guests(*places).get(UUID)
    assert found.record == kept
    assert (found.move, found.late, found.count) == (guest.move, True, 7)


@pytest.mark.parametrize("phase", list(Phase))
def test_the_plugin_finds_a_mark_while_the_guest_may_not_just_go_on(
    places: tuple[Path, Path], phase: Phase
) -> None:
    guests = Guests(*places)
    guest = guests.get(UUID)
    for now in (phase, Phase.HOME, phase):
        guest.record = GuestRecord(now)
        guests.store(guest)
        assert (places[1] / "incoming" / UUID).exists() is GuestRecord(now).incoming


@pytest.mark.parametrize("phase", list(Phase))
def test_a_run_folder_that_is_new_has_its_marks_again(
    places: tuple[Path, Path], phase: Phase
) -> None:
    guest = Guests(*places).get(UUID)
    guest.record = GuestRecord(phase, announced=True)
    Guests(*places).store(guest)
    shutil.rmtree(places[1])
    Guests(*places)
    assert (places[1] / "incoming" / UUID).exists() is GuestRecord(phase).incoming


def test_a_guest_of_which_nothing_is_known_leaves_no_file(places: tuple[Path, Path]) -> None:
    guests = Guests(*places)
    guest = guests.get(UUID)
    guests.store(guest)
    assert list(places[0].iterdir()) == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"version": 1, "phase": "moon"}', "\udcff"]
)
def test_a_damaged_record_is_told_and_not_taken_for_none(
    places: tuple[Path, Path], text: str
) -> None:
    Guests(*places)
    file = places[0] / f"{UUID}.json"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    found = Guests(*places).get(UUID)
    assert str(file) in found.broken
    assert file.exists()


def test_what_the_plugin_marked(places: tuple[Path, Path]) -> None:
    guests = Guests(*places)
    assert not guests.outgoing(UUID)
    (places[1] / "outgoing" / UUID).touch()
    assert guests.outgoing(UUID)
    guests.stays(UUID)
    guests.stays(UUID)
    assert not guests.outgoing(UUID)
