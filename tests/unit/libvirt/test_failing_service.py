"""What the service does when what it stands on fails; everything else is in tests/libvirt."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from prtrace.errors import StoreError
from prtrace.libvirt.agent import Move
from prtrace.libvirt.domain import Domain
from prtrace.libvirt.guests import Guest
from prtrace.libvirt.hypervisor import GuestState, HypervisorError
from prtrace.libvirt.machine import AgentSaid, Answer, GuestRecord, MoveCall, Phase, Runs
from prtrace.libvirt.service import MoveService, ServiceOptions

UUID = "11111111-2222-4333-8444-555555555555"


class Agent:
    """Answers as it is told, after something has happened."""

    def __init__(self, answer: Answer, happens: Callable[[], object]) -> None:
        self.answer, self.happens = answer, happens
        self.asked: list[MoveCall] = []

    def carry_out(self, call: MoveCall, move: Move, *, late: bool = False) -> AgentSaid:
        self.asked.append(call)
        self.happens()
        return AgentSaid(call, self.answer)

    def save(self, devices: list[str], guest: str) -> dict[str, object]:
        raise StoreError("nothing can be saved here")


class Libvirt:
    """Remembers what it was asked."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.guests = [UUID]
        self.state: GuestState | Exception = GuestState.RUNS

    def pause(self, uuid: str) -> None:
        self.done.append(f"pause {uuid}")

    def sight(self, uuid: str) -> GuestState:
        if isinstance(self.state, Exception):
            raise self.state
        return self.state

    def domain(self, uuid: str) -> Domain:
        return Domain(uuid, "waldi", {"sda": "/dev/lun"}, "")

    def known(self) -> list[str]:
        return self.guests

    def alive(self) -> bool:
        return True

    def under_job(self, uuid: str) -> bool:
        return False

    def write_note(self, uuid: str, element: str) -> None:
        self.done.append("note")


class World:
    """A guest that was prepared for, and runs here; its disk can go away."""

    def __init__(self, folder: Path, answer: Answer) -> None:
        self.state, self.away = folder / "state", folder / "away"
        self.service = MoveService(
            ServiceOptions(str(folder / "nobody"), run_dir=folder / "run", state_dir=self.state)
        )
        self.agent, self.libvirt = Agent(answer, lambda: None), Libvirt()
        self.service._agent = self.agent
        self.service._hypervisor = self.libvirt
        self.guest: Guest = self.service._guests.get(UUID)
        self.guest.record, self.guest.move = GuestRecord(Phase.PREPARED), Move({"id": "x"}, {})

    def runs(self) -> None:
        self.service._give(self.guest, Runs(), None)

    def full(self) -> None:
        self.state.rename(self.away)

    def room(self) -> None:
        self.away.rename(self.state)


def test_a_disk_that_was_full_stops_no_guest_for_ever(tmp_path: Path) -> None:
    world = World(tmp_path, Answer.SPENT)
    world.full()
    for _ in range(2):
        with pytest.raises(StoreError):
            world.runs()
    assert (world.agent.asked, world.guest.record) == ([], GuestRecord(Phase.PREPARED))
    world.room()
    world.runs()
    assert world.agent.asked == [MoveCall.LATE_COMMIT]
    assert world.guest.record == GuestRecord(Phase.HELD)
    assert world.libvirt.done == [f"pause {UUID}"]


def test_a_guest_that_may_not_run_is_paused_without_room_on_the_disk(tmp_path: Path) -> None:
    world = World(tmp_path, Answer.SPENT)
    world.agent.happens = world.full
    with pytest.raises(StoreError):
        world.runs()
    assert world.libvirt.done == [f"pause {UUID}"]
    assert world.guest.record == GuestRecord(Phase.ARRIVED)


def test_an_answer_that_is_not_understood_is_none(tmp_path: Path) -> None:
    world = World(tmp_path, Answer.GOOD)
    world.agent.happens = lambda: {}["exit_status"]
    world.runs()
    assert world.guest.record == GuestRecord(Phase.ARRIVED)
    assert world.guest.move is not None


