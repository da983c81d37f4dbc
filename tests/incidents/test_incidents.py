"""Incidents as they happen on a real kernel and target: what `prtrace explain` says of each.

Each test is one story of tests/unit/explain/stories with its real parts: real commands on the
paths of one logical unit, another host that is an iSCSI initiator in user space, one agent.  Those
that differ least from another one are slow.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import struct
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from lab.agent import cli
from lab.doors import Doors, PrOutCommand
from lab.stranger import Stranger
from labkit import pace
from labkit.foreign import fence_scsi
from labkit.iscsi import iscsiadm
from labkit.lio import IQN
from labkit.oracle import oracle
from labkit.sysfs import Disk, addresses, disk
from labkit.target import Target, Unit, UnitPath
from labkit.waiting import await_that

from incidents.guest import Guest
from incidents.relay import Relay
from incidents.scene import CONFLICT, NODE2, SECONDS, Scene, chains
from prtrace.explain.recording import Recording
from prtrace.model import Action, Issuer, LocalNexus, ReservationType
from prtrace.scsi.cdb import PrOutCdb
from prtrace.state.event import Command, Event

pytestmark = [
    pytest.mark.machine(luns=2, nexuses=2, transport="loop,iscsi", needs=("fence_scsi",)),
    pytest.mark.timeout(300),
]


def pr_out(action: Action, key: int, sa_key: int = 0, kind: int = 0) -> tuple[bytes, bytes]:
    """A PERSISTENT RESERVE OUT and its list of 24 bytes."""
    kinds = None if not kind else ReservationType(kind)
    listed = struct.pack(">QQQ", key, sa_key, 0)
    return PrOutCdb(action, type=kinds, parameter_length=len(listed)).build(), listed


def test_another_process_of_this_host(scene: Scene) -> None:
    scene.persist(scene.one, "-G", "-S", "0xa1")
    scene.persist(scene.one, "-R", "-K", "0xa1", "-T", "5")
    scene.write(scene.two, 64, status=CONFLICT)
    scene.says(
        "reservation conflict",
        ("inferred", "WERO refuses writes of a nexus that is not registered"),
        ("observed", "RESERVE by sg_persist["),
    )


def test_another_guest_of_this_host(scene: Scene, tmp_path: Path) -> None:
    """Two guests, each on a path of its own to the unit."""
    one, two = Guest(tmp_path, "db1"), Guest(tmp_path, "db2")
    try:
        assert one.send(scene.one.block, *pr_out(Action.REGISTER, 0, 0xA1)) == 0
        assert one.send(scene.one.block, *pr_out(Action.RESERVE, 0xA1, kind=5)) == 0
        write = bytes((0x2A, 0)) + (64).to_bytes(4, "big") + bytes((0, 0, 1, 0))
        assert two.send(scene.two.block, write, bytes(512)) == CONFLICT
        held = ("observed", f"RESERVE by guest db1: WERO is held by {scene.one.hctl}")
        # Before the next command: the agent digests a conflict some time after it.
        scene.says(
            "reservation conflict",
            ("observed", "WRITE(10) at block 64"),
            ("inferred", "WERO refuses writes of a nexus that is not registered"),
            held,
        )
        assert two.send(scene.two.block, *pr_out(Action.REGISTER, 0, 0xB1)) == 0
        assert two.send(scene.two.block, *pr_out(Action.RESERVE, 0xB1, kind=5)) == CONFLICT
        scene.says(
            "refused PERSISTENT RESERVE",
            ("observed", "RESERVE by guest db2 was answered RESERVATION CONFLICT"),
            held,
        )
    finally:
        one.close()
        two.close()


def test_a_fence_by_a_host_that_recorded_nothing(scene: Scene, node2: Stranger) -> None:
    scene.persist(scene.one, "-G", "-S", "0xa1")
    scene.persist(scene.one, "-R", "-K", "0xa1", "-T", "5")
    assert node2.pr_out(0, "REGISTER", 0, 0xF1).status == 0
    assert node2.pr_out(0, "PREEMPT", 0xF1, 0xA1, 5).status == 0
    # No process is recorded for other commands than those for reservations.
    subprocess.run(["sg_persist", "-n", "-i", "-k", scene.one.block], timeout=60)
    incident = scene.says(
        "lost registration",
        ("observed", "told of it: UNIT ATTENTION 2A/0"),
        ("observed", "it went to sg_persist["),
        ("not known", "which command it was and who sent it"),
    )
    assert incident["nexus"] == scene.one.hctl
    told = scene.told()
    (registered,) = told["registrations"]
    assert registered["initiator_port"].startswith(NODE2)
    assert registered["host"] == "a host that is not known"


def test_a_clear_by_a_nexus_that_is_not_registered(scene: Scene) -> None:
    """Where nothing is reserved, LIO answers NOT READY instead."""
    scene.persist(scene.one, "-G", "-S", "0xa1")
    scene.persist(scene.one, "-R", "-K", "0xa1", "-T", "5")
    scene.persist(scene.two, "-C", "-K", "0xa1", status=CONFLICT)
    scene.says("refused PERSISTENT RESERVE", ("inferred", "this nexus is not registered"))


@pytest.mark.slow
def test_a_register_that_gives_the_wrong_key(scene: Scene) -> None:
    scene.persist(scene.one, "-I", "-S", "0x1")
    scene.persist(scene.one, "-G", "-S", "0x2", status=CONFLICT)
    scene.says(
        "refused PERSISTENT RESERVE",
        ("inferred", "this nexus has key 0x0000000000000001, the command gave 0x00000000"),
        ("observed", "REGISTER AND IGNORE EXISTING KEY by sg_persist["),
    )


@pytest.mark.slow
def test_a_release_that_ends_it_for_all_registrants(scene: Scene) -> None:
    scene.persist(scene.one, "-G", "-S", "0xa1")
    scene.persist(scene.two, "-G", "-S", "0xb1")
    scene.persist(scene.one, "-R", "-K", "0xa1", "-T", "7")
    scene.persist(scene.two, "-L", "-K", "0xb1", "-T", "7")
    scene.says(
        "lost reservation",
        ("observed", f"RELEASE on {scene.two.hctl} by sg_persist["),
        ("observed", "ends WEAR for all of them"),
    )


@pytest.mark.slow
def test_a_preempt_that_changes_the_type(scene: Scene) -> None:
    scene.persist(scene.one, "-G", "-S", "0xa1")
    scene.persist(scene.two, "-G", "-S", "0xb1")
    scene.persist(scene.one, "-R", "-K", "0xa1", "-T", "7")
    scene.persist(scene.two, "-P", "-K", "0xb1", "-S", "0xa1", "-T", "1")
    scene.says("lost registration", ("observed", f"PREEMPT on {scene.two.hctl} by sg_persist["))


def test_an_spc_2_reserve(scene: Scene) -> None:
    scene.raw(scene.one, "16 00 00 00 00 00")
    try:
        scene.raw(scene.two, "28 00 00 00 00 00 00 00 01 00", "-r", "512", status=CONFLICT)
        scene.says(
            "reservation conflict",
            ("inferred", f"an SPC-2 RESERVE by {scene.one.hctl} refuses everybody else"),
            ("observed", f"RESERVE(6) on {scene.one.hctl} by sg_raw["),
        )
    finally:
        scene.raw(scene.one, "17 00 00 00 00 00")


def test_a_scan_that_may_be_harmless(scene: Scene) -> None:
    """No process is recorded for ordinary reads: that it is a scan is not known, and not said."""
    scene.persist(scene.one, "-G", "-S", "0xa1")
    scene.persist(scene.one, "-R", "-K", "0xa1", "-T", "3")
    Path("/proc/sys/vm/drop_caches").write_text("3")
    subprocess.run(["blkid", "-p", scene.two.block], capture_output=True, timeout=60)
    incident = scene.says(
        "reservation conflict",
        ("inferred", "EA refuses reads and writes"),
        ("not known", "udev, LVM and blkid"),
    )
    assert incident["harmless"] is None


def gone(path: UnitPath) -> None:
    Path(f"/sys/class/scsi_device/{path.hctl}/device/delete").write_text("1")
    await_that(f"{path.hctl} is gone", lambda: path.hctl not in addresses())


def back(path: UnitPath) -> None:
    host = path.hctl.partition(":")[0]
    Path(f"/sys/class/scsi_host/host{host}/scan").write_text("- - -")
    await_that(f"{path.hctl} is back", lambda: path.hctl in addresses())


def known(scene: Scene, path: UnitPath, *, there: bool) -> None:
    """Wait until the agent's view has the path, or has it not."""

    def holds() -> bool:
        (unit,) = scene.agent.show(scene.one.block)
        return (path.hctl in [each["nexus"] for each in unit["nexuses"]]) is there

    await_that(f"the agent sees {path.hctl}", holds)


