"""Processes that look like one QEMU of this host, and send what its guest asks for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import sys
from prtrace.linux.sgio import SgDevice
for line in sys.stdin:
    node, cdb, out = line.strip("\\n").split(",")
    with SgDevice(node) as device:
        print(device.send(bytes.fromhex(cdb), bytes.fromhex(out)).status, flush=True)
"""


class Guest:
    """A copy of the interpreter with QEMU's name and command line, until it is closed.

    It stays: an agent asks for the command line of a process that sent something.
    """

    def __init__(self, folder: Path, name: str) -> None:
        program = folder / "qemu-system-x86_64"
        if not program.exists():
            shutil.copy(os.path.realpath(sys.executable), program)
        self._process = subprocess.Popen(
            [program, "-c", _PROGRAM, "-name", f"guest={name},debug-threads=on"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    def send(self, node: str, cdb: bytes, out: bytes = b"") -> int:
        """One command by SG_IO; the SCSI status of its answer."""
        to, answers = self._process.stdin, self._process.stdout
        assert to is not None
        assert answers is not None
        to.write(f"{node},{cdb.hex()},{out.hex()}\n")
        to.flush()
        return int(answers.readline())

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate(timeout=60)
