"""The outer half of tests in a machine: pytest collects here, and each test runs in there.

    @pytest.mark.machine(kernels=("6.1", "7"), luns=2, nexuses=4)
    def test_something(target, oracle): ...

marks a test (or, as pytestmark, a module) whose body runs inside a lab machine.  Here, it is
collected, selected, timed and reported like any other; where it would run, this plugin starts the
machine, has `python -m pytest` run this test and its neighbours with the same wishes in there,
and passes on what that pytest reports.  A machine that is lost is an error of the test that ran;
the tests after it get a new machine.

Wishes: kernels (series; each is a test of its own, named in brackets), target=False for a machine
without one, the fields of TargetSpec (luns, nexuses, transport, multipath, pages, udev), those of
Shape (cpus, memory, icount), needs (labkit.needs), and alone=True for a test that leaves its
machine in a state that no other test should meet.  Those of a function go before its module's.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from labkit import kernels, needs, pace
from labkit.control import Running
from labkit.failure import LabError, LostMachineError
from labkit.machine import Machine
from labkit.qemu import Shape
from labkit.target import TargetSpec

_MARK = "machine"
_KERNEL = "kernel"
_TARGET_WISHES = {"luns", "nexuses", "transport", "multipath", "pages", "udev"}
_SHAPE_WISHES = {"cpus", "memory", "icount"}
_WISHES = {"kernels", "target", "needs", "alone"} | _TARGET_WISHES | _SHAPE_WISHES

_START_SECONDS = 120.0
"""From a machine that stands to the first test's start: an emulated Python imports pytest."""

_GRACE_SECONDS = 30.0
"""Beyond a test's own limit, which the pytest inside keeps, for it to say so."""

_MOST_LOST = 2
"""Machines in a row in which no test could be started, before the rest of a group is given up."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a test wants of its machine; tests of one module that want the same share one."""

    kernel: str
    target: TargetSpec | None
    shape: Shape
    needs: tuple[str, ...]
    alone: str

    @classmethod
    def by(cls, item: pytest.Item) -> Wanted | None:
        """What item wants; None for a test that runs here."""
        wishes = _wishes(item)
        if wishes is None:
            return None
        spec = TargetSpec(**{name: wishes[name] for name in _TARGET_WISHES & wishes.keys()})
        return cls(
            _kernel_of(item),
            spec if wishes.get("target", True) else None,
            Shape(**{name: wishes[name] for name in _SHAPE_WISHES & wishes.keys()}),
            tuple(wishes.get("needs", ())),
            item.nodeid if wishes.get("alone") else "",
        )


def _wishes(node: pytest.Item | pytest.Function) -> dict[str, Any] | None:
    """The marks of a test, its module's first, so that its own win; None without any."""
    marks = list(node.iter_markers(_MARK))
    if not marks:
        return None
    wishes: dict[str, Any] = {}
    for mark in reversed(marks):
        if unknown := mark.kwargs.keys() - _WISHES:
            raise pytest.UsageError(
                f"{node.nodeid}: machine() takes no {', '.join(sorted(unknown))}; "
                f"it takes {', '.join(sorted(_WISHES))}"
            )
        wishes |= mark.kwargs
    return wishes


def parametrize(metafunc: pytest.Metafunc) -> None:
    """One test for each kernel that is wished for, named after it."""
    wishes = _wishes(metafunc.definition)
    if wishes is None:
        return
    if _KERNEL not in metafunc.fixturenames:
        metafunc.fixturenames.append(_KERNEL)
    metafunc.parametrize(_KERNEL, wishes.get("kernels", kernels.SERIES[:1]), scope="module")


def scale_timeout(item: pytest.Item) -> None:
    """Let the test have its limit in this machine's seconds (labkit.pace)."""
    item.add_marker(pytest.mark.timeout(_limit(item)), append=False)


def _limit(item: pytest.Item) -> float:
    """Seconds that a test may take here."""
    marked = item.get_closest_marker("timeout")
    seconds = marked.args[0] if marked is not None else item.config.getini("timeout")
    return pace.limit(float(seconds))


