"""Who else uses a device: what was seen, and whether everything could be looked at."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from prtrace.linux.directory import Directory
from prtrace.linux.units import scan
from prtrace.linux.users import Use, Users, users_of
from tests.unit.linux.conftest import Tree, page_83

NAA = "6001405000000001000000000000000a"


class Processes:
    """A /proc that the test makes, with what nodes_in_use reads of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for pid in ("1", "77"):
            (root / pid / "fd").mkdir(parents=True)
        (root / "1/mountinfo").write_text("36 35 0:5 / /dev rw - devtmpfs\n")
        (root / "self/ns").mkdir(parents=True)
        (root / "self/ns/pid").symlink_to("pid:[4026531836]")


@pytest.fixture
def processes(tmp_path: Path) -> Processes:
    return Processes(tmp_path / "proc")


@pytest.fixture
def directory(tree: Tree) -> Directory:
    """Three disks of three logical units; the second disk has a partition."""
    for number, disk in enumerate(("sda", "sdb", "sdc")):
        tree.device(f"{number}:0:0:0", disk=disk, block=f"8:{16 * number}")
    tree.write("block/sdb/sdb1/partition", "1\n")
    tree.write("block/sdb/sdb1/dev", "8:17\n")
    tree.link("dev/block/8:17", tree.sys / "block/sdb/sdb1")
    return scan(tree.sys, tree.dev).directory


@pytest.mark.parametrize(
    ("users", "use"),
    [
        (Users(), Use.NOT_OPENED),
        (Users(unseen="something"), Use.NOT_KNOWN),
        (Users(frozenset({"0:0:0:0"})), Use.OPENED),
        (Users(frozenset({"0:0:0:0"}), "something"), Use.OPENED),
        (Users(frozenset({"0:0:0:1"})), Use.NOT_OPENED),
        (Users(frozenset({"0:0:0:1"}), "something"), Use.NOT_KNOWN),
    ],
)
def test_a_device_is_unused_only_where_everything_was_seen(users: Users, use: Use) -> None:
    assert users.of("0:0:0:0") is use


def test_what_another_process_has_open(tree: Tree) -> None:
    """Nodes are told by their numbers, not their names: /dev/full stands for an sg node."""
    status = os.stat("/dev/full")
    full = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    tree.device("2:0:0:0", page=page_83(NAA), disk="sda", block="8:0", sg="sg0", char=full)
    tree.device("3:0:0:0", page=page_83(NAA), disk="sdb", block="8:16", sg="sg1", char="21:1")
    directory = scan(tree.sys, tree.dev).directory
    before = users_of(directory).opened
    with open("/dev/full", "rb") as node:
        assert users_of(directory).opened == before, "this process's own do not count"
        with subprocess.Popen(["sleep", "60"], stdin=node) as user:
            assert users_of(directory).of("2:0:0:0") is Use.OPENED
            user.kill()


def test_a_look_that_sees_everything(directory: Directory, processes: Processes) -> None:
    assert users_of(directory, processes.root) == Users()


def test_devices_below_volumes_and_file_systems_are_used(
    tree: Tree, directory: Directory, processes: Processes
) -> None:
    (tree.sys / "block/sda/holders/dm-0").mkdir(parents=True)
    assert users_of(directory, processes.root) == Users(frozenset({"0:0:0:0"}))
    mounted = "36 35 8:17 / /mnt rw,noatime - ext4 /dev/sdb1 rw\n37 35 0:5 / /dev rw - devtmpfs\n"
    (processes.root / "1/mountinfo").write_text(f"{mounted}nonsense\n")
    assert users_of(directory, processes.root) == Users(frozenset({"0:0:0:0", "1:0:0:0"}))


def test_a_volume_on_a_partition(tree: Tree, directory: Directory, processes: Processes) -> None:
    place = (tree.sys / "block/sdb").resolve()
    (place / "sdb1/holders/dm-0").mkdir(parents=True)
    assert users_of(directory, processes.root) == Users(frozenset({"1:0:0:0"}))


def spoiled(root: Path, what: str) -> None:
    """Take away something that is looked at; not by file modes, since the test may run as root."""
    match what:
        case "a process's descriptors":
            (root / "77/fd").rmdir()
            (root / "77/fd").write_text("")
        case "a descriptor":
            # Two that lead to each other: ELOOP.
            (root / "77/fd/3").symlink_to("/dev/../" + str(root / "77/fd/4").lstrip("/"))
            (root / "77/fd/4").symlink_to(root / "77/fd/3")
        case "mounts":
            (root / "1/mountinfo").unlink()
        case "the first process":
            (root / "1/mountinfo").rename(root / "kept")
            (root / "1/fd").rmdir()
            (root / "1").rmdir()
        case "another PID namespace":
            (root / "self/ns/pid").unlink()
            (root / "self/ns/pid").symlink_to("pid:[4026532208]")
        case "the namespace":
            (root / "self/ns/pid").unlink()
        case "all of /proc":
            root.rename(root.with_name("moved"))


@pytest.mark.parametrize(
    "what",
    [
        "a process's descriptors",
        "a descriptor",
        "mounts",
        "the first process",
        "another PID namespace",
        "the namespace",
        "all of /proc",
    ],
)
def test_a_device_that_cannot_be_looked_at_is_not_unused(
    tree: Tree, directory: Directory, processes: Processes, what: str
) -> None:
    (tree.sys / "block/sda/holders/dm-0").mkdir(parents=True)
    spoiled(processes.root, what)
    users = users_of(directory, processes.root)
    assert users.unseen
    assert users.of("0:0:0:0") is Use.OPENED, "what was seen counts all the same"
    assert users.of("1:0:0:0") is Use.NOT_KNOWN


def test_a_disk_whose_holders_cannot_be_read(
    tree: Tree, directory: Directory, processes: Processes
) -> None:
    loop = tree.sys / "block/sda/holders"
    loop.symlink_to(loop)
    assert users_of(directory, processes.root).of("0:0:0:0") is Use.NOT_KNOWN


def test_a_process_that_ends_meanwhile_leaves_no_gap(
    directory: Directory, processes: Processes
) -> None:
    (processes.root / "77/fd").rmdir()
    (processes.root / "1/fd/5").symlink_to("/dev/no such node")
    assert users_of(directory, processes.root) == Users()
