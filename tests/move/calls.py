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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
from bed import PEER, SOURCE, THIRD, Agent, Bed, K, check, finish

from prtrace.api.client import Client
from prtrace.errors import AgentUnreachableError, PrtraceError
from prtrace.linux.capabilities import KEPT
from prtrace.model import Action, Outcome, ReservationType
from prtrace.move import savefile
from prtrace.move.handover import Role
from prtrace.move.journal import Journal

KIND = ReservationType.WERO
NOBODY, GROUP = 65534, "games"
THERE = (2, 3)
DEADLINE_S = 60


def main() -> None:
    bed = Bed()
    there = bed.make_second_map()
    options = ("--socket-mode", "0666", "--admin-group", GROUP)
    with Agent(*options) as agent:
        moves(bed, agent, there)
        refusals(bed, agent)
        who_may(bed, agent)
        gone_client(bed, agent, there)
        at_once(bed, agent, there)
    for moment, then in (("after-step-2", "Load"), ("before-step-3", "Rollback")):
        killed(bed, Agent(*options), there, moment, then)
    finish()


def valid(schema: str, document: dict[str, Any]) -> dict[str, Any]:
    text = (resources.files("prtrace") / f"schema/{schema}.1.json").read_text()
    jsonschema.validate(document, json.loads(text))
    return document


def prepared(bed: Bed) -> str:
    """A guest over both of the source's paths; the source's device."""
    bed.reset()
    bed.guest(SOURCE, KIND, peer=True)
    return bed.unit.multipath or ""


def save(agent: Agent, device: str) -> dict[str, Any]:
    agent.settled(60)
    return valid("save", agent.call("Save", devices=[device])["file"])


def carry(agent: Agent, method: str, file: dict[str, Any], **given: Any) -> list[dict[str, Any]]:
    return [*Client(str(agent.socket)).stream(method, file=file, **given)]


def moves(bed: Bed, agent: Agent, there: str) -> None:
    here = prepared(bed)
    bed.is_known("before", agent)
    checked = valid("check", agent.call("Check", devices=[here]))
    check("movable", (checked["verdict"], checked["units"][0]["key"]), ("movable", f"{K:#018x}"))
    before = bed.lio()
    file = save(agent, here)
    mapping = {"devices": {bed.unit.lu: there}}
    *steps, last = carry(agent, "Load", file, **mapping, dry_run=True)
    check("dry run", (len(last["report"]["units"][0]["planned"]), bed.lio()), (4, before))
    mark = max(event["seq"] for event in agent.events())
    with ThreadPoolExecutor(1) as others:
        slowest = others.submit(longest_status, agent, stop := [])
        *steps, last = carry(agent, "Load", file, **mapping)
        stop.append(True)
        print(f"a Status during a Load took at most {slowest.result(60) * 1000:.0f} ms")
    report = valid("load", last["report"])
    unit = report["units"][0]
    check("loaded", (report["good"], unit["result"]), (True, "moved"))
    check("PR OUT, PR IN", (unit["writes"], unit["reads"]), (4, 2))
    told = [reply["steps"][0]["what"] for reply in steps]
    check("steps are told", sum(": done" in what for what in told), 4)
    bed.is_at("loaded", THERE, KIND, peer=True)
    bed.is_known("loaded", agent)
    # Nothing from the side: what the agent sent came back up as events of its own process.
    sent = [event for event in agent.events(since_seq=mark) if event["command"] == "PR OUT"]
    pids = {event["pid"] for event in sent}
    assert agent.process is not None
    check("seen as events", (len(sent), pids), (4, {agent.process.pid}))
    kept = sum(1 << capability for capability in KEPT)
    check("privileges of every thread", capabilities(agent.process.pid), {kept})
    finished = valid("finish", agent.call("Finish", file=file)["report"])
    check("finished", (finished["clean"], finished["units"][0]["removed"]), (True, []))
    bed.send(0, Action.REGISTER, 0, K)
    finished = agent.call("Finish", file=file)["report"]
    check("finish removes", (finished["clean"], len(finished["units"][0]["removed"])), (True, 1))
    bed.is_at("finished", THERE, KIND, peer=True)
    report = valid("load", carry(agent, "Rollback", file)[-1]["report"])
    check("back", (report["good"], report["units"][0]["result"]), (True, "restored"))
    bed.is_at("back", SOURCE, KIND, peer=True)
    bed.is_known("back", agent)


