"""Incidents as they happen on a real kernel and target: what `prtrace explain` says of each.

Each test is one story of tests/unit/explain/stories with its real parts: real commands on the
paths of one logical unit, another host that is an iSCSI initiator in user space, one agent.  Those
that differ least from another one are slow.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from lab.agent import Agent, cli
from lab.stranger import Stranger
from labkit import pace
from labkit.lio import IQN
from labkit.sysfs import addresses, await_that
from labkit.target import Unit, UnitPath

pytestmark = [
    pytest.mark.machine(luns=1, nexuses=2, transport="loop,iscsi"),
    pytest.mark.timeout(300),
]

CONFLICT = 24
SECONDS = 20.0
"""For the agent to see what was done, on an idle machine."""
NODE2 = "iqn.2026-11.lab.prtrace:node2"


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with Agent() as running:
        running.settled(pace.limit(SECONDS))
        yield running


class Scene:
    """The unit's paths, and what explain says of what happened since the test began."""

    def __init__(self, agent: Agent, unit: Unit) -> None:
        self.agent = agent
        self.unit = unit
        self.one, self.two = unit.paths[0], unit.paths[1]
        self.begun = ""

    def begin(self) -> None:
        """Leave nothing of the test before."""
        for path in self.unit.paths:
            self.take_attentions(path)
        self.persist(self.one, "-I", "-S", "0x77")
        self.persist(self.one, "-C", "-K", "0x77")
        for path in self.unit.paths:
            self.take_attentions(path)
        self.agent.settled(pace.limit(SECONDS))
        self.begun = datetime.now(UTC).isoformat()

    def persist(self, path: UnitPath, *arguments: str, status: int = 0) -> None:
        """A PERSISTENT RESERVE OUT by sg_persist; it has to end with that status."""
        self.run("sg_persist", "-n", "-o", *arguments, path.block, status=status)

    def run(self, *words: str, status: int = 0) -> None:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        assert done.returncode == status, (words, done.stdout, done.stderr)

    def raw(self, path: UnitPath, cdb: str, *options: str, status: int = 0) -> None:
        """A command by sg_raw."""
        self.run("sg_raw", *options, path.block, *cdb.split(), status=status)

    def write(self, path: UnitPath, block: int, status: int = 0) -> None:
        cdb = bytes((0x2A, 0)) + block.to_bytes(4, "big") + bytes((0, 0, 1, 0))
        self.raw(path, cdb.hex(" "), "-s", "512", "-i", "/dev/zero", status=status)

    def take_attentions(self, path: UnitPath) -> None:
        subprocess.run(["sg_turs", "-n", "4", path.block], capture_output=True, timeout=60)

    def told(self, *arguments: str) -> dict[str, Any]:
        done = cli("explain", self.one.block, *arguments, "--json")
        assert done.returncode in (0, 4), done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        document["incidents"] = [
            each for each in document["incidents"] if each["at"] and each["at"] >= self.begun
        ]
        return document

    def says(self, kind: str, *links: tuple[str, str]) -> dict[str, Any]:
        """The incident of that kind which has all links (certainty, text), once it is told."""
        end = time.monotonic() + pace.limit(SECONDS)
        while True:
            told = self.told()
            for each in told["incidents"]:
                chain = [(link["certainty"], link["text"]) for link in each["chain"]]
                if each["kind"] == kind and all(
                    any(certainty == link[0] and text in link[1] for link in chain)
                    for certainty, text in links
                ):
                    return each
            assert time.monotonic() < end, f"nobody says {links} of {kind}:\n{chains(told)}"
            time.sleep(0.2)


def chains(told: dict[str, Any]) -> str:
    """What an account says of incidents, for people."""
    return "\n".join(
        f"{each['kind']} {each['nexus']}: {link['certainty']}: {link['text']}"
        for each in told["incidents"]
        for link in each["chain"]
    )


@pytest.fixture
def scene(agent: Agent, unit: Unit) -> Scene:
    made = Scene(agent, unit)
    made.begin()
    return made


@pytest.fixture
def node2() -> Iterator[Stranger]:
    """Another host."""
    session = Stranger("127.0.0.1:3260", IQN, NODE2)
    yield session
    session.close()


def test_another_process_of_this_host(scene: Scene) -> None:
    scene.persist(scene.one, "-G", "-S", "0xa1")
    scene.persist(scene.one, "-R", "-K", "0xa1", "-T", "5")
    scene.write(scene.two, 64, status=CONFLICT)
    scene.says(
        "reservation conflict",
        ("observed", "WERO refuses writes of a nexus that is not registered"),
        ("observed", "RESERVE by sg_persist["),
    )


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
            ("observed", f"an SPC-2 RESERVE by {scene.one.hctl} refuses everybody else"),
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
        ("observed", "EA refuses reads and writes"),
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
