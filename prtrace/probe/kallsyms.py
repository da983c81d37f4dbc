"""Where the kernel keeps the two variables that lead from a page to its memory, for bcc.

core has the kernel look them up by itself (pr_learn in bpf/prtrace.bpf.c), which it can do since
Linux 5.16.
"""

from __future__ import annotations

from typing import Final

from prtrace.errors import UnavailableError

VARIABLES: Final = ("vmemmap_base", "page_offset_base")


def addresses() -> dict[str, int]:
    """The address of each of VARIABLES.  Raises UnavailableError where one is not shown."""
    found: dict[str, int] = {}
    with open("/proc/kallsyms", encoding="ascii", errors="replace") as symbols:
        for line in symbols:
            # A module's symbol has the module's name behind it.
            address, _, name = line.rstrip("\n").split(" ", 2)
            if name in VARIABLES:
                found[name] = int(address, 16)
    for name in VARIABLES:
        if not found.get(name):
            raise UnavailableError(
                f"the kernel does not show the address of {name}",
                hint="run as root, with kernel.kptr_restrict below 2",
            )
    return found
