"""Machines for the kernel tests: booted once for each kernel and target, shared, ended."""

from __future__ import annotations

import subprocess
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


@pytest.fixture
def loaded(boot: Callable[..., Machine], inside: Callable[..., str]) -> Callable[..., str]:
    """As inside, with the load program (tests/kernel/inside/load.c) where scripts look for it."""

    def run(*arguments: str, kernel: str = "6.1", timeout: float = 300, **spec: object) -> str:
        program = boot(kernel, **spec).out / "load"
        if not program.exists():
            source = Path(__file__).with_name("inside") / "load.c"
            flags = ("-O2", "-Wall", "-Werror", "-static", "-pthread")
            subprocess.run(["gcc", *flags, "-o", program, source], check=True, timeout=60)
        return inside(*arguments, kernel=kernel, timeout=timeout, **spec)

    return run


@pytest.fixture
def machine_without_target() -> Iterator[Machine]:
    """A machine in which nothing of SCSI is loaded."""
    with Machine("6.1", None) as machine:
        yield machine
