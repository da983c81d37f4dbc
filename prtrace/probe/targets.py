"""Where in the kernel each program attaches, by the number of the type that says so.

libbpf finds it by itself, but goes through all types of the kernel once for each module, for each
program: half of the agent's start.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from prtrace.probe import btf
from prtrace.probe.btf import Target
from prtrace.probe.programs import BTF

_TRACEPOINT: Final = "tp_btf"


class Targets(NamedTuple):
    """What the kernel has to attach to."""

    found: dict[str, Target]
    """By section, or by the bare name of a function."""


@contextlib.contextmanager
def targets(sections: Mapping[str, str]) -> Iterator[Targets]:
    """Find the target of each section; descriptors are closed in the end.

    sections: such as "tp_btf/block_rq_error", or the bare name of a function, which is only looked
    for; and the module that it is in, "" for the kernel proper.
    Raises OSError where the kernel's types cannot be read.
    """
    found: dict[str, Target] = {}
    with contextlib.ExitStack() as stack:
        with contextlib.ExitStack() as reading:
            vmlinux = btf.btf__load_vmlinux_btf()
            reading.callback(btf.btf__free, vmlinux)
            own = btf.btf__type_cnt(vmlinux)
            types = {"": (vmlinux, 0)}
            for module in {name for name in sections.values() if name and (BTF / name).exists()}:
                fd = btf.btf_of_module(module)
                stack.callback(os.close, fd)
                loaded = btf.btf__load_module_btf(module, vmlinux)
                reading.callback(btf.btf__free, loaded)
                types[module] = loaded, fd
            for section, module in sections.items():
                # Built in, it is among the kernel's own.
                where, fd = types.get(module, types[""])
                number = btf.btf__find_by_name_kind(where, *_named(section))
                if number is not None:
                    found[section] = Target(number, 0 if number < own else fd)
        yield Targets(found)


def _named(section: str) -> tuple[str, int]:
    kind, _, name = section.rpartition("/")
    if kind == _TRACEPOINT:
        return f"btf_trace_{name}", btf.TYPEDEF
    return name, btf.FUNCTION
