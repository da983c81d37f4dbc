"""A sysfs that a test makes, the directories and links that the scan reads; what lingers."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from prtrace.scsi.designator import Association, Designator, IdentificationPage, Kind

from .lingering import Lingering

NAA = "60014051234abcdea000000000000000"
OTHER = "60014059999999999999999999999999"
NULL, ZERO = ("1:3", "1:5")


def page_83(naa: str = "", rtpi: int = 0, *more: Designator) -> bytes:
    """A VPD page 0x83 that names the unit naa.<naa> and the relative target port rtpi."""
    designators = list(more)
    if naa:
        raw = bytes.fromhex(naa)
        designators.append(Designator(Association.LOGICAL_UNIT, Kind.NAA, 1, raw))
    if rtpi:
        raw = rtpi.to_bytes(4, "big")
        designators.append(Designator(Association.TARGET_PORT, Kind.RELATIVE_TARGET_PORT, 1, raw))
    return IdentificationPage(tuple(designators)).build()


class Tree:
    """sys and dev below one temporary directory."""

    def __init__(self, root: Path) -> None:
        self.sys = root / "sys"
        self.dev = root / "dev"
        for path in ("bus/scsi/devices", "block", "dev/block", "class/scsi_host"):
            (self.sys / path).mkdir(parents=True)
        self.dev.mkdir()

    def write(self, path: str, content: str | bytes) -> Path:
        file = self.sys / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    def link(self, path: str, to: Path) -> None:
        link = self.sys / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(to)

    def device(
        self,
        hctl: str,
        *,
        page: bytes | None = None,
        disk: str = "",
        sg: str = "",
        block: str = "",
        char: str = "",
        type_: str = "0",
        state: str = "running",
        via: str = "",
        removable: bool = False,
    ) -> Path:
        """A SCSI device; via: what lies between its host and its target ("session1/")."""
        host, channel, target, _ = hctl.split(":")
        below = f"devices/adapter{host}/host{host}/{via}target{host}:{channel}:{target}/{hctl}"
        settings = {
            "type": type_,
            "state": state,
            "vendor": "LIO-ORG ",
            "model": "DISK",
            "rev": "1",
        }
        for name, value in settings.items():
            self.write(f"{below}/{name}", f"{value}\n")
        self.write(f"{below}/inquiry", bytes((0, removable << 7, 6, 2, 31)) + bytes(31))
        if page is not None:
            self.write(f"{below}/vpd_pg83", page)
        if disk:
            self.write(f"{below}/block/{disk}/dev", f"{block}\n")
            self.link(f"block/{disk}", self.sys / below / "block" / disk)
            self.link(f"dev/block/{block}", self.sys / below / "block" / disk)
        if sg:
            self.write(f"{below}/scsi_generic/{sg}/dev", f"{char}\n")
        self.link(f"bus/scsi/devices/{hctl}", self.sys / below)
        return self.sys / below

    def mapped(
        self, node: str, number: str, name: str, uuid: str, *slaves: str, queues: bool = False
    ) -> None:
        """A device-mapper device; queues: whether it works on requests."""
        below = f"devices/virtual/block/{node}"
        self.write(f"{below}/dm/name", f"{name}\n")
        self.write(f"{below}/dm/uuid", f"{uuid}\n")
        self.write(f"{below}/dev", f"{number}\n")
        if queues:
            self.write(f"{below}/mq/0/cpu_list", "0\n")
        for slave in slaves:
            self.link(f"{below}/slaves/{slave}", self.sys / "block" / slave)
        self.link(f"block/{node}", self.sys / below)
        self.link(f"dev/block/{number}", self.sys / below)


def two_paths(tree: Tree) -> None:
    """Two disks of one logical unit; /dev/null and /dev/zero stand for their sg nodes."""
    tree.device("10:0:0:0", page=page_83(NAA, 2), disk="sdb", sg="sg1", block="8:16", char=ZERO)
    tree.device("2:0:0:0", page=page_83(NAA, 1), disk="sda", sg="sg0", block="8:0", char=NULL)
    (tree.dev / "sg0").symlink_to("/dev/null")
    (tree.dev / "sg1").symlink_to("/dev/zero")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@pytest.fixture
def lingering() -> Iterator[Callable[..., Lingering]]:
    """Makes Lingering ones, and frees them."""
    made: list[Lingering] = []

    def make(before: bytes = b"", flags: int = 0, over: socket.socket | None = None) -> Lingering:
        made.append(Lingering(before, flags, over))
        return made[-1]

    yield make
    for each in made:
        each.free()
