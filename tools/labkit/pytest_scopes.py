"""How tests are dealt to the workers of pytest-xdist: what shares a machine stays together."""

from __future__ import annotations

import pytest
from labkit import kernels
from xdist.scheduler.loadscope import LoadScopeScheduling


class Scopes(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """A file's tests, those of one kernel, go to one worker, in the order of collection.

    So a machine is started once for them, and each worker has one machine at a time: two
    emulated ones on one core starve each other.
    """

    def __init__(self, config: pytest.Config, log: object = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return scope(nodeid)


def scope(nodeid: str) -> str:
    """The name of the group that a test belongs to: its file, and its kernel where it has one."""
    file, _, name = nodeid.partition("::")
    words = name.partition("[")[2].rstrip("]").split("-")
    kernel = next((word for word in words if word in kernels.SERIES), "")
    return f"{file}[{kernel}]" if kernel else file
