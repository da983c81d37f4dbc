from __future__ import annotations

import os
from pathlib import Path

import pytest

from prtrace.errors import NoSuchDeviceError
from prtrace.linux.units import Inventory, scan
from prtrace.scsi.designator import Association, Designator, Kind

from .conftest import Tree, page_83

NAA = "60014051234abcdea000000000000000"
OTHER = "60014059999999999999999999999999"
NULL, ZERO = ("1:3", "1:5")


def two_paths(tree: Tree) -> None:
    """Two disks that are one unit; /dev/null and /dev/zero play their sg nodes."""
    tree.device("10:0:0:0", page=page_83(NAA, 2), disk="sdb", sg="sg1", block="8:16", char=ZERO)
    tree.device("2:0:0:0", page=page_83(NAA, 1), disk="sda", sg="sg0", block="8:0", char=NULL)
    (tree.dev / "sg0").symlink_to("/dev/null")
    (tree.dev / "sg1").symlink_to("/dev/zero")


def test_two_paths_are_one_unit(tree: Tree) -> None:
    two_paths(tree)
    inventory = scan(tree.sys, tree.dev)
    (unit,) = inventory.units.values()
    assert unit.lu == f"naa.{NAA}"
    assert (unit.vendor, unit.product, unit.revision) == ("LIO-ORG", "DISK", "1")
    assert [nexus.nexus for nexus in unit.nexuses] == ["2:0:0:0", "10:0:0:0"]
    assert [nexus.relative_target_port for nexus in unit.nexuses] == [1, 2]
    assert unit.devices == tuple(f"{tree.dev}/{n}" for n in ("sda", "sg0", "sdb", "sg1"))
    assert inventory.nexus("2:0:0:0") is unit.nexuses[0]
    assert inventory.nexus("2:0:0:1") is None


@pytest.mark.parametrize(
    "page",
    [
        None,
        b"",
        b"\0\x83\0",
        page_83(),
        page_83("", 0, Designator(Association.LOGICAL_UNIT, Kind.VENDOR, 2, b"serial 1")),
    ],
)
def test_without_unique_designator_the_name_is_the_address(tree: Tree, page: bytes | None) -> None:
    tree.device("0:0:0:0", page=page)
    tree.device("0:0:0:1", page=page)
    assert set(scan(tree.sys, tree.dev).units) == {"hctl.0:0:0:0", "hctl.0:0:0:1"}


def test_a_damaged_page_leaves_the_kernels_choice(tree: Tree) -> None:
    device = tree.device("0:0:0:0", page=page_83(NAA)[:-3])
    (device / "wwid").write_text("t10.ATA     DISK\n")
    assert set(scan(tree.sys, tree.dev).units) == {"t10.ATA" + r"\x20" * 5 + "DISK"}


@pytest.mark.parametrize("attribute", ["type", "state"])
def test_a_device_that_vanishes_is_left_out(tree: Tree, attribute: str) -> None:
    device = tree.device("0:0:0:0", page=page_83(NAA))
    (device / attribute).unlink()
    assert scan(tree.sys, tree.dev).units == {}


@pytest.mark.parametrize("state", ["cancel", "deleted"])
def test_a_device_that_is_going_is_left_out(tree: Tree, state: str) -> None:
    tree.device("0:0:0:0", state=state)
    assert scan(tree.sys, tree.dev).units == {}


@pytest.mark.parametrize(
    ("code", "kind"), [("0", "disk"), ("1", "tape"), ("20", "zoned disk"), ("3", "type 0x03")]
)
def test_kind(tree: Tree, code: str, kind: str) -> None:
    tree.device("0:0:0:0", page=page_83(NAA), type_=code)
    (unit,) = scan(tree.sys, tree.dev).units.values()
    assert unit.kind == kind


@pytest.mark.parametrize("code", ["30", "31", "x"])
def test_what_is_no_unit_is_left_out(tree: Tree, code: str) -> None:
    tree.device("0:0:0:0", page=page_83(NAA), type_=code)
    assert scan(tree.sys, tree.dev).units == {}


