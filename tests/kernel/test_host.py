"""Discovery, initiator ports and SG_IO against a real kernel and LIO's own view of itself."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lab.kernels import ENDS
from lab.load import TEST_UNIT_READY
from labkit import pace
from labkit.target import Target, Unit
from labkit.waiting import await_that

from prtrace.errors import MalformedError, NoSuchDeviceError
from prtrace.linux.sgio import Reply, SgDevice
from prtrace.linux.uevents import UeventSocket
from prtrace.linux.units import Inventory, scan
from prtrace.model import LocalNexus, LogicalUnit, Outcome
from prtrace.prhelper.descriptor import Inspector
from prtrace.scsi.codes import InAction
from prtrace.scsi.reply import parse_reply

pytestmark = [
    pytest.mark.machine(kernels=ENDS, luns=2, transport="loop,iscsi", multipath=True),
    pytest.mark.timeout(120),
]
# A path in a map is held open, and deleting it tests the map, not the scan.
without_map = pytest.mark.machine(multipath=False)

DEADLINE_S = 60.0
READ_KEYS = bytes((0x5E, 0, 0, 0, 0, 0, 0, 0x20, 0, 0))
READ_FULL_STATUS = bytes((0x5E, 3, 0, 0, 0, 0, 0, 0x20, 0, 0))
ALLOCATION = 0x2000
REGISTER, RESERVE, CLEAR, PREEMPT, REGISTER_IGNORE = 0, 1, 3, 4, 6
REGISTRATION = re.compile(r"Node: (\S+) Key: (0x[0-9a-f]{16})")


def check_refused(what: str, call: Callable[[], object], words: str) -> None:
    with pytest.raises(NoSuchDeviceError) as caught:
        call()
    assert words in f"{caught.value.message} ({caught.value.hint})", what


def pr_out(device: SgDevice, action: int, key: int, sa_key: int, type_: int = 0) -> Reply:
    cdb = bytes((0x5F, action, type_, 0, 0, 0, 0, 0, 24, 0))
    parameter = key.to_bytes(8, "big") + sa_key.to_bytes(8, "big") + bytes(8)
    # A unit attention that waits for this nexus comes first, and is none of this test's.
    for _ in range(10):
        reply = device.send(cdb, parameter)
        if not reply.attention:
            break
    return reply


def nodes_of(nexus: LocalNexus) -> bool:
    """Whether sd and sg have made the nexus's nodes, which appear after its H:C:T:L."""
    return all(node and Path(node).exists() for node in (nexus.device, nexus.sg))


def lio_registrations(directory: Path) -> dict[str, int]:
    """Initiator port to key, from configfs; names in lower case as in TransportIDs."""
    text = (directory / "pr/res_pr_registered_i_pts").read_text()
    return {port.lower(): int(key, 16) for port, key in REGISTRATION.findall(text)}


def check_units(target: dict[str, Any], inventory: Inventory) -> None:
    for unit in target["units"]:
        found = inventory.units.get(unit["lu"])
        assert found is not None, f"{unit['lu']} found"
        assert (found.kind, found.vendor) == ("disk", "LIO-ORG"), "kind, vendor"
        wanted = {path["hctl"] for path in unit["paths"]}
        assert {nexus.nexus for nexus in found.nexuses} == wanted, "nexuses"
        for path in unit["paths"]:
            nexus = inventory.nexus(path["hctl"])
            assert nexus is not None
            got = (nexus.device, nexus.sg, nexus.bsg, nexus.transport, nexus.relative_target_port)
            keys = ("block", "sg", "bsg", "transport", "rtpi")
            assert got == tuple(path[key] for key in keys), path["hctl"]
            # iSCSI's ISID is not in sysfs here; check_ports compares the whole with LIO.
            port = (nexus.initiator_port or "")[: len(path["initiator"])]
            assert port == path["initiator"].lower(), "initiator port"
            assert nexus.state == "running", "state"
            assert {nexus.device, nexus.sg} <= set(found.devices), "in devices"


