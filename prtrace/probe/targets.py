"""Where in the kernel each program attaches, by the number of the type that says so."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prtrace.probe import btf
from prtrace.probe.btf import Target

_MODULE: Final = "scsi_mod"
"""Where the midlayer is, in kernels that do not have it built in."""
_BTF: Final = Path("/sys/kernel/btf")
_TYPEDEF: Final = 8  # include/uapi/linux/btf.h
_FUNCTION: Final = 12


@dataclass(frozen=True, slots=True)
class Targets:
    """program -> target, for those that this kernel has; for the others, why not."""

    found: dict[str, Target]
    missing: dict[str, str]


@contextlib.contextmanager
def targets(sections: Mapping[str, str]) -> Iterator[Targets]:
    """Find the target of each program, by its section; descriptors are closed in the end.

    Raises OSError where the kernel's types cannot be read.
    """
    with contextlib.ExitStack() as stack:
        fd = 0
        if (_BTF / _MODULE).exists():
            fd = btf.btf_of_module(_MODULE)
            stack.callback(os.close, fd)
        functions = {section.partition("/")[2]: section for section in sections.values()}
        numbers = _numbers(functions, fd)
        found: dict[str, Target] = {}
        missing: dict[str, str] = {}
        for program, section in sections.items():
            function = section.partition("/")[2]
            if function in numbers:
                found[program] = numbers[function]
            else:
                missing[program] = f"this kernel has no {function}"
        yield Targets(found, missing)


def _numbers(functions: Mapping[str, str], fd: int) -> dict[str, Target]:
    """function -> target, for functions that are there; function -> section is asked."""
    found = {}
    with contextlib.ExitStack() as stack:
        types = vmlinux = btf.btf__load_vmlinux_btf()
        stack.callback(btf.btf__free, vmlinux)
        if fd:
            types = btf.btf__load_module_btf(_MODULE, vmlinux)
            stack.callback(btf.btf__free, types)
        own = btf.btf__type_cnt(vmlinux)
        for function, section in functions.items():
            name, kind = function, _FUNCTION
            if section.startswith("tp_btf/"):
                name, kind = f"btf_trace_{function}", _TYPEDEF
            number = btf.btf__find_by_name_kind(types, name, kind)
            if number is not None:
                found[function] = Target(number, 0 if number < own else fd)
    return found
