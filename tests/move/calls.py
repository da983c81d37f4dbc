"""Check, Save, Load, Rollback and Finish over the agent's socket, as the agent really runs.

./tools/lab run --kernel 6.1 --nexuses 5 --multipath -- python3 tests/move/calls.py
"""

from __future__ import annotations

import grp
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import psutil
from bed import PEER, SOURCE, THIRD, Agent, Bed, K, check, finish, in_child
from labkit import pace
from labkit.processes import fork
from labkit.waiting import await_that

from prtrace.agent import mover
from prtrace.errors import PrtraceError
from prtrace.model import Action, Outcome, ReservationType
from prtrace.move import savefile
from prtrace.move.carry import MoveOptions
from prtrace.move.journal import Journal
from prtrace.move.verbs import Moves

KIND = ReservationType.WERO
NOBODY, GROUP = 65534, "games"
THERE = (2, 3)


class Watched(Agent):
    """The agent, whose mover ends where it parses a byte of a device itself."""

    program = (str(Path(__file__).with_name("root_parses_nothing.py")),)

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        if error[0] is not None:
            print(self.log[-4000:], flush=True)


def main() -> None:
    bed = Bed()
    there = bed.make_second_map()
    options = ("--socket-mode", "0666", "--admin-group", GROUP)
    with Watched(*options) as agent:
        moves(bed, agent, there)
        refusals(bed, agent)
        who_may(bed, agent)
        gone_client(bed, agent, there)
        at_once(bed, agent, there)
    settles(bed, Watched(*options), there)
    finish()


def valid(schema: str, document: dict[str, Any]) -> dict[str, Any]:
    text = (resources.files("prtrace") / f"schema/{schema}.json").read_text()
    jsonschema.validate(document, json.loads(text))
    return document


def prepared(bed: Bed) -> str:
    """A guest over both of the source's paths; the source's device."""
    bed.reset()
    bed.guest(SOURCE, KIND, peer=True)
    return bed.unit.multipath or ""


def save(agent: Agent, device: str) -> dict[str, Any]:
    agent.settled(60)
    return valid("save.2", agent.call("Save", devices=[device])["file"])


def carry(agent: Agent, method: str, file: dict[str, Any], **given: Any) -> list[dict[str, Any]]:
    return [*agent.client().stream(method, file=file, **given)]


def moves(bed: Bed, agent: Agent, there: str) -> None:
    here = prepared(bed)
    bed.is_known("before", agent)
    checked = valid("check.2", agent.call("Check", devices=[here]))
    check("movable", (checked["verdict"], checked["units"][0]["key"]), ("movable", f"{K:#018x}"))
    before = bed.lio()
    file = save(agent, here)
    mapping = {"devices": {bed.unit.lu: there}}
    *steps, last = carry(agent, "Prepare", file, **mapping, dry_run=True)
    check("dry run", (len(last["report"]["units"][0]["planned"]), bed.lio()), (1, before))
    mark = max(event["seq"] for event in agent.events())
    with ThreadPoolExecutor(1) as others:
        slowest = others.submit(longest_status, agent, stop := [])
        *steps, last = carry(agent, "Prepare", file, **mapping)
        check("prepared", last["report"]["units"][0]["result"], "prepared")
        with nobody_forks_parsers(agent):
            *more, last = carry(agent, "Load", file)
        stop.append(True)
        print(
            f"a Status during a Load took at most {slowest.result(pace.limit(60)) * 1000:.0f} ms"
        )
    report = valid("move.2", last["report"])
    unit = report["units"][0]
    check("loaded", (report["may_run"], unit["result"]), (True, "may run on the destination"))
    told = [reply["steps"][0]["what"] for reply in (*steps, *more)]
    # REGISTER on both paths; PREEMPT, and REGISTER on the path that it took the key from.
    check("steps are told", sum(": done" in what for what in told), 4)
    bed.is_known("loaded", agent)
    # Nothing from the side: what the agent's mover sent came back up as events.
    # A command that meets a unit attention is sent again.
    sent = [
        event
        for event in agent.events(since_seq=mark)
        if event["command"] == "PR OUT" and event["status"] == "GOOD"
    ]
    pids = {event["pid"] for event in sent}
    assert agent.process is not None
    (pid,) = pids
    check("seen as events", (len(sent), parent_of(pid)), (4, agent.process.pid))
    kept = sum(1 << capability for capability in mover.KEPT)
    check("privileges of every thread", capabilities(pid), {kept})
    check("privileges of the agent itself", capabilities(agent.process.pid), {0})
    listed = valid("moves.1", agent.call("Moves"))["moves"]
    check("moves", {each["id"] for each in listed}, {file["id"]})
    finished = valid("move.2", agent.call("Finish", file=file)["report"])
    check("finished", finished["units"][0]["result"], "done")
    bed.is_at("finished", THERE, KIND, peer=True)
    late = carry(agent, "Rollback", file, side="source")[-1]["report"]
    check("spent", late["units"][0]["result"], "superseded")
    file = save(agent, prepared(bed))
    check("prepared", carry(agent, "Prepare", file, **mapping)[-1]["report"]["good"], True)
    back = carry(agent, "Rollback", file, side="destination")[-1]["report"]
    check("withdrawn", back["units"][0]["result"], "withdrawn")
    report = valid("move.2", carry(agent, "Rollback", file, side="source")[-1]["report"])
    check(
        "back", (report["may_run"], report["units"][0]["result"]), (True, "may run on the source")
    )
    bed.is_at("back", SOURCE, KIND, peer=True)
    bed.is_known("back", agent)


