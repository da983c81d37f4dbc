"""A path that leads to another logical unit, and a node that is another device's by now."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from labkit.oracle import oracle
from labkit.sysfs import disk
from labkit.target import Target, Unit
from labkit.waiting import await_that

from move.bed import K
from prtrace.errors import NoSuchDeviceError
from prtrace.linux.sgio import SgDevice
from prtrace.linux.units import scan
from prtrace.model import Action, Outcome
from prtrace.move.carry import MoveOptions
from prtrace.move.device import Paths
from prtrace.move.machine import Send
from prtrace.move.side import find_side
from prtrace.move.table import Do
from prtrace.move.verbs import Moves
from prtrace.move.word import Word
from prtrace.scsi.cdb import PrOutCdb
from prtrace.scsi.parameter import BasicList

pytestmark = [
    pytest.mark.machine(luns=2, nexuses=2, transport="loop,iscsi"),
    pytest.mark.timeout(200),
]

SOURCE, THERE, MAPPED_ANEW = 0, 1, 2


def register(node: str, key: int, sa_key: int) -> Outcome:
    """REGISTER, past the unit attentions that wait."""
    with SgDevice(node) as device:
        for _ in range(8):
            cdb = PrOutCdb(Action.REGISTER).build()
            reply = device.send(cdb, BasicList(key, sa_key).build())
            if not reply.attention:
                break
    return reply.outcome


def keys(unit: Unit) -> dict[str, int]:
    return oracle(unit.directory).keys()


@pytest.fixture
def destination(target: Target) -> Iterator[str]:
    """A map over one path that stays and one that is mapped anew."""
    subprocess.run(["modprobe", "-a", "dm_multipath", "dm_round_robin"], check=True)
    env = {**os.environ, "DM_DISABLE_UDEV": "1"}
    chosen = [target.units[0].paths[n].block for n in (THERE, MAPPED_ANEW)]
    disks = [Path("/sys/class/block") / Path(node).name for node in chosen]
    devices = " ".join(f"{(disk / 'dev').read_text().strip()} 1" for disk in disks)
    sectors = (disks[0] / "size").read_text().strip()
    table = f"0 {sectors} multipath 0 0 1 1 round-robin 0 2 1 {devices}"
    subprocess.run(["dmsetup", "create", "anew"], input=table, text=True, check=True, env=env)
    yield "/dev/mapper/anew"
    subprocess.run(["dmsetup", "remove", "--retry", "anew"], check=True, env=env)


def test_a_path_that_is_mapped_anew_takes_no_command(
    target: Target, destination: str, tmp_path: Path
) -> None:
    unit, stranger = target.units
    assert register(unit.paths[SOURCE].block, 0, K) is Outcome.DONE
    moves = Moves(MoveOptions(state_dir=tmp_path))
    file = moves.save([unit.paths[SOURCE].block], host="lab")
    path = unit.paths[MAPPED_ANEW]
    folder = Path(path.tpg) / "lun" / f"lun_{path.hctl.split(':')[3]}"
    (link,) = [each for each in folder.iterdir() if each.is_symlink() and leads_to(each, unit)]
    link.unlink()
    link.symlink_to(stranger.directory)
    try:
        report = moves.prepare(file, {unit.lu: destination})
        (told,) = report.units
        print(report.to_json())
        assert told.word is Word.PREPARED
        assert any(path.hctl in words for words in told.remains)
        # LIO keeps what a session saw at its login: a LUN that is not mapped any more is answered
        # for by LIO's own unit 0, which is another unit all the same.
        assert any(f"no longer {unit.lu}" in words for words in told.attentions)
        assert told.writes == 1
        assert keys(stranger) == {}
        initiators = {unit.paths[n].initiator for n in (SOURCE, THERE)}
        assert keys(unit) == dict.fromkeys(initiators, K)
        back = moves.rollback(file, side="destination")
        assert [each.word for each in back.units] == [Word.WITHDRAWN]
        assert (keys(stranger), set(keys(unit))) == ({}, {unit.paths[SOURCE].initiator})
    finally:
        link.unlink()
        link.symlink_to(unit.directory)
        assert register(unit.paths[SOURCE].block, K, 0) is Outcome.DONE


def leads_to(link: Path, unit: Unit) -> bool:
    return os.path.realpath(link) == os.path.realpath(unit.directory)


def test_a_node_that_is_another_devices_takes_no_command(target: Target) -> None:
    """The address and most often the name come back; the scsi_device is another one."""
    unit = target.units[0]
    node, hctl = unit.paths[THERE].block, unit.paths[THERE].hctl
    before = find_side(scan(), node)
    device = Path("/sys/bus/scsi/devices") / hctl
    (device / "delete").write_text("1")
    host = hctl.partition(":")[0]
    Path(f"/sys/class/scsi_host/host{host}/scan").write_text("- - -")
    await_that("the device comes back", lambda: disk(hctl) is not None)
    found = scan().nexus(hctl)
    assert found is not None
    assert found.life != before.paths[0].nexus.life
    print(node, "is now", found.device)
    with Paths(before) as paths:
        command = Send(Do.REGISTER, hctl, Action.REGISTER, 0, K)
        assert paths.send(command, aptpl=False) is Outcome.NOT_EXECUTED
        assert paths.writes == 0
        with pytest.raises(NoSuchDeviceError):
            paths.look(())
    after = find_side(scan(), hctl)
    with Paths(after) as paths:
        assert paths.send(command, aptpl=False) is Outcome.DONE
        assert paths.writes >= 1
    assert register(found.device, K, 0) is Outcome.DONE
    assert keys(unit) == {}
