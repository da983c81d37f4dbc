"""How often the kernel skipped a program, because it was at work already.

A program does not run where it interrupts itself: one passthrough request that ends in a hard
interrupt, on top of the program that sees another one's end.  Two programs see each end, so that
an end is lost only where both are skipped; the kernel counts what one of the two missed
(bpf_prog_info.recursion_misses).  For kprobes it does so since Linux 6.7 only: the other is asked.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple, Self

from prtrace.errors import UnavailableError
from prtrace.probe import libbpf, pins
from prtrace.probe.programs import ATTEMPTS, DOORS, FALLBACK, SIGNS

_ENDS: Final = frozenset(
    {
        FALLBACK.program,
        *(point.program for point in ATTEMPTS),
        *(door.points[1].program for door in DOORS),
    }
)
"""The programs whose absence can hide an end of a PR command."""
_SIGNS: Final = frozenset({FALLBACK.program, *(point.program for point in SIGNS)})
"""Those whose absence hides a conflict or a unit attention of another command."""


class Skipped(NamedTuple):
    """How often the kernel skipped programs, by generation; only grows."""

    ends: dict[int, int]
    """How often an end of a PR command may have been missed.

    A time in which a generation could not see every end counts like a skipped program."""
    signs: dict[int, int]
    """How often a sign of a reservation was missed on another command."""


class Misses:
    """Holds the programs of every generation; that takes CAP_SYS_ADMIN, reading does not."""

    def __init__(self, programs: dict[int, dict[str, int]]) -> None:
        """Take descriptors of programs, by generation and name."""
        self._programs = programs
        self._blind: dict[int, int] = {}

    @classmethod
    def of(cls, epoch: pins.Epoch) -> Self:
        """Open the programs behind the pinned links of epoch.  Raises UnavailableError."""
        misses = cls({})
        misses.add(epoch)
        return misses

    def add(self, epoch: pins.Epoch) -> None:
        """Open the programs of epoch that are not open yet.  Raises UnavailableError."""
        for generation in epoch.generations:
            self._blind[generation.number] = pins.blindness(epoch, generation.number)
            held = self._programs.setdefault(generation.number, {})
            links = pins.open_links(generation)
            try:
                for name, fd in links.items():
                    if name in _ENDS | _SIGNS and name not in held:
                        held[name] = libbpf.bpf_link_get_prog_fd(fd)
            except OSError as error:
                raise UnavailableError(
                    f"the attached programs cannot be opened: {error}", hint="run it as root"
                ) from None
            finally:
                for fd in links.values():
                    os.close(fd)

    def skipped(self) -> Skipped:
        """What the kernel says of every program that is held."""
        ends = {
            generation: self._count(generation, _ENDS) + self._blind.get(generation, 0)
            for generation in self._programs
        }
        signs = {generation: self._count(generation, _SIGNS) for generation in self._programs}
        return Skipped(ends, signs)

    def _count(self, generation: int, names: frozenset[str]) -> int:
        return sum(
            libbpf.bpf_prog_get_info(fd).recursion_misses
            for name, fd in self._programs[generation].items()
            if name in names
        )

    @property
    def descriptors(self) -> set[int]:
        """Those of the programs."""
        return {fd for held in self._programs.values() for fd in held.values()}

    def forget(self, generation: int) -> None:
        """Let go of a generation that is detached, so that the kernel can free it."""
        self._blind.pop(generation, None)
        for fd in self._programs.pop(generation, {}).values():
            os.close(fd)

    def close(self) -> None:
        """Let go of all."""
        for generation in list(self._programs):
            self.forget(generation)