def longest_status(agent: Agent, stop: list[bool]) -> float:
    longest = 0.0
    while not stop:
        begun = time.monotonic()
        agent.status()
        longest = max(longest, time.monotonic() - begun)
    return longest


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
    newer = {**file, "schema": "prtrace.save/2"}
    edited = {**file, "guest": "another"}
    before = bed.lio()
    for what, wrong, words in (
        ("newer", newer, "this program reads prtrace.save/1"),
        ("edited", edited, "checksum"),
        ("no file", {}, "schema"),
    ):
        for method in ("Load", "Rollback"):
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
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            os.setgroups(groups)
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            status = work()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def who_may(bed: Bed, agent: Agent) -> None:
    here = prepared(bed)
    file = save(agent, here)
    bed.is_known("before strangers", agent)
    before = bed.lio()

    def denied() -> int:
        """How many of the changing calls are refused to this process."""
        calls: list[Callable[[], object]] = [
            lambda: agent.call("Save", devices=[here]),
            lambda: carry(agent, "Load", file),
            lambda: carry(agent, "Rollback", file),
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
    check("nobody: changes nothing", as_user([], denied), 4)
    check("nobody: untouched", bed.lio(), before)
    check("a member: changes", as_user([grp.getgrnam(GROUP).gr_gid], denied), 0)


def wait_for(what: str, condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > end:
            check(what, "not within the deadline", "")
            return
        time.sleep(0.02)


def gone_client(bed: Bed, agent: Agent, there: str) -> None:
    file = save(agent, prepared(bed))
    given = {"file": file, "devices": {bed.unit.lu: there}}
    call = {"method": "io.prtrace.Load", "parameters": given, "more": True}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(agent.socket))
        connection.sendall(json.dumps(call).encode() + b"\0")
        connection.recv(1)
    wanted = {bed.paths[path].initiator for path in (*THERE, THIRD)}
    wait_for("gone client", lambda: set(bed.lio().keys()) == wanted)
    again = carry(agent, "Load", **given)[-1]["report"]["units"][0]
    check("gone client: again", (again["result"], again["writes"]), ("moved", 0))
    bed.is_at("gone client", THERE, KIND, peer=True)
    bed.is_known("gone client", agent)


def at_once(bed: Bed, agent: Agent, there: str) -> None:
    file = save(agent, prepared(bed))
    name = savefile.from_document(file).id
    given = {"devices": {bed.unit.lu: there}}
    with Journal(agent.state_dir, name, Role.LOAD, bed.unit.lu):
        refused("at once", lambda: carry(agent, "Load", file, **given), "is being moved")
    bed.is_at("at once", SOURCE, KIND, peer=True)
    check("then", carry(agent, "Load", file, **given)[-1]["report"]["good"], True)


def killed(bed: Bed, agent: Agent, there: str, moment: str, then: str) -> None:
    """The agent is killed in the middle of a Load; its successor goes on, or takes back."""
    what = f"killed {moment}, {then}"
    here = prepared(bed)
    os.environ["PRTRACE_FAULT"] = f"load:{moment}"
    given = {"devices": {bed.unit.lu: there}}
    with agent:
        del os.environ["PRTRACE_FAULT"]
        file = save(agent, here)
        try:
            carry(agent, "Load", file, **given)
        except AgentUnreachableError:
            assert agent.process is not None
            check(f"{what}: dead", agent.process.wait(30), -signal.SIGKILL)
        else:
            check(f"{what}: dead", "it answered", "")
    with agent:
        report = carry(agent, then, file, **(given if then == "Load" else {}))[-1]["report"]
        check(f"{what}: good", [unit["why"] for unit in report["units"]], [None])
        bed.is_at(what, THERE if then == "Load" else SOURCE, KIND, peer=True)
        bed.is_known(what, agent)


if __name__ == "__main__":
    main()
