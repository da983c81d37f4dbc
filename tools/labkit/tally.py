"""How many tests passed, of all runs of pytest together that tools/test makes.

A pytest plugin: --tally FILE adds a line of what this run came to.  As a program it says what the
lines of FILE come to.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

_KINDS = {"passed": "passed", "failed": "failed", "error": "failed", "skipped": "skipped"}
"""What pytest calls an outcome, and what it counts as."""


class Tally:
    """Counts the outcomes; under xdist in the process that hears of all of them."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        counted = Counter[str]()
        for outcome, kind in _KINDS.items():
            counted[kind] += len(terminalreporter.stats.get(outcome, ()))
        with self._file.open("a") as file:
            file.write(" ".join(f"{kind} {number}" for kind, number in counted.items()) + "\n")


def total(file: Path) -> str:
    """The sum of all lines, in words."""
    counted = Counter[str]()
    for line in file.read_text().splitlines():
        words = line.split()
        for kind, number in zip(words[::2], words[1::2], strict=True):
            counted[kind] += int(number)
    return ", ".join(f"{counted[kind]} {kind}" for kind in dict.fromkeys(_KINDS.values()))


if __name__ == "__main__":
    print("all tests:", total(Path(sys.argv[1])))
