"""One logical unit on which incidents happen, and what `prtrace explain` says of each."""

from __future__ import annotations

import json
import subprocess
import time
from datetime import UTC, datetime
from typing import Any

from lab.agent import Agent, cli
from labkit import pace
from labkit.target import Unit, UnitPath

CONFLICT = 24
SECONDS = 20.0
"""For the agent to see what was done, on an idle machine."""
NODE2 = "iqn.2026-11.lab.prtrace:node2"
"""Another host's initiator port, without its ISID."""


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
