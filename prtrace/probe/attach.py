"""Get attached programs: adopt what a former agent left, replace it without a gap, or start.

Three cases.  The pinned programs are this agent's own: adopt them, and nothing in the
kernel changes.  They are another version's, of the same ABI, or not whole: load new ones on
the same maps, let them answer for new requests, and detach the old ones when the last request
that they answer for has ended.  Anything else: a new epoch, and the caller has to treat what
happened before as unknown.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from prtrace.probe import core, libbpf, pins
from prtrace.probe.misses import Misses
from prtrace.probe.programs import POINTS, Engine, Programs, activate
from prtrace.probe.record import ABI, Pending


@dataclass(frozen=True, slots=True)
class Attached:
    """Programs at work.  note: for the log, what was found and done."""

    programs: Programs
    epoch: pins.Epoch
    note: str
    misses: Misses


def choose(engine: Engine | None) -> Engine:
    """The engine asked for; without one, core wherever the kernel has BTF."""
    if engine is not None:
        return engine
    return Engine.CORE if libbpf.btf_available() else Engine.BCC


def attach(engine: Engine | None, ring_size: int, base: Path = pins.BASE) -> Attached:
    """Adopt, replace or start; see the module docstring.  Raises UnavailableError.

    The caller holds pins.lock(base).
    """
    pins.sweep(base)
    found = pins.epochs(base)
    usable = [epoch for epoch in found if epoch.abi == ABI and epoch.generations]
    unlike = pins.unlike(usable[-1]) if usable else ""
    if not usable or unlike:
        return _start(choose(engine), ring_size, base, found, unlike)
    epoch = usable[-1]
    # An agent killed before it had removed what it replaced leaves more than one.
    for other in (each for each in found if each is not epoch):
        pins.remove(other.path)
    newest = epoch.generations[-1]
    chosen = engine or newest.engine
    why = "of another version"
    if newest.engine is chosen and newest.digest == _digest(chosen):
        gone = pins.gone(newest)
        if not gone:
            return _adopt(epoch)
        why = f"that lacked {', '.join(gone)}"
    if chosen is Engine.BCC:
        return _start(chosen, ring_size, base, found, "bcc cannot share maps")
    return _replace(epoch, why)


def _digest(engine: Engine) -> str:
    if engine is Engine.CORE:
        return core.digest()
    # Few hosts need it.
    from prtrace.probe import bcc

    return bcc.digest()


def _load(engine: Engine, ring_size: int) -> Programs:
    if engine is Engine.CORE:
        return core.load(1, ring_size, {})
    from prtrace.probe import bcc

    return bcc.load(1, ring_size)


def _start(
    engine: Engine, ring_size: int, base: Path, found: list[pins.Epoch], why: str
) -> Attached:
    programs = _load(engine, ring_size)
    epoch = pins.create(base, programs)
    for old in found:
        pins.remove(old.path)
    note = f"started with {engine.value}"
    if found:
        note += f"; {why or 'what was pinned is of another version'}:"
        note += " what was recorded and nobody had read is gone"
    return Attached(programs, epoch, note, Misses.of(epoch))


def _adopt(epoch: pins.Epoch) -> Attached:
    newest = epoch.generations[-1]
    links = pins.open_links(newest)
    missing = {
        point.program: "not attached when the programs were loaded"
        for point in POINTS
        if point.program not in links
    }
    maps = pins.open_maps(epoch)
    # An agent killed between pinning the links and making them the active ones.
    activate(maps, newest.number)
    programs = Programs(newest.engine, newest.digest, newest.number, maps, links, missing)
    return Attached(programs, epoch, "adopted the running programs", Misses.of(epoch))


def _replace(epoch: pins.Epoch, why: str) -> Attached:
    number = epoch.generations[-1].number + 1
    shared = pins.open_maps(epoch)
    try:
        programs = core.load(number, 0, shared)
    finally:
        for fd in shared.values():
            os.close(fd)
    epoch = pins.add(epoch, programs)
    activate(programs.maps, number)
    return Attached(programs, epoch, f"replaced programs {why}", Misses.of(epoch))


def retire(attached: Attached) -> bool:
    """Detach generations older than the active one that no request needs any more.

    Returns whether any of them is still needed; call it again, later.
    """
    old = attached.epoch.generations[:-1]
    if not old:
        return False
    fd = attached.programs.maps["pr_pendings"]
    pendings = [Pending.parse(value) for _, value in libbpf.map_items(fd)]
    now = time.monotonic_ns()
    needed = {each.generation for each in pendings if each.may_end(now)}
    waiting = False
    for generation in old:
        if generation.number in needed:
            waiting = True
        elif generation.path.exists():
            pins.remove(generation.path)
            attached.misses.forget(generation.number)
            # Whoever uses such a request's memory again is not its generation's any more.
            # Looked at anew, because some of it is in use again by now.
            left = [
                key
                for key, value in libbpf.map_items(fd)
                if Pending.parse(value).generation == generation.number
            ]
            for key in left:
                libbpf.bpf_map_delete_elem(fd, key)
    return waiting
