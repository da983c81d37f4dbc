"""A machine with systemd and the packages, as its administrator sees it.

Nothing of the checkout is used in such a machine but the packages: system Python, no compiler.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from labkit.control import CompletedRun
from labkit.machine import Machine

TOP = Path(__file__).parents[2]
LIBRARIES = ("python3-click", "python3-construct", "python3-psutil", "libbpf1")
"""What the packages depend on and a plain root does not have: a machine has no mirror."""
KERNEL = {"bookworm": "6.1", "trixie": "6.12"}
OUT = "/run/lab/out"


def built(release: str, out: Path) -> Path:
    """The folder below out with the release's packages, built from the work tree."""
    build = [sys.executable, TOP / "tools" / "package", release, "--out", out]
    subprocess.run(build, check=True, timeout=1800)
    return out / release


class Host:
    """A machine as its administrator sees it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def asked(self, command: str, timeout: float = 240) -> CompletedRun:
        done = self.machine.run(command, timeout)
        print(f"# {command}\n{done.output}")  # pytest shows it where the test fails
        return done

    def run(self, command: str, timeout: float = 240) -> str:
        done = self.asked(command, timeout)
        assert done.status == 0, f"{command}: {done.status}\n{done.output[-3000:]}"
        return done.output

    def json(self, command: str) -> Any:
        return json.loads(self.run(f"{command} --json"))

    def apt(self, words: str) -> str:
        return self.run(f"DEBIAN_FRONTEND=noninteractive apt-get {words} -y 2>&1", 600)

    def unit(self, device: str) -> dict[str, Any]:
        """What show says of a device, once what waits was read and nothing is in doubt."""
        self.run(
            f"timeout 600 sh -c 'until prtrace show {device} >/dev/null; do sleep 1; done' ||"
            f" {{ prtrace show {device}; journalctl -u prtrace-agent --no-pager | tail -40;"
            " exit 1; }",
            1200,
        )
        (unit,) = self.json(f"prtrace show {device}")["units"]
        return unit

    def keys(self, device: str) -> dict[str, str]:
        """Registered keys by device node."""
        told = self.unit(device)["registrations"]
        return {each["device"]: each["key"].removeprefix("0x").lstrip("0") for each in told}
