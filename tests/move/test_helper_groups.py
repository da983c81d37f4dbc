"""Whose helper a qemu-pr-helper is, by control groups that are real, as libvirt makes them."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from prtrace.move.guest import guests_of, helpers_of

pytestmark = [pytest.mark.machine(target=False)]

QEMU, HELPER = "qemu-system-x86_64", "qemu-pr-helper"
Starts = Callable[..., int]


@pytest.fixture
def groups(tmp_path: Path) -> Iterator[Path]:
    """The root of the control groups of version 2."""
    root = Path("/sys/fs/cgroup")
    if not (root / "cgroup.procs").exists():
        root = tmp_path / "cgroup"
        root.mkdir()
        subprocess.run(["mount", "-t", "cgroup2", "cgroup2", root], check=True)
    yield root
    if root != Path("/sys/fs/cgroup"):
        subprocess.run(["umount", root], check=True)


@pytest.fixture
def start(tmp_path: Path, groups: Path) -> Iterator[Starts]:
    """Start a program of this name in a control group; gives its process id."""
    with contextlib.ExitStack() as stack:

        def started(name: str, group: str, *arguments: str) -> int:
            program = tmp_path / name
            if not program.exists():
                shutil.copy("/bin/sh", program)
            process = stack.enter_context(
                subprocess.Popen(
                    [program, "-c", "echo up; read end; :", *arguments],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            if group:
                folder = groups / group
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "cgroup.procs").write_text(str(process.pid))
            return process.pid

        yield started


def qemu(start: Starts, name: str, group: str, socket: str = "/run/nobody") -> int:
    pr_manager = f"pr-manager-helper,id=pr0,path={socket}"
    return start(QEMU, group, "-name", f"guest={name}", "-object", pr_manager)


def test_a_managed_helper_acts_for_its_guest_alone(start: Starts) -> None:
    waldi, bello = "machine/qemu-1-waldi.libvirt-qemu", "machine/qemu-2-bello.libvirt-qemu"
    first, second = qemu(start, "waldi", f"{waldi}/emulator"), qemu(start, "bello", bello)
    helper = start(HELPER, waldi, "-k", "/run/its/socket")
    assert helpers_of(first) == {helper}
    assert helpers_of(second) == frozenset()
    assert guests_of(helper) == (first,)


def test_what_a_process_says_of_itself_makes_it_no_helper(start: Starts) -> None:
    """Not the socket that it names, nor the group of another guest, nor a group of no guest."""
    waldi, shared = "machine/qemu-3-waldi.libvirt-qemu", "/run/shared.sock"
    first = qemu(start, "waldi", waldi, shared)
    start(HELPER, "machine/qemu-4-bello.libvirt-qemu", "-k", shared)
    start(HELPER, "system.slice/qemu-pr-helper.service", "-k", shared)
    start(HELPER, "", "-k", shared)
    start("another", waldi, "-k", shared)
    assert helpers_of(first) == frozenset()


def test_a_guest_in_no_group_of_its_own_has_no_helper_that_is_known(start: Starts) -> None:
    socket = "/run/by-hand.sock"
    by_hand = qemu(start, "waldi", "", socket)
    helper = start(HELPER, "", "-k", socket)
    assert helpers_of(by_hand) == frozenset()
    assert guests_of(helper) == (by_hand,)  # whose migrate-pr is looked at, to be sure
