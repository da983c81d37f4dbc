"""A name leads to its logical unit, and to its nexus where the name says one."""

from __future__ import annotations

import os

import pytest

from prtrace.errors import NoSuchDeviceError, UnavailableError
from prtrace.linux.units import scan

from .conftest import NAA, NULL, OTHER, ZERO, Tree, page_83, two_paths


def test_resolve_nexus_names(tree: Tree) -> None:
    two_paths(tree)
    (tree.dev / "alias").symlink_to("sg1")
    inventory = scan(tree.sys, tree.dev)
    for name, hctl in (
        ("2:0:0:0", "2:0:0:0"),
        (f"{tree.dev}/sg0", "2:0:0:0"),
        (f"{tree.dev}/sg1", "10:0:0:0"),
        (f"{tree.dev}/alias", "10:0:0:0"),
        (f"{tree.dev}/char/{NULL}", "2:0:0:0"),
        (f"{tree.dev}/block/8:16", "10:0:0:0"),
    ):
        resolved = inventory.resolve(name)
        assert resolved.nexus is inventory.nexus(hctl)
        assert resolved.lu is inventory.units[f"naa.{NAA}"]


def test_a_name_that_may_not_be_looked_at(tree: Tree) -> None:
    """The name may be a node of a unit: to say that it does not exist would be wrong."""

    def forbidden(name: str) -> os.stat_result:
        raise PermissionError(13, "Permission denied")

    two_paths(tree)
    with pytest.raises(UnavailableError, match="permission denied"):
        scan(tree.sys, tree.dev).resolve(f"{tree.dev}/sg0", forbidden)


def test_resolve_a_unit_is_no_nexus(tree: Tree) -> None:
    two_paths(tree)
    inventory = scan(tree.sys, tree.dev)
    for name in (f"naa.{NAA}", f"NAA.{NAA.upper()}"):
        assert inventory.resolve(name).nexus is None
        assert inventory.resolve(name).lu.lu == f"naa.{NAA}"


def test_resolve_a_by_id_link_is_no_nexus(tree: Tree) -> None:
    """udev points the link at one of the paths, and at another path later."""
    two_paths(tree)
    inventory = scan(tree.sys, tree.dev)
    assert not inventory.directory._is_of_unit(f"{tree.dev}/sda")
    assert inventory.directory._is_of_unit(f"{tree.dev}/disk/by-id/wwn-1")
    assert not inventory.directory._is_of_unit(f"{tree.dev}/disk/by-path/pci-1")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sda", "names nothing here"),
        ("", "names nothing here"),
        ("\x1b[2J", r"\x1b[2J names nothing"),
        ("7:0:0:0", "no such SCSI device"),
        ("naa.6001", "names nothing here"),
        ("/dev/full", "no SCSI node"),
        ("/", "no device node"),
        ("/nowhere", "does not exist"),
        ("/no\0where", "does not exist"),
    ],
)
def test_what_is_not_here(tree: Tree, name: str, words: str) -> None:
    two_paths(tree)
    with pytest.raises(NoSuchDeviceError) as caught:
        scan(tree.sys, tree.dev).resolve(name)
    assert words in caught.value.message
    assert caught.value.hint


def test_a_partition_says_to_name_the_disk(tree: Tree) -> None:
    two_paths(tree)
    device = (tree.sys / "block/sda").resolve()
    tree.write(str(device.relative_to(tree.sys.resolve()) / "sda1/partition"), "1\n")
    tree.link("dev/block/8:1", device / "sda1")
    inventory = scan(tree.sys, tree.dev)
    with pytest.raises(NoSuchDeviceError) as caught:
        inventory.resolve(f"{tree.dev}/block/8:1")
    assert caught.value.hint == f"name the disk: {tree.dev}/sda"
    assert inventory.requested_name("8:1") == f"{tree.dev}/sda1"


def test_multipath(tree: Tree) -> None:
    two_paths(tree)
    tree.mapped("dm-0", "253:0", "mpatha", f"mpath-3{NAA}", "sda", "sdb")
    tree.mapped("dm-1", "253:1", "mpatha1", f"part1-mpath-3{NAA}", "dm-0")
    tree.mapped("dm-2", "253:2", "vg-root", "LVM-abc", "sda")
    inventory = scan(tree.sys, tree.dev)
    unit = inventory.units[f"naa.{NAA}"]
    assert unit.devices[-2:] == (f"{tree.dev}/mapper/mpatha", f"{tree.dev}/dm-0")
    assert [found.name for found in inventory.maps] == ["mpatha"]
    resolved = inventory.resolve(f"{tree.dev}/block/253:0")
    assert (resolved.lu, resolved.nexus) == (unit, None)
    assert inventory.requested_name("253:0") == f"{tree.dev}/mapper/mpatha"
    assert inventory.requested_name("253:2") == f"{tree.dev}/mapper/vg-root"
    assert inventory.requested_name("8:0") == f"{tree.dev}/sda"
    assert inventory.requested_name("9:9") == "9:9"
    for number, below in (("253:1", "dm-0"), ("253:2", "sda")):
        with pytest.raises(NoSuchDeviceError, match="is a volume") as caught:
            inventory.resolve(f"{tree.dev}/block/{number}")
        assert caught.value.hint == f"name what it stands on: {tree.dev}/{below}"


def test_a_map_over_two_units_belongs_to_neither(tree: Tree) -> None:
    two_paths(tree)
    tree.device("3:0:0:0", page=page_83(OTHER), disk="sdc", block="8:32")
    tree.mapped("dm-0", "253:0", "odd", "mpath-3", "sda", "sdc")
    inventory = scan(tree.sys, tree.dev)
    assert not any("dm-0" in node for u in inventory.units.values() for node in u.devices)
    with pytest.raises(NoSuchDeviceError, match="no one logical unit") as caught:
        inventory.resolve(f"{tree.dev}/block/253:0")
    assert "sda, sdc" in caught.value.hint


def test_the_nodes_here_are_what_these_tests_say() -> None:
    for node, number in (("/dev/null", NULL), ("/dev/zero", ZERO)):
        status = os.stat(node)
        assert f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}" == number
