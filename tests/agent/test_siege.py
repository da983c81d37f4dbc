"""The agent under a real systemd, while a hundred connections without rights do their worst."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest
from labkit import pace, roots
from labkit.machine import Machine
from labkit.qemu import Shape
from labkit.target import TargetSpec

LIBRARIES = ("python3-click", "python3-psutil", "python3-construct", "libbpf1")
START = """
set -e
cp /lab/checkout/prtrace/systemd/prtrace-agent.* /etc/systemd/system/
systemd-sysusers /lab/checkout/prtrace/systemd/prtrace-agent.sysusers.conf
for unit in service socket; do mkdir -p /etc/systemd/system/prtrace-agent.$unit.d; done
cat > /etc/systemd/system/prtrace-agent.service.d/checkout.conf <<'.'
[Service]
ExecStart=
ExecStart=/usr/bin/python3 -m prtrace agent
Environment=PYTHONPATH=/lab/checkout PYTHONDONTWRITEBYTECODE=1
TimeoutStartSec=300
.
cat > /etc/systemd/system/prtrace-agent.socket.d/everybody.conf <<'.'
[Socket]
SocketMode=0666
.
systemctl daemon-reload
systemctl start prtrace-agent.socket
systemctl start prtrace-agent.service || { journalctl -u prtrace-agent --no-pager; exit 1; }
"""
RUN = """
cd /lab/checkout
export PYTHONPATH=/lab/checkout PYTHONDONTWRITEBYTECODE=1
python3 tests/agent/in_siege.py {seconds} {commands} && status=0 || status=1
systemctl show -p NRestarts -p ActiveState prtrace-agent.service >&2
journalctl -u prtrace-agent.service --no-pager >&2
exit $status
"""
SPEC = TargetSpec(luns=1, nexuses=2)


def figures(seconds: float, commands: int) -> tuple[dict[str, Any], str]:
    """What came of a siege, and the service's journal."""
    shape = Shape(root=roots.root("bookworm", (*roots.SYSTEM, *LIBRARIES)))
    with Machine("6.1", SPEC, shape=shape, boot_seconds=300) as machine:
        begun = machine.run(f"sh -c {shlex.quote(START)}", timeout=300)
        assert begun.status == 0, begun.output[-4000:]
        script = RUN.format(seconds=seconds, commands=commands)
        limit = pace.limit(seconds + 300)
        done = machine.run(f"sh -c {shlex.quote(script)}", timeout=limit, sink=_shown)
        assert done.status == 0, done.output[-4000:]
    told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return told, done.stderr


def _shown(_: str, octets: bytes) -> None:
    """As it comes: what the last thing was before it hung, say."""
    print(octets.decode(errors="replace"), end="", flush=True)


def check(told: dict[str, Any], journal: str) -> None:
    assert told["recorded"] == told["sent"]
    assert told["lost"] == []
    assert told["move"]["Load"] == "may run on the destination"
    assert told["memory_peak"] < told["memory_max"]
    assert "Traceback" not in journal
    assert "NRestarts=0" in journal
    assert "ActiveState=active" in journal


@pytest.mark.timeout(900)
def test_half_a_minute() -> None:
    told, journal = figures(30, 150)
    check(told, journal)
    # An emulated machine with one processor, which a test run shares with others.
    assert told["status_p99_s"] < pace.limit(4), told


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_minutes() -> None:
    told, journal = figures(600, 10_000)
    check(told, journal)
    assert told["status_p99_s"] < 2, told
