"""How many connections one process, one cgroup, one user and all together may have (pure).

libvirt runs all guests as one user, so a limit for each user alone lets one guest shut out
all others.  The cgroup is the outermost systemd unit of the process, which the process cannot
leave; a process can fork, but its children stay in that unit.  A child that has ended when
its connection is accepted shows none: see HelperClient.counted_as.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Limits:
    """Connections at a time: in all, of one user id, of one systemd unit, of one process.

    arrivals: new connections of one process a second, after of_process at once (pace.py); of one
    unit twice as many, after of_unit.
    """

    connections: int = 1024
    of_user: int = 512
    of_unit: int = 128
    of_process: int = 64
    arrivals: int = 4


DEFAULT: Final = Limits()


class Places:
    """Counts connections; used by one thread at a time."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._all = 0
        self._taken: Counter[tuple[str, object]] = Counter()

    def __len__(self) -> int:
        return self._all

    def take(self, uid: int, unit: str, pid: int) -> str:
        """Take a place; "" where there was one, else a sentence saying which limit is reached."""
        limits = self._limits
        if self._all >= limits.connections:
            return f"all {limits.connections} connections are taken"
        wanted = _kinds(uid, unit, pid)
        for kind, most in zip(wanted, (limits.of_user, limits.of_unit, limits.of_process),
                              strict=True):  # fmt: skip
            if kind[1] != "" and self._taken[kind] >= most:
                return f"{kind[0]} {kind[1]} has {most} connections"
        for kind in wanted:
            self._taken[kind] += 1
        self._all += 1
        return ""

    def give_back(self, uid: int, unit: str, pid: int) -> None:
        """Free the place that take() with the same words took."""
        for kind in _kinds(uid, unit, pid):
            self._taken[kind] -= 1
            if not self._taken[kind]:
                del self._taken[kind]
        self._all -= 1


def _kinds(uid: int, unit: str, pid: int) -> tuple[tuple[str, object], ...]:
    return ("uid", uid), ("unit", unit), ("pid", pid or "")