def check_names(target: dict[str, Any], inventory: Inventory, folder: Path) -> None:
    for unit in target["units"]:
        lu = unit["lu"]
        assert inventory.resolve(lu).nexus is None, "by designator"
        assert inventory.resolve(lu.upper()).lu.lu == lu, "by designator in capitals"
        for path in unit["paths"]:
            number = (Path("/sys/class/block") / Path(path["block"]).name / "dev").read_text()
            link = folder / path["hctl"]
            link.symlink_to(path["block"])
            by_number = f"/dev/block/{number.strip()}"
            names = (path["hctl"], path["block"], path["sg"], path["bsg"], str(link), by_number)
            for name in names:
                resolved = inventory.resolve(name)
                nexus = resolved.nexus.nexus if resolved.nexus else None
                assert (resolved.lu.lu, nexus) == (lu, path["hctl"]), f"resolve {name}"
            assert inventory.requested_name(number.strip()) == path["block"], "requested name"
        if unit["multipath"]:
            check_map(unit, inventory)
        for link in stable_links(set(inventory.units[lu].devices)):
            # By path it is a nexus; by id it is the unit, wherever the link leads today.
            resolved = inventory.resolve(link)
            is_nexus = "/by-path/" in link and "dm-" not in Path(link).resolve().name
            assert (resolved.lu.lu, resolved.nexus is not None) == (lu, is_nexus), (
                f"resolve {link}"
            )


def stable_links(nodes: set[str]) -> list[str]:
    """udev's links to these nodes."""
    links = [link for kind in ("by-id", "by-path") for link in Path("/dev/disk", kind).glob("*")]
    return [str(link) for link in links if str(link.resolve()) in nodes]


def check_map(unit: dict[str, Any], inventory: Inventory) -> None:
    number = _number(unit["multipath"])
    node = Path("/dev", Path("/sys/dev/block", number).resolve().name)
    for name in (unit["multipath"], str(node)):
        resolved = inventory.resolve(name)
        assert (resolved.lu.lu, resolved.nexus) == (unit["lu"], None), f"resolve {name}"
        assert name in resolved.lu.devices, "map in devices"
    assert inventory.requested_name(number) == unit["multipath"], "requested name"


def check_refusals(target: dict[str, Any], folder: Path) -> None:
    disk = target["units"][-1]["paths"][-1]["block"]
    plain = folder / "plain"
    plain.write_bytes(b"")
    subprocess.run(["addpart", disk, "1", "8", "8"], check=True)
    # Without the device manager nobody but dmsetup itself makes the node.
    alone = {**os.environ, "DM_DISABLE_UDEV": "1"}
    table = f"0 8 linear {disk} 0"
    subprocess.run(["dmsetup", "create", "volume", "--table", table], check=True, env=alone)
    inventory = scan()
    partition = f"{disk}1"
    check_refused("a partition", lambda: inventory.resolve(partition), f"name the disk: {disk}")
    check_refused("a volume", lambda: inventory.resolve("/dev/mapper/volume"), disk)
    assert proxys_view("/dev/mapper/volume") == "volume"
    assert inventory.requested_name(_number(partition)) == partition, "a partition's name"
    check_refused("no SCSI node", lambda: inventory.resolve("/dev/null"), "no SCSI node")
    check_refused("a file", lambda: inventory.resolve(str(plain)), "no device node")
    check_refused("absent", lambda: inventory.resolve("/dev/absent"), "does not exist")
    check_refused("absent address", lambda: inventory.resolve("99:0:0:0"), "99:0:0:0")
    check_refused("nonsense", lambda: inventory.resolve("sda\x1b[2J"), r"\x1b")
    bsg = target["units"][0]["paths"][0]["bsg"]
    check_refused("SG_IO on bsg", lambda: SgDevice(bsg), "sg node")
    check_refused("SG_IO on a file", lambda: SgDevice(str(plain)), "no device node")
    subprocess.run(["dmsetup", "remove", "volume"], check=True, env=alone)
    subprocess.run(["delpart", disk, "1"], check=True)


