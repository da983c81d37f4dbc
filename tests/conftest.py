"""Machines for the tests: booted once for each kernel and target, shared by a module, ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import settings
from labkit.machine import Machine
from labkit.qemu import Shape
from labkit.target import TargetSpec

CHECKOUT = Path(__file__).parents[1]

# A wall-clock limit for one example says nothing on a busy machine; each test has its own.
settings.register_profile("prtrace", deadline=None)
settings.load_profile("prtrace")


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
def scripts(request: pytest.FixtureRequest) -> Path:
    """The folder that `inside` takes scripts from: the test's own, if nobody overrides this."""
    return request.path.parent


@pytest.fixture
def inside(boot: Callable[..., Machine], scripts: Path) -> Callable[..., str]:
    """Run a script of `scripts` in a machine; its exit status decides."""

    def run(
        script: str, *arguments: str, kernel: str = "6.1", timeout: float = 300, **spec: object
    ) -> str:
        machine = boot(kernel, **spec)
        command = " ".join(("python3", str(scripts.relative_to(CHECKOUT) / script), *arguments))
        done = machine.run(command, timeout=timeout)
        print(done.output)  # pytest shows it where the test fails
        assert done.status == 0, f"{script} ended with {done.status}\n{done.output[-4000:]}"
        return done.output

    return run
