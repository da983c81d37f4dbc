"""Two machines, an agent on each: nobody tells them of a move, they see the commands.

Host A has the target, and a nexus of its own by tcm_loop and one by iSCSI; host B reaches the
target over a network between the two.  What an agent shows without doubt is held against LIO's
own view, which is A's configfs.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from labkit import roots
from labkit.control import CompletedRun
from labkit.machine import Machine
from labkit.qemu import Link, Shape
from labkit.target import TargetSpec, Unit, UnitPath
from labkit.waiting import await_that

from move import image

KEY = 0x4B4B
PRTRACE = ("python3", "-m", "prtrace")
PORTAL = "10.0.0.1"
CALLER = "10.0.0.2"
LOOP, ISCSI = 0, 1
OTHER_KEY = 0xC3C3
WE, WERO, WEAR = 1, 5, 7
IN_DOUBT = 4
BLOCKED = 11
pytestmark = pytest.mark.timeout(600)

ORACLE = """\
import json, sys
from dataclasses import asdict
from labkit.oracle import oracle
print(json.dumps(asdict(oracle(sys.argv[1]))))
"""


@dataclass(frozen=True)
class Host:
    """One of the two machines, and the commands that somebody gives there."""

    machine: Machine

    @property
    def unit(self) -> Unit:
        return self.machine.target.units[0]

    def run(
        self,
        *words: str,
        expect: int | None = 0,
        stdin: str = "",
        env: dict[str, str] | None = None,
    ) -> CompletedRun:
        """Run a command that is to end with this status, None: with any."""
        command = shlex.join(words)
        done = self.machine.run(command, timeout=120, stdin=stdin.encode(), env=env)
        print(f"$ {command} [{done.status}]\n{done.output}")
        assert expect in (None, done.status), f"{command} ended with {done.status}\n{done.output}"
        return done

    def prtrace(self, *words: str, **given: Any) -> CompletedRun:
        return self.run(*PRTRACE, *words, **given)

    def start_agent(self) -> None:
        """An agent that stays; it reads what there is."""
        agent = shlex.join((*PRTRACE, "agent"))
        self.run("bash", "-c", f"setsid {agent} </dev/null >/run/agent.log 2>&1 &")

    def await_agent(self) -> None:
        """Wait until it answers, and doubts nothing any more."""
        await_that(
            "the agent answers",
            lambda: self.prtrace("show", expect=None).status == 0,
            told=lambda: self.run("cat", "/run/agent.log").output,
        )

    def shown(self) -> dict[str, Any]:
        """The unit as `prtrace show --json` prints it, which must be without doubt."""
        # A doubt lasts from the command that made it to the agent's own reading.
        show = (*PRTRACE, "show", "--json")
        await_that("no doubt", lambda: self.run(*show, expect=None).status != IN_DOUBT)
        done = self.run(*show)
        (unit,) = json.loads(done.stdout)["units"]
        assert unit["doubt"] == []
        return dict(unit)

    def facts(self, unit: dict[str, Any]) -> dict[str, Any]:
        """What unit says, by the names of doubts, with initiator ports as LIO names them."""
        own = {path.hctl: path.initiator for path in self.unit.paths}
        ports = {each["nexus"]: each["initiator_port"] for each in unit["nexuses"]}
        assert ports.keys() == own.keys()
        for nexus, port in ports.items():
            # Only LIO, which is on A, tells the lab of the ISID.
            assert port.startswith(own[nexus])
        for each in unit["registrations"]:
            assert each["local"] == (each["nexus"] in own)

        def port(nexus: str) -> str:
            return ports.get(nexus) or nexus.rpartition(",")[0]

        assert unit["unattributed_keys"] == []
        assert unit["legacy_reservation"] is None
        held = unit["reservation"]
        return {
            "generation": unit["generation"],
            "registrations": {
                port(each["nexus"]): int(each["key"], 16) for each in unit["registrations"]
            },
            "reservation": held and (held["type_code"], [*map(port, held["holders"])]),
        }

    def says(self) -> dict[str, Any]:
        """The facts that the agent shows without doubt."""
        return self.facts(self.shown())


@dataclass(frozen=True)
class OwnMove:
    """A host's side in a migration that QEMU does all by itself: own_move.py."""

    host: Host

    def start(self, *words: str) -> None:
        """Begin with these arguments."""
        command = shlex.join(("python3", "tests/move/own_move.py", *words))
        self.host.run("bash", "-c", f"setsid {command} </dev/null >/run/own.log 2>&1 &")

    def says(self, what: str) -> None:
        """Wait until it says so."""
        await_that(
            what,
            lambda: self.host.run("grep", "-sxF", what, "/run/own/said", expect=None).status == 0,
            300,
            told=lambda: self.host.run("cat", "/run/own.log", "/run/own/said", expect=None).output,
        )

    def goes(self) -> None:
        """The source is to migrate now."""
        self.host.run("touch", "/run/own/go")

    def ends(self) -> None:
        """Nobody needs its QEMU any more; what that said is printed."""
        self.host.run("touch", "/run/own/end")
        self.host.run("cat", "/run/own.log", expect=None)


