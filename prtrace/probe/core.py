"""The core engine: one CO-RE object for every kernel, loaded by libbpf."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from prtrace.errors import UnavailableError
from prtrace.probe import btf, libbpf, objectfile, requirements
from prtrace.probe.programs import (
    DOORS,
    FALLBACK,
    MAPS,
    POINTS,
    SIGNS,
    Door,
    Engine,
    Programs,
    activate,
)
from prtrace.probe.targets import Targets, targets

_BSS: Final = ".bss"
_KPROBE: Final = "kprobe/"
_LEARN: Final = "pr_learn"
"""The program that is run once: it looks up what the others need to know of the kernel."""
_LEARNED: Final = struct.Struct("<4Q")
"""struct pr_kernel."""
_ENDS: Final = 1
_SENSE: Final = 2
"""What FALLBACK has to tell: PR_TRACEPOINT_ENDS, PR_TRACEPOINT_SENSE (bpf/pr_maps.h)."""
_SENSE_PROGRAM: Final = "pr_on_sense"
_BEHIND_ENTRY: Final = {"x86_64": (5, 9)}
"""Where a function's body begins: behind its call of the tracer, which takes 5 bytes, and which
ENDBR64 comes before in some.  A kprobe there is a jump; at the call itself it is a user of ftrace,
which costs more, and twice as much beside an fentry program at the same call.  An offset within an
instruction is refused.  None of the body has run: the arguments are in their registers."""
_BLAMED: Final = re.compile(r"prog '(\w+)': ")
_MIDLAYER: Final = "scsi_mod"
_BLOCK_LAYER_TRACEPOINTS: Final = {"block_rq_error"}


@dataclass(slots=True)
class _Plan:
    """Which programs are to be loaded.  missing: why not, of those that could be."""

    wanted: set[str]
    missing: dict[str, str]
    fallback: str = ""

    @property
    def tracepoint(self) -> int:
        """The constant pr_tracepoint."""
        if not self.fallback:
            return 0
        return _ENDS if _SENSE_PROGRAM in self.wanted else _ENDS | _SENSE

    def leave_out(self, program: str, why: str) -> None:
        self.wanted.discard(program)
        self.missing[program] = why


class _Load(NamedTuple):
    """What every attempt to load is given."""

    generation: int
    ring_size: int
    reuse: Mapping[str, int]


def load(generation: int, ring_size: int, reuse: Mapping[str, int]) -> Programs:
    """Load and attach.  reuse: maps of a running generation to share.

    Without reuse the new generation answers for requests from the start; with it, only
    once the caller makes it the active one.

    Nothing is attached that every command passes, unless this kernel does not let a function be
    hooked that ends PR commands: then FALLBACK is, and Programs.fallback says why.  Raises
    UnavailableError with the reason.
    """
    with _looked_up() as known:
        job = _Load(generation, ring_size, reuse)
        doors = [door for door in DOORS if known.has(door)]
        plan = _plan(known, doors)
        plan.fallback = _unseen(doors, plan.wanted)
        if not plan.fallback:
            programs, links = _loaded(job, plan)
            plan.fallback = _unseen(doors, programs.links)
            if not plan.fallback:
                return programs
            _drop(programs, links)
        plan = _plan(known, doors, plan.fallback)
        return _loaded(job, plan)[0]


def load_doors(generation: int, shared: Mapping[str, int], doors: Collection[Door]) -> Programs:
    """Attach the programs of doors that came later, as a part of a running generation.

    Raises UnavailableError where one of them cannot be hooked twice; then none is.
    """
    with _looked_up() as known:
        plan = _plan(known, doors)
        plan.wanted &= {name for door in doors for name in door.programs}
        if why := _unhooked(doors, plan.wanted):
            raise UnavailableError(why)
        programs, links = _loaded(_Load(generation, 0, shared), plan)
        if why := _unhooked(doors, programs.links):
            _drop(programs, links)
            raise UnavailableError(why)
        return programs


def _drop(programs: Programs, links: list[int]) -> None:
    """Detach programs that nobody has been told of; no record is lost by it."""
    programs.close()
    for link in links:
        libbpf.bpf_link__destroy(link)


class _Known(NamedTuple):
    """What this object wants to attach to, and what of it this kernel has."""

    sections: Mapping[str, str]
    """By program."""
    targets: Targets

    def has(self, door: Door) -> bool:
        """Whether the kernel has a door; one that nothing is known of counts as there."""
        return door.here and (door.untyped or door.sign in self.targets.found)

    def why_not(self, program: str) -> str:
        """Why a program cannot be attached, as far as that is known before it is tried."""
        section = self.sections.get(program, "")
        if section.startswith(_KPROBE) or section in self.targets.found:
            return ""
        return f"this kernel has no {section.partition('/')[2]}"


@contextlib.contextmanager
def _looked_up() -> Iterator[_Known]:
    sections = _sections()
    lacking = requirements.btf()
    if lacking.verdict is requirements.CheckResult.MISSING:
        raise UnavailableError(f"BTF: {lacking.detail}", hint=lacking.fix)
    doors = {name: door for door in DOORS for name in door.programs}
    wanted = {door.sign: door.module for door in DOORS if door.here}
    for program, section in sections.items():
        door = doors.get(program)
        if section.startswith(_KPROBE) or (door is not None and not door.here):
            continue
        module = door.module if door is not None else _MIDLAYER
        if section.partition("/")[2] in _BLOCK_LAYER_TRACEPOINTS:
            module = ""
        wanted[section] = module
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(targets(wanted))
        except OSError as error:
            raise _refused(error, libbpf.log()) from None
        stack.enter_context(
            btf.attaching(
                {
                    program: found.found[section]
                    for program, section in sections.items()
                    if section in found.found
                }
            )
        )
        yield _Known(sections, found)


def _sections() -> dict[str, str]:
    """What each program of the object attaches to, as its section says it."""
    with objectfile.opened(objectfile.object_path()) as obj:
        return {
            name: libbpf.bpf_program__section_name(program)
            for name, program in libbpf.programs(obj)
            if name != _LEARN
        }


def _plan(known: _Known, doors: Collection[Door], fallback: str = "") -> _Plan:
    """What to load where doors are the ones that are here."""
    of_doors = {name for door in DOORS for name in door.programs}
    wanted = {point.program for point in POINTS} - of_doors - {FALLBACK.program}
    wanted |= {name for door in doors for name in door.programs}
    if fallback:
        wanted.add(FALLBACK.program)
        # The tracepoint sees conflicts by itself.
        wanted.discard("pr_on_block_error")
    plan = _Plan(wanted, {}, fallback)
    for program in sorted(wanted):
        if why := known.why_not(program):
            plan.leave_out(program, why)
    if FALLBACK.program in plan.missing:
        raise UnavailableError(
            f"{FALLBACK.program} cannot be attached: {plan.missing[FALLBACK.program]}",
            hint="the SCSI midlayer is not loaded: modprobe scsi_mod",
        )
    return plan


def _unseen(doors: Collection[Door], programs: Collection[str]) -> str:
    """Which end, or which sign of a reservation, programs would not see; "" for none."""
    if why := _unhooked(doors, programs):
        return why
    for point in SIGNS:
        if point.program not in programs:
            return f"{point.function} cannot be hooked, which tells of {point.lost}"
    return ""


def _unhooked(doors: Collection[Door], programs: Collection[str]) -> str:
    """Which door is not hooked twice, as each has to be; "" for none."""
    for door in doors:
        if not door.programs <= set(programs):
            return f"{door.function}() cannot be hooked twice, which ends commands of {door.whose}"
    return ""


def _loaded(job: _Load, plan: _Plan) -> tuple[Programs, list[int]]:
    """Load what is planned, and attach it; the links, for whoever wants them destroyed."""
    # Each round either loads or leaves one more optional program out.
    for _ in POINTS:
        with _opened(job, plan) as obj:
            try:
                libbpf.bpf_object__load(obj)
            except OSError as error:
                said = libbpf.log()
                blamed = _optional_culprit(said, plan)
                if blamed is None:
                    raise _refused(error, said) from None
                plan.leave_out(*blamed)
                continue
            _learn(obj)
            if not job.reuse:
                activate(dict(_map_fds(obj)), job.generation)
            return _attached(obj, job.generation, plan)
    raise UnavailableError("no program could be loaded", hint="see prtrace doctor")


@contextlib.contextmanager
def _opened(job: _Load, plan: _Plan) -> Iterator[int]:
    libbpf.log()
    with objectfile.opened(objectfile.object_path()) as obj:
        built = objectfile.constants(obj)
        objectfile.set_constants(
            obj, built._replace(generation=job.generation, tracepoint=plan.tracepoint)
        )
        for name, map_ in libbpf.maps(obj):
            if name in job.reuse:
                libbpf.bpf_map__reuse_fd(map_, job.reuse[name])
            elif name == "pr_events" and job.ring_size:
                libbpf.bpf_map__set_max_entries(map_, job.ring_size)
        for name, program in libbpf.programs(obj):
            libbpf.bpf_program__set_autoload(program, name in plan.wanted or name == _LEARN)
        yield obj


def _learn(obj: int) -> None:
    """Let the kernel look up what the programs need to know of it."""
    maps, programs = dict(libbpf.maps(obj)), dict(libbpf.programs(obj))
    try:
        libbpf.bpf_prog_test_run_opts(libbpf.bpf_program__fd(programs[_LEARN]))
        (bss,) = (map_ for name, map_ in maps.items() if name.endswith(_BSS))
        fd = libbpf.bpf_map__fd(bss)
        size = libbpf.bpf_map_get_info(fd).value_size
        value = libbpf.bpf_map_lookup_elem(fd, bytes(4), size) or b""
    except OSError as error:
        raise _refused(error, libbpf.log()) from None
    vmemmap_base, page_offset_base, *_ = _LEARNED.unpack_from(value)
    if platform.machine() == "x86_64" and not (vmemmap_base and page_offset_base):
        raise UnavailableError(
            "the kernel does not show where its pages are (vmemmap_base, page_offset_base)",
            hint="run as root, with kernel.kptr_restrict below 2",
        )


def _optional_culprit(said: list[str], plan: _Plan) -> tuple[str, str] | None:
    optional = {point.program for point in POINTS if point.lost} & plan.wanted
    for line in said:
        match = _BLAMED.search(line)
        if match and match[1] in optional:
            return match[1], line.removeprefix("libbpf: ").removeprefix(match[0])
    return None


def _refused(error: OSError, said: list[str]) -> UnavailableError:
    what = f"the kernel refused the programs: {error}"
    known = requirements.refusal(what, error, requirements.Part.CORE)
    if known is not None:
        return known
    # The verifier's whole log is one message.
    lines = "\n".join(said).splitlines()
    if any("BEGIN PROG LOAD LOG" in line for line in lines):
        # The verifier says EACCES, too.
        hint = "this kernel's verifier refuses a program: please report the lines above"
    elif error.errno in (1, 13) or os.geteuid():  # EPERM, EACCES
        hint = "run it as root: loading needs CAP_SYS_ADMIN on Debian kernels"
    else:
        hint = "see prtrace doctor"
    return UnavailableError("\n".join((what, *lines[-12:])), hint=hint)


def _map_fds(obj: int) -> Iterator[tuple[str, int]]:
    for name, map_ in libbpf.maps(obj):
        yield name, libbpf.bpf_map__fd(map_)


def _attach(program: int, section: str) -> int:
    kind, _, function = section.partition("/")
    if f"{kind}/" != _KPROBE:
        return libbpf.bpf_program__attach_trace(program)
    for offset in _BEHIND_ENTRY.get(platform.machine(), ()):
        with contextlib.suppress(OSError):
            return libbpf.bpf_program__attach_kprobe_opts(program, function, offset)
    return libbpf.bpf_program__attach_kprobe_opts(program, function, 0)


def _attached(obj: int, generation: int, plan: _Plan) -> tuple[Programs, list[int]]:
    descriptors: dict[str, int] = {}
    links: list[int] = []
    points = {point.program: point for point in POINTS}
    for name, program in libbpf.programs(obj):
        if name not in plan.wanted:
            continue
        try:
            links.append(_attach(program, libbpf.bpf_program__section_name(program)))
            # The link is left to the process: destroying it would detach the program.
            descriptors[name] = os.dup(libbpf.bpf_link__fd(links[-1]))
        except OSError as error:
            if not points[name].lost:
                raise _refused(error, libbpf.log()) from None
            plan.leave_out(name, str(error))
    # The object owns its maps' descriptors and is about to be closed.
    held = {name: os.dup(fd) for name, fd in _map_fds(obj) if name in MAPS}
    programs = Programs(
        Engine.CORE,
        objectfile.digest(),
        generation,
        held,
        descriptors,
        plan.missing,
        plan.fallback,
    )
    return programs, links