@contextmanager
def nobody_forks_parsers(agent: Agent) -> Iterator[None]:
    """The guest is paused: Prepare's parsers are there still, and no new one is waited for."""
    assert agent.process is not None
    forks = min(child.pid for child in psutil.Process(agent.process.pid).children())
    os.kill(forks, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(forks, signal.SIGCONT)


def longest_status(agent: Agent, stop: list[bool]) -> float:
    longest = 0.0
    while not stop:
        begun = time.monotonic()
        agent.status()
        longest = max(longest, time.monotonic() - begun)
    return longest


def parent_of(pid: int) -> int:
    told = Path(f"/proc/{pid}/status").read_text()
    return int(told.partition("PPid:")[2].split()[0])


def capabilities(pid: int) -> set[int]:
    found = set()
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        found.add(int(lines["CapEff"], 16))
    return found


def refused(what: str, work: Callable[[], object], words: str) -> None:
    try:
        got: object = work()
    except PrtraceError as error:
        check(what, words if words in error.message else error.message, words)
    else:
        check(what, got, words)


def refusals(bed: Bed, agent: Agent) -> None:
    here = prepared(bed)
    file = save(agent, here)
    newer = {**file, "schema": "prtrace.save/3"}
    edited = {**file, "guest": "another"}
    before = bed.lio()
    for what, wrong, words in (
        ("newer", newer, "this program reads prtrace.save/2"),
        ("edited", edited, "checksum"),
        ("no file", {}, "schema"),
    ):
        for method in ("Prepare", "Load", "Rollback"):
            refused(f"{what}: {method}", lambda m=method, w=wrong: carry(agent, m, w), words)
        refused(f"{what}: Finish", lambda w=wrong: agent.call("Finish", file=w), words)
    refused("own paths", lambda: carry(agent, "Load", file), "source's own paths")
    refused("no device", lambda: agent.call("Check", devices=["/dev/nothing"]), "/dev/nothing")
    refused("none named", lambda: agent.call("Save", devices=[]), "no device")
    check("third", bed.send(THIRD, Action.REGISTER, PEER, K), Outcome.DONE)
    refused("shared key", lambda: agent.call("Save", devices=[here]), "key on other nexuses")
    check("shared key", agent.call("Check", devices=[here])["verdict"], "blocked")
    check("third", bed.send(THIRD, Action.REGISTER, K, PEER), Outcome.DONE)
    check("untouched", bed.lio().keys(), before.keys())


def as_user(groups: list[int], work: Callable[[], int]) -> int:
    """What work returns, a small number, in a process of nobody's with these groups."""

    def as_nobody() -> int:
        os.setgroups(groups)
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        return work()

    return os.waitstatus_to_exitcode(os.waitpid(fork(as_nobody), 0)[1])


def who_may(bed: Bed, agent: Agent) -> None:
    here = prepared(bed)
    file = save(agent, here)
    bed.is_known("before strangers", agent)
    before = bed.lio()

    def denied() -> int:
        """How many of the changing calls are refused to this process."""
        calls: list[Callable[[], object]] = [
            lambda: agent.call("Save", devices=[here]),
            lambda: carry(agent, "Prepare", file),
            lambda: carry(agent, "Load", file),
            lambda: carry(agent, "Rollback", file),
            lambda: agent.call("Release", file=file),
            lambda: agent.call("Finish", file=file),
        ]
        count = 0
        for call in calls:
            try:
                call()
            except PrtraceError as error:
                count += "may not call" in error.message
        return count

    def may_read() -> int:
        return int(agent.call("Check", devices=[here])["verdict"] == "movable")

    check("nobody: reads", as_user([], may_read), 1)
    check("nobody: changes nothing", as_user([], denied), 6)
    check("nobody: untouched", bed.lio(), before)
    check("a member: changes", as_user([grp.getgrnam(GROUP).gr_gid], denied), 0)


def gone_client(bed: Bed, agent: Agent, there: str) -> None:
    file = save(agent, prepared(bed))
    given = {"file": file, "devices": {bed.unit.lu: there}}
    call = {"method": "io.prtrace.Load", "parameters": given, "more": True}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(agent.socket))
        connection.sendall(json.dumps(call).encode() + b"\0")
        connection.recv(1)
    wanted = {bed.paths[path].initiator for path in (*THERE, THIRD)}
    await_that("gone client", lambda: set(bed.lio().keys()) == wanted)
    # The device has it all before the call that goes on has ended.
    end = time.monotonic() + pace.limit(60)
    while True:
        try:
            again = carry(agent, "Load", **given)[-1]["report"]["units"][0]
        except PrtraceError as error:
            if "is being moved" not in error.message or time.monotonic() > end:
                raise
            time.sleep(0.1)
            continue
        break
    check("gone client: again", (again["may_run"], again["writes"]), (True, 0))
    bed.is_at("gone client", THERE, KIND, peer=True)
    bed.is_known("gone client", agent)