@dataclass(frozen=True)
class Hosts:
    """Both machines, each with its agent."""

    a: Host
    b: Host

    @property
    def there(self) -> UnitPath:
        """B's path."""
        return self.b.unit.paths[0]

    def reserve(self, path: UnitPath) -> str:
        """A guest registers and reserves over A's path; what `prtrace save` wrote of it."""
        for words in (
            f"--register-ignore --param-sark={KEY:x}",
            f"--clear --param-rk={KEY:x}",
            f"--register --param-sark={KEY:x}",
            f"--reserve --param-rk={KEY:x} --prout-type={WERO}",
        ):
            self.a.run("sg_persist", "--out", *words.split(), path.block)
        assert self.a.says() == self.truth(path)
        return self.a.prtrace("save", path.block).stdout

    def truth(self, path: UnitPath) -> dict[str, Any]:
        """LIO's own view, in which this path alone is registered, with KEY, and holds."""
        done = self.a.run("python3", "-c", ORACLE, self.a.unit.directory)
        lio = json.loads(done.stdout)
        keys = {each["initiator"]: each["key"] for each in lio["registrations"]}
        holder = lio["holder"]
        assert keys == {holder: KEY}
        assert holder.startswith(path.initiator)
        assert lio["type_code"] == WERO
        return {
            "generation": lio["generation"],
            "registrations": keys,
            "reservation": (WERO, [holder]),
        }


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    socket = tmp_path_factory.mktemp("link") / "socket"
    here = TargetSpec(nexuses=1, transport="loop,iscsi", portal=PORTAL)
    there = TargetSpec(nexuses=1, transport="iscsi", portal=PORTAL, remote=True)
    listening = Shape(link=Link(socket, f"{PORTAL}/24", listens=True))
    calling = Shape(link=Link(socket, f"{CALLER}/24", listens=False))
    with ExitStack() as machines:
        a = Host(machines.enter_context(Machine("6.1", here, shape=listening)))
        # It takes its time while the other machine starts.
        a.start_agent()
        b = Host(machines.enter_context(Machine("6.1", there, shape=calling)))
        b.start_agent()
        a.await_agent()
        b.await_agent()
        yield Hosts(a, b)


def test_both_agents_know_of_a_move(hosts: Hosts) -> None:
    here = hosts.a.unit.paths[LOOP]
    file = hosts.reserve(here)
    hosts.b.prtrace("prepare", "-", stdin=file)
    hosts.b.prtrace("load", "-", stdin=file)
    assert hosts.b.says() == hosts.truth(hosts.there)
    hosts.a.prtrace("finish", "-", stdin=file)
    truth = hosts.truth(hosts.there)
    assert hosts.a.says() == truth
    assert hosts.b.says() == truth


