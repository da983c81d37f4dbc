"""README and docs, run: their commands do what they say, and print what is printed there.

A block marked `machine` is run line by line in a machine with a target, an agent and a reservation
on /dev/sda; a line's comment may name its exit status.  A block marked `output COMMAND` has to be
what COMMAND prints, but for numbers that differ from run to run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.agent import Agent
from lab.documents import Block, blocks, documents
from labkit import pace

pytestmark = [
    pytest.mark.machine(luns=1, nexuses=2, multipath=True),
    pytest.mark.timeout(180),
]

BLOCKS = [block for document in documents() for block in blocks(document)]
RUN = [block for block in BLOCKS if block.mark == "machine"]
OUTPUT = [block for block in BLOCKS if block.mark.startswith("output ")]

_SCENE = (
    "sg_turs -n 4 /dev/sda; sg_turs -n 4 /dev/sdb",
    "sg_persist -n --out --register-ignore --param-sark=0x123abc /dev/sda",
    "sg_persist -n --out --register-ignore --param-sark=0xdef /dev/sdb",
    "sg_persist -n --out --reserve --param-rk=0x123abc --prout-type=5 /dev/sda",
)
"""Two nexuses register, one of them reserves."""

_STATUS = re.compile(r"#.*exit status (\d+)")
_VARYING = (
    (re.compile(r"\[\d+\]"), "[N]"),
    (re.compile(r"\d\d:\d\d:\d\d"), "HH:MM:SS"),
    (re.compile(r"\d{4}-\d\d-\d\d"), "YYYY-MM-DD"),
    # An answer may be seconds old, or minutes where the machine is slow.
    (re.compile(r"\b\d+ (s|min|ms)\b"), "N s"),
    # Either path may be the one that is asked.
    (re.compile(r"over [01]:"), "over N:"),
    (re.compile(r"\s+"), " "),
)


@pytest.fixture(scope="module", autouse=True)
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An agent started without options, as a reader's is, and `prtrace` on the PATH."""
    folder = tmp_path_factory.mktemp("bin")
    program = folder / "prtrace"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m prtrace "$@"\n')
    program.chmod(0o755)
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{folder}:{before}"
    with Agent(
        state_dir=Path("/var/lib/prtrace"), socket=Path("/run/prtrace/io.prtrace")
    ) as agent:
        agent.settled(60)
        for command in _SCENE:
            run(command)
        agent.settled(60)
        yield
    os.environ["PATH"] = before


def run(command: str, status: int = 0) -> str:
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        timeout=pace.limit(120),
        check=False,
    )
    print(f"$ {command}\n{done.stdout}{done.stderr}[{done.returncode}]")
    assert done.returncode == status, command
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.mark.parametrize("block", RUN, ids=lambda block: block.name)
def test_commands(block: Block) -> None:
    for line in block.text.replace("\\\n", " ").splitlines():
        found = _STATUS.search(line)
        run(line, int(found[1]) if found else 0)


@pytest.mark.parametrize("block", OUTPUT, ids=lambda block: block.name)
def test_output(block: Block) -> None:
    assert alike(block.text) == alike(run(block.mark.removeprefix("output ")))


def alike(text: str) -> str:
    """Without what differs from run to run."""
    for pattern, instead in _VARYING:
        text = pattern.sub(instead, text)
    return text.strip()
