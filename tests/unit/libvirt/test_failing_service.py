"""What the service does when what it stands on fails; everything else is in tests/libvirt."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from prtrace.errors import StoreError
from prtrace.libvirt.agent import Move
from prtrace.libvirt.domain import Domain
from prtrace.libvirt.guests import Guest
from prtrace.libvirt.hypervisor import GuestNews, GuestState, HypervisorError
from prtrace.libvirt.machine import AgentSaid, Answer, GuestRecord, MoveCall, Phase, Runs
from prtrace.libvirt.service import MoveService, ServiceOptions
from prtrace.move.savefile import SavedPath, SavedUnit, SaveFile

UUID = "11111111-2222-4333-8444-555555555555"
LU = "naa.6001405365ae78790335bfe9ec942559"
XML = f"<domain><uuid>{UUID}</uuid><name>waldi</name><devices/></domain>"


def saved() -> Move:
    path = SavedPath("0:0:1:0", "/dev/lun", "naa.6001405a00000001", 1, registered=True)
    unit = SavedUnit(LU, "/dev/lun", "LIO", 0x4B4B, None, False, 3, "observed", (path,), ())
    return Move(SaveFile("0" * 32, 1, 0, "a", "waldi", (unit,)).to_document(), {})


class Agent:
    """Answers as it is told, after something has happened."""

    def __init__(self, answer: Answer, happens: Callable[[], object]) -> None:
        self.answer, self.happens = answer, happens
        self.asked: list[MoveCall] = []
        self.files: list[str] = []

    def carry_out(self, call: MoveCall, move: Move, *, late: bool = False) -> AgentSaid:
        self.asked.append(call)
        self.files.append(str(move.file["id"]))
        self.happens()
        return AgentSaid(call, self.answer)

    def save(self, devices: list[str], guest: str) -> dict[str, object]:
        raise StoreError("nothing can be saved here")

    def newest_order(self, lus: Iterable[str]) -> int:
        return 7 if list(lus) == [LU] else 0


class Libvirt:
    """Remembers what it was asked."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.guests = [UUID]
        self.state: GuestState | Exception = GuestState.RUNS
        self.paused: bool | Exception = False
        self.job = False

    def pause(self, uuid: str) -> None:
        self.done.append(f"pause {uuid}")

    def sight(self, uuid: str) -> GuestState:
        if isinstance(self.state, Exception):
            raise self.state
        return self.state

    def paused_before(self, uuid: str) -> bool:
        if isinstance(self.paused, Exception):
            raise self.paused
        return self.paused

    def domain(self, uuid: str) -> Domain:
        return Domain(uuid, "waldi", {"sda": "/dev/lun"}, "")

    def known(self) -> list[str]:
        return self.guests

    def alive(self) -> bool:
        return True

    def under_job(self, uuid: str) -> bool:
        return self.job

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

    def at_home(self) -> None:
        """Nothing of a move is here, and a note was written."""
        self.guest.record, self.guest.move = GuestRecord(), saved()

    def hook(self, operation: str, reason: str = "-") -> None:
        call = {"operation": operation, "reason": reason, "xml": XML}
        self.service.hook(call, lambda _allow, _why: None)

    def acquire(self) -> list[bool]:
        """The plugin asks, where there is a mark; what it is told."""
        said: list[bool] = []
        if self.service._guests.outgoing(UUID):
            self.service.acquire(UUID, lambda allow, _why: said.append(allow))
        return said

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


@pytest.mark.parametrize("reason", ["migrated", "-"], ids=["10.5.0", "9.0.0"])
@pytest.mark.parametrize("answer", [Answer.SILENT, Answer.GOOD], ids=lambda answer: answer.value)
def test_a_migration_that_failed_in_the_pause_and_then_went_well_is_finished(
    tmp_path: Path, answer: Answer, reason: str
) -> None:
    """Silent: the guest stayed paused.  Good: it took its old note along the second time."""
    world = World(tmp_path, answer)
    world.at_home()
    for _ in range(2):
        world.service._guests.leaves(UUID)  # the plugin's inquire()
        if not world.agent.asked:
            assert world.acquire() == [answer is Answer.GOOD]
    assert world.agent.asked == [MoveCall.RECLAIM]
    world.libvirt.state = GuestState.ENDED
    world.agent.answer = Answer.GOOD
    world.hook("stopped")
    world.hook("release", reason)
    if reason == "-":
        world.service._look_safely(UUID, migrated=True)
    assert world.agent.asked == [MoveCall.RECLAIM, MoveCall.FINISH]
    assert (world.guest.record, world.guest.move) == (GuestRecord(), None)


def test_a_finish_that_the_agent_takes_for_a_late_one_is_that_of_a_new_move(
    tmp_path: Path,
) -> None:
    """Somebody saved by hand since, or the source's part was rolled back."""
    world = World(tmp_path, Answer.SPENT)
    world.at_home()
    world.libvirt.state = GuestState.ENDED
    world.hook("stopped")
    world.hook("release", "migrated")
    assert world.guest.record == GuestRecord(Phase.LEFT)
    again = MoveService(world.service._options)._guests.get(UUID)
    assert again.move is not None
    assert again.move.file["id"] != "0" * 32
    assert int(again.move.file["order"]) > 7
    world.agent.answer = Answer.GOOD
    world.service._round()
    assert world.agent.asked == [MoveCall.FINISH] * 2
    assert world.agent.files == ["0" * 32, again.move.file["id"]]
    assert (world.guest.record, world.guest.move) == (GuestRecord(), None)


def test_a_guest_that_was_paused_before_it_was_migrated_asks_before_it_goes_on(
    tmp_path: Path,
) -> None:
    """libvirt does not call the plugin's inquire() then."""
    world = World(tmp_path, Answer.DOUBT)
    world.at_home()
    for paused, said in ((False, []), (True, [False]), (HypervisorError("no answer"), [False])):
        world.libvirt.paused = paused
        world.service._transfers(UUID)
        assert world.acquire() == said
        world.service._guests.stays(UUID)
    assert world.agent.asked == [MoveCall.RECLAIM] * 2


def test_a_transfer_that_began_while_no_service_ran_is_seen(tmp_path: Path) -> None:
    world = World(tmp_path, Answer.DOUBT)
    world.at_home()
    world.libvirt.paused = True
    for job in (False, True):
        world.libvirt.job = job
        world.service._met(UUID)
        assert world.service._guests.outgoing(UUID) is job


@pytest.mark.parametrize("trouble", [HypervisorError("no answer"), KeyError("unforeseen")])
def test_an_event_that_cannot_be_followed_ends_nothing(tmp_path: Path, trouble: Exception) -> None:
    world = World(tmp_path, Answer.DOUBT)
    world.at_home()
    world.libvirt.paused = world.libvirt.state = trouble

    class OverError(BaseException):
        pass

    seen: list[object] = []
    heard = [(UUID, GuestNews.TRANSFERS), (UUID, GuestNews.CHANGED)]

    class Events:
        def get(self, timeout: float) -> tuple[str, GuestNews]:
            if not heard:
                raise OverError
            seen.append(heard[0])
            return heard.pop(0)

    world.service._heard = Events()
    with pytest.raises(OverError):
        world.service.watch()
    assert len(seen) == 2
    assert world.guest.missed


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
