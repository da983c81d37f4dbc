"""Capabilities given up, as the kernel tells it of a process that did."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from prtrace.linux.capabilities import KEPT, Capability

_DROPS = """
import sys
from pathlib import Path
from prtrace.linux.capabilities import Capability, drop, name_process
name_process("a-name-that-is-too-long")
drop(tuple(Capability(int(number)) for number in sys.argv[1:]))
print(Path("/proc/self/status").read_text())
"""


def status(*kept: Capability) -> dict[str, str]:
    """/proc/self/status of a process that kept these."""
    told = subprocess.run(
        [sys.executable, "-c", _DROPS, *(str(int(each)) for each in kept)],
        env=os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    return dict(re.findall(r"^(\w+):\s*(.*)$", told, re.MULTILINE))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to have something to give up")
@pytest.mark.parametrize("kept", [(), (Capability.SYS_RAWIO,), KEPT])
def test_nothing_else_is_left(kept: tuple[Capability, ...]) -> None:
    had = int(re.findall(r"CapEff:\s*(\w+)", Path("/proc/self/status").read_text())[0], 16)
    found = status(*kept)
    left = sum(1 << each for each in kept) & had
    assert int(found["CapEff"], 16) == int(found["CapPrm"], 16) == left
    assert int(found["CapInh"], 16) == 0
    assert int(found["CapBnd"], 16) == 0
    assert found["NoNewPrivs"] == "1"
    assert found["Name"] == "a-name-that-is-"