def test_a_path_that_is_added_to_a_reserved_unit(scene: Scene) -> None:
    gone(scene.two)
    try:
        known(scene, scene.two, there=False)
        scene.persist(scene.one, "-G", "-S", "0xa1")
        scene.persist(scene.one, "-R", "-K", "0xa1", "-T", "5")
    finally:
        back(scene.two)
    known(scene, scene.two, there=True)
    scene.agent.settled(pace.limit(SECONDS))
    scene.write(scene.two, 0, status=CONFLICT)
    scene.says(
        "reservation conflict",
        ("observed", f"{scene.two.hctl} appeared then"),
        ("observed", f"since then {scene.two.hctl} was not seen registered"),
    )


@pytest.mark.slow
def test_the_holder_s_path_is_gone(scene: Scene) -> None:
    scene.persist(scene.two, "-G", "-S", "0xb1")
    scene.persist(scene.two, "-R", "-K", "0xb1", "-T", "3")
    gone(scene.two)
    try:
        known(scene, scene.two, there=False)
        scene.agent.settled(pace.limit(SECONDS))  # LIO may have forgotten what was registered
        scene.write(scene.one, 0, status=CONFLICT)
        scene.says(
            "reservation conflict",
            ("observed", f"was {scene.two.hctl} ({scene.two.block}) of this host until it went"),
        )
    finally:
        back(scene.two)
        known(scene, scene.two, there=True)
        scene.persist(scene.two, "-C", "-K", "0xb1")


