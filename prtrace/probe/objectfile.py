"""The compiled object of bpf/: where it is, and for which machine it was built."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from prtrace.errors import UnavailableError
from prtrace.probe import libbpf

_RODATA: Final = ".rodata"
_CONSTANTS: Final = struct.Struct("<III")
_MACHINES: Final = {62: "x86_64", 183: "aarch64"}
"""ELF's number of the machine whose registers an object knows, and uname's word for it."""


class Constants(NamedTuple):
    """What .rodata begins with (bpf/pr_maps.h)."""

    generation: int
    """Which programs these are."""
    tracepoint: int
    """What the fallback has to tell: bits PR_TRACEPOINT_*."""
    machine: int
    """A key of _MACHINES."""


def object_path() -> Path:
    """Where the compiled object is: $PRTRACE_BPF_OBJECT, or beside this module.

    Raises UnavailableError where there is none.
    """
    named = os.environ.get("PRTRACE_BPF_OBJECT")
    own = Path(__file__).with_name(f"prtrace.{platform.machine()}.bpf.o")
    path = Path(named) if named else own
    if not path.is_file():
        raise UnavailableError(
            f"no compiled BPF object at {path}",
            hint="build it: tools/build-bpf, or use --engine bcc",
        )
    return path


def digest() -> str:
    """Twelve hex digits that name the object."""
    return hashlib.sha256(object_path().read_bytes()).hexdigest()[:12]


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open an object that is for this kind of processor; it is closed in the end.

    Raises UnavailableError where path is no object, or one for another kind of processor.
    """
    try:
        obj = libbpf.bpf_object__open_file(str(path))
    except OSError as error:
        raise UnavailableError(
            f"{path} is no BPF object: {error.strerror}", hint="build it anew: tools/build-bpf"
        ) from None
    try:
        machine = constants(obj).machine
        built_for = _MACHINES.get(machine, f"machine {machine}")
        if built_for != platform.machine():
            raise UnavailableError(
                f"{path} is for {built_for}, and this is {platform.machine()}",
                hint=f"build it here: tools/build-bpf {path}",
            )
        yield obj
    finally:
        libbpf.bpf_object__close(obj)


def constants(obj: int) -> Constants:
    """The constants of an opened object; zeros where it has none."""
    value = _rodata(obj)
    return Constants(*_CONSTANTS.unpack_from(value)) if value else Constants(0, 0, 0)


def set_constants(obj: int, values: Constants) -> None:
    """Write the constants of an opened object, before it is loaded."""
    _CONSTANTS.pack_into(_rodata(obj), 0, *values)


def _rodata(obj: int) -> memoryview:
    for name, map_ in libbpf.maps(obj):
        if name.endswith(_RODATA):
            value = libbpf.bpf_map__initial_value(map_)
            if len(value) >= _CONSTANTS.size:
                return value
    return memoryview(b"")
