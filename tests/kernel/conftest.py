"""Machines for the kernel tests: booted once for each kernel and target, shared, ended."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
sys.path.insert(0, str(TOP / "tools"))

from labkit.machine import Machine  # noqa: E402
from labkit.qemu import Shape  # noqa: E402
from labkit.target import TargetSpec  # noqa: E402

KERNELS = ("6.1", "6.12", "7")


@pytest.fixture(scope="module")
def boot() -> Iterator[Callable[..., Machine]]:
    """Boot a machine, or hand out the one that this module already has like it."""
    with ExitStack() as stack:
        machines: dict[object, Machine] = {}

        def started(kernel: str = "6.1", *, cpus: int = 1, memory: str = "2G", **spec: object):
            wanted = (kernel, cpus, memory, tuple(sorted(spec.items())))
            if wanted not in machines:
                # One at a time: two emulated machines on two cores starve each other.
                for machine in machines.values():
                    machine.__exit__(None, None, None)
                machines.clear()
                machines[wanted] = stack.enter_context(
                    Machine(kernel, TargetSpec(**spec), shape=Shape(cpus=cpus, memory=memory))
                )
            return machines[wanted]

        yield started


@pytest.fixture
def inside(boot: Callable[..., Machine]) -> Callable[..., str]:
    """Run a script of tests/kernel/inside in a machine; its exit status decides."""

    def run(
        script: str, *arguments: str, kernel: str = "6.1", timeout: float = 300, **spec: object
    ) -> str:
        machine = boot(kernel, **spec)
        command = " ".join(("python3", f"tests/kernel/inside/{script}", *arguments))
        done = machine.run(command, timeout=timeout)
        print(done.output)  # pytest shows it where the test fails
        assert done.status == 0, f"{script} ended with {done.status}\n{done.output[-4000:]}"
        return done.output

    return run
