"""How often the kernel skipped a program, because it was at work already.

A program does not run where it interrupts itself: scsi_done() in a hard interrupt on top of
pr_on_done, for one.  Most of what is skipped so is ordinary I/O, but nobody can say which it
was.  The kernel counts it (bpf_prog_info.recursion_misses), and that is asked here.
"""

from __future__ import annotations

import os
from typing import Final, Self

from prtrace.errors import UnavailableError
from prtrace.probe import libbpf, pins

_ENDS: Final = ("pr_on_done", "pr_on_timeout", "pr_on_error")
"""The programs whose absence hides an end."""


class Misses:
    """Holds the programs of every generation; that takes CAP_SYS_ADMIN, reading does not."""

    def __init__(self, programs: dict[int, list[int]]) -> None:
        """Take descriptors of programs, by generation."""
        self._programs = programs

    @classmethod
    def of(cls, epoch: pins.Epoch) -> Self:
        """Open the programs behind the pinned links of epoch.  Raises UnavailableError."""
        programs: dict[int, list[int]] = {}
        for generation in epoch.generations:
            links = pins.open_links(generation)
            try:
                programs[generation.number] = [
                    libbpf.bpf_link_get_prog_fd(fd) for name, fd in links.items() if name in _ENDS
                ]
            except OSError as error:
                raise UnavailableError(
                    f"the attached programs cannot be opened: {error}", hint="run it as root"
                ) from None
            finally:
                for fd in links.values():
                    os.close(fd)
        return cls(programs)

    def counts(self) -> dict[int, int]:
        """How often programs were skipped, by generation; such a count only grows."""
        return {
            generation: sum(libbpf.bpf_prog_get_info(fd).recursion_misses for fd in fds)
            for generation, fds in self._programs.items()
        }

    def forget(self, generation: int) -> None:
        """Let go of a generation that is detached, so that the kernel can free it."""
        for fd in self._programs.pop(generation, ()):
            os.close(fd)

    def close(self) -> None:
        """Let go of all."""
        for generation in list(self._programs):
            self.forget(generation)
