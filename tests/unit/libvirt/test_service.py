"""The service without agent and libvirtd: it refuses, says why, and stays able to answer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from prtrace.errors import StoreError
from prtrace.libvirt.domain import NAMESPACE
from prtrace.libvirt.guests import Guests
from prtrace.libvirt.machine import Phase
from prtrace.libvirt.note import Note
from prtrace.libvirt.service import MoveService, ServiceOptions
from prtrace.model import ReservationType
from prtrace.move.savefile import SavedPath, SavedUnit, SaveFile

UUID = "11111111-2222-4333-8444-555555555555"
LU = "naa.6001405365ae78790335bfe9ec942559"


def xml(note: str) -> str:
    return (
        f"<domain><uuid>{UUID}</uuid><name>waldi</name><metadata>{note}</metadata><devices>"
        "<disk device='lun'><source dev='/dev/lun'/><target dev='sda'/></disk></devices></domain>"
    )


def note(kind: ReservationType | None = None) -> str:
    path = SavedPath("0:0:1:0", "/dev/lun", "naa.6001405a00000001", 1, registered=True)
    unit = SavedUnit(
        LU, "/dev/lun", "LIO", 0x4B4B, kind, kind is not None, 3, "observed", (path,), ()
    )
    file = SaveFile("0" * 32, 1, 0, "a", "waldi", (unit,)).to_document()
    element = Note(UUID, "a", "boot", 3, {"sda": LU}, file).element()
    return element.replace("<note>", f"<note xmlns='{NAMESPACE}'>")


@pytest.fixture
def options(tmp_path: Path) -> ServiceOptions:
    nobody = str(tmp_path / "nobody")
    return ServiceOptions(nobody, tmp_path / "run", tmp_path / "state", deadline=1.0)


def hook(service: MoveService, operation: str, text: str, **more: Any) -> tuple[bool, str]:
    said: list[tuple[bool, str]] = []
    call: Mapping[str, Any] = {"operation": operation, "reason": "-", "xml": text, **more}
    service.hook(call, lambda allow, why: said.append((allow, why)))
    (answer,) = said
    return answer


def phase(options: ServiceOptions) -> Phase:
    return Guests(options.state_dir, options.run_dir).get(UUID).record.phase


def test_without_an_agent_no_guest_comes(options: ServiceOptions) -> None:
    service = MoveService(options)
    allowed, why = hook(service, "migrate", xml(note()))
    assert not allowed
    assert "no agent" in why
    assert phase(options) is Phase.HOME


def test_a_prepare_that_nobody_answered_is_not_forgotten(options: ServiceOptions) -> None:
    service = MoveService(options)
    allowed, why = hook(service, "started", xml(note()), incoming=True, flags=1)
    assert not allowed
    assert "no agent" in why
    assert phase(options) is Phase.WITHDRAWING
    assert (options.run_dir / "incoming" / UUID).exists()
    # Not with an ordinary start either, nor by the plugin, nor after a restart.
    again = MoveService(options)
    assert not hook(again, "started", xml(""), incoming=False)[0]
    said: list[bool] = []
    again.acquire(UUID, lambda allow, _why: said.append(allow))
    assert said == [False]


def test_a_holder_does_not_come_unless_something_commits(options: ServiceOptions) -> None:
    service = MoveService(options)
    text = xml(note(ReservationType.WERO))
    allowed, why = hook(service, "started", text, incoming=True, flags=1)
    assert not allowed
    assert "LATE_COMMIT=warn" in why
    assert phase(options) is Phase.HOME


@pytest.mark.parametrize("process", [0, os.getpid, 1], ids=["none", "this one", "init"])
def test_a_process_number_is_no_plugin(
    options: ServiceOptions, process: int | Callable[[], int]
) -> None:
    """The daemon that wrote it has ended, and another process has its number by now."""
    service = MoveService(options)
    number = process if isinstance(process, int) else process()
    (options.run_dir / "plugin").write_text(f"{number}\n" if number else "")
    text = xml(note(ReservationType.WERO))
    allowed, why = hook(service, "started", text, incoming=True, flags=1)
    assert not allowed
    assert "LATE_COMMIT=warn" in why
    assert "post-copy" in hook(service, "started", xml(note()), incoming=True, flags=0x8001)[1]


def test_a_plugin_that_is_loaded_will_ask(options: ServiceOptions) -> None:
    service = MoveService(options)
    held = options.run_dir / "plugin"
    hold = (
        "import fcntl, sys, time; file = open(sys.argv[1], 'a+');"
        "fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB); print(flush=True); time.sleep(60)"
    )
    words = [sys.executable, "-c", hold, held]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as libvirtd:
        assert libvirtd.stdout is not None
        libvirtd.stdout.readline()
        text = xml(note(ReservationType.WERO))
        assert "no agent" in hook(service, "started", text, incoming=True, flags=1)[1]
        libvirtd.kill()


@pytest.mark.parametrize("text", ["x", "{}", '{"version": 9}'])
def test_a_damaged_note_stops_a_migration_and_no_ordinary_start(
    options: ServiceOptions, text: str
) -> None:
    service = MoveService(options)
    damaged = xml(f"<note xmlns='{NAMESPACE}'>{text}</note>")
    with pytest.raises(Exception, match="note"):
        hook(service, "migrate", damaged)
    assert hook(service, "started", damaged, incoming=False) == (True, "")


def test_a_state_folder_that_is_gone_is_told_and_holds_up_nothing(
    options: ServiceOptions,
) -> None:
    service = MoveService(options)
    shutil.rmtree(options.state_dir)
    options.state_dir.write_text("")
    for _ in range(2):
        with pytest.raises(StoreError):
            hook(service, "started", xml(note()), incoming=True, flags=1)
    options.state_dir.unlink()
    options.state_dir.mkdir()
    assert not hook(service, "started", xml(note()), incoming=True, flags=1)[0]
    assert phase(options) is Phase.WITHDRAWING


def test_a_damaged_record_lets_nothing_happen(options: ServiceOptions) -> None:
    MoveService(options)
    (options.state_dir / f"{UUID}.json").write_text("{")
    service = MoveService(options)
    for operation in ("migrate", "started"):
        allowed, why = hook(service, operation, xml(note()), incoming=True)
        assert not allowed
        assert "damaged" in why


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("<disk device='lun'><source dev='/dev/y'/><target dev='sdb'/></disk>", "LUN sdb"),
        ("<disk type='volume' device='lun'><source dev=''/><target dev='sdb'/></disk>", "LUN sdb"),
        ("<disk type='network' device='lun'><target dev='sdc'/></disk>", "LUN sdc"),
    ],
    ids=["plugged in since", "of a pool", "of the network"],
)
@pytest.mark.parametrize("operation", ["migrate", "started"])
def test_a_guest_with_a_lun_that_its_note_does_not_speak_of_does_not_come(
    options: ServiceOptions, operation: str, more: str, says: str
) -> None:
    service = MoveService(options)
    text = xml(note()).replace("</devices>", f"{more}</devices>")
    allowed, why = hook(service, operation, text, incoming=True, flags=1)
    assert not allowed
    assert says in why
    assert phase(options) is Phase.HOME


def test_a_change_behind_the_save_wants_a_note_of_its_own(
    options: ServiceOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent tells of it while the note is written; the guest would take the old one along."""
    service = MoveService(options)
    notes: list[bool] = []

    class OverError(BaseException):
        pass

    def write_note(uuid: str) -> bool:
        notes.append(True)
        if len(notes) == 1:
            service._wants_note(uuid)
        elif len(notes) == 2:
            service._wake_notes.set()
            return False
        elif len(notes) == 3:
            service._wake_notes.set()
            raise StoreError("full")
        else:
            assert service._unnoted == set()
            raise OverError
        return True

    monkeypatch.setattr(service, "_write_note", write_note)
    service._wants_note(UUID)
    with pytest.raises(OverError):
        service.write_notes()
    assert len(notes) == 4
