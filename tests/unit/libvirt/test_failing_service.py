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
from prtrace.libvirt.hypervisor import GuestState
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

    def pause(self, uuid: str) -> None:
        self.done.append(f"pause {uuid}")

    def sight(self, uuid: str) -> GuestState:
        return GuestState.RUNS

    def domain(self, uuid: str) -> Domain:
        return Domain(uuid, "waldi", {"sda": "/dev/lun"}, "")

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