def at_once(bed: Bed, agent: Agent, there: str) -> None:
    file = save(agent, prepared(bed))
    given = {"devices": {bed.unit.lu: there}}
    with Journal(agent.state_dir, bed.unit.lu):
        refused("at once", lambda: carry(agent, "Load", file, **given), "is being moved")
    bed.is_at("at once", SOURCE, KIND, peer=True)
    check("then", carry(agent, "Load", file, **given)[-1]["report"]["good"], True)


def settles(bed: Bed, agent: Agent, there: str) -> None:
    """What was in question when an agent died is settled by its successor before it is asked."""
    here = prepared(bed)

    def checkpoint(point: str) -> None:
        if point == "after REGISTER":
            os.kill(os.getpid(), signal.SIGKILL)

    with agent:
        file = savefile.from_document(save(agent, here))
    state_dir = agent.state_dir
    dying = Moves(MoveOptions(state_dir, checkpoint=checkpoint))
    in_child(lambda: dying.prepare(file, {bed.unit.lu: there}))
    question = [each for each in Moves(MoveOptions(state_dir)).moves() if each.lines.in_question]
    check("in question", len(question), 1)
    with agent:
        listed = agent.call("Moves")["moves"]
        check("settled", [each["in_question"] for each in listed], [[]] * len(listed))


if __name__ == "__main__":
    main()