def _number(node: str) -> str:
    status = os.stat(node)
    return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


def register_all(found: LogicalUnit) -> dict[str | None, int]:
    """Register every nexus with a key of its own; gives the keys by initiator port."""
    keys = {}
    for place, nexus in enumerate(found.nexuses):
        node = nexus.sg if place % 2 else nexus.device
        keys[nexus.initiator_port] = 0xABC000 + place
        with SgDevice(node) as device:
            reply = pr_out(device, REGISTER_IGNORE, 0, 0xABC000 + place)
            assert (reply.outcome, reply.text) == (Outcome.DONE, "status 0x00"), f"register {node}"
    return keys


def check_full_status(found: LogicalUnit) -> None:
    """After register_all: READ FULL STATUS names exactly our ports."""
    with SgDevice(found.nexuses[0].sg) as device:
        raw = device.send(READ_FULL_STATUS, room=ALLOCATION).expect_good("READ FULL STATUS")
    reply = parse_reply(InAction.READ_FULL_STATUS, raw)
    theirs = {
        (each.transport_id.text, each.relative_target_port, each.key) for each in reply.descriptors
    }
    ours = {
        (nexus.initiator_port, nexus.relative_target_port, 0xABC000 + place)
        for place, nexus in enumerate(found.nexuses)
    }
    assert ours == theirs, "ports as READ FULL STATUS has them"


def check_ports(unit: dict[str, Any], found: LogicalUnit) -> None:
    ours = register_all(found)
    assert ours == lio_registrations(Path(unit["directory"])), "ports as configfs has them"
    check_full_status(found)


def check_loopback_flavours() -> None:
    """A loopback target may pose as SAS, FC or iSCSI; its TransportIDs differ accordingly."""
    target = Path("/sys/kernel/config/target")
    store = target / "core/rd_mcp_0/flavours"
    store.mkdir(parents=True)
    (store / "control").write_text("rd_pages=256")
    (store / "wwn/vpd_unit_serial").write_text("00000000-f1a4-0000-0000-00000000cafe")
    (store / "enable").write_text("1")
    flavours = {
        "naa.60014050f1a40001": "naa.60014050F1A4000A",
        "fc.21:00:00:1b:32:aa:bb:00": "fc.21:00:00:1b:32:AA:BB:CD",
        "iqn.2026-11.lab.flavours:Target": "iqn.2026-11.lab.flavours:Host",
    }
    for wwn, nexus in flavours.items():
        tpg = target / "loopback" / wwn / "tpgt_1"
        tpg.mkdir(parents=True)
        (tpg / "nexus").write_text(nexus)
        lun = tpg / "lun/lun_0"
        lun.mkdir(parents=True)
        (lun / "port").symlink_to(store)
    lu = "naa.600140500000000f1a40000000000000"

    def appeared() -> bool:
        unit = scan().units.get(lu)
        return (
            unit is not None
            and len(unit.nexuses) == len(flavours)
            and all(nodes_of(nexus) for nexus in unit.nexuses)
        )

    await_that("flavours appear", appeared)
    found = scan().units[lu]
    ports = {nexus.initiator_port for nexus in found.nexuses}
    wanted = {"naa.60014050f1a4000a", "naa.2100001b32aabbcd", "iqn.2026-11.lab.flavours:host"}
    assert ports == wanted, "flavours"
    register_all(found)
    check_full_status(found)


