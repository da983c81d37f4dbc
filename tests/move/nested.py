"""A QEMU inside a lab machine; its guest goes on from image.snapshot(), or is moved to it."""

from __future__ import annotations

import asyncio
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from image import MACHINE, SCAN, SG_PERSIST, console
from qemu.qmp import ConnectError, QMPClient

# What a line of the guest's shell may take: it is emulated twice.
STEP_S = 300
UUID = "5c6f9c4e-0d1f-4c52-8b5b-0c4a5f7d9f11"


@dataclass(frozen=True)
class Emulator:
    """A QEMU: how it is called, and what every scsi-block device of it is given."""

    command: tuple[str, ...] = ("qemu-system-x86_64",)
    properties: str = ""


THIS_MACHINES = Emulator()


class Guest:
    """name: also of its files in folder.  disks: node and, where a proxy is asked, its socket.

    incoming: where its state comes from, "defer" until somebody says so over QMP.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        incoming: str,
        *disks: tuple[str, Path | None],
        emulator: Emulator = THIS_MACHINES,
    ) -> None:
        self.name = name
        self.qmp = folder / f"{name}.qmp"
        self._console = folder / name
        command = [*emulator.command, "-name", f"guest={name},debug-threads=on",
                   "-uuid", UUID, *MACHINE, *console(self._console),
                   "-qmp", f"unix:{self.qmp},server=on,wait=off",
                   "-incoming", incoming]  # fmt: skip
        for number, (node, helper) in enumerate(disks):
            drive = f"if=none,id=d{number},format=raw,file.driver=host_device,file.filename={node}"
            if helper is not None:
                command += ["-object", f"pr-manager-helper,id=pr{number},path={helper}"]
                drive += f",file.pr-manager=pr{number}"
            device = f"scsi-block,bus=scsi.0,scsi-id={number},drive=d{number},share-rw=on"
            device += emulator.properties
            command += ["-drive", drive, "-device", device]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def wait_until(self, status: str) -> None:
        """Wait until QEMU says that the guest is in this status."""
        end = time.monotonic() + STEP_S
        while (found := asyncio.run(self._status())) != status:
            if time.monotonic() > end or self.process.poll() is not None:
                raise AssertionError(f"{self.name} is {found}, not {status}")
            time.sleep(0.1)

    async def _status(self) -> str:
        client = QMPClient()
        try:
            async with asyncio.timeout(STEP_S):
                await client.connect(str(self.qmp))
                return (await client.execute("query-status"))["status"]
        except ConnectError:
            return "not there yet"
        finally:
            await client.disconnect()

    def text(self) -> str:
        """All that the guest has said on this QEMU."""
        return Path(f"{self._console}.out").read_text(errors="replace").replace("\r", "")

    def wait_for(self, pattern: str, after: int = 0) -> re.Match[str]:
        """Wait until the guest has said pattern after that many characters."""
        end = time.monotonic() + STEP_S
        while not (found := re.compile(pattern, re.DOTALL).search(self.text(), after)):
            if time.monotonic() > end or self.process.poll() is not None:
                raise AssertionError(f"{self.name} does not say {pattern}: {self.text()[-2000:]}")
            time.sleep(0.1)
        return found

    def run(self, line: str) -> tuple[int, str]:
        """Have the guest run a line of shell; its exit status and what it said."""
        said = len(self.text())
        with open(f"{self._console}.in", "wb", buffering=0) as keyboard:
            keyboard.write(f"{line}\n".encode())
        found = self.wait_for(r"(.*?)END (\d+)\n", said)
        return int(found[2]), found[1]

    def sg_persist(self, options: str, disk: str = "/dev/sda") -> tuple[int, str]:
        """Run sg_persist; no INQUIRY of its own ahead of the command."""
        return self.run(f"{SG_PERSIST} -n {options} {disk}")

    def capabilities(self, disk: str = "/dev/sda") -> bytes:
        """What REPORT CAPABILITIES answers in the guest."""
        return _octets(self.sg_persist("-i -c -H", disk)[1])


def capabilities(node: str) -> bytes:
    """What REPORT CAPABILITIES answers here, without proxy."""
    command = [SG_PERSIST, "-n", "-i", "-c", "-H", node]
    return _octets(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def masked(real: bytes) -> bytes:
    """The same without SIP_C and ATP_C, which real must have."""
    if real[2] & 0x0C != 0x0C:
        raise AssertionError(f"nothing to hide in {real.hex()}")
    return real[:2] + bytes((real[2] & ~0x0C,)) + real[3:]


def _octets(dump: str) -> bytes:
    lines = re.findall(r"^\s*0?0\s+((?:[0-9a-f]{2}\s+)+)", dump, re.MULTILINE)
    return bytes.fromhex("".join(lines[0].split())) if lines else b""


def started(
    folder: Path,
    name: str,
    snapshot: str,
    *disks: tuple[str, Path | None],
    emulator: Emulator = THIS_MACHINES,
) -> Guest:
    """A guest that goes on from snapshot, once it has found its disks."""
    guest = Guest(folder, name, f"exec:cat {snapshot}", *disks, emulator=emulator)
    # What is typed before the state is there goes to a console that the state replaces.
    guest.wait_until("running")
    for number in range(len(disks)):
        guest.run(SCAN.format(number=number))
    guest.run(f"until [ -e /dev/sd{'abcd'[len(disks) - 1]} ]; do sleep 0.1; done")
    return guest
