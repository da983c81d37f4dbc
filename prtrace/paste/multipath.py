"""What libmpathpersist says in the log of multipathd, qemu-pr-helper or mpathpersist.

libmpathpersist/mpath_persist.c: a command whose keys are not multipathd's reservation_key is
refused before it is sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from prtrace.paste.seen import Seen
from prtrace.paste.stamp import split_stamp

SOURCE: Final = "multipath-tools"

_REFUSED: Final = re.compile(
    r"(?:^|.*[\s|])(?P<map>[^\s|:]+): (?:configured reservation key doesn't match: "
    r"0x(?P<key>[0-9a-f]{1,16})|no configured reservation key)\s*",
    re.IGNORECASE,
)


def is_line(text: str) -> bool:
    """Whether a line is one of those."""
    return _REFUSED.fullmatch(split_stamp(text)[1]) is not None


def read(lines: list[str]) -> Iterator[Seen]:
    """What each line says."""
    for number, line in enumerate(lines, 1):
        stamp, text = split_stamp(line)
        found = _REFUSED.fullmatch(text)
        if found is None:
            continue
        key = found["key"]
        configured = "none" if key is None else f"0x{int(key, 16):016x}"
        yield Seen(
            source=SOURCE,
            line=number,
            stamp=stamp,
            device=found["map"],
            facts=(
                ("not sent", "a command whose keys are not multipathd's"),
                ("reservation_key of multipathd", configured),
            ),
        )