@pytest.mark.slow
def test_a_register_that_lio_answers_with_not_ready(scene: Scene) -> None:
    """LIO without its folder for APTPL registers, and says that it did not."""
    folder = Path("/sys/kernel/config/target/dbroot")
    folder = Path(folder.read_text().strip()) / "pr"
    aside = folder.with_name("pr.aside")
    folder.rename(aside)
    try:
        done = subprocess.run(
            ["sg_persist", "-n", "-o", "-G", "-S", "0xa1", "-Z", scene.one.block],
            capture_output=True, timeout=60,
        )  # fmt: skip
        assert done.returncode not in (0, CONFLICT), done
    finally:
        aside.rename(folder)
    scene.agent.settled(pace.limit(SECONDS))
    scene.says(
        "PERSISTENT RESERVE with an unknown effect",
        ("observed", "REGISTER by sg_persist["),
        ("observed", f"later {scene.one.hctl} is registered with key 0x00000000000000a1"),
    )


@contextlib.contextmanager
def session_of_its_own(relay_port: int) -> Iterator[str]:
    """One more iSCSI session of this host, by a portal of its own; its initiator name."""
    name = "iqn.2026-11.lab.prtrace:by-relay"
    interface = ("-m", "iface", "-I", "by-relay")
    node = ("-m", "node", "-T", IQN, "-p", f"127.0.0.1:{relay_port}", "-I", "by-relay")
    iscsiadm(*interface, "-o", "new")
    iscsiadm(*interface, "-o", "update", "-n", "iface.initiatorname", "-v", name)
    iscsiadm(*node, "-o", "new")
    iscsiadm(*node, "--login")
    try:
        yield name
    finally:
        iscsiadm(*node, "--logout")
        iscsiadm(*node, "-o", "delete")
        iscsiadm(*interface, "-o", "delete")


