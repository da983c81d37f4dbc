"""The commands as a user gives them, with an agent that is told nothing.

./tools/lab run --kernel 6.1 --nexuses 5 --multipath -- python tests/move/commands.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib import resources

import jsonschema
from bed import THIRD, Bed, K, check, finish

from prtrace.model import Action, Outcome, ReservationType

DEADLINE_S = 90


class Host:
    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.socket = str(bed.state_dir / "socket")
        self.file = str(bed.state_dir / "save.json")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "prtrace", *arguments]
        env = {**os.environ, "PRTRACE_SOCKET": self.socket}
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
        print("$ prtrace", *arguments, f"[{done.returncode}]")
        if "--json" not in arguments:
            print(done.stdout + done.stderr, end="", flush=True)
        return done

    def agent(self) -> subprocess.Popen[bytes]:
        state = str(self.bed.state_dir / "agent")
        command = [sys.executable, "-m", "prtrace", "agent", "--state-dir", state]
        agent = subprocess.Popen([*command, "--socket", self.socket])
        end = time.monotonic() + DEADLINE_S
        while self.run("show", self.bed.unit.lu).returncode not in (0, 4):
            if time.monotonic() > end or agent.poll() is not None:
                raise SystemExit("the agent does not answer")
        return agent

    def shown(self, wanted: dict[str, str]) -> None:
        """What the agent shows in the end: key by nexus, without doubt."""
        end = time.monotonic() + DEADLINE_S
        while True:
            unit = json.loads(self.run("show", self.bed.unit.lu, "--json").stdout)["units"][0]
            got = {each["nexus"]: each["key"] for each in unit["registrations"]}
            if (got == wanted and not unit["doubt"]) or time.monotonic() > end:
                check("the agent shows", (got, unit["doubt"]), (wanted, []))
                return


def main() -> None:
    bed = Bed()
    host = Host(bed)
    there = bed.make_second_map()
    agent = host.agent()
    try:
        moves(bed, host, bed.unit.multipath or "", there)
    finally:
        agent.terminate()
        agent.wait(60)
    check(
        "no agent: in doubt", host.run("check", "--read", "no", bed.paths[0].block).returncode, 5
    )
    check("no agent: read", host.run("check", bed.paths[0].block).returncode, 11)
    finish()


def moves(bed: Bed, host: Host, here: str, there: str) -> None:
    key = f"{K:#018x}"
    local = [path.hctl for path in bed.paths]
    check("clear", host.run("check", here).returncode, 0)
    for path in bed.paths[:2]:
        command = ["sg_persist", "--out", "--register", f"--param-sark={K:x}", path.block]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    command = ["sg_persist", "--out", "--reserve", f"--param-rk={K:x}", "--prout-type=5"]
    subprocess.run([*command, bed.paths[0].sg], check=True, stdout=subprocess.DEVNULL)
    host.shown({local[0]: key, local[1]: key})
    check("movable", host.run("check", here).returncode, 10)
    check("saved", host.run("save", here, "-o", host.file).returncode, 0)
    mapping = f"{bed.unit.lu}={there}"
    state = ["--state-dir", str(bed.state_dir)]
    planned = host.run("load", host.file, "--device", mapping, "--dry-run", *state)
    check("dry run", planned.returncode, 0)
    loaded = host.run("load", host.file, "--device", mapping, "--json", *state)
    schema = json.loads((resources.files("prtrace") / "schema/load.1.json").read_text())
    jsonschema.validate(json.loads(loaded.stdout), schema)
    check("loaded", (loaded.returncode, json.loads(loaded.stdout)["good"]), (0, True))
    host.shown({local[2]: key, local[3]: key})
    bed.is_at("loaded", (2, 3), ReservationType.WERO, peer=False)
    check("finish", host.run("finish", host.file).returncode, 0)
    check("back", host.run("rollback", host.file, *state).returncode, 0)
    host.shown({local[0]: key, local[1]: key})
    bed.is_at("back", (0, 1), ReservationType.WERO, peer=False)
    check("third", bed.send(THIRD, Action.REGISTER, 0, K), Outcome.DONE)
    check("blocked", host.run("check", here).returncode, 11)
    check("not saved", host.run("save", here).returncode, 11)


if __name__ == "__main__":
    main()
