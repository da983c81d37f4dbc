"""Objects that find an attach point under no name, as on a kernel that lacks it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from prtrace.probe import objectfile


def without(section: str) -> Path:
    """A copy of the object whose program in section ("fentry/sg_rq_end_io") names no function."""
    kind, _, function = section.partition("/")
    nowhere = f"{kind}/{'nowhere'.ljust(len(function), '_')}"
    whole = objectfile.object_path().read_bytes()
    assert section.encode() in whole
    assert len(nowhere) == len(section)
    with tempfile.NamedTemporaryFile(suffix=".o", dir="/run", delete=False) as changed:
        changed.write(whole.replace(section.encode(), nowhere.encode()))
    return Path(changed.name)
