"""The installed unit: its score, its socket's mode, and the proxy with what the unit leaves it.

    ./tools/lab run --luns 1 --nexuses 1 -- python3 tests/proxy/sandbox.py

Nothing here runs systemd.  The service's user, capability and no_new_privs are set by setpriv.
The system calls that the proxy makes while it serves a disk are noted by strace, where it is
installed, and held against the unit's SystemCallFilter as systemd-analyze spells it out.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import helpers
import lab_check

UNITS = helpers.CHECKOUT / "prtrace/systemd"
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


def check_units() -> None:
    service, sock = unit(SERVICE)["Service"], unit(UNITS / "prtrace-proxy.socket")["Socket"]
    lab_check.check("socket mode", sock["SocketMode"], ["0600"])
    lab_check.check("a path, not an abstract name", sock["ListenStream"][0][0], "/")
    control = unit(UNITS / "prtrace-proxy-control.socket")["Socket"]
    lab_check.check("control: root alone", control["SocketMode"], ["0600"])
    lab_check.check("control: its name", control["FileDescriptorName"], ["control"])
    lab_check.check("a reload", "HUP" in service["ExecReload"][0], True)
    lab_check.check("one capability", service["CapabilityBoundingSet"], ["CAP_SYS_RAWIO"])
    lab_check.check("no other", service["AmbientCapabilities"], ["CAP_SYS_RAWIO"])
    lab_check.check("no new privileges", service["NoNewPrivileges"], ["yes"])
    lab_check.check("its own user", service["User"], ["prtrace-proxy"])
    done = subprocess.run(["systemd-analyze", "security", "--offline=yes", str(SERVICE)],
                          capture_output=True, text=True)  # fmt: skip
    score = re.search(r"exposure level.*: ([\d.]+)", done.stdout)
    lab_check.check("exposure", score is not None and float(score[1]) <= MOST_EXPOSED, True)
    print("exposure:", score and score[1])


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


def main() -> int:
    check_units()
    if "LAB_TARGET" in os.environ:
        first = json.loads(Path(os.environ["LAB_TARGET"]).read_text())["units"][0]["paths"][0]
        node = first["block"]
    else:
        first, node = {}, "/dev/null"
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        run_dir = folder / "run"
        run_dir.mkdir()
        for place in (folder, run_dir):
            place.chmod(0o777)
        # In the lab the root is a copy: whoever may not look into it otherwise may here.
        if first:
            os.chmod("/root", 0o755)
        log = folder / "calls"
        traced = shutil.which("strace") is not None
        note = ["strace", "-f", "-qq", "-o", str(log)] if traced else []
        command = [sys.executable, "-c", "from prtrace.cli.proxy import command; command()",
                   "--listen", str(folder / "proxy"), "--run-dir", str(run_dir)]  # fmt: skip
        fd = os.open(node, os.O_RDWR)
        stack.callback(os.close, fd)
        with helpers.process(as_service([*note, *command]), folder / "proxy"):
            if first:
                lab_check.check_commands(folder / "proxy", fd)
                lab_check.check_refusals(folder / "proxy", fd)
                lab_check.read(folder / "proxy", fd, lab_check.CAPABILITIES)
                lab_check.check_attributions(run_dir, first["hctl"])
            else:
                lab_check.check("answers", lab_check.read(folder / "proxy", fd, 0).status, 2)
        if traced:
            calls = set(re.findall(r"^\d+ +(\w+)\(", log.read_text(), re.MULTILINE))
            # systemd does these before the filter holds.
            lab_check.check("calls outside the filter", sorted(calls - allowed() - {"execve"}), [])
            print(f"{len(calls)} different system calls")
        else:
            print("not checked: no strace, so which system calls it makes")
    print(f"{len(lab_check.passed)} passed, {len(lab_check.failures)} failed")
    return 1 if lab_check.failures else 0


if __name__ == "__main__":
    sys.exit(main())