def check_maps(unit: dict[str, Any]) -> None:
    """Maps made by hand: multipathd's uuid or none, one path or two, and a volume on one."""
    subprocess.run(["modprobe", "-a", "dm_multipath", "dm_round_robin"], check=True)
    one, two = (path["block"] for path in unit["paths"][:2])
    other = unit["other"]
    paths = {
        ("byhand", ""): (one, two),
        ("alone", ""): (one,),
        ("single", "mpath-3600140"): (one,),
        ("mixed", "mpath-3600141"): (one, other),
        ("linear", "LVM-abc"): (one, two),
    }
    alone = {**os.environ, "DM_DISABLE_UDEV": "1"}
    for (name, uuid), disks in paths.items():
        table = f"0 8 multipath 0 0 1 1 round-robin 0 {len(disks)} 1 " + " ".join(
            f"{disk} 1" for disk in disks
        )
        subprocess.run(
            ["dmsetup", "create", name, *(["-u", uuid] if uuid else []), "--table", table],
            check=True,
            env=alone,
        )
    inventory = scan()
    lu = inventory.units[unit["lu"]]
    for name in ("byhand", "alone", "single"):
        node = f"/dev/mapper/{name}"
        assert inventory.resolve(node).lu.lu == unit["lu"], f"resolve {name}"
        assert node in lu.devices, f"{name} in devices"
        assert inventory.requested_name(_number(node)) == node, "requested name"
        assert proxys_view(node) == "multipath map", name
    check_refused("mixed", lambda: inventory.resolve("/dev/mapper/mixed"), "no one logical unit")
    assert proxys_view("/dev/mapper/mixed") == "several logical units"
    check_refused("linear", lambda: inventory.resolve("/dev/mapper/linear"), "volume")
    assert proxys_view("/dev/mapper/linear") == "volume"
    for name, _ in paths:
        subprocess.run(["dmsetup", "remove", name], check=True, env=alone)


def proxys_view(path: str) -> str:
    """What `prtrace proxy` takes a device-mapper node for."""
    with open(path, "rb") as opened:
        try:
            return (
                "multipath map"
                if Inspector().node_of(opened.fileno()).multipath
                else "something else"
            )
        except MalformedError as error:
            words = ("several logical units", "volume")
            return next((word for word in words if word in error.message), error.message)


def check_outcomes(found: LogicalUnit) -> None:
    """Conflict, unit attention, short buffer; the first two nexuses hold keys from check_ports."""
    first, second, *_ = found.nexuses
    with SgDevice(first.device) as one, SgDevice(second.sg) as two:
        assert pr_out(one, RESERVE, 0xABC000, 0, 5).outcome == Outcome.DONE, "reserve"
        conflict = pr_out(two, RESERVE, 0xABC001, 0, 5)
        assert (conflict.outcome, conflict.status) == (Outcome.CONFLICT, 0x18), "conflict"
        assert conflict.host_status in (0, 0x11), "conflict's host byte"
        assert pr_out(one, PREEMPT, 0xABC000, 0xABC001, 5).outcome == Outcome.DONE, "preempt"
        attention = two.send(TEST_UNIT_READY)
        assert (attention.attention, attention.outcome) == (True, Outcome.NOT_EXECUTED), (
            "unit attention"
        )
        assert (attention.sense[2] & 0xF if attention.sense[0] & 2 == 0 else 6) == 6, "its sense"
        reply = two.send(READ_KEYS[:7] + bytes((0, 8, 0)), room=8)
        assert (reply.outcome, len(reply.received)) == (Outcome.DONE, 8), "short reply"
        bad = pr_out(one, 0x1E, 0xABC000, 0)
        assert (bad.outcome, bad.status) == (Outcome.UNKNOWN, 2), "an illegal command"
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set(), "no signal stays blocked"
        assert pr_out(one, CLEAR, 0xABC000, 0).outcome == Outcome.DONE, "clear"


def check_hot_plug(unit: dict[str, Any]) -> None:
    path = unit["paths"][0]
    host = path["hctl"].split(":")[0]
    device = SgDevice(path["sg"])
    Path("/sys/bus/scsi/devices", path["hctl"], "delete").write_text("1")
    await_that("it is gone", lambda: scan().nexus(path["hctl"]) is None)
    check_refused("resolve a removed address", lambda: scan().resolve(path["hctl"]), "no such")
    with contextlib.suppress(NoSuchDeviceError):
        reply = device.send(READ_KEYS, room=ALLOCATION, timeout_ms=10_000)
        assert reply.transport_fault, "a removed device"
    device.close()
    # Through the iSCSI session, or the loopback target, a scan finds it again.
    Path("/sys/class/scsi_host", f"host{host}", "scan").write_text("- - -")

    def back() -> bool:
        nexus = scan().nexus(path["hctl"])
        return nexus is not None and nodes_of(nexus)

    await_that("it is back", back)


