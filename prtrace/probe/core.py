"""The core engine: one CO-RE object for every kernel, loaded by libbpf."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from prtrace.errors import UnavailableError
from prtrace.probe import btf, kallsyms, libbpf
from prtrace.probe.programs import MAPS, POINTS, Engine, Programs, activate
from prtrace.probe.targets import targets

_OBJECT: Final = "prtrace.bpf.o"
_RODATA: Final = ".rodata"
_KPROBE: Final = "kprobe/"
_CONSTANTS: Final = struct.Struct("<I4xQQ")
"""What .rodata holds: pr_generation, pr_vmemmap_base_at, pr_page_offset_base_at."""
_BLAMED: Final = re.compile(r"prog '(\w+)': ")


def object_path() -> Path:
    """Where the compiled object is: $PRTRACE_BPF_OBJECT, or beside this module."""
    named = os.environ.get("PRTRACE_BPF_OBJECT")
    path = Path(named) if named else Path(__file__).with_name(_OBJECT)
    if not path.is_file():
        raise UnavailableError(
            f"no compiled BPF object at {path}",
            hint="build it: tools/build-bpf, or use --engine bcc",
        )
    return path


def digest() -> str:
    """Twelve hex digits that name the object."""
    return hashlib.sha256(object_path().read_bytes()).hexdigest()[:12]


def load(generation: int, ring_size: int, reuse: Mapping[str, int]) -> Programs:
    """Load and attach.  reuse: maps of a running generation to share.

    Without reuse the new generation answers for requests from the start; with it, only
    once the caller makes it the active one.

    A program whose attach point this kernel lacks is left out and reported, if it is one
    that prtrace can do without.  Raises UnavailableError, with the verifier's last words.
    """
    if not libbpf.btf_available():
        raise UnavailableError(
            "this kernel has no BTF (/sys/kernel/btf/vmlinux)", hint="use --engine bcc"
        )
    at = kallsyms.addresses()
    constants = generation, at["vmemmap_base"], at["page_offset_base"]
    with contextlib.ExitStack() as stack:
        try:
            known = stack.enter_context(targets(_sections()))
        except OSError as error:
            raise _refused(error, libbpf.log()) from None
        stack.enter_context(btf.attaching(known.found))
        missing = dict(known.missing)
        for point in POINTS:
            if point.program in missing and not point.lost:
                raise UnavailableError(
                    f"{point.program} cannot be attached: {missing[point.program]}",
                    hint="the SCSI midlayer is not loaded: modprobe scsi_mod",
                )
        # Each round either loads or leaves one more optional program out.
        for _ in POINTS:
            with _opened(constants, ring_size, reuse, missing) as obj:
                try:
                    libbpf.bpf_object__load(obj)
                except OSError as error:
                    said = libbpf.log()
                    blamed = _optional_culprit(said, missing)
                    if blamed is None:
                        raise _refused(error, said) from None
                    missing[blamed[0]] = blamed[1]
                    continue
                if not reuse:
                    activate(dict(_map_fds(obj)), generation)
                return _attached(obj, generation, missing)
    raise UnavailableError("no program could be loaded", hint="see prtrace doctor")


def _sections() -> dict[str, str]:
    """Of the programs that attach by the number of a type, which is to be looked up."""
    obj = libbpf.bpf_object__open_file(str(object_path()))
    try:
        return {
            name: section
            for name, program in libbpf.programs(obj)
            if not (section := libbpf.bpf_program__section_name(program)).startswith(_KPROBE)
        }
    finally:
        libbpf.bpf_object__close(obj)


@contextlib.contextmanager
def _opened(
    constants: tuple[int, ...],
    ring_size: int,
    reuse: Mapping[str, int],
    missing: Mapping[str, str],
) -> Iterator[int]:
    libbpf.log()
    obj = libbpf.bpf_object__open_file(str(object_path()))
    try:
        for name, map_ in libbpf.maps(obj):
            if name.endswith(_RODATA):
                _CONSTANTS.pack_into(libbpf.bpf_map__initial_value(map_), 0, *constants)
            elif name in reuse:
                libbpf.bpf_map__reuse_fd(map_, reuse[name])
            elif name == "pr_events":
                libbpf.bpf_map__set_max_entries(map_, ring_size)
        for name, program in libbpf.programs(obj):
            libbpf.bpf_program__set_autoload(program, name not in missing)
        yield obj
    finally:
        libbpf.bpf_object__close(obj)


def _optional_culprit(said: list[str], missing: Mapping[str, str]) -> tuple[str, str] | None:
    optional = {point.program for point in POINTS if point.lost} - set(missing)
    for line in said:
        match = _BLAMED.search(line)
        if match and match[1] in optional:
            return match[1], line.removeprefix("libbpf: ").removeprefix(match[0])
    return None


def _refused(error: OSError, said: list[str]) -> UnavailableError:
    # The verifier's whole log is one message.
    lines = "\n".join(said).splitlines()
    words = "\n".join(lines[-12:])
    if any("BEGIN PROG LOAD LOG" in line for line in lines):
        # The verifier says EACCES, too.
        hint = "this kernel's verifier refuses a program: please report the lines above"
    elif error.errno in (1, 13):  # EPERM, EACCES
        hint = "run it as root: loading needs CAP_SYS_ADMIN on Debian kernels"
    else:
        hint = "see prtrace doctor"
    return UnavailableError(f"the kernel refused the programs: {error}\n{words}", hint=hint)


def _map_fds(obj: int) -> Iterator[tuple[str, int]]:
    for name, map_ in libbpf.maps(obj):
        yield name, libbpf.bpf_map__fd(map_)


def _attached(obj: int, generation: int, missing: dict[str, str]) -> Programs:
    links: dict[str, int] = {}
    sections = {point.program: point for point in POINTS}
    for name, program in libbpf.programs(obj):
        if name in missing:
            continue
        try:
            by_name = sections[name].section.startswith(_KPROBE)
            attach = libbpf.bpf_program__attach if by_name else libbpf.bpf_program__attach_trace
            links[name] = attach(program)
        except OSError as error:
            if not sections[name].lost:
                raise _refused(error, libbpf.log()) from None
            missing[name] = str(error)
    # The object owns its maps' descriptors and is about to be closed.
    held = {name: os.dup(fd) for name, fd in _map_fds(obj) if name in MAPS}
    return Programs(Engine.CORE, digest(), generation, held, links, missing)
