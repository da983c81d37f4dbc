"""What tshark prints of a capture: frames in hex are read, columns and trees refused (pure).

tshark 4.0: -x prints a dump for each frame, -P a line of columns above it; -V prints a tree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_COLUMNS: Final = re.compile(
    r"\s*\d+\s+\d+\.\d+\s+\S+\s+(?:\N{RIGHTWARDS ARROW}|->)\s+\S+\s+\S+\s+\d+\s.*"
)
_LABEL: Final = re.compile(r"(?:Frame|Reassembled TCP) \(\d+ bytes\):")
_TREE: Final = re.compile(r"Frame \d+: \d+ bytes on wire\b.*|SCSI CDB [A-Z].*|iSCSI \([A-Z].*\)")
HINT: Final = (
    "tshark -r FILE -Y iscsi -x prints the bytes of the frames, which are read; or copy out the "
    "bytes of the CDB and those of its data, into a file each"
)


def is_columns(line: str) -> bool:
    """Whether a line has the columns of a frame, or names the dump below it."""
    return _COLUMNS.fullmatch(line) is not None or _LABEL.fullmatch(line.strip()) is not None


def tree(lines: Iterable[str]) -> int:
    """The number of the first line of a tree of fields, 0 where there is none."""
    for number, line in enumerate(lines, 1):
        if _TREE.fullmatch(line.strip()) is not None:
            return number
    return 0
