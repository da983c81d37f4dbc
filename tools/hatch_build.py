"""Compile the BPF object into the wheel, and ship its source for the bcc engine."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BpfBuildHook(BuildHookInterface):
    """Without clang the build stops: a wheel that cannot watch is no wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build prtrace/probe/prtrace.bpf.o beside the package's source."""
        top = Path(self.root)
        subprocess.run([str(top / "tools/build-bpf")], check=True)
        if version == "editable":
            return
        build_data["force_include"]["prtrace/probe/prtrace.bpf.o"] = "prtrace/probe/prtrace.bpf.o"
        for source in sorted((top / "bpf").glob("*.[ch]")):
            build_data["force_include"][f"bpf/{source.name}"] = f"prtrace/probe/bpf/{source.name}"
