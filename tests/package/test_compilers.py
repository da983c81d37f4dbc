"""The programs, compiled by each release's clang, on every kernel: a container has one release's
object on whatever kernel its node runs, and verifiers differ in what they follow of a compiler's
code.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from labkit import roots
from labkit.kernels import SERIES
from labkit.machine import Machine
from labkit.qemu import Shape
from labkit.target import TargetSpec

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

LOAD = """
from prtrace.probe import core
programs = core.load(1, 1 << 20, {})
assert not programs.missing, programs.missing
assert not programs.fallback, programs.fallback
print(len(programs.links), "programs are attached")
"""


@pytest.fixture(scope="module", params=roots.RELEASES)
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the object that a release's clang makes."""
    out = tmp_path_factory.mktemp(request.param)
    root = roots.root(request.param, ("clang", "libbpf-dev", "llvm"))
    roots.run(root, "tools/build-bpf /out/programs.o", out)
    return out


@pytest.mark.parametrize("kernel", SERIES)
def test_all_programs_are_attached(compiled: Path, kernel: str) -> None:
    with Machine(kernel, TargetSpec(), shape=Shape(), out=compiled) as machine:
        command = f"PRTRACE_BPF_OBJECT=/run/lab/out/programs.o python3 -c {shlex.quote(LOAD)}"
        done = machine.run(command, timeout=240)
    print(done.output)
    assert done.status == 0, done.output[-4000:]