@pytest.mark.slow
@pytest.mark.parametrize("upto", ["prepare", "load"])
def test_both_agents_know_of_a_rollback(hosts: Hosts, upto: str) -> None:
    here = hosts.a.unit.paths[LOOP]
    file = hosts.reserve(here)
    hosts.b.prtrace("prepare", "-", stdin=file)
    if upto == "load":
        hosts.b.prtrace("load", "-", stdin=file)
    hosts.b.prtrace("rollback", "-", stdin=file, expect=4 if upto == "load" else 0)
    hosts.a.prtrace("rollback", "-", stdin=file)
    assert hosts.a.says() == hosts.truth(here)
    # B hears of it from the first command there, to which a unit attention is the answer.
    hosts.b.run("sg_turs", hosts.there.sg, expect=None)
    truth = hosts.truth(here)
    assert hosts.a.says() == truth
    assert hosts.b.says() == truth


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_what_qemus_own_move_did_to_the_others_is_told(hosts: Hosts) -> None:
    """QEMU 11 moves a guest's reservation of type 7 by itself, and both agents watch it.

    Another node holds, too, as every registrant of type 7 does.
    """
    root, snapshot = roots.root("trixie", roots.QEMU_11), image.snapshot()
    here, other = hosts.a.unit.paths[LOOP], hosts.a.unit.paths[ISCSI]
    for words in (f"--register-ignore --param-sark={KEY:x}", f"--clear --param-rk={KEY:x}"):
        hosts.a.run("sg_persist", "--out", *words.split(), here.block)
    guests = [OwnMove(hosts.a), OwnMove(hosts.b)]
    try:
        guests[0].start("source", str(root), here.block, f"{CALLER}:4444", str(snapshot))
        guests[0].says("reserved")
        words = f"--register --param-sark={OTHER_KEY:x}"
        # A unit attention of what was before may come first.
        await_that(
            "the other node registers",
            lambda: (
                hosts.a.run("sg_persist", "--out", *words.split(), other.block, expect=None).status
                == 0
            ),
        )
        reserved = hosts.a.says()["reservation"]
        assert reserved[0] == WEAR
        assert len(reserved[1]) == 2
        hosts.b.run("sg_turs", hosts.there.sg, expect=None)
        refused = hosts.a.prtrace("check", here.block, expect=BLOCKED).output
        assert "migrate-pr=on" in refused

        guests[1].start("destination", str(root), hosts.there.block, f"{CALLER}:4444")
        guests[1].says("waits")
        guests[0].goes()
        guests[0].says("moved")
        guests[0].says("lost 0")
        guests[1].says("writes")
    finally:
        for guest in guests:
            guest.ends()
    hosts.b.shown()
    hosts.a.run("sg_turs", here.sg, expect=None)
    hosts.a.shown()
    # Recordings are told apart by their hosts' names.
    hosts.a.run("hostname", "node-a")
    hosts.b.run("hostname", "node-b")
    recordings = {host: host.prtrace("record").stdout for host in (hosts.a, hosts.b)}
    for host in (hosts.a, hosts.b):
        for name, each in (("a", hosts.a), ("b", hosts.b)):
            host.run("tee", f"/run/{name}.jsonl", stdin=recordings[each])
        words = ("explain", host.unit.lu, "/run/a.jsonl", "/run/b.jsonl", "--json")
        told = json.loads(host.prtrace(*words, expect=None).stdout)
        moves = [each for each in told["incidents"] if each["kind"] == "moved reservation"]
        links = [link["text"] for move in moves for link in move["chain"]]
        assert any("the type was WEAR, and now it is WE" in text for text in links)
        lost = [
            text for text in links if "held the reservation, too, and does not any more" in text
        ]
        # By its address where the recording of its host says whose it is.
        assert any(name in text for text in lost for name in (other.hctl, other.initiator))
        assert not any("the key is left" in text for text in links)
