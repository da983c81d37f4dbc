"""Where the kernel keeps the two variables that lead from a page to its memory.

libbpf could find them itself (__ksym), but reads and scans the whole of /proc/kallsyms for
that, which is a sixth of the agent's start.  A program can ask the kernel to look them up by
itself since Linux 5.16; for older ones the file is read, up to where both are found.
"""

from __future__ import annotations

import os
import struct
from typing import Final

from prtrace.errors import UnavailableError
from prtrace.probe import libbpf

VARIABLES: Final = ("vmemmap_base", "page_offset_base")
_PART: Final = 1 << 16

# include/uapi/linux/bpf.h
_PROG_TYPE_SYSCALL: Final = 31
_F_SLEEPABLE: Final = 1 << 4
_KALLSYMS_LOOKUP_NAME: Final = 179
_INSTRUCTION: Final = struct.Struct("<BBhi")


def addresses() -> dict[str, int]:
    """The address of each of VARIABLES.  Raises UnavailableError where one is not shown."""
    try:
        found = looked_up()
    except OSError:
        found = read()
    for name in VARIABLES:
        if not found.get(name):
            raise UnavailableError(
                f"the kernel does not show the address of {name}",
                hint="run as root, with kernel.kptr_restrict below 2",
            )
    return found


def looked_up() -> dict[str, int]:
    """As a program finds them; 0 for one not shown.  Raises OSError where none may ask."""
    program = libbpf.bpf_prog_load(_PROG_TYPE_SYSCALL, _program(), _F_SLEEPABLE)
    try:
        told = libbpf.bpf_prog_test_run_opts(program, 8 * len(VARIABLES))
    finally:
        os.close(program)
    return dict(zip(VARIABLES, struct.unpack(f"<{len(VARIABLES)}Q", told), strict=True))


def _program() -> bytes:
    """*(u64 *)(context + 8 * place) = address, for each of VARIABLES; 0 for one not shown."""
    code = [_INSTRUCTION.pack(0xBF, 0x16, 0, 0)]  # r6 = r1, the context
    for place, name in enumerate(VARIABLES):
        text = name.encode() + b"\0"
        words = struct.iter_unpack("<i", text.ljust(-len(text) // 4 * -4, b"\0"))
        at = -8 - (len(text) + 7) // 8 * 8
        code += [
            _INSTRUCTION.pack(0x7A, 0x0A, -8, 0),  # *(u64 *)(r10 - 8) = 0
            *(
                _INSTRUCTION.pack(0x62, 0x0A, at + 4 * number, word)  # *(u32 *)(r10 + …) = word
                for number, (word,) in enumerate(words)
            ),
            _INSTRUCTION.pack(0xBF, 0xA1, 0, 0),  # r1 = r10
            _INSTRUCTION.pack(0x07, 0x01, 0, at),  # r1 += at: the name
            _INSTRUCTION.pack(0xB7, 0x02, 0, len(text)),  # r2 = its size
            _INSTRUCTION.pack(0xB7, 0x03, 0, 0),  # r3 = no flags
            _INSTRUCTION.pack(0xBF, 0xA4, 0, 0),  # r4 = r10
            _INSTRUCTION.pack(0x07, 0x04, 0, -8),  # r4 -= 8: where to put the address
            _INSTRUCTION.pack(0x85, 0, 0, _KALLSYMS_LOOKUP_NAME),  # call
            _INSTRUCTION.pack(0x79, 0xA0, -8, 0),  # r0 = *(u64 *)(r10 - 8)
            _INSTRUCTION.pack(0x7B, 0x06, 8 * place, 0),  # *(u64 *)(r6 + 8 * place) = r0
        ]
    code += [_INSTRUCTION.pack(0xB7, 0, 0, 0), _INSTRUCTION.pack(0x95, 0, 0, 0)]  # return 0
    return b"".join(code)


def read() -> dict[str, int]:
    """As /proc/kallsyms shows them."""
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
    return found
