"""The installed unit: its score, its sockets' modes, and the proxy with what the unit leaves it.

Nothing here runs systemd.  The service's user, capability and no_new_privs are set by setpriv.
The system calls that the proxy makes while it serves a disk are noted by strace and held against
the unit's SystemCallFilter as systemd-analyze spells it out.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from commands import CAPABILITIES, CLEAR, GOOD, MOVE, REGISTER, code, keys, out, read
from helpers import CHECKOUT, process

UNITS = CHECKOUT / "prtrace/systemd"
SERVICE = UNITS / "prtrace-proxy.service"
MOST_EXPOSED = 1.0


def unit(path: Path) -> dict[str, dict[str, list[str]]]:
    """Sections, keys and all values of a key."""
    found: dict[str, dict[str, list[str]]] = {}
    section = ""
    for line in path.read_text().splitlines():
        if match := re.fullmatch(r"\[(\w+)\]", line):
            section = match[1]
        elif match := re.fullmatch(r"(\w+)=(.*)", line):
            found.setdefault(section, {}).setdefault(match[1], []).append(match[2])
    return found


def test_the_units() -> None:
    service, sock = unit(SERVICE)["Service"], unit(UNITS / "prtrace-proxy.socket")["Socket"]
    assert sock["SocketMode"] == ["0600"], "socket mode"
    assert sock["ListenStream"][0][0] == "/", "a path, not an abstract name"
    control = unit(UNITS / "prtrace-proxy-control.socket")["Socket"]
    assert control["SocketMode"] == ["0600"], "control: root alone"
    assert control["FileDescriptorName"] == ["control"], "control: its name"
    assert "HUP" in service["ExecReload"][0], "a reload"
    assert service["CapabilityBoundingSet"] == ["CAP_SYS_RAWIO"], "one capability"
    assert service["AmbientCapabilities"] == ["CAP_SYS_RAWIO"], "no other"
    assert service["NoNewPrivileges"] == ["yes"], "no new privileges"
    assert service["User"] == ["prtrace-proxy"], "its own user"
    done = subprocess.run(["systemd-analyze", "security", "--offline=yes", str(SERVICE)],
                          capture_output=True, text=True)  # fmt: skip
    score = re.search(r"exposure level.*: ([\d.]+)", done.stdout)
    assert score is not None
    assert float(score[1]) <= MOST_EXPOSED, "exposure"


def allowed() -> set[str]:
    """The names that the unit's filters let through."""
    names: set[str] = set()
    for line in unit(SERVICE)["Service"]["SystemCallFilter"]:
        listed = {name for group in line.lstrip("~").split() for name in _members(group)}
        names = names - listed if line.startswith("~") else names | listed
    return names | _members("@default")


def _members(group: str) -> set[str]:
    done = subprocess.run(["systemd-analyze", "syscall-filter", group], capture_output=True,
                          text=True, check=True)  # fmt: skip
    found: set[str] = set()
    for line in done.stdout.splitlines():
        word = line.strip().split(" ")[0]
        if line.startswith("    ") and not word.startswith("#"):
            found |= _members(word) if word.startswith("@") else {word}
    return found


def as_service(command: list[str]) -> list[str]:
    return ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups",
            "--inh-caps", "-all,+sys_rawio", "--ambient-caps", "-all,+sys_rawio",
            "--bounding-set", "-all,+sys_rawio", "--no-new-privs", "--", *command]  # fmt: skip


@pytest.mark.machine(nexuses=1)
@pytest.mark.timeout(300)
def test_the_proxy_with_what_the_unit_leaves_it(unit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    # In the lab the root is a copy: whoever may not look into these folders otherwise may here.
    for each in {*Path(sys.executable).parents, *CHECKOUT.parents}:
        each.chmod(each.stat().st_mode | 0o055)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run_dir, log = folder / "run", folder / "calls"
        run_dir.mkdir()
        for place in (folder, run_dir):
            place.chmod(0o777)
        command = ["strace", "-f", "-qq", "-o", str(log), sys.executable, "-m", "prtrace", "proxy",
                   "--listen", str(folder / "proxy"), "--run-dir", str(run_dir)]  # fmt: skip
        fd = os.open(unit.paths[0].block, os.O_RDWR)
        with process(as_service(command), folder / "proxy"):
            path = folder / "proxy"
            assert read(path, fd, CAPABILITIES).status == GOOD
            assert out(path, fd, REGISTER, 0, 0xA).status == GOOD
            assert keys(path, fd) == [0xA]
            assert code(out(path, fd, MOVE, 0xA, 5)) == (2, 0x24, 0)
            assert out(path, fd, CLEAR, 0xA).status == GOOD
        os.close(fd)
        assert (run_dir / "attribution.jsonl").read_bytes()
        calls = set(re.findall(r"^\d+ +(\w+)\(", log.read_text(), re.MULTILINE))
    assert len(calls) > 20
    # systemd does these before the filter holds.
    assert sorted(calls - allowed() - {"execve"}) == []
