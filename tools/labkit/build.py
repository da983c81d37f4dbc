"""Builds the target that a TargetSpec describes, and says what was built.  Runs in the guest."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

from labkit import iscsi, lio
from labkit.failure import LabError
from labkit.sysfs import await_disk
from labkit.target import Target, TargetSpec, Unit, UnitPath
from labkit.waiting import await_that

_UNIT_ATTENTIONS = 4

# Where commands find the description of the target; $LAB_TARGET names it.
DESCRIPTION = Path("/run/lab/target.json")


def build(spec: TargetSpec) -> Target:
    """Build spec; LabError where the kernel or a tool refuses a step."""
    if spec.udev:
        start_udev()
    lio.modprobe("sd_mod", "sg")
    stores = [lio.Backstore.numbered(index) for index in range(spec.luns)]
    if not spec.remote:
        lio.prepare()
        for store in stores:
            lio.create(store, spec.pages)
    paths: list[list[UnitPath]] = [[] for _ in stores]
    for transport in spec.transport.split(","):
        if transport == "loop":
            _export_loop(spec, stores, paths)
        elif transport == "iscsi":
            _export_iscsi(spec, stores, paths)
        else:
            raise LabError(f"no transport is called {transport!r}")
    units = tuple(
        Unit(store.lu, store.serial, str(store.directory), tuple(found))
        for store, found in zip(stores, paths, strict=True)
    )
    if spec.multipath:
        lio.modprobe("dm_multipath", "dm_round_robin")
        units = tuple(
            replace(unit, multipath=_multipath(_letters(index), unit.paths[:2], udev=spec.udev))
            for index, unit in enumerate(units)
        )
    for unit in units:
        for path in unit.paths:
            drain(path)
    if spec.udev:
        subprocess.run(["udevadm", "settle", "--timeout=60"], check=True)
    target = Target(units)
    DESCRIPTION.parent.mkdir(parents=True, exist_ok=True)
    DESCRIPTION.write_text(json.dumps(target.to_json(), indent=1))
    return target


def _export_loop(
    spec: TargetSpec, stores: list[lio.Backstore], paths: list[list[UnitPath]]
) -> None:
    for nexus in range(1, spec.nexuses + 1):
        tpg, initiator, address = lio.loop_target(nexus, stores)
        for index, store in enumerate(stores):
            paths[index].append(_path(f"{address}:{index}", store, "loop", initiator, tpg))


def _export_iscsi(
    spec: TargetSpec, stores: list[lio.Backstore], paths: list[list[UnitPath]]
) -> None:
    portal = f"{spec.portal}:3260"
    if not spec.remote:
        lio.iscsi_target(stores, portal)
    for session in iscsi.login(portal, spec.nexuses, spec.luns, remote=spec.remote):
        for index, store in enumerate(stores):
            hctl = f"{session.host}:0:0:{index}"
            paths[index].append(_path(hctl, store, "iscsi", session.port, lio.ISCSI))


def _path(hctl: str, store: lio.Backstore, transport: str, initiator: str, tpg: Path) -> UnitPath:
    disk = await_disk(hctl)
    if disk.lu != store.lu:
        raise LabError(f"{hctl} is {disk.lu}, not {store.lu}")
    return UnitPath(hctl, disk.block, disk.sg, disk.bsg, transport, initiator, disk.rtpi, str(tpg))


def drain(path: UnitPath) -> None:
    """Take away the unit attentions that building left (REPORTED LUNS DATA HAS CHANGED)."""
    for _ in range(_UNIT_ATTENTIONS):
        if subprocess.run(["sg_turs", path.sg], capture_output=True, check=False).returncode == 0:
            return
    raise LabError(f"{path.sg} does not become ready")


def _letters(index: int) -> str:
    """a to z, then aa, ab, …: as multipathd names its nodes."""
    name = ""
    index += 1
    while index:
        index, digit = divmod(index - 1, 26)
        name = chr(ord("a") + digit) + name
    return f"mpath{name}"


def _multipath(name: str, paths: tuple[UnitPath, ...], *, udev: bool) -> str:
    """A device-mapper multipath node over paths, one priority group, without multipathd."""
    blocks = [Path("/sys/class/block") / Path(path.block).name for path in paths]
    sectors = (blocks[0] / "size").read_text().strip()
    devices = " ".join(f"{(block / 'dev').read_text().strip()} 1" for block in blocks)
    table = f"0 {sectors} multipath 0 0 1 1 round-robin 0 {len(blocks)} 1 {devices}"
    # Without udev nobody would make the node that dmsetup waits for: dmsetup makes it itself.
    env = os.environ if udev else {**os.environ, "DM_DISABLE_UDEV": "1"}
    done = subprocess.run(
        ["dmsetup", "create", name],
        input=table,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise LabError(f"dmsetup create {name}: {done.stderr.strip()}")
    node = Path("/dev/mapper") / name
    await_that(f"{node} appears", node.exists)
    return str(node)


def start_udev() -> None:
    """Run the device manager, without the coldplug of what is there already."""
    subprocess.run(["/lib/systemd/systemd-udevd", "--daemon"], check=True, timeout=60)
