from __future__ import annotations

from pathlib import Path

import pytest

from prtrace.linux.units import Inventory, scan
from prtrace.scsi.designator import Association, Designator, Kind

from .conftest import NAA, NULL, OTHER, ZERO, Tree, page_83, two_paths


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
def test_a_unit_without_a_unique_designator_is_named_by_its_address(
    tree: Tree, page: bytes | None
) -> None:
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
def test_a_device_that_is_being_removed_is_left_out(tree: Tree, state: str) -> None:
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


def test_a_nexus_has_the_nodes_that_are_there(tree: Tree) -> None:
    tree.device("2:0:0:0", page=page_83(NAA), disk="sda", sg="sg0", block="8:0", char=NULL)
    tree.device("3:0:0:0", page=page_83(NAA))
    inventory = scan(tree.sys, tree.dev)
    with_nodes, without = inventory.nexus("2:0:0:0"), inventory.nexus("3:0:0:0")
    assert with_nodes is not None
    assert without is not None
    assert (with_nodes.device, with_nodes.sg) == (f"{tree.dev}/sda", f"{tree.dev}/sg0")
    assert (without.device, without.sg, without.bsg) == ("", "", "")


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
    # A device appears in the middle; another unit takes its address; it vanishes; the map grows.
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


def test_the_devices_own_answer_overrides_what_the_kernel_remembers(tree: Tree) -> None:
    """3:0:0:0 was mapped to the other unit; the kernel has not asked it again."""
    one, other = f"{'6' * 31}1", f"{'6' * 31}2"
    tree.device("2:0:0:0", page=page_83(one), disk="sda", block="8:0")
    tree.device("3:0:0:0", page=page_83(one), disk="sdb", block="8:16")
    tree.device("2:0:0:1", page=page_83(other), disk="sdc", block="8:32")
    found = scan(tree.sys, tree.dev).leading_to({"3:0:0:0": f"naa.{other}"})
    assert [path.nexus for path in found.units[f"naa.{one}"].nexuses] == ["2:0:0:0"]
    assert {path.nexus for path in found.units[f"naa.{other}"].nexuses} == {"2:0:0:1", "3:0:0:0"}
    assert found.resolve("3:0:0:0").lu.lu == f"naa.{other}"
