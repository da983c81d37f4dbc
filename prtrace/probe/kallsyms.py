"""Where the kernel keeps the two variables that lead from a page to its memory.

libbpf could find them itself (__ksym), but reads and scans the whole of /proc/kallsyms for
that, which is a sixth of the agent's start; here the reading stops where both are found.
"""

from __future__ import annotations

from typing import Final

from prtrace.errors import UnavailableError

VARIABLES: Final = ("vmemmap_base", "page_offset_base")
_PART: Final = 1 << 16


def addresses() -> dict[str, int]:
    """The address of each of VARIABLES.  Raises UnavailableError where one is not shown."""
    found: dict[str, int] = {}
    # A module's symbol has the module's name behind it.
    left = {f" {name}\n".encode(): name for name in VARIABLES}
    rest = b""
    with open("/proc/kallsyms", "rb", buffering=0) as file:
        while left and (part := file.read(_PART)):
            text = rest + part
            for ending in [each for each in left if each in text]:
                line = text[: text.index(ending)].rpartition(b"\n")[2]
                found[left.pop(ending)] = int(line.split()[0], 16)
            rest = text[text.rfind(b"\n") + 1 :]
    for name in VARIABLES:
        if not found.get(name):
            raise UnavailableError(
                f"the kernel does not show the address of {name}",
                hint="run as root, with kernel.kptr_restrict below 2",
            )
    return found
