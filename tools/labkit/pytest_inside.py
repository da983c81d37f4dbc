"""The inner half of tests in a machine: pytest runs there, and its reports go to the host.

Registered by tests/conftest.py where it finds itself in a lab machine.  Reports are JSON lines on
the descriptor that LAB_REPORTS names: {"start": NODEID}, {"report": {...}}, {"finish": NODEID},
{"trouble": TEXT}.  Without LAB_REPORTS (somebody runs pytest by hand, in a machine that stands)
they are only printed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from typing import Any

import pytest
from labkit import kernels
from labkit.pytest_machines import Wanted, parametrize, scale_timeout

INSIDE = "LAB_TARGET" in os.environ
"""Whether this is a lab machine: qemu.environment() sets it for every command there."""


class Inside:
    """Hooks of the pytest inside."""

    def __init__(self) -> None:
        named = os.environ.get("LAB_REPORTS")
        self._reports = os.fdopen(int(named), "w", buffering=1) if named else None

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        parametrize(metafunc)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Tests of another kernel cannot run here; the host does not ask for them."""
        here = [item for item in items if _for_this_kernel(item)]
        config.hook.pytest_deselected(items=[item for item in items if item not in here])
        items[:] = here
        for item in items:
            scale_timeout(item)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._tell(trouble=report.longreprtext)

    def pytest_internalerror(self, excrepr: object) -> None:
        self._tell(trouble=str(excrepr))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._tell(start=item.nodeid)
        done = yield
        self._tell(finish=item.nodeid)
        return done

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self._reports is not None:
            # pytest's own serialization, as the one of xdist.
            self._tell(report=report._to_json())

    def _tell(self, **message: Any) -> None:
        if self._reports is not None:
            self._reports.write(json.dumps(message) + "\n")


def _for_this_kernel(item: pytest.Item) -> bool:
    wanted = Wanted.by(item)
    return wanted is None or kernels.of_series(os.uname().release, wanted.kernel)
