"""docs/verified.md: when each slow test last passed, on which kernel and at which commit.

A pytest plugin: --verified FILE writes down the slow tests that passed in this run, and leaves
the lines of the others as they are.  `tools/test slow` gives the option.
"""

from __future__ import annotations

import datetime
import re
import subprocess
from pathlib import Path

import pytest
from labkit import kernels, places

_HEAD = """\
# When the slow tests last passed

Written by `tools/test slow`; CI has no time for these tests. A commit with a plus sign had
changes beside it.

| Test | Kernel | Passed on | Commit |
| --- | --- | --- | --- |
"""
_LINE = re.compile(
    r"\| `(?P<test>[^`]+)` \| (?P<kernel>[^|]*) \| (?P<day>[^|]*) \| (?P<commit>\S*) \|"
)


class Verified:
    """Collects the outcomes; under xdist in the process that hears of all of them."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._passed: dict[tuple[str, str], bool] = {}
        self._ended: set[tuple[str, str]] = set()
        """Whose own part is over: of an interrupted test only the setup may have passed."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if "slow" in report.keywords:
            key = _key(report.nodeid)
            good = report.passed and self._passed.get(key, True)
            self._passed[key] = good
            if report.when == "call":
                self._ended.add(key)

    def pytest_sessionfinish(self) -> None:
        passed = {key for key, good in self._passed.items() if good and key in self._ended}
        if passed:
            day = datetime.datetime.now(datetime.UTC).date().isoformat()
            write(self._file, passed, day, _commit())


def write(file: Path, passed: set[tuple[str, str]], day: str, commit: str) -> None:
    """Bring the lines of what passed, (test, kernel), up to date."""
    known = read(file) | dict.fromkeys(passed, (day, commit))
    lines = [
        f"| `{test}` | {kernel} | {when} | {at} |\n"
        for (test, kernel), (when, at) in sorted(known.items())
    ]
    file.write_text(_HEAD + "".join(lines))


def read(file: Path) -> dict[tuple[str, str], tuple[str, str]]:
    """(test, kernel) to (day, commit)."""
    text = file.read_text() if file.exists() else ""
    return {
        (found["test"], found["kernel"]): (found["day"], found["commit"])
        for found in _LINE.finditer(text)
    }


def _key(nodeid: str) -> tuple[str, str]:
    """A test with its other parameters, and the release of the kernel that it ran on."""
    test, _, words = nodeid.partition("[")
    parameters = words.removesuffix("]").split("-") if words else []
    series = next((each for each in parameters if each in kernels.SERIES), "")
    others = "-".join(each for each in parameters if each != series)
    release = kernels.find(series).release if series else "-"
    return f"{test}[{others}]" if others else test, release


def _commit() -> str:
    git = ["git", "-C", str(places.CHECKOUT)]
    commit = subprocess.run(
        [*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--untracked-files=no"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return f"{commit or 'unknown'}{'+' if changed else ''}"
