"""A process gives capabilities up: what the kernel says of it afterwards."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from labkit import pace

from prtrace.linux.capabilities import Capability

_DROPS = """
import sys
from pathlib import Path
from prtrace.linux.capabilities import Capability, drop, name_process
name_process("a-name-that-is-too-long")
drop(tuple(Capability(int(number)) for number in sys.argv[1:]))
print(Path("/proc/self/status").read_text())
"""


def status(*kept: Capability) -> dict[str, str]:
    """/proc/self/status of a process that kept these capabilities."""
    told = subprocess.run(
        [sys.executable, "-c", _DROPS, *(str(int(each)) for each in kept)],
        env=os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
        timeout=pace.limit(60),
    ).stdout
    return dict(re.findall(r"^(\w+):\s*(.*)$", told, re.MULTILINE))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to have something to give up")
@pytest.mark.parametrize(
    "kept", [(), (Capability.SYS_RAWIO,), (Capability.SYS_PTRACE, Capability.BPF)]
)
def test_nothing_else_is_left(kept: tuple[Capability, ...]) -> None:
    had = int(re.findall(r"CapEff:\s*(\w+)", Path("/proc/self/status").read_text())[0], 16)
    found = status(*kept)
    left = sum(1 << each for each in kept) & had
    assert int(found["CapEff"], 16) == int(found["CapPrm"], 16) == left
    assert int(found["CapInh"], 16) == 0
    assert int(found["CapBnd"], 16) == 0
    assert found["NoNewPrivs"] == "1"
    assert found["Name"] == "a-name-that-is-"


_BECOMES = """
import sys
from pathlib import Path
from prtrace.linux.capabilities import Capability, become
become(65534, 65533, tuple(Capability(int(number)) for number in sys.argv[1:]))
print(Path("/proc/self/status").read_text())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to have something to give up")
@pytest.mark.parametrize("kept", [(), (Capability.BPF,)])
def test_another_user_has_nothing_else(kept: tuple[Capability, ...]) -> None:
    told = subprocess.run(
        [sys.executable, "-c", _BECOMES, *(str(int(each)) for each in kept)],
        env=os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
        timeout=pace.limit(60),
    ).stdout
    found = dict(re.findall(r"^(\w+):[ \t]*(.*)$", told, re.MULTILINE))
    assert found["Uid"].split() == ["65534"] * 4
    assert found["Gid"].split() == ["65533"] * 4
    assert found["Groups"].split() == []
    left = sum(1 << each for each in kept)
    assert int(found["CapEff"], 16) == int(found["CapPrm"], 16) == left
    assert {int(found[f"Cap{which}"], 16) for which in ("Inh", "Bnd", "Amb")} == {0}
