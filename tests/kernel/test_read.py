"""prtrace read, no agent: what it prints is what LIO has, and what was in the way is told."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from lab.agent import cli
from labkit.oracle import oracle
from labkit.target import Unit

pytestmark = [pytest.mark.machine(nexuses=2, multipath=True), pytest.mark.timeout(120)]


def sent(*words: str) -> None:
    """Run a command of sg3-utils; it has to succeed."""
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, timeout=60)


def read(device: str, status: int = 0) -> dict[str, Any]:
    """What prtrace read --json says of device."""
    done = cli("read", device, "--json")
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    return json.loads(done.stdout)


def test_a_unit_attention_is_reported_by_the_read_that_took_it(unit: Unit) -> None:
    one, two = unit.paths[0].block, unit.paths[1].block
    for node in (one, two):
        sent("sg_turs", "-n", "4", node)
        sent("sg_persist", "-n", "-o", "-G", "-S", "0xa1" if node == one else "0xb1", node)
    sent("sg_persist", "-n", "-o", "-R", "-K", "0xa1", "-T", "5", one)
    sent("sg_persist", "-n", "-o", "-L", "-K", "0xa1", "-T", "5", one)
    found = read(two)
    assert any("2A/04" in each for each in found["attentions"]), found["attentions"]
    assert read(two)["attentions"] == []
    sent("sg_persist", "-n", "-o", "-C", "-K", "0xa1", one)
    sent("sg_turs", "-n", "4", two)


@pytest.mark.parametrize("node", ["path", "map"])
def test_generation_keys_holder_and_type_are_those_of_lio(unit: Unit, node: str) -> None:
    node = unit.paths[1].block if node == "path" else unit.multipath
    one = unit.paths[0].block
    for path, key in ((one, "0xa1"), (unit.paths[1].block, "0xb1")):
        sent("sg_turs", "-n", "4", path)
        sent("sg_persist", "-n", "-o", "-G", "-S", key, path)
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


def test_a_reserve_of_spc2_shuts_out_even_reading(unit: Unit) -> None:
    """That is said, with its own exit status."""
    one, two = unit.paths[0].sg, unit.paths[1].sg
    sent("sg_turs", "-n", "4", two)
    sent("sg_raw", one, "16", "0", "0", "0", "0", "0")
    done = cli("read", two)
    assert done.returncode == 24, (done.returncode, done.stderr)
    assert "RESERVATION CONFLICT" in done.stderr
    assert "SPC-2 RESERVE" in done.stderr
    sent("sg_raw", one, "17", "0", "0", "0", "0", "0")
    assert read(two)["keys"] == []


def test_a_node_that_is_no_scsi_device_is_refused() -> None:
    absent = cli("read", "/dev/null")
    assert absent.returncode not in (0, 1), absent
    assert "Traceback" not in absent.stderr


def test_ports_are_told_where_no_agent_is(unit: Unit) -> None:
    told = json.loads(cli("ports", "--json").stdout)["ports"]
    for path in unit.paths:
        assert any(path.initiator.removeprefix("naa.") in port for port in told), told
