"""What the lab tests of moves share: the two sides in one kernel, and LIO's view of them.

The first two nexuses of a unit are the source's, the next two the destination's, the fifth is
a third node's.  Runs as root in a lab machine (LAB_TARGET, LAB_OUT).
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from lab.agent import Agent, cli
from lab.compare import compare
from lab.load import TEST_UNIT_READY
from labkit.oracle import OracleState, oracle
from labkit.processes import fork
from labkit.target import Target, Unit, UnitPath

from prtrace.linux.sgio import Reply, SgDevice
from prtrace.linux.units import Inventory, scan
from prtrace.model import Action, Outcome, ReservationType
from prtrace.move.carry import MoveOptions
from prtrace.move.savefile import SaveFile
from prtrace.move.verbs import Moves, Report
from prtrace.scsi.cdb import PrOutCdb
from prtrace.scsi.parameter import BasicList

K, PEER = 0x4B4B, 0x9999
SOURCE, DESTINATION, THIRD = (0, 1), (2, 3), 4
SG_SCSI_RESET, SG_SCSI_RESET_DEVICE = 0x2284, (1).to_bytes(4, "little")
WRITE_10 = bytes((0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0))

passed = 0
failures: list[str] = []


def check(what: str, got: object, wanted: object) -> None:
    global passed  # noqa: PLW0603
    if "PYTEST_CURRENT_TEST" in os.environ:
        assert got == wanted, what
    if got == wanted:
        passed += 1
    else:
        failures.append(what)
        print(f"FAILED {what}\n    got    {got!r}\n    wanted {wanted!r}", flush=True)


def finish() -> None:
    print(f"{passed} passed, {len(failures)} failed", flush=True)
    sys.exit(1 if failures else 0)


class Bed:
    """One unit, its five paths held open, and a state directory of its own."""

    def __init__(self, number: int = 0) -> None:
        self.unit: Unit = Target.load(os.environ["LAB_TARGET"]).units[number]
        self.paths: tuple[UnitPath, ...] = self.unit.paths
        self.nodes = [SgDevice(path.block) for path in self.paths]
        self.state_dir = Path(tempfile.mkdtemp(prefix="move-"))
        self.inventory: Inventory = scan()

    def make_second_map(self) -> str:
        """A map over the destination's two paths, as the lab makes one over the source's."""
        disks = [Path("/sys/class/block") / Path(self.paths[n].block).name for n in DESTINATION]
        sectors = (disks[0] / "size").read_text().strip()
        devices = " ".join(f"{(disk / 'dev').read_text().strip()} 1" for disk in disks)
        table = f"0 {sectors} multipath 0 0 1 1 round-robin 0 2 1 {devices}"
        name = "mpathdest"
        env = {**os.environ, "DM_DISABLE_UDEV": "1"}
        if not Path("/dev/mapper", name).exists():
            subprocess.run(
                ["dmsetup", "create", name], input=table, text=True, check=True, env=env
            )
        self.inventory = scan()
        return f"/dev/mapper/{name}"

    def send(
        self,
        path: int,
        action: Action,
        key: int,
        sa_key: int = 0,
        kind: ReservationType | None = None,
    ) -> Outcome:
        parameter = BasicList(key, sa_key).build()
        cdb = PrOutCdb(action, type=kind).build()
        for _ in range(8):
            reply = self.nodes[path].send(cdb, parameter)
            if not reply.attention:
                break
        return reply.outcome

    def write(self, path: int) -> Reply:
        for _ in range(8):
            reply = self.nodes[path].send(WRITE_10, bytes(512))
            if not reply.attention:
                break
        return reply

    def attend(self) -> None:
        """Leave a unit attention (29/03, reset) pending on every path but the third node's."""
        fcntl.ioctl(self.nodes[THIRD], SG_SCSI_RESET, SG_SCSI_RESET_DEVICE)

    def drain(self) -> None:
        for node in self.nodes:
            for _ in range(8):
                if not node.send(TEST_UNIT_READY).attention:
                    break

    def reset(self) -> None:
        """Nothing is registered, and no host remembers a move."""
        self.state_dir = Path(tempfile.mkdtemp(prefix="move-"))
        self.send(THIRD, Action.REGISTER_AND_IGNORE, 0, PEER)
        check("reset", self.send(THIRD, Action.CLEAR, PEER), Outcome.DONE)
        self.drain()

    def guest(
        self, paths: tuple[int, ...], kind: ReservationType | None, *, peer: bool = False
    ) -> None:
        """Register the guest over paths; peer: a third node with a key of its own."""
        for path in paths:
            check("guest", self.send(path, Action.REGISTER, 0, K), Outcome.DONE)
        if peer:
            check("peer", self.send(THIRD, Action.REGISTER, 0, PEER), Outcome.DONE)
        if kind is not None:
            check("hold", self.send(paths[0], Action.RESERVE, K, 0, kind), Outcome.DONE)

    def lio(self) -> OracleState:
        return oracle(self.unit.directory)

    def moves(self, **options: object) -> Moves:
        """The verbs; the two sides of the bed share a host and its journals."""
        return Moves(MoveOptions(state_dir=self.state_dir, **options))  # type: ignore[arg-type]

    def save(self, name: str) -> SaveFile:
        return self.moves().save([name], host="lab")

    def to(self, name: str) -> dict[str, str]:
        """--device: the unit is to be reached by name."""
        return {self.unit.lu: name}

    def load(self, file: SaveFile, name: str, **options: object) -> Report:
        """prepare and load, to name."""
        report = self.moves(**options).prepare(file, self.to(name))
        return self.moves(**options).load(file, self.to(name)) if report.good else report

    def rollback(self, file: SaveFile, **options: object) -> Report:
        """The destination's part, the source's, the destination's again: it may come second."""
        moves = self.moves(**options)
        moves.rollback(file, side="destination")
        report = moves.rollback(file, side="source")
        moves.rollback(file, side="destination")
        return report

    def is_at(
        self, what: str, paths: tuple[int, ...], kind: ReservationType | None, *, peer: bool
    ) -> None:
        """Compare registrations and holder with LIO's own view."""
        state = self.lio()
        wanted = {self.paths[path].initiator: K for path in paths}
        if peer:
            wanted[self.paths[THIRD].initiator] = PEER
        check(f"{what}: registrations", state.keys(), wanted)
        check(f"{what}: type", state.type_code, None if kind is None else int(kind))
        if kind is not None and not kind.all_registrants:
            holders = {self.paths[path].initiator for path in paths}
            check(f"{what}: holder {state.holder}", state.holder in holders, True)

    def is_known(self, what: str, agent: Agent) -> None:
        """Compare what an agent shows, which must be without doubt, with LIO's own view."""
        shown = next(unit for unit in agent.settled(60) if unit["lu"] == self.unit.lu)
        check(f"{what}: the agent's view", compare(self.unit, shown, self.lio()), [])

    def is_shown(self, what: str, agent: Agent) -> None:
        """The same for what `prtrace show --json` prints."""
        agent.settled(60)
        done = cli("show", self.unit.lu, "--json", socket=agent.socket)
        shown = json.loads(done.stdout)["units"][0]
        check(f"{what}: doubt", (done.returncode, shown["doubt"]), (0, []))
        check(f"{what}: show --json", compare(self.unit, shown, self.lio()), [])


def in_child(work: Callable[[], object]) -> int:
    """Run work in a process of its own; its wait status."""
    return os.waitpid(fork(work), 0)[1]


def dies_at(number: int) -> Callable[[str], None]:
    """A checkpoint that ends the process with SIGKILL at the number-th time."""
    passed = iter(range(1, 1000))

    def checkpoint(_point: str) -> None:
        if next(passed) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return checkpoint
