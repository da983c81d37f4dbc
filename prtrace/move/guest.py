"""The guest whose reservation is to move, who sends its commands, and whether QEMU moves it.

A guest's commands come from its QEMU, or from a qemu-pr-helper that QEMU asks over a socket;
libvirt starts one for each guest (<reservations managed='yes'>) and puts it into the guest's
control group, which is how it is known for whom it acts: the group is root's to give, while names
and command lines are what each process says of itself.  A helper outside of such a group may act
for several guests, and counts as nobody's.

QEMU 11.0 and later do for scsi-block devices with migrate-pr=on, the default of machine types
from 11.0 on (QEMU docs/system/devices/scsi/migrate-pr.rst).  Both must never do it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from prtrace.errors import NoSuchDeviceError, UnavailableError, UsageError
from prtrace.linux.guestgroup import guest_group_path
from prtrace.linux.process import PROC, ProcessIdentity, identify, start_of
from prtrace.linux.qemu import options, settings

HELPER: Final = "qemu-pr-helper"
_PROPERTY: Final = b"migrate-pr"
_MACHINE: Final = re.compile(r"-(\d+)\.(\d+)$")
_FIRST_VERSION: Final = (11, 0)
_TRUE: Final = (True, "on", "yes", "true", "y")
_LONGEST: Final = 6 << 20  # the most that execve(2) takes as arguments
_LARGEST: Final = 256 << 20
_CHUNK: Final = 1 << 20


def find_guest(name: str) -> ProcessIdentity:
    """The QEMU process of the guest with this name or UUID.

    NoSuchDeviceError without one, UsageError with several: a command line is what its process
    says of itself, and anybody can start one that says the same.
    """
    found = [
        process
        for process in _processes()
        if process.guest is not None and name in (process.guest.name, process.guest.uuid)
    ]
    if not found:
        raise NoSuchDeviceError(
            f"no QEMU process here runs a guest called {name}", hint="name its process with --pid"
        )
    if len(found) > 1:
        pids = ", ".join(map(str, sorted(process.pid for process in found)[:8]))
        raise UsageError(
            f"{len(found)} processes say that they run a guest called {name}: {pids}",
            hint="name its process with --pid",
        )
    return found[0]


def find_process(pid: int) -> ProcessIdentity:
    """The process; NoSuchDeviceError where there is none."""
    start = start_of(pid)
    process = None if start is None else identify(pid, start)
    if process is None:
        raise NoSuchDeviceError(f"there is no process {pid}")
    return process


def helpers_of(pid: int) -> frozenset[int]:
    """The running qemu-pr-helpers that are known to act for the guest of this QEMU alone."""
    group = _group(pid)
    if not group:
        return frozenset()
    return frozenset(
        each.pid for each in _processes() if is_helper(each) and _group(each.pid) == group
    )


def is_helper(process: ProcessIdentity) -> bool:
    """Whether the program that the process executes, as the kernel names it, is qemu-pr-helper."""
    return os.path.basename(process.exe.removesuffix(" (deleted)")) == HELPER


def guests_of(pid: int) -> tuple[int, ...]:
    """The QEMUs whose commands process pid may send: itself, or those that may ask it for them.

    Those of its control group, and those that say that they ask it: one too many is looked at
    for nothing, one too few would be overlooked.
    """
    start = start_of(pid)
    process = None if start is None else identify(pid, start)
    if process is None:
        return ()
    if process.guest is not None:
        return (pid,)
    if not (is_helper(process) or process.comm == HELPER):
        return ()
    group, socket = _group(pid), helper_socket(process.cmdline)
    return tuple(
        each.pid
        for each in _processes()
        if each.guest
        and ((group and _group(each.pid) == group) or socket in _asked_sockets(each.pid))
    )


def _group(pid: int) -> str:
    """The control group of the guest whose process this is; "" where it is in no such group."""
    try:
        text = (PROC / str(pid) / "cgroup").read_text(encoding="utf-8", errors="surrogateescape")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    except OSError as error:
        raise UnavailableError(f"process {pid} may not be read", hint="run as root") from error
    return guest_group_path(text)


def helper_socket(arguments: Sequence[str]) -> str:
    """The socket in a qemu-pr-helper's arguments; -k and --socket (scsi/qemu-pr-helper.c)."""
    found = ""
    for place, argument in enumerate(arguments):
        if argument in ("-k", "--socket"):
            found = next(iter(arguments[place + 1 :]), "")
        elif argument.startswith("--socket="):
            found = argument.removeprefix("--socket=")
        elif argument.startswith("-k"):
            found = argument.removeprefix("-k")
    return found