def check_events(unit: dict[str, Any]) -> None:
    """A uevent is read once, with its number; a socket whose buffer is too small says so."""
    name = Path(unit["paths"][0]["block"]).name
    trigger = Path("/sys/class/block", name, "uevent")
    with UeventSocket() as events:
        trigger.write_text("change")
        assert select.select([events], [], [], pace.limit(DEADLINE_S))[0] == [events], "readable"
        seen = [event for event in events.read().events if event.name == name]
        assert [(e.action, e.subsystem, e.device_type) for e in seen] == [
            ("change", "block", "disk")
        ], "one change"
        assert (seen[0].number if seen else "") == _number(f"/dev/{name}"), "its number"
        assert events.read().events == (), "nothing more"
    with UeventSocket(buffer_size=1) as events:
        for _ in range(200):
            trigger.write_text("change")
        assert any(events.read().overflow for _ in range(10)), "overflow is told"


def check_scan_while_vanishing(unit: dict[str, Any]) -> None:
    """A scan beside a device that goes and comes neither fails nor invents a name."""
    path = unit["paths"][0]
    host = path["hctl"].split(":")[0]
    stop = threading.Event()
    rounds = 0

    def churn() -> None:
        nonlocal rounds
        while not stop.is_set():
            with contextlib.suppress(OSError):
                Path("/sys/bus/scsi/devices", path["hctl"], "delete").write_text("1")
            Path("/sys/class/scsi_host", f"host{host}", "scan").write_text("- - -")
            rounds += 1

    churning = threading.Thread(target=churn)
    churning.start()
    try:
        end = time.monotonic() + pace.limit(DEADLINE_S)
        while rounds < 20 and time.monotonic() < end:
            nexus = scan().nexus(path["hctl"])
            if nexus is not None:
                assert nexus.lu == unit["lu"], "no name is made up"
    finally:
        stop.set()
        churning.join(pace.limit(DEADLINE_S))
    assert rounds >= 20, "rounds"
    assert scan().resolve(path["hctl"]).lu.lu == unit["lu"], "there in the end"


@pytest.fixture
def lab_target(target: Target) -> dict[str, Any]:
    return target.to_json()


@pytest.fixture
def found(unit: Unit) -> LogicalUnit:
    return scan().units[unit.lu]


def test_units_and_their_nexuses(lab_target) -> None:
    check_units(lab_target, scan())


def test_every_name_of_a_device_leads_to_its_unit(lab_target, tmp_path) -> None:
    check_names(lab_target, scan(), tmp_path)


def test_what_is_no_path_of_a_unit_is_refused(lab_target, tmp_path) -> None:
    check_refusals(lab_target, tmp_path)


def test_initiator_ports_are_those_of_lio_and_of_read_full_status(lab_target) -> None:
    inventory = scan()
    for unit in lab_target["units"]:
        check_ports(unit, inventory.units[unit["lu"]])
        check_outcomes(inventory.units[unit["lu"]])


def test_every_change_is_told_by_a_uevent(lab_target) -> None:
    check_events(lab_target["units"][0])


def test_loopback_targets_that_pose_as_other_transports() -> None:
    check_loopback_flavours()


@without_map
def test_maps_made_by_hand(lab_target) -> None:
    units = lab_target["units"]
    check_maps({**units[0], "other": units[-1]["paths"][0]["block"]})


@without_map
def test_a_path_that_goes_and_comes(lab_target) -> None:
    check_hot_plug(lab_target["units"][0])


@without_map
def test_a_scan_while_a_path_vanishes(lab_target) -> None:
    check_scan_while_vanishing(lab_target["units"][0])
