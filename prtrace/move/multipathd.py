"""The key that multipathd stores for a map, and registers on every path that returns.

multipathd's own commands are used (multipathd(8): getprkey, setprkey, setprstatus, unsetprkey,
unsetprstatus); where
it does not run, its file of keys tells what it would do when it starts.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

from prtrace.move.side import Side

KEYS_FILE: Final = Path("/etc/multipath/prkeys")
_TIMEOUT_S: Final = 5


def remember(side: Side, key: int, remains: list[str]) -> None:
    """Make multipathd register key on paths of side's maps that return; say what did not work."""
    program = shutil.which("multipathd")
    if program is None:
        return
    for name in side.maps:
        if _ask(program, "getprkey", name) is None:
            continue  # it does not run
        _ask(program, "setprkey", name, "key", f"{key:#x}")
        _ask(program, "setprstatus", name)
        after = _ask(program, "getprkey", name)
        if after is None or not _is(after, key):
            remains.append(f"multipathd does not store key {key:#x} for {name}")


def forget(side: Side, key: int, removed: list[str], remains: list[str]) -> None:
    """Make multipathd forget key for the maps of side; say what was done and what is left."""
    program = shutil.which("multipathd")
    for name in side.maps:
        stored = None if program is None else _ask(program, "getprkey", name)
        if program is None or stored is None:
            if _on_file(key):
                remains.append(f"{KEYS_FILE} has key {key:#x}, and multipathd does not run")
            continue
        if not _is(stored, key):
            continue
        _ask(program, "unsetprkey", name)
        _ask(program, "unsetprstatus", name)
        after = _ask(program, "getprkey", name)
        if after is None or _is(after, key):
            remains.append(f"multipathd stores key {key:#x} for {name} and keeps it")
        else:
            removed.append(f"key {key:#x} that multipathd stored for {name}")


def _ask(program: str, command: str, name: str, *more: str) -> str | None:
    """multipathd's answer; None where it does not run or does not answer in time."""
    try:
        done = subprocess.run(  # noqa: S603
            [program, command, "map", name, *more],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    answer = done.stdout.strip()
    return None if done.returncode or not answer else answer


def _is(answer: str, key: int) -> bool:
    """Whether the answer ("none", "0x123abc", "0x123abc:aptpl") is key."""
    try:
        return int(answer.partition(":")[0], 16) == key
    except ValueError:
        return False


def _on_file(key: int) -> bool:
    try:
        lines = KEYS_FILE.read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(
        _is(line.split()[0], key) for line in lines if line.strip() and not line.startswith("#")
    )