class _Group:
    """A machine, and the pytest that runs in it: the reports of a list of tests."""

    def __init__(self, wanted: Wanted, items: list[pytest.Item]) -> None:
        self._config = items[0].config
        self._messages: deque[dict[str, Any]] = deque()
        self._half = b""
        self._troubles: list[str] = []
        self._resources = ExitStack()
        self.started = False
        for need in wanted.needs:
            needs.meet(need, wanted.kernel)
        machine = Machine(
            wanted.kernel,
            wanted.target,
            shape=wanted.shape,
        )
        self._resources.enter_context(machine)
        self._running: Running = machine.begin(
            f"exec python -m pytest {self._arguments(items)} 3>&1 1>&2",
            env={
                "LAB_REPORTS": "3",
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
                pace.VARIABLE: f"{pace.factor():.2f}",
            },
            sink=self._take,
        )

    def _arguments(self, items: Iterable[pytest.Item]) -> str:
        option = self._config.option
        words = [
            "-p",
            "pytest_timeout",
            "-o",
            "cache_dir=/run/lab/pytest",
            f"--tb={option.tbstyle}",
        ]
        words += [f"--capture={option.capture}", f"--seed={option.seed}"]
        words += ["-v"] * max(option.verbose, 0)
        words += ["--showlocals"] if option.showlocals else []
        return shlex.join([*words, *(item.nodeid for item in items)])

    def close(self) -> None:
        self._resources.close()

    def _take(self, stream: str, octets: bytes) -> None:
        if stream == "err":
            if self._config.option.capture == "no":
                sys.stderr.buffer.write(octets)
                sys.stderr.buffer.flush()
            return
        *lines, self._half = (self._half + octets).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "trouble" in message:
                self._troubles.append(message["trouble"])
            else:
                self._messages.append(message)

    def reports(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        """What becomes of item; LostMachineError when the machine ends or hangs meanwhile."""
        while True:
            message = self._next(item)
            self.started = True
            if "report" in message and message["report"]["nodeid"] == item.nodeid:
                fields = message["report"]
                if isinstance(fields["longrepr"], list):
                    # Where and why a test was skipped is a tuple, and JSON made a list of it.
                    fields["longrepr"] = tuple(fields["longrepr"])
                yield pytest.TestReport._from_json(fields)
            elif message.get("finish") == item.nodeid:
                return

    def _next(self, item: pytest.Item) -> dict[str, Any]:
        seconds = _limit(item) + pace.limit(_GRACE_SECONDS)
        if not self.started:
            seconds += pace.limit(_START_SECONDS)
        deadline = time.monotonic() + seconds
        while not self._messages:
            done = self._running.completed
            if done is not None:
                told = "\n".join(self._troubles) or done.stderr[-4000:]
                raise LabError(f"the pytest inside ended with {done.status}:\n{told}")
            if not self._running.follow(deadline, lambda: bool(self._messages)):
                raise self._running.lost(f"did not report within {seconds:.0f} s")
        return self._messages.popleft()


class Machines:
    """Hooks of the pytest outside: runs each marked test in its machine."""

    def __init__(self) -> None:
        self._group: _Group | None = None
        self._of: tuple[Wanted, str] | None = None
        self._finished: set[str] = set()
        self._lost = 0

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        parametrize(metafunc)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Tests that share a machine come one after the other."""
        first: dict[object, int] = {}
        for number, item in enumerate(items):
            wanted = Wanted.by(item)
            if wanted is None:
                scale_timeout(item)
            first.setdefault(_key(item, wanted), number)
        items.sort(key=lambda item: first[_key(item, Wanted.by(item))])

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Fetch what the selected tests need before the first of them, and its limit, starts."""
        if session.config.option.collectonly:
            return
        for series, need in sorted({each for item in session.items for each in _needed(item)}):
            # Where a need cannot be met, the tests that have it fail and say why; the others run.
            with contextlib.suppress(LabError):
                if need:
                    needs.meet(need, series)
                else:
                    kernels.find(series).initramfs()

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_timeout_set_timer(self, item: pytest.Item) -> bool | None:
        """The pytest inside keeps the limits; starting a machine is not the test's time."""
        return True if Wanted.by(item) is not None else None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> bool | None:
        wanted = Wanted.by(item)
        if wanted is None:
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._outcome(item, wanted):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        self._finished.add(item.nodeid)
        # A test of this module that ran here, before, left the module set up for this one.
        item.session._setupstate.teardown_exact(nextitem)
        if nextitem is None or _key(nextitem, Wanted.by(nextitem)) != self._of:
            self._end()
            self._lost = 0
        return True

    def pytest_sessionfinish(self) -> None:
        self._end()

    def _end(self) -> None:
        if self._group is not None:
            self._group.close()
        self._group = None

    def _outcome(self, item: pytest.Item, wanted: Wanted) -> Iterator[pytest.TestReport]:
        begun = time.time()
        try:
            if self._group is None:
                self._group = self._start(item, wanted)
            yield from self._group.reports(item)
        except LabError as error:
            started = self._group is not None and self._group.started
            self._lost = 0 if started else min(self._lost + 1, _MOST_LOST)
            self._end()
            yield _failed(item, error, begun)
        else:
            self._lost = 0

    def _start(self, item: pytest.Item, wanted: Wanted) -> _Group:
        """A machine for item, and for all tests of its module that want the same and did not run.

        Under xdist all of them are this worker's: see Scopes.
        """
        if self._lost >= _MOST_LOST:
            raise LabError("not tried: no test of this group could be started, see those before")
        self._of = _key(item, wanted)
        items = [
            each
            for each in item.session.items
            if each.nodeid not in self._finished and _key(each, Wanted.by(each)) == self._of
        ]
        return _Group(wanted, items)


def _needed(item: pytest.Item) -> Iterator[tuple[str, str]]:
    """(series, need) of a test; the need is empty for the kernel itself."""
    wanted = Wanted.by(item)
    if wanted is not None:
        yield wanted.kernel, ""
        for need in wanted.needs:
            yield wanted.kernel, need
        return
    series = _kernel_of(item)
    if "boot" in getattr(item, "fixturenames", ()):
        yield series, ""
    for mark in item.iter_markers("needs"):
        for need in mark.args:
            yield series, need


def _kernel_of(item: pytest.Item) -> str:
    callspec = getattr(item, "callspec", None)
    named = callspec.params.get(_KERNEL) if callspec is not None else None
    return str(named or kernels.SERIES[0])


def _key(item: pytest.Item, wanted: Wanted | None) -> Any:
    """The same for tests that share a machine."""
    module = item.nodeid.partition("::")[0]
    return (wanted, module) if wanted is not None else (None, module)


def _failed(item: pytest.Item, error: LabError, begun: float) -> pytest.TestReport:
    """The report of a test whose machine failed; nothing else is known of that test."""
    what = "LOST MACHINE" if isinstance(error, LostMachineError) else "LAB"
    hint = f"\nhint: {error.hint}" if error.hint else ""
    return pytest.TestReport(
        item.nodeid,
        item.location,
        dict.fromkeys(item.keywords, 1),
        "failed",
        f"{what}: {error.message}{hint}",
        "setup",
        start=begun,
        stop=time.time(),
        duration=time.time() - begun,
    )
