"""Get attached programs: adopt what a former agent left, replace it without a gap, or start.

Three cases.  The pinned programs are this agent's own: adopt them, and nothing in the
kernel changes.  They are another version's, of the same ABI, or not whole: load new ones on
the same maps, let them answer for new requests, and detach the old ones when the last request
that they answer for has ended.  Anything else: a new epoch, and the caller has to treat what
happened before as unknown.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from typing import Final

from prtrace.errors import UnavailableError
from prtrace.probe import core, libbpf, objectfile, pins, requirements
from prtrace.probe.misses import Misses
from prtrace.probe.programs import (
    ATTEMPTS,
    DOORS,
    FALLBACK,
    RETRY,
    SUBMISSION,
    Engine,
    Programs,
    activate,
)
from prtrace.probe.record import ABI, Pending

_DETACH_SECONDS: Final = 30.0
_TRIES: Final = 3
"""A module that has just become live may not be attachable to for an instant."""


@dataclass(slots=True)
class Attached:
    """Programs at work."""

    programs: Programs
    epoch: pins.Epoch
    note: str
    """For the log: what was found and done."""
    misses: Misses
    lock: pins.Lock
    store: str = ""
    """Whose records they are, once somebody has claimed them."""
    refused: int = 0
    """How often in a row doors that came could not be attached to."""

    def claim(self, store: str) -> None:
        """Let store be the one that gets the records from now on."""
        pins.claim(self.epoch, store)
        self.store = store


def attach(engine: Engine | None, ring_size: int, lock: pins.Lock) -> Attached:
    """Adopt, replace or start; see the module docstring.  Raises UnavailableError."""
    base = lock.base
    pins.sweep(base)
    found = pins.epochs(base)
    known = [epoch for epoch in found if epoch.abi == ABI]
    usable = [epoch for epoch in known if epoch.generations]
    if not usable:
        why = "the pinned programs are gone" if known else ""
        return _start(engine, ring_size, lock, found, why)
    if unlike := pins.unlike(usable[-1]):
        return _start(engine, ring_size, lock, found, unlike)
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
            return _adopt(epoch, lock)
        why = f"that lacked {', '.join(gone)}"
    if chosen is Engine.BCC:
        return _start(chosen, ring_size, lock, found, "bcc cannot share maps")
    return _replace(epoch, why, lock)


def _digest(engine: Engine) -> str:
    if engine is Engine.CORE:
        return objectfile.digest()
    # Few hosts need it.
    from prtrace.probe import bcc

    return bcc.digest()


def _load(engine: Engine | None, ring_size: int) -> Programs:
    """Load with the engine asked for; without one, with core where the kernel has all of it."""
    refused = None
    if engine is not Engine.BCC:
        try:
            return core.load(1, ring_size, {})
        except UnavailableError as error:
            lacking = requirements.missing(requirements.of_core(), requirements.Part.CORE)
            if engine is Engine.CORE or not lacking:
                raise
            # bcc compiles for a minute before it misses the same.
            if needed := requirements.missing(requirements.of_both(), requirements.Part.BOTH):
                first = needed[0]
                raise UnavailableError(f"{first.name}: {first.detail}", hint=first.fix) from None
            refused = error
    from prtrace.probe import bcc

    try:
        return bcc.load(1, ring_size)
    except UnavailableError as error:
        if refused is None:
            raise
        raise UnavailableError(
            f"{refused.message}; {error.message}", hint=f"{refused.hint}; for bcc: {error.hint}"
        ) from None


def _start(
    engine: Engine | None, ring_size: int, lock: pins.Lock, found: list[pins.Epoch], why: str
) -> Attached:
    programs = _load(engine, ring_size)
    epoch = pins.create(lock.base, programs)
    for old in found:
        pins.remove(old.path)
    note = f"started with {programs.engine.value}"
    if found:
        note += f"; {why or 'what was pinned is of another version'}:"
        note += " what was recorded and nobody had read is gone"
    return Attached(programs, epoch, note, Misses.of(epoch), lock)


def _adopt(epoch: pins.Epoch, lock: pins.Lock) -> Attached:
    newest = epoch.generations[-1]
    links = pins.open_links(newest)
    fallback = "a function could not be hooked when the programs were loaded"
    missing = {
        point.program: "not attached when the programs were loaded"
        for point in (*SUBMISSION, *ATTEMPTS)
        if point.program not in links
        # bcc hooks no function of a module.
        and not (newest.engine is Engine.BCC and point.section == RETRY.section)
    }
    maps = pins.open_maps(epoch)
    # An agent killed between pinning the links and making them the active ones.
    activate(maps, newest.number)
    programs = Programs(
        newest.engine,
        newest.digest,
        newest.number,
        maps,
        links,
        missing,
        fallback if FALLBACK.program in links else "",
    )
    attached = Attached(programs, epoch, "adopted the running programs", Misses.of(epoch), lock)
    for _ in range(_TRIES):
        with contextlib.suppress(UnavailableError):
            meet_doors(attached)
            break
    return attached


def meet_doors(attached: Attached) -> list[str]:
    """Attach to the doors that came since the programs were loaded, as sg does with modprobe.

    Returns what was done, for the log.  What was submitted through one of them before this may
    have ended unseen: Misses tells.  A door that cannot be hooked twice in _TRIES looks is left to
    FALLBACK, in a generation of its own.  Raises UnavailableError until then.
    """
    programs = attached.programs
    if programs.engine is not Engine.CORE or programs.fallback:
        return []
    known = programs.links.keys() | programs.missing.keys()
    new = [
        door
        for door in DOORS
        # The block layer and the midlayer have theirs from the beginning.
        if door.module not in ("", "scsi_mod") and door.here and not door.programs & known
    ]
    if not new:
        return []
    # Before it is over: whoever is killed here leaves a doubt too many, not one too few.
    pins.note_blindness(attached.epoch, programs.generation)
    try:
        more = core.load_doors(programs.generation, programs.maps, new)
    except UnavailableError as error:
        attached.refused += 1
        if attached.refused < _TRIES:
            raise
        _take_over(attached, _replace(attached.epoch, f"since {error.message}", attached.lock))
        return [attached.programs.fallback or error.message]
    finally:
        attached.misses.add(attached.epoch)
    attached.refused = 0
    for fd in more.maps.values():
        os.close(fd)
    attached.programs = programs._replace(links={**programs.links, **more.links})
    pins.extend(attached.epoch, more)
    attached.misses.add(attached.epoch)
    return [f"attached to {door.function}(), which is new" for door in new]


def _take_over(attached: Attached, newer: Attached) -> None:
    """Let newer programs on the same maps be the ones at work; retire() detaches the others."""
    attached.programs.close()
    attached.programs, attached.epoch = newer.programs, newer.epoch
    attached.misses.close()
    attached.misses = newer.misses


def keep(attached: Attached) -> list[str]:
    """Look after attached programs, once a second: what came, and what somebody took away.

    Returns what was done, and what could not be done, for the log.
    """
    try:
        done = meet_doors(attached)
    except UnavailableError as error:
        done = [f"ends of commands are not seen: {error.message}"]
    try:
        attached.lock.renew()
        lost = pins.restore(attached.epoch, attached.programs, attached.store)
    except UnavailableError as error:
        return [*done, f"the programs are not pinned: {error.message}"]
    except OSError as error:
        return [*done, f"pins are gone and cannot be made again: {error}"]
    return [*done, *(f"{name} was unpinned, and is pinned again" for name in lost)]


def forget_ended(attached: Attached) -> None:
    """Take out of pr_pendings what ended long ago, and was seen to by one program only."""
    fd, now = attached.programs.maps["pr_pendings"], time.monotonic_ns()
    ended = [key for key, value in libbpf.map_items(fd) if Pending.parse(value).forgettable(now)]
    for key in ended:
        libbpf.bpf_map_delete_elem(fd, key)


def detach(lock: pins.Lock) -> int:
    """Take every program out of the kernel, and what it recorded with it; how many epochs.

    Returns when they are out, and their modules can be unloaded: the kernel takes a while for it.
    Raises UnavailableError where somebody else holds them.
    """
    found = pins.epochs(lock.base)
    left = {number for epoch in found for number in pins.program_numbers(epoch)}
    for epoch in found:
        pins.remove(epoch.path)
    pins.sweep(lock.base)
    end = time.monotonic() + _DETACH_SECONDS
    while left := {number for number in left if libbpf.bpf_prog_exists(number)}:
        if time.monotonic() > end:
            raise UnavailableError(
                f"{len(left)} programs are unpinned, but a process holds them still",
                hint="stop the agent and what it started; `bpftool link` names the processes",
            )
        time.sleep(0.05)
    return len(found)


def _replace(epoch: pins.Epoch, why: str, lock: pins.Lock) -> Attached:
    number = epoch.generations[-1].number + 1
    shared = pins.open_maps(epoch)
    try:
        programs = core.load(number, 0, shared)
    finally:
        for fd in shared.values():
            os.close(fd)
    epoch = pins.add(epoch, programs)
    activate(programs.maps, number)
    return Attached(programs, epoch, f"replaced programs {why}", Misses.of(epoch), lock)


def retire(attached: Attached) -> None:
    """Detach generations older than the active one that no request needs any more.

    The others are left to a later call.
    """
    *old, active = attached.epoch.generations
    if not old:
        return
    fd = attached.programs.maps["pr_pendings"]
    pendings = [Pending.parse(value) for _, value in libbpf.map_items(fd)]
    now = time.monotonic_ns()
    needed = {each.generation for each in pendings if each.may_end(now)}
    kept = []
    for generation in old:
        if generation.number in needed:
            kept.append(generation)
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
    attached.epoch = attached.epoch._replace(generations=(*kept, active))
