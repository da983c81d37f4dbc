"""The agent's units, under a real systemd: started, used, restarted, within their sandbox."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from labkit import roots
from labkit.machine import Machine
from labkit.qemu import Shape

UNITS = Path(__file__).parents[2] / "prtrace/systemd"
LIBRARIES = ("python3-click", "python3-psutil", "python3-construct", "libbpf1")


def analysed(*more: str) -> str:
    return subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", *more, UNITS / "prtrace-agent.service"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout


def test_the_sandbox_is_rated() -> None:
    """systemd's own table of what a service may still do; 10 is everything."""
    rated = re.search(r"exposure level for prtrace-agent.service: ([\d.]+)", analysed())
    assert rated
    assert float(rated[1]) <= 3.4


def test_whatever_the_rating_counts_is_answered() -> None:
    """By the name that systemd gives it, in a row of docs/security.md that says what needs it."""
    counted = {row["name"] for row in json.loads(analysed("--json=short")) if row["exposure"]}
    assert counted
    rows = (UNITS.parents[1] / "docs/security.md").read_text().splitlines()
    answered = {
        name.replace("\\|", "|")
        for row in rows
        if re.search(r"\| 0\.\d \|", row)
        for name in re.findall(r"`([^`]+)`", row.partition(" | 0.")[0])
    }
    assert counted == answered


# The first disk comes when the agent runs, and with it the drivers of disks and of sg.
SCRIPT = """
set -e
if lsmod | grep -E '^(sd_mod|sg) '; then exit 1; fi
cp /lab/checkout/prtrace/systemd/prtrace-agent.* /etc/systemd/system/
systemd-sysusers /lab/checkout/prtrace/systemd/prtrace-agent.sysusers.conf
mkdir -p /etc/systemd/system/prtrace-agent.service.d
cat > /etc/systemd/system/prtrace-agent.service.d/checkout.conf <<'.'
[Service]
ExecStart=
ExecStart=/usr/bin/python3 -m prtrace agent
Environment=PYTHONPATH=/lab/checkout PYTHONDONTWRITEBYTECODE=1
TimeoutStartSec=300
WatchdogSec=300
.
echo PRTRACE_AGENT_LOG_LEVEL=debug > /etc/default/prtrace-agent
export PYTHONPATH=/lab/checkout
systemctl daemon-reload
systemctl start prtrace-agent.socket
started() { systemctl start prtrace-agent.service; }
started || { journalctl -u prtrace-agent.service --no-pager; exit 1; }
PYTHONPATH=/lab/checkout/tools python3 -c '
from labkit.build import build
from labkit.target import TargetSpec
build(TargetSpec(luns=1, nexuses=2))
'
udevadm settle
disk=$(ls /dev/sd? | head -1)
# What nobody watched is in doubt until the agent has read the device.
timeout 200 sh -c "until python3 -m prtrace show $disk; do sleep 1; done" || {
    journalctl -u prtrace-agent.service --no-pager
    exit 1
}
sg_persist --out --register-ignore --param-sark=a1 $disk
python3 -m prtrace show $disk | tee /tmp/shown
grep -q 0x00000000000000a1 /tmp/shown
systemctl kill -s KILL prtrace-agent.service
sleep 3
sg_persist --out --register-ignore --param-sark=a2 $disk
for n in $(seq 60); do systemctl is-active -q prtrace-agent.service && break; sleep 1; done
python3 -m prtrace show $disk | grep 0x00000000000000a2
python3 -m prtrace events | grep -c sg_persist
ls /sys/fs/bpf/prtrace
systemctl show -p MemoryCurrent -p MemoryMax -p NRestarts prtrace-agent.service
systemctl stop prtrace-agent.service
! journalctl -u prtrace-agent.service --no-pager | grep Traceback
"""


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_it_runs_under_systemd() -> None:
    root = roots.root("bookworm", (*roots.SYSTEM, *LIBRARIES))
    shape = Shape(root=root)
    with Machine("6.1", shape=shape, boot_seconds=600) as machine:
        done = machine.run(f"sh -c {shlex.quote(SCRIPT)}", timeout=900)
        print(done.output)
        assert done.status == 0, done.output[-4000:]
