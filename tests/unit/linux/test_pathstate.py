"""What a path is now, and who else uses it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from prtrace.linux.pathstate import is_removable, nexuses_in_use, path_state
from prtrace.linux.units import scan
from tests.unit.linux.conftest import Tree, page_83

NAA = "6001405000000001000000000000000a"


@pytest.mark.parametrize(
    ("state", "access", "runs", "may_answer"),
    [
        ("running", "", True, True),
        ("running", "active/optimized", True, True),
        ("running", "standby", True, True),
        ("running", "transitioning", True, False),
        ("running", "unavailable", True, False),
        ("running", "offline", True, False),
        ("running", "a new word", True, True),
        ("offline", "active/optimized", False, True),
        ("blocked", "", False, True),
        ("transport-offline", "", False, True),
    ],
)
def test_states(tree: Tree, state: str, access: str, runs: bool, may_answer: bool) -> None:
    directory = tree.device("2:0:0:0", state=state)
    if access:
        (directory / "access_state").write_text(f"{access}\n")
    found = path_state("2:0:0:0", tree.sys)
    assert (found.runs, found.may_answer) == (runs, may_answer)


def test_it_is_the_state_of_now(tree: Tree) -> None:
    directory = tree.device("2:0:0:0", state="offline")
    assert not path_state("2:0:0:0", tree.sys).runs
    (directory / "state").write_text("running\n")
    assert path_state("2:0:0:0", tree.sys).runs
    assert path_state("2:0:0:9", tree.sys).state == ""


def test_access_has_an_order(tree: Tree) -> None:
    directory = tree.device("2:0:0:0")
    ranks = []
    for word in ("active/optimized", "active/non-optimized", "standby", "unavailable"):
        (directory / "access_state").write_text(word)
        ranks.append(path_state("2:0:0:0", tree.sys).access_rank)
    assert ranks == sorted(set(ranks))


def test_removable_media(tree: Tree) -> None:
    for disk, word in (("sda", "1"), ("sdb", "0")):
        tree.write(f"class/block/{disk}/removable", f"{word}\n")
    assert is_removable("/dev/sda", tree.sys)
    assert not is_removable("/dev/sdb", tree.sys)
    assert not is_removable("/dev/sdc", tree.sys)


def test_what_another_process_has_open(tree: Tree) -> None:
    """Its nodes' numbers are looked at, not their names: /dev/full plays an sg node."""
    status = os.stat("/dev/full")
    full = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    tree.device("2:0:0:0", page=page_83(NAA), disk="sda", block="8:0", sg="sg0", char=full)
    tree.device("3:0:0:0", page=page_83(NAA), disk="sdb", block="8:16", sg="sg1", char="21:1")
    directory = scan(tree.sys, tree.dev).directory
    before = nexuses_in_use(directory)
    with open("/dev/full", "rb") as node:
        assert nexuses_in_use(directory) == before, "this process's own do not count"
        with subprocess.Popen(["sleep", "60"], stdin=node) as user:
            assert nexuses_in_use(directory) == {"2:0:0:0"}
            user.kill()


def test_what_volumes_and_file_systems_stand_on(tree: Tree, tmp_path: Path) -> None:
    for number, disk in enumerate(("sda", "sdb", "sdc")):
        tree.device(f"{number}:0:0:0", disk=disk, block=f"8:{16 * number}")
    (tree.sys / "block/sda/holders/dm-0").mkdir(parents=True)
    tree.write("block/sdb/sdb1/partition", "1\n")
    tree.write("block/sdb/sdb1/dev", "8:17\n")
    tree.link("dev/block/8:17", tree.sys / "block/sdb/sdb1")
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    directory = scan(tree.sys, tree.dev).directory
    assert nexuses_in_use(directory, proc) == {"0:0:0:0"}
    mounted = "36 35 8:17 / /mnt rw,noatime - ext4 /dev/sdb1 rw\n37 35 0:5 / /dev rw - devtmpfs\n"
    (proc / "self/mountinfo").write_text(f"{mounted}nonsense\n")
    assert nexuses_in_use(directory, proc) == {"0:0:0:0", "1:0:0:0"}


def test_without_proc_nobody_is_known(tree: Tree, tmp_path: Path) -> None:
    tree.device("2:0:0:0", disk="sda", block="8:0")
    assert nexuses_in_use(scan(tree.sys, tree.dev).directory, tmp_path / "none") == frozenset()