def test_a_guest_does_not_have_a_note_written_for_each_of_its_commands(tmp_path: Path) -> None:
    world = World(tmp_path, Answer.GOOD)
    world.guest.record = GuestRecord()
    world.service._wants_note(UUID)
    assert world.service._due_notes(time.monotonic()) == [UUID]
    assert world.service._write_note(UUID)
    world.service._wants_note(UUID)
    now = time.monotonic()
    assert world.service._due_notes(now) == []
    assert world.service._due_notes(now + 60) == [UUID]
    assert world.libvirt.done == ["note"]


@pytest.mark.parametrize("trouble", [HypervisorError("no answer"), KeyError("unforeseen")])
def test_a_guest_that_left_while_nobody_could_look_is_looked_at_again(
    tmp_path: Path, trouble: Exception
) -> None:
    """That it left by migration is said once, in an event: the key here would stay for ever."""
    world = World(tmp_path, Answer.GOOD)
    world.guest.record = GuestRecord()
    world.libvirt.state = trouble
    world.service._look_safely(UUID, migrated=True)
    assert (world.agent.asked, world.guest.missed) == ([], True)
    world.service._round()
    world.service._look_safely(UUID)  # a later event that says nothing of it
    assert world.agent.asked == []
    world.libvirt.state = GuestState.ENDED
    world.guest.due = 0.0
    world.service._round()
    assert world.agent.asked == [MoveCall.FINISH]
    assert (world.guest.record, world.guest.missed, world.guest.left) == (
        GuestRecord(),
        False,
        False,
    )


def test_a_full_disk_does_not_make_it_forget_that_the_guest_left(tmp_path: Path) -> None:
    world = World(tmp_path, Answer.GOOD)
    world.guest.record = GuestRecord()
    world.libvirt.state = GuestState.ENDED
    world.full()
    world.service._look_safely(UUID, migrated=True)
    assert world.agent.asked == []
    world.room()
    world.guest.due = 0.0
    world.service._round()
    assert world.agent.asked == [MoveCall.FINISH]


@pytest.mark.parametrize("phase", [each for each in Phase if each is not Phase.HOME])
def test_after_what_nobody_foresaw_the_guest_is_in_doubt_as_before(
    tmp_path: Path, phase: Phase
) -> None:
    """It keeps its phase, and is tried again: nothing counts as done."""
    world = World(tmp_path, Answer.GOOD)
    world.guest.record = GuestRecord(phase)
    world.libvirt.state = KeyError("unforeseen")
    world.service._round()
    assert (world.guest.record, world.agent.asked) == (GuestRecord(phase), [])
    assert world.guest.missed
    assert world.guest.due > 0


def test_the_trouble_of_one_guest_is_not_the_others(tmp_path: Path) -> None:
    world = World(tmp_path, Answer.GOOD)
    first = world.service._guests.get("first")
    world.service._guests._guests = {"first": first, UUID: world.guest}
    first.record = GuestRecord(Phase.LEFT)

    def sight(uuid: str) -> GuestState:
        if uuid == "first":
            raise KeyError(uuid)
        return GuestState.RUNS

    world.libvirt.sight = sight  # type: ignore[method-assign]
    world.service._round()
    assert world.agent.asked == [MoveCall.LATE_COMMIT]


def test_what_is_stored_of_a_guest_goes_with_it(tmp_path: Path) -> None:
    world = World(tmp_path, Answer.GOOD)
    world.guest.record, world.guest.count = GuestRecord(announced=True), 7
    world.service._guests.store(world.guest)
    file = world.state / f"{UUID}.json"
    for known, stays in (([UUID], True), ([], True), ([UUID], True), ([], True), ([], False)):
        world.libvirt.guests = known
        world.service._census_due = 0.0
        world.service._round()
        assert file.exists() is stays, known
    assert (world.guest.record, world.guest.move) == (GuestRecord(), None)


@pytest.mark.parametrize("phase", [each for each in Phase if each is not Phase.HOME])
def test_a_guest_whose_move_is_unfinished_is_not_forgotten(tmp_path: Path, phase: Phase) -> None:
    world = World(tmp_path, Answer.GOOD)
    world.guest.record = GuestRecord(phase)
    world.service._guests.store(world.guest)
    world.guest.due = time.monotonic() + 1000
    world.libvirt.guests = []
    for _ in range(3):
        world.service._census_due = 0.0
        world.service._round()
    assert (world.state / f"{UUID}.json").exists()
    assert world.guest.record == GuestRecord(phase)
