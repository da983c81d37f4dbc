"""What outlives the agent: maps and links, pinned in the bpf file system.

    /sys/fs/bpf/prtrace/abi<number>-<epoch>/maps/<map>
    /sys/fs/bpf/prtrace/abi<number>-<epoch>/<generation>-<engine>-<digest>/<program>
    /sys/fs/bpf/prtrace/abi<number>-<epoch>/store-<name>
    /sys/fs/bpf/prtrace/abi<number>-<epoch>/blind-<generation>-<count>

An epoch is the life of one set of maps, and so of one sequence of record numbers.  A
generation is one set of programs attached to them.  Folders are filled under another name
and renamed, so that an agent killed half way leaves nothing that looks whole.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from prtrace.errors import UnavailableError
from prtrace.linux.closing import Descriptor
from prtrace.probe import libbpf
from prtrace.probe.programs import (
    DOORS,
    FALLBACK,
    MAPS,
    SIGNS,
    SUBMISSION,
    Engine,
    Programs,
    Shape,
)
from prtrace.probe.record import ABI

BASE: Final = Path("/sys/fs/bpf/prtrace")
_BPF_FS_MAGIC: Final = 0xCAFE4A11
_EPOCH: Final = re.compile(r"abi(\d+)-([0-9a-f]{16})")
_GENERATION: Final = re.compile(r"(\d+)-(core|bcc)-([0-9a-f]{12})")
_READER: Final = "store-"
"""An empty folder: whose records these are."""
_BLIND: Final = "blind-"
"""An empty folder for each time in which a generation could not see every end."""
_UNFINISHED: Final = "-new"
"""bpffs keeps names with a dot for itself."""


class Generation(NamedTuple):
    """One set of attached programs, by the folder that holds their links."""

    path: Path
    number: int
    engine: Engine
    digest: str


class Epoch(NamedTuple):
    """One set of maps and the generations attached to it, oldest first."""

    path: Path
    abi: int
    name: str
    generations: tuple[Generation, ...]


def require_bpffs(base: Path = BASE) -> None:
    """Make sure that base can hold pins.  Raises UnavailableError."""
    # f_type is the first word of struct statfs, whatever follows it.
    buffer = ctypes.create_string_buffer(256)
    libc = ctypes.CDLL(None, use_errno=True)
    at = base.parent
    if libc.statfs(os.fsencode(at), buffer) or (
        int.from_bytes(buffer.raw[:8], "little") != _BPF_FS_MAGIC
    ):
        raise UnavailableError(
            f"{at} is not a bpf file system", hint=f"mount -t bpf bpf {at}, then start again"
        )
    try:
        base.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise UnavailableError(f"{base}: {error.strerror}", hint="run it as root") from None


def is_there(base: Path = BASE) -> bool:
    """Whether anything can be pinned below base.

    Raises PermissionError where this user may not look, which Path.is_dir() takes for nothing
    from Python 3.14 on.
    """
    try:
        os.stat(base)
    except FileNotFoundError:
        return False
    return True


class Lock(Descriptor):
    """What keeps other agents away from the programs.

    Two readers of one ring would take each other's records.  The kernel drops the lock when the
    process ends.  Raises UnavailableError where another process holds it.
    """

    __slots__ = ("base",)

    def __init__(self, base: Path = BASE) -> None:
        self.base = base
        self._fd = _locked(base)

    def renew(self) -> None:
        """Take the lock of the file system that is mounted there now, if that is another one.

        Raises UnavailableError where none is, or where an agent that started meanwhile holds it.
        """
        try:
            now = os.stat(self.base)
        except FileNotFoundError:
            require_bpffs(self.base)
            now = os.stat(self.base)
        held = os.fstat(self._fd)
        if (now.st_dev, now.st_ino) != (held.st_dev, held.st_ino):
            fd = _locked(self.base)
            self.close()
            self._fd = fd

    @property
    def descriptor(self) -> int:
        """What holds the lock, in every process that has it."""
        return self._fd


def _locked(base: Path) -> int:
    try:
        fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UnavailableError(f"{base}: {error.strerror}", hint="run it as root") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise UnavailableError(
            f"another agent reads this host's events ({base}: {error.strerror})",
            hint="stop that agent: a host has one",
        ) from None
    return fd


def epochs(base: Path = BASE) -> list[Epoch]:
    """Every epoch that is pinned below base, the one used last at the end."""
    found = [
        (path.stat().st_mtime_ns, Epoch(path, int(match[1]), match[2], _generations(path)))
        for path in base.iterdir()
        if (match := _EPOCH.fullmatch(path.name))
    ]
    return [epoch for _, epoch in sorted(found, key=lambda each: each[0])]


def _generations(epoch: Path) -> tuple[Generation, ...]:
    found = [
        Generation(path, int(match[1]), Engine(match[2]), match[3])
        for path in epoch.iterdir()
        if (match := _GENERATION.fullmatch(path.name))
    ]
    return tuple(sorted(found, key=lambda generation: generation.number))


def sweep(base: Path = BASE) -> None:
    """Remove what agents that were killed left half made; for the holder of the lock."""
    for path in (*base.glob(f"*{_UNFINISHED}"), *base.glob(f"*/*{_UNFINISHED}")):
        remove(path)


def create(base: Path, programs: Programs) -> Epoch:
    """Pin programs with their maps as a new epoch."""
    name = os.urandom(8).hex()
    path = base / f"abi{ABI}-{name}"
    unfinished = path.with_name(path.name + _UNFINISHED)
    maps = unfinished / "maps"
    maps.mkdir(parents=True, mode=0o700)
    for map_name, fd in programs.maps.items():
        libbpf.bpf_obj_pin(fd, str(maps / map_name))
    _pin_links(unfinished, programs)
    unfinished.rename(path)
    return Epoch(path, ABI, name, _generations(path))


def add(epoch: Epoch, programs: Programs) -> Epoch:
    """Pin programs as one more generation of epoch."""
    _pin_links(epoch.path, programs)
    return Epoch(epoch.path, epoch.abi, epoch.name, _generations(epoch.path))


def _folder(programs: Programs) -> str:
    return f"{programs.generation}-{programs.engine.value}-{programs.digest}"


def _pin_links(epoch: Path, programs: Programs) -> None:
    path = epoch / _folder(programs)
    unfinished = path.with_name(path.name + _UNFINISHED)
    unfinished.mkdir(mode=0o700)
    for name, fd in programs.links.items():
        libbpf.bpf_obj_pin(fd, str(unfinished / name))
    unfinished.rename(path)


def open_maps(epoch: Epoch) -> Mapping[str, int]:
    """Descriptors of the epoch's maps, the caller's to close.  Raises OSError."""
    return _opened(epoch.path / "maps" / name for name in MAPS)


def _opened(paths: Iterable[Path]) -> Mapping[str, int]:
    """What is pinned at each path, by its name; none stays open where one cannot be opened."""
    held: dict[str, int] = {}
    try:
        for path in paths:
            held[path.name] = libbpf.bpf_obj_get(str(path))
    except OSError:
        for fd in held.values():
            os.close(fd)
        raise
    return held


def unlike(epoch: Epoch) -> str:
    """Which pinned map is gone, or not made as this version's, and how; "" where all are."""
    try:
        maps = open_maps(epoch)
    except FileNotFoundError:
        return "a pinned map is gone"
    try:
        for name, shape in MAPS.items():
            told = libbpf.bpf_map_get_info(maps[name])
            found = Shape(told.key_size, told.value_size)
            if found != shape:
                return (
                    f"the pinned map {name} has keys of {found.key} and values of {found.value}"
                    f" bytes, this version's has {shape.key} and {shape.value}"
                )
    finally:
        for fd in maps.values():
            os.close(fd)
    return ""


