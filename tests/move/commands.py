"""The commands as a user gives them, with an agent that is told nothing.

./tools/lab run --kernel 6.1 --nexuses 5 --multipath -- python3 tests/move/commands.py
"""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import textwrap
from importlib import resources

import jsonschema
from bed import THIRD, Agent, Bed, K, check, finish

import prtrace.move
from prtrace.model import Action, Outcome, ReservationType


class Host:
    def __init__(self, bed: Bed, agent: Agent) -> None:
        self.socket = str(agent.socket)
        self.file = str(bed.state_dir / "save.json")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "prtrace", *arguments]
        env = {**os.environ, "PRTRACE_SOCKET": self.socket}
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
        print("$ prtrace", *arguments, f"[{done.returncode}]")
        if "--json" not in arguments:
            print(done.stdout + done.stderr, end="", flush=True)
        return done

    def at_terminal(self, answer: str, *arguments: str) -> tuple[int, str]:
        """The exit status and the output of a command that somebody answers at a terminal."""
        there, here = pty.openpty()
        env = {**os.environ, "PRTRACE_SOCKET": self.socket}
        command = [sys.executable, "-m", "prtrace", *arguments]
        os.write(there, answer.encode())
        with subprocess.Popen(command, stdin=here, stdout=here, stderr=here, env=env) as process:
            os.close(here)
            status = process.wait(timeout=120)
        shown = b""
        try:
            while part := os.read(there, 65536):
                shown += part
        except OSError:  # EIO: the other side is closed
            os.close(there)
        print("$ prtrace", *arguments, f"[{status}]", shown.decode(), sep="\n")
        return status, shown.decode()


def main() -> None:
    bed = Bed()
    bed.reset()
    there = bed.make_second_map()
    with Agent() as agent:
        host = Host(bed, agent)
        agent.settled(60)
        moves(bed, host, agent, there)
    check(
        "no agent: in doubt", host.run("check", "--read", "no", bed.paths[0].block).returncode, 5
    )
    check("no agent: read", host.run("check", bed.paths[0].block).returncode, 11)
    documented(bed, there)
    finish()


def documented(bed: Bed, there: str) -> None:
    """The example in the package's own description does what it says, both ways."""
    blocks = re.findall(r"\n\n((?:    .*\n|\n)+)", prtrace.move.__doc__ or "")
    source, destination, source_again = map(
        textwrap.dedent, (block for block in blocks if "import" in block)
    )
    example = {"/dev/mapper/mpatha": bed.unit.multipath or "", "/dev/mapper/mpathb": there}
    for name, node in example.items():
        source, destination = source.replace(name, node), destination.replace(name, node)
    for may_run, paths in ((True, (2, 3)), (False, (0, 1))):
        bed.reset()
        bed.guest((0, 1), ReservationType.EARO, peer=True)
        names: dict[str, object] = {}
        exec(source, names)
        exec(destination, names)
        check("example: loaded", names["may_run_here"], True)
        names["may_run_here"] = may_run
        exec(source_again, names)
        check("example", names["may_run_here"], True)
        bed.is_at("example", paths, ReservationType.EARO, peer=True)


def moves(bed: Bed, host: Host, agent: Agent, there: str) -> None:
    here = bed.unit.multipath or ""
    check("clear", host.run("check", here).returncode, 0)
    for path in bed.paths[:2]:
        command = ["sg_persist", "--out", "--register", f"--param-sark={K:x}", path.block]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    command = ["sg_persist", "--out", "--reserve", f"--param-rk={K:x}", "--prout-type=5"]
    subprocess.run([*command, bed.paths[0].sg], check=True, stdout=subprocess.DEVNULL)
    bed.is_known("reserved", agent)
    check("movable", host.run("check", here).returncode, 10)
    check("saved", host.run("save", here, "-o", host.file).returncode, 0)
    mapping = f"{bed.unit.lu}={there}"
    state = ["--state-dir", str(bed.state_dir)]
    planned = host.run("load", host.file, "--device", mapping, "--dry-run", *state)
    check("dry run", planned.returncode, 0)
    before = bed.lio()
    status, shown = host.at_terminal("n\n", "load", host.file, "--device", mapping, *state)
    check("not agreed to", (status, "plan: " in shown, bed.lio()), (1, True, before))
    loaded = host.run("load", host.file, "--device", mapping, "--json", *state)
    schema = json.loads((resources.files("prtrace") / "schema/load.1.json").read_text())
    jsonschema.validate(json.loads(loaded.stdout), schema)
    check("loaded", (loaded.returncode, json.loads(loaded.stdout)["good"]), (0, True))
    bed.is_shown("loaded", agent)
    bed.is_at("loaded", (2, 3), ReservationType.WERO, peer=False)
    finished = host.run("finish", host.file, "--json")
    schema = json.loads((resources.files("prtrace") / "schema/finish.1.json").read_text())
    jsonschema.validate(json.loads(finished.stdout), schema)
    check("finish", finished.returncode, 0)
    check("back", host.at_terminal("y\n", "rollback", host.file, *state)[0], 0)
    bed.is_shown("back", agent)
    bed.is_at("back", (0, 1), ReservationType.WERO, peer=False)
    check("third", bed.send(THIRD, Action.REGISTER, 0, K), Outcome.DONE)
    check("blocked", host.run("check", here).returncode, 11)
    check("not saved", host.run("save", here).returncode, 11)


if __name__ == "__main__":
    main()