def test_tape_nodes(tree: Tree) -> None:
    device = tree.device("0:0:0:0", page=page_83(NAA), type_="1", sg="sg0", char=NULL)
    for name, number in (("nst0", ZERO), ("st0", "1:7")):
        tree.write(str(device.relative_to(tree.sys) / "scsi_tape" / name / "dev"), number)
    (tree.dev / "nst0").symlink_to("/dev/zero")
    inventory = scan(tree.sys, tree.dev)
    resolved = inventory.resolve(f"{tree.dev}/nst0")
    assert resolved.lu.devices == tuple(f"{tree.dev}/{n}" for n in ("nst0", "st0", "sg0"))
    assert resolved.nexus is not None


def test_bus_without_devices(tmp_path: Path) -> None:
    assert scan(tmp_path / "sys", tmp_path / "dev").units == {}


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


def test_resolve_a_unit_is_no_nexus(tree: Tree) -> None:
    two_paths(tree)
    inventory = scan(tree.sys, tree.dev)
    for name in (f"naa.{NAA}", f"NAA.{NAA.upper()}"):
        assert inventory.resolve(name).nexus is None
        assert inventory.resolve(name).lu.lu == f"naa.{NAA}"


def test_resolve_a_by_id_link_is_no_nexus(tree: Tree) -> None:
    """udev points it at one of the paths, and at another one later."""
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


def same(one: Inventory, other: Inventory) -> bool:
    return (one.units, one.maps, one.devices, one.directory) == (
        other.units,
        other.maps,
        other.devices,
        other.directory,
    )


def test_only_the_devices_that_are_named_are_looked_at(tree: Tree) -> None:
    two_paths(tree)
    before = scan(tree.sys, tree.dev)
    for hctl in ("2:0:0:0", "10:0:0:0"):
        tree.write(f"bus/scsi/devices/{hctl}/state", "offline\n")
    after = before.refreshed(["2:0:0:0"])
    assert [path.state for path in after.units[f"naa.{NAA}"].nexuses] == ["offline", "running"]
    assert same(after.refreshed(["10:0:0:0"]), scan(tree.sys, tree.dev))
    assert same(before.refreshed([]), before)


def test_a_refreshed_inventory_is_a_scanned_one(tree: Tree) -> None:
    two_paths(tree)
    tree.mapped("dm-0", "253:0", "mpatha", "mpath-x", "sda", "sdb")
    inventory = scan(tree.sys, tree.dev)
    # It appears, in the middle; another unit takes its address; it vanishes; and the map grows.
    tree.device("3:0:0:0", page=page_83(OTHER), disk="sdc", block="8:32")
    inventory = inventory.refreshed(["3:0:0:0"])
    assert same(inventory, scan(tree.sys, tree.dev))
    tree.write("bus/scsi/devices/3:0:0:0/vpd_pg83", page_83(NAA))
    inventory = inventory.refreshed(["3:0:0:0", "3:0:0:0"])
    assert same(inventory, scan(tree.sys, tree.dev))
    tree.write("bus/scsi/devices/10:0:0:0/vpd_pg83", page_83(OTHER))
    inventory = inventory.refreshed(["10:0:0:0"])
    assert inventory.maps[0].lu == "", "its paths lead to two units now"
    assert same(inventory, scan(tree.sys, tree.dev))
    (tree.sys / "bus/scsi/devices/10:0:0:0").unlink()
    inventory = inventory.refreshed(["10:0:0:0", "7:0:0:0"])
    assert same(inventory, scan(tree.sys, tree.dev))
    tree.mapped("dm-1", "253:1", "mpathb", "mpath-y", "sdc")
    assert len(inventory.refreshed([]).maps) == 1
    assert same(inventory.refreshed([], maps=True), scan(tree.sys, tree.dev))
