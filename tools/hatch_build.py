"""Compile the BPF object into the wheel, and ship its source for the bcc engine."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BpfBuildHook(BuildHookInterface):  # type: ignore[misc]  # hatchling is not here
    """The build stops where clang is missing: an agent cannot watch without the object."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the object of this machine's architecture beside the package's source.

        The object reads registers by their place in the architecture's struct pt_regs, so the
        wheel is for one architecture, and for Linux alone.
        """
        top = Path(self.root)
        subprocess.run([str(top / "tools/build-bpf")], check=True)
        if version == "editable":
            return
        machine = platform.machine()
        built = f"prtrace/probe/prtrace.{machine}.bpf.o"
        build_data["force_include"][built] = built
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-linux_{machine}"
        for source in sorted((top / "bpf").glob("*.[ch]")):
            build_data["force_include"][f"bpf/{source.name}"] = f"prtrace/probe/bpf/{source.name}"