def _asked_sockets(pid: int) -> frozenset[str]:
    """The sockets of the pr-managers on a QEMU's command line."""
    try:
        with (PROC / str(pid) / "cmdline").open("rb") as file:
            arguments = file.read(_LONGEST).decode(errors="replace").split("\0")
    except OSError:
        return frozenset()
    return frozenset(pr_sockets(arguments))


def pr_sockets(arguments: Sequence[str]) -> Iterator[str]:
    """The path of each pr-manager-helper object in QEMU's arguments."""
    for option, value in options(arguments):
        if option == "object":
            given = _object(value)
            if given.get("qom-type") == "pr-manager-helper" and isinstance(given.get("path"), str):
                yield given["path"]


def _object(value: str) -> dict[str, Any]:
    """The settings of an -object, which is a "key=value,…" list or JSON."""
    if not value.startswith("{"):
        return dict(settings(value, "qom-type"))
    try:
        given = json.loads(value)
    except (ValueError, RecursionError):
        return {}
    return given if isinstance(given, dict) else {}


def _processes() -> Iterator[ProcessIdentity]:
    for entry in sorted(PROC.iterdir()):
        if entry.name.isdecimal():
            start = start_of(int(entry.name))
            process = None if start is None else identify(int(entry.name), start)
            if process is not None:
                yield process


def moves_itself(pid: int) -> str:
    """Why this QEMU will move reservations itself, "" where it will not."""
    try:
        with (PROC / str(pid) / "cmdline").open("rb") as file:
            arguments = file.read(_LONGEST).decode(errors="replace").split("\0")
        knows = _contains(PROC / str(pid) / "exe", _PROPERTY)
    except FileNotFoundError as error:
        raise NoSuchDeviceError(f"there is no process {pid}") from error
    except OSError as error:
        raise UnavailableError(f"process {pid} may not be read", hint="run as root") from error
    return reason(arguments) if knows else ""


def reason(arguments: Sequence[str]) -> str:
    """Why a QEMU that knows migrate-pr and has these arguments moves reservations itself.

    A device overrides -global, which overrides the machine type, as in QEMU.  Devices that were
    plugged in later, -set and -readconfig are not seen.
    """
    devices = [
        device
        for option, value in options(arguments)
        if option == "device" and (device := _device(value)) is not None
    ]
    explicit = [device["migrate-pr"] for device in devices if "migrate-pr" in device]
    if any(value in _TRUE for value in explicit):
        return "a scsi-block device has migrate-pr=on: take it away, or leave the move to QEMU"
    if len(explicit) == len(devices):
        return ""
    if (value := _global(arguments)) is not None:
        wrong = "-global sets migrate-pr=on: take it away, or leave the move to QEMU"
        return wrong if value in _TRUE else ""
    machine = _machine(arguments)
    version = _MACHINE.search(machine)
    if version is not None and (int(version[1]), int(version[2])) < _FIRST_VERSION:
        return ""
    return (
        f"migrate-pr is on by default for machine type {machine or 'none given'}: set "
        "migrate-pr=off on its scsi-block devices, or leave the move to QEMU"
    )


def _device(value: str) -> dict[str, Any] | None:
    """The settings of a scsi-block device; None for others."""
    if value.startswith("{"):
        try:
            given = json.loads(value)
        except (ValueError, RecursionError):
            return None
    else:
        given = settings(value, "driver")
    if not isinstance(given, dict) or given.get("driver") != "scsi-block":
        return None
    return given


def _global(arguments: Sequence[str]) -> str | None:
    """What -global sets migrate-pr of scsi-block to, None where it does not.

    "DRIVER.PROPERTY=VALUE", or driver=, property= and value= (qdev_global, system/globals.c).
    """
    found = None
    for option, value in options(arguments):
        if option != "global":
            continue
        given = settings(value)
        if (given.get("driver"), given.get("property")) == ("scsi-block", "migrate-pr"):
            found = given.get("value", found)
        found = given.get("scsi-block.migrate-pr", found)
    return found


def _machine(arguments: Sequence[str]) -> str:
    found = ""
    for option, value in options(arguments):
        if option in ("machine", "M"):
            found = settings(value, "type").get("type", found)
    return found


def _contains(program: Path, needle: bytes) -> bool:
    """Whether needle is in the file; what is larger than any QEMU is taken to have it.

    Not by mmap: anybody may have the agent look at a process, and at a file that shrinks.
    """
    end = b""
    with program.open("rb") as file:
        for _ in range(_LARGEST // _CHUNK):
            chunk = file.read(_CHUNK)
            if needle in end + chunk:
                return True
            if not chunk:
                return False
            end = chunk[1 - len(needle) :]
    return True
