"""prtrace read, no agent: what it prints is what LIO has, and what was in the way is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from agent import cli
from labkit.oracle import oracle
from labkit.target import Target, Unit


def sent(*words: str) -> None:
    """Run a command of sg3-utils; it has to succeed."""
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, timeout=60)


def read(device: str, status: int = 0) -> dict[str, Any]:
    """What prtrace read --json says of device."""
    done = cli("read", device, "--json")
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    return json.loads(done.stdout)


def attentions(unit: Unit) -> None:
    """A unit attention that waits is reported by the read that took it, and by no other."""
    one, two = unit.paths[0].block, unit.paths[1].block
    for node in (one, two):
        sent("sg_turs", "-n", "4", node)
        sent("sg_persist", "-n", "-o", "-G", "-S", "0xa1" if node == one else "0xb1", node)
    sent("sg_persist", "-n", "-o", "-R", "-K", "0xa1", "-T", "5", one)
    sent("sg_persist", "-n", "-o", "-L", "-K", "0xa1", "-T", "5", one)
    found = read(two)
    assert any("2A/04" in each for each in found["attentions"]), found["attentions"]
    assert read(two)["attentions"] == []


def agreed(unit: Unit, node: str) -> None:
    """Generation, keys, holder and type are LIO's."""
    one = unit.paths[0].block
    sent("sg_persist", "-n", "-o", "-R", "-K", "0xa1", "-T", "6", one)
    sent("sg_turs", "-n", "4", unit.paths[1].block)
    found, truth = read(node), oracle(unit.directory)
    assert found["generation"] == truth.generation
    assert sorted(found["keys"]) == ["0x00000000000000a1", "0x00000000000000b1"]
    assert found["reservation"]["type"] == "EARO"
    assert found["reservation"]["key"] == "0x00000000000000a1"
    holders = [each["initiator_port"] for each in found["registrations"] if each["holder"]]
    assert len(holders) == 1
    assert unit.paths[0].initiator.removeprefix("naa.") in holders[0]
    told = cli("read", node)
    assert told.returncode == 0
    assert all(len(line) <= 80 for line in told.stdout.splitlines()), told.stdout
    told_once = " ".join(told.stdout.split())
    assert "Exclusive Access, Registrants Only (EARO), key 0x00000000000000a1" in told_once
    sent("sg_persist", "-n", "-o", "-C", "-K", "0xa1", one)


def spc2(unit: Unit) -> None:
    """A RESERVE(6) of another nexus shuts out even reading; that is said, with its own status."""
    one, two = unit.paths[0].sg, unit.paths[1].sg
    sent("sg_turs", "-n", "4", two)
    sent("sg_raw", one, "16", "0", "0", "0", "0", "0")
    done = cli("read", two)
    assert done.returncode == 24, (done.returncode, done.stderr)
    assert "RESERVATION CONFLICT" in done.stderr
    assert "SPC-2 RESERVE" in done.stderr
    sent("sg_raw", one, "17", "0", "0", "0", "0", "0")
    assert read(two)["keys"] == []


def main() -> None:
    target = Target.load(os.environ["LAB_TARGET"])
    plain = target.units[0]
    attentions(plain)
    agreed(plain, plain.paths[1].block)
    if plain.multipath:
        attentions(plain)
        agreed(plain, plain.multipath)
    spc2(plain)
    absent = cli("read", "/dev/null")
    assert absent.returncode not in (0, 1), absent
    assert "Traceback" not in absent.stderr


main()