def test_a_clear_whose_answer_is_lost(scene: Scene) -> None:
    """The connection ends between the command and its answer: the target has done it."""
    relay = Relay(3269, ("127.0.0.1", 3260))
    try:
        with session_of_its_own(3269):
            lu = scene.unit.lu
            await_that("its disk", lambda: _disk_of("by-relay", lu) is not None, pace.limit(60))
            path = _disk_of("by-relay", lu)
            assert path is not None
            subprocess.run(["sg_turs", "-n", "4", path.block], capture_output=True, timeout=60)
            scene.persist(scene.one, "-G", "-S", "0xa1")
            scene.run("sg_persist", "-n", "-o", "-G", "-S", "0xb1", path.block)
            scene.persist(scene.one, "-R", "-K", "0xa1", "-T", "5")
            scene.agent.settled(pace.limit(SECONDS))
            relay.lose_answers()
            clear = subprocess.Popen(
                ["sg_persist", "-n", "-o", "-C", "-K", "0xb1", path.block],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            await_that("LIO has cleared", lambda: not oracle(scene.unit.directory).registrations)
            relay.cut()
            # sg_persist ends with 0 there, which the device's answer does not say.
            clear.wait(pace.limit(60))
            scene.says(
                "PERSISTENT RESERVE with an unknown effect",
                ("observed", "CLEAR by sg_persist["),
                ("observed", f"later {path.hctl} is not registered; nothing is reserved"),
            )
            await_that("the session is back", lambda: _state("by-relay") == "LOGGED_IN")
            incident = scene.says(
                "lost registration",
                ("inferred", f"CLEAR on {path.hctl} by sg_persist["),
                ("inferred", "can have taken it away"),
            )
            assert incident["nexus"] == scene.one.hctl
    finally:
        relay.close()


def test_a_time_without_the_programs(scene: Scene, node2: Stranger) -> None:
    scene.persist(scene.one, "-G", "-S", "0xa1")
    scene.agent.settled(pace.limit(SECONDS))
    scene.agent.kill()
    detached = cli("detach", "--yes")
    assert detached.returncode == 0, detached.stderr
    assert node2.pr_out(0, "REGISTER", 0, 0xF1).status == 0
    assert node2.pr_out(0, "CLEAR", 0xF1).status == 0
    scene.agent.start()
    scene.agent.settled(pace.limit(SECONDS))
    scene.take_attentions(scene.one)
    scene.agent.settled(pace.limit(SECONDS))
    scene.says("not watched", ("not known", "nobody watched this unit before"))
    for incident in scene.told()["incidents"]:
        for link in incident["chain"]:
            assert "sg_persist[" not in link["text"] or link["certainty"] != "inferred", link


def test_the_kernel_s_log_alone(scene: Scene, tmp_path: Path) -> None:
    """The block layer's conflict and a passthrough one, from dmesg by import to explain."""
    scene.persist(scene.one, "-G", "-S", "0xa1")
    scene.persist(scene.one, "-R", "-K", "0xa1", "-T", "5")
    subprocess.run(["dmesg", "-C"], timeout=60, check=True)
    subprocess.run(
        ["dd", "if=/dev/zero", f"of={scene.two.block}", "bs=4096", "count=1", "oflag=direct"],
        capture_output=True, timeout=60,
    )  # fmt: skip
    scene.write(scene.two, 8, status=CONFLICT)
    log, recording = tmp_path / "kernel.log", tmp_path / "kernel.jsonl"
    told = subprocess.run(
        ["dmesg", "--time-format", "iso"], capture_output=True, text=True, timeout=60, check=True
    )
    assert re.search("reservation conflict", told.stdout), told.stdout
    log.write_text(told.stdout)
    imported = cli("import", str(log), "-o", str(recording))
    assert imported.returncode == 0, imported.stderr
    explained = cli("explain", scene.two.hctl, str(recording), "--json")
    assert explained.returncode in (0, 4), explained.stderr
    incidents = json.loads(explained.stdout)["incidents"]
    assert sum(each["count"] for each in incidents) == 2, incidents
    for incident in incidents:
        assert "a process that is not known" in incident["chain"][0]["text"]


def test_recordings_and_a_page_of_what_happened(scene: Scene, tmp_path: Path) -> None:
    scene.persist(scene.one, "-G", "-S", "0xa1")
    scene.persist(scene.one, "-R", "-K", "0xa1", "-T", "5")
    scene.write(scene.two, 64, status=CONFLICT)
    scene.says("reservation conflict", ("observed", "RESERVE by sg_persist["))
    recording, page = tmp_path / "node1.jsonl", tmp_path / "node1.html"
    recorded = cli("record", scene.one.block, "-o", str(recording))
    assert recorded.returncode == 0, recorded.stderr
    again = json.loads(cli("explain", scene.one.block, str(recording), "--json").stdout)
    live = scene.told()
    assert [each["title"] for each in again["incidents"]][: len(live["incidents"])] == [
        each["title"] for each in live["incidents"]
    ]
    reported = cli("report", str(recording), "-o", str(page))
    assert reported.returncode == 0, reported.stderr
    assert scene.unit.lu in page.read_text()


def test_a_host_that_never_had_an_agent(scene: Scene, node2: Stranger, tmp_path: Path) -> None:
    """What gather finds on the disks and in the kernel's log, with the names replaced, too."""
    assert node2.pr_out(0, "REGISTER", 0, 0xF1).status == 0
    assert node2.pr_out(0, "RESERVE", 0xF1, 0, 5).status == 0
    scene.take_attentions(scene.one)
    subprocess.run(["dmesg", "-C"], timeout=60, check=True)
    scene.write(scene.one, 64, status=CONFLICT)
    for secret in ("", "a secret"):
        file = tmp_path / f"{len(secret)}.gathered"
        options = ("--anonymise", secret) if secret else ()
        nobody = tmp_path / "nobody"
        gathered = cli("gather", "-o", str(file), *options, socket=nobody)
        assert gathered.returncode == 0, gathered.stderr
        explained = cli("explain", scene.unit.lu, str(file), "--json", socket=nobody)
        assert explained.returncode == 0, (explained.stdout, explained.stderr)
        told = json.loads(explained.stdout)
        assert told["reservation"]["type"] == "WERO"
        (registered,) = told["registrations"]
        assert registered["initiator_port"].startswith(NODE2) is not bool(secret)
        assert (registered["key"] == "0x00000000000000f1") is not bool(secret)
        kinds = {each["kind"] for each in told["incidents"]}
        assert {"reservation conflict", "not watched"} <= kinds
        # In what the disk answered.
        assert (NODE2.encode().hex() in file.read_text()) is not bool(secret)
    assert node2.pr_out(0, "CLEAR", 0xF1).status == 0


def test_a_fence_by_a_host_that_is_known(scene: Scene, node2: Stranger, tmp_path: Path) -> None:
    """Its ports were told; what it did was not, and nobody is told to fence it back."""
    (tmp_path / "node2.json").write_text(
        json.dumps({"schema": "prtrace.ports/1", "host": "node2", "ports": [node2.port]})
    )
    scene.persist(scene.one, "-G", "-S", "0xa1")
    scene.persist(scene.one, "-R", "-K", "0xa1", "-T", "5")
    assert node2.pr_out(0, "REGISTER", 0, 0xF1).status == 0
    assert node2.pr_out(0, "PREEMPT", 0xF1, 0xA1, 5).status == 0
    scene.take_attentions(scene.one)
    # Until the agent has taken the sign nothing is in doubt, and until it has read something is.
    scene.says("lost registration", ("observed", "told of it: UNIT ATTENTION 2A/0"))
    scene.agent.settled(pace.limit(SECONDS))
    scene.write(scene.one, 64, status=CONFLICT)
    scene.says("reservation conflict", ("inferred", "WERO refuses writes of a nexus that is not"))
    told = scene.told("--ports", str(tmp_path))
    (registered,) = told["registrations"]
    assert registered["host"] == "node2"
    offered = [each["command"] or "" for each in told["remedies"]]
    assert not [each for each in offered if "--preempt" in each or "--clear" in each], offered


def test_a_fence_by_a_cluster_s_agent(scene: Scene) -> None:
    """The unmodified fence_scsi, as a cluster calls it: two nodes come up, one fences the other.

    Over iSCSI: to fence is PREEMPT AND ABORT, which tcm_loop does not survive.
    """
    one, two = (path for path in scene.unit.paths if path.transport == "iscsi")
    Path("/run/cluster").mkdir(exist_ok=True)  # for the node's own key
    for action, path, key in (
        ("on", one, 0x7E570001),
        ("on", two, 0x7E570002),
        ("off", two, 0x7E570001),
    ):
        words = f"{fence_scsi().command} --action={action} --devices={path.block} --key={key:x}"
        scene.run("sh", "-c", words)
    fenced = scene.says(
        "lost registration",
        ("observed", f"PREEMPT AND ABORT on {two.hctl} by sg_persist["),
        ("observed", f"registered {two.hctl} with key 0x000000007e570002"),
    )
    assert fenced["nexus"] == one.hctl
    scene.take_attentions(one)
    scene.agent.settled(pace.limit(SECONDS))
    scene.write(one, 64, status=CONFLICT)
    scene.says(
        "reservation conflict",
        ("inferred", "WERO refuses writes of a nexus that is not registered"),
        ("observed", "PREEMPT AND ABORT by sg_persist["),
    )
    told = scene.told()
    (registered,) = told["registrations"]
    seen, inferred = registered["owners"]
    assert registered["key"] == "0x000000007e570002"
    assert (seen["name"].partition("[")[0], seen["certain"]) == ("sg_persist", True)
    assert inferred["name"] == "fence_scsi, node 0002 of the cluster 7e57"
    assert not inferred["certain"]
    offered = [each["command"] or "" for each in told["remedies"]]
    assert not [each for each in offered if "--preempt" in each or "--clear" in each], offered


class Diary:
    """What another host's agent would have recorded of its commands, its clock being ahead."""

    def __init__(self, node: Stranger, unit: Unit, ahead_s: int) -> None:
        self.node, self.unit, self.ahead = node, unit, ahead_s * 10**9
        path = LocalNexus(
            "5:0:0:0", unit.lu, device="/dev/sdz", initiator_port=node.port,
            relative_target_port=unit.paths[2].rtpi, transport="iscsi", state="running",
        )  # fmt: skip
        self.events = [
            Event(command=Command.PATHS, seq=1, time=self._now(), lu=unit.lu, paths=(path,))
        ]

    def _now(self) -> int:
        return time.time_ns() + self.ahead

    def out(self, action: str, key: int, sa_key: int = 0, kind: int = 0) -> None:
        listed = struct.pack(">QQQ", key, sa_key, 0)
        code = ("REGISTER", "RESERVE", "RELEASE", "CLEAR", "PREEMPT").index(action)
        self._send(Command.PR_OUT, struct.pack(">BBBHIB", 0x5F, code, kind, 0, 24, 0), listed)

    def read(self) -> None:
        self._send(Command.PR_IN, bytes.fromhex("5e030000000000100000"))

    def _send(self, command: Command, cdb: bytes, listed: bytes = b"") -> None:
        begun = self._now()
        answer = self.node.send(0, cdb, listed, 0 if listed else 4096)
        assert answer.status == 0, answer
        done = self._now()
        self.events.append(
            Event(
                command=command, seq=len(self.events) + 1, time=done, start_ns=begun, done_ns=done,
                lu=self.unit.lu, nexus="5:0:0:0", device="/dev/sdz", status="GOOD", cdb=cdb,
                data=listed or answer.data, head=listed, issuer=Issuer(4711, "fence_scsi"),
            )
        )  # fmt: skip

    def write(self, file: Path) -> None:
        recording = Recording("node2", tuple(self.events), (self.node.port,))
        file.write_text("".join(f"{text}\n" for text in recording.lines()))


def test_two_hosts_whose_clocks_are_90_s_apart(
    scene: Scene, node2: Stranger, tmp_path: Path
) -> None:
    diary = Diary(node2, scene.unit, 90)
    scene.persist(scene.one, "-G", "-S", "0xa1")
    scene.persist(scene.one, "-R", "-K", "0xa1", "-T", "5")
    diary.read()
    diary.out("REGISTER", 0, 0xF1)
    diary.out("PREEMPT", 0xF1, 0xA1, 5)
    diary.read()
    scene.take_attentions(scene.one)
    scene.agent.settled(pace.limit(SECONDS))
    scene.write(scene.one, 64, status=CONFLICT)
    scene.says("lost registration", ("observed", "told of it: UNIT ATTENTION 2A/0"))
    node1, other = tmp_path / "node1.jsonl", tmp_path / "node2.jsonl"
    assert cli("record", scene.one.block, "-o", str(node1)).returncode == 0
    diary.write(other)
    each_order = []
    for files in ((node1, other), (other, node1)):
        explained = cli("explain", scene.unit.lu, *map(str, files), "--json")
        assert explained.returncode in (0, 4), explained.stderr
        told = json.loads(explained.stdout)
        (ahead,) = [each["ahead"] for each in told["recorded"] if each["ahead"]]
        bounds = sorted(abs(each) for each in (ahead["least_s"], ahead["most_s"]))
        assert bounds[0] <= 90 <= bounds[1], ahead
        assert bounds[1] - bounds[0] < pace.limit(60), ahead
        lost = [each for each in told["incidents"] if each["kind"] == "lost registration"]
        texts = [link["text"] for each in lost[:1] for link in each["chain"]]
        # On a slow machine the agent may have read before the PREEMPT's answer: the bounds of the
        # clocks tell then that it can have been it.
        cause = re.compile(
            r"by fence_scsi\[4711\] (ended with GOOD, and can have taken|took) it away"
        )
        assert any(cause.search(text) for text in texts), chains(told)
        (registered,) = told["registrations"]
        assert registered["host"] == "node2"
        each_order.append({**told, "recorded": None})
    assert each_order[0] == each_order[1]
    assert node2.pr_out(0, "CLEAR", 0xF1).status == 0


def test_a_sosreport_and_nothing_else(scene: Scene, node2: Stranger, tmp_path: Path) -> None:
    """The files that sos makes, by the programs that it calls."""
    assert node2.pr_out(0, "REGISTER", 0, 0xF1).status == 0
    assert node2.pr_out(0, "RESERVE", 0xF1, 0, 5).status == 0
    scene.take_attentions(scene.one)
    subprocess.run(["dmesg", "-C"], timeout=60, check=True)
    scene.write(scene.one, 64, status=CONFLICT)
    disk = scene.one.block.removeprefix("/dev/")
    files = {
        "hostname": "node1\n",
        "sos_commands/systemd/timedatectl": "      Time zone: Etc/UTC (UTC, +0000)\n",
        "sos_commands/scsi/lsscsi": (
            f"[{scene.one.hctl}]    disk    LIO-ORG  RAMDISK-MCP  4.0   {scene.one.block}\n"
        ),
        "sos_commands/block/ls_-lanR_.dev": (
            f"lrwxrwxrwx 1 0 0 9 Nov 27 11:00 wwn-0x{scene.unit.lu.removeprefix('naa.')} -> "
            f"../../{disk}\n"
        ),
    }
    for letter in "krs":
        asked = subprocess.run(
            ["sg_persist", "--in", f"-{letter}", "-d", scene.one.block],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        files[f"sos_commands/scsi/sg_persist_--in_-{letter}_-d_.dev.{disk}"] = asked.stdout
    log = subprocess.run(["dmesg"], capture_output=True, text=True, timeout=60, check=True).stdout
    now = datetime.now(UTC).strftime("%b %d %H:%M:%S")
    lines = [re.sub(r"^\[[^\]]*\]", f"{now} node1 kernel:", line) for line in log.splitlines()]
    files["sos_commands/logs/journalctl_--no-pager_--boot"] = "\n".join(lines)
    for name, text in files.items():
        path = tmp_path / "sosreport-node1" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    folder = str(tmp_path / "sosreport-node1")
    explained = cli("explain", scene.one.block, folder, "--json", socket=tmp_path / "nobody")
    assert explained.returncode in (0, 4), explained.stderr
    told = json.loads(explained.stdout)
    assert told["lu"] == scene.unit.lu
    assert told["reservation"]["type"] == "WERO"
    (registered,) = told["registrations"]
    assert (registered["initiator_port"], registered["key"]) == (
        node2.port, "0x00000000000000f1"
    )  # fmt: skip
    assert {"reservation conflict", "not watched"} <= {each["kind"] for each in told["incidents"]}
    assert "who reserved it" in chains(told) or "the log does not name" in chains(told)
    assert node2.pr_out(0, "CLEAR", 0xF1).status == 0


def _log_in_anew(interface: str) -> None:
    """End the session and begin another one: iscsid makes the ISID of the session's number."""
    node = ("-m", "node", "-T", IQN, "-p", "127.0.0.1", "-I", interface)
    iscsiadm(*node, "--logout")
    # A record of another interface replaces that of the first.
    iscsiadm(*node, "-o", "new")
    iscsiadm(*node, "--login")


def _state(interface: str) -> str:
    """The state of that interface's session, "" for none."""
    for session in Path("/sys/class/iscsi_session").iterdir():
        if (session / "ifacename").read_text().strip() == interface:
            return (session / "state").read_text().strip()
    return ""


def _disk_of(interface: str, lu: str) -> Disk | None:
    """The session's disk that is the unit, None where it is not there yet."""
    for session in Path("/sys/class/iscsi_session").iterdir():
        if (session / "ifacename").read_text().strip() == interface:
            host = (session / "device").resolve().parent.name.removeprefix("host")
            there = (disk(hctl) for hctl in addresses() if hctl.startswith(f"{host}:"))
            return next((each for each in there if each is not None and each.lu == lu), None)
    return None


@pytest.mark.slow
def test_the_session_before_a_new_login(scene: Scene) -> None:
    """open-iscsi gives a new session another ISID: the host shuts itself out."""
    path = scene.unit.paths[3]
    scene.persist(path, "-G", "-S", "0xa1")
    scene.persist(path, "-R", "-K", "0xa1", "-T", "3")
    scene.agent.settled(pace.limit(SECONDS))
    _log_in_anew("lab2")
    lu = scene.unit.lu
    await_that("the disk comes back", lambda: _disk_of("lab2", lu) is not None)
    new = _disk_of("lab2", lu)
    assert new is not None
    subprocess.run(["sg_turs", "-n", "4", new.block], capture_output=True, timeout=60)
    scene.agent.settled(pace.limit(SECONDS))
    # LIO takes the new session for the former one: it is another path that is refused.
    scene.write(scene.one, 64, status=CONFLICT)
    subprocess.run(["sg_persist", "-n", "-i", "-k", scene.one.block], timeout=60)
    end = time.monotonic() + pace.limit(SECONDS)
    while not re.search("until it went away|has the iSCSI name of", chains(scene.told())):
        assert time.monotonic() < end, chains(scene.told())
        time.sleep(0.2)
    assert "another host" not in chains(scene.told())


def test_an_abort_that_device_mapper_loses(scene: Scene) -> None:
    """Over iSCSI: where Linux hands the abort on, LIO survives it there."""
    path = scene.unit.paths[2]
    scene.persist(scene.one, "-G", "-S", "0xa1")
    scene.persist(scene.one, "-R", "-K", "0xa1", "-T", "5")
    env = {**os.environ, "DM_DISABLE_UDEV": "1"}
    subprocess.run(["modprobe", "dm_mod"], check=True, timeout=60)
    sectors = Path("/sys/class/block", Path(path.block).name, "size").read_text().strip()
    subprocess.run(
        ["dmsetup", "create", "lost"], input=f"0 {sectors} linear {path.block} 0", text=True,
        check=True, timeout=60, env=env,
    )  # fmt: skip
    try:
        with Doors() as doors:
            for action, key, sa_key in (
                (Action.REGISTER, 0, 0xB2),
                (Action.PREEMPT_AND_ABORT, 0xB2, 0xA1),
            ):
                kind = None if action is Action.REGISTER else ReservationType.WERO
                command = PrOutCommand(action, key, sa_key, kind, b"")
                assert doors.ioc_pr("/dev/mapper/lost", command) == "ioctl 0x0"
    finally:
        subprocess.run(["dmsetup", "remove", "--retry", "lost"], check=True, timeout=60, env=env)
    incident = scene.says("lost registration", ("observed", f"on {path.hctl} by "))
    lost = any("Linux sent PREEMPT alone" in link["text"] for link in incident["chain"])
    (event,) = [
        each for each in scene.agent.events() if (each["action"] or "").startswith("PREEMPT")
        and each["time"] >= scene.begun
    ]  # fmt: skip
    asked = event["action"], event["path"], event["requested"], event["comm"]
    assert lost is (event["action"] == "PREEMPT"), (asked, incident["chain"])
    scene.persist(path, "-C", "-K", "0xb2")


def test_a_lun_that_is_mapped_anew(scene: Scene, target: Target) -> None:
    """Another unit behind the address: what it answers is not this unit's."""
    stranger = target.units[1]
    path = scene.unit.paths[2]
    scene.persist(path, "-G", "-S", "0xb1")
    scene.persist(path, "-R", "-K", "0xb1", "-T", "5")
    folder = Path(path.tpg) / "lun" / f"lun_{path.hctl.split(':')[3]}"
    (link,) = [
        each for each in folder.iterdir()
        if each.is_symlink() and os.path.realpath(each) == os.path.realpath(scene.unit.directory)
    ]  # fmt: skip
    link.unlink()
    link.symlink_to(stranger.directory)
    try:
        for _ in range(3):
            subprocess.run(["sg_persist", "-n", "-i", "-k", path.block], timeout=60)
        scene.agent.caught_up(pace.limit(SECONDS))
        told = scene.told()
        said = chains(told)
        # No command of anybody took the registration away, and nobody is blamed.
        assert " took it away" not in said, said
        losses = [each for each in told["incidents"] if each["kind"].startswith("lost")]
        for each in losses:
            assert any(
                "another logical unit may be" in link["text"] or link["certainty"] == "not known"
                for link in each["chain"]
            ), said
    finally:
        link.unlink()
        link.symlink_to(scene.unit.directory)
        scene.take_attentions(path)