def open_links(generation: Generation) -> Mapping[str, int]:
    """Descriptors of a generation's links, the caller's to close.  Raises OSError."""
    return _opened(generation.path.iterdir())


def program_numbers(epoch: Epoch) -> set[int]:
    """The kernel's numbers of the programs behind an epoch's links.  Raises OSError."""
    numbers = set()
    for generation in epoch.generations:
        links = open_links(generation)
        try:
            numbers |= {libbpf.bpf_link_get_prog_id(fd) for fd in links.values()}
        finally:
            for fd in links.values():
                os.close(fd)
    return numbers


def gone(generation: Generation) -> list[str]:
    """Programs that prtrace cannot do without, and that somebody has unpinned."""
    pinned = {path.name for path in generation.path.iterdir()}
    if generation.engine is Engine.BCC:
        return sorted({FALLBACK.program} - pinned)
    needed = {point.program for point in SUBMISSION}
    if FALLBACK.program not in pinned:
        needed |= DOORS[0].programs | {point.program for point in SIGNS}
    # Of a door that came later there is nothing, or both.
    for door in DOORS:
        if door.programs & pinned:
            needed |= door.programs
    return sorted(needed - pinned)


def extend(epoch: Epoch, programs: Programs) -> None:
    """Pin more programs of a running generation."""
    (generation,) = (each for each in epoch.generations if each.number == programs.generation)
    for name, fd in programs.links.items():
        libbpf.bpf_obj_pin(fd, str(generation.path / name))


def note_blindness(epoch: Epoch, generation: int) -> None:
    """Write down that there was a time in which a generation could not see every end."""
    count = blindness(epoch, generation) + 1
    (epoch.path / f"{_BLIND}{generation}-{count}").mkdir(mode=0o700)


def blindness(epoch: Epoch, generation: int) -> int:
    """How many times of a generation note_blindness() wrote down; only grows."""
    return len(list(epoch.path.glob(f"{_BLIND}{generation}-*")))


def restore(epoch: Epoch, programs: Programs, store: str) -> list[str]:
    """Pin again what somebody has unpinned while its descriptors are held; the names.

    store: whose records they are, "" for nobody's yet.  Raises OSError where that cannot be done.
    """
    made = []
    for folder, wanted in (
        (epoch.path / "maps", programs.maps),
        (epoch.path / _folder(programs), programs.links),
    ):
        try:
            lost = wanted.keys() - set(os.listdir(folder))
        except FileNotFoundError:
            lost = set(wanted)
            folder.mkdir(parents=True, mode=0o700)
        for name in lost:
            libbpf.bpf_obj_pin(wanted[name], str(folder / name))
        made += sorted(lost)
    if store and readers(epoch) != {store}:
        claim(epoch, store)
    return made


def readers(epoch: Epoch) -> set[str]:
    """The names of the stores that have had the epoch's records; see claim()."""
    return {path.name.removeprefix(_READER) for path in epoch.path.glob(f"{_READER}*")}


def claim(epoch: Epoch, store: str) -> None:
    """Let store be the one that gets the epoch's records from now on.

    A ring is read once: whatever a store was told before somebody else read on is old.
    """
    (epoch.path / (_READER + store)).mkdir(mode=0o700, exist_ok=True)
    for path in epoch.path.glob(f"{_READER}*"):
        if path.name != _READER + store:
            path.rmdir()


def remove(path: Path) -> None:
    """Unpin a generation or a whole epoch: its programs are detached."""
    # Brings archives and their compression along, and is needed after an upgrade only.
    import shutil

    shutil.rmtree(path)
