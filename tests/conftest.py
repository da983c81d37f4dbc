"""What all tests share: where they run (here, or inside a lab machine), limits, seeds."""

from __future__ import annotations

import gc
import os
import random
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from labkit import pace
from labkit.machine import Machine
from labkit.oracle import OracleState, oracle
from labkit.pytest_inside import INSIDE, Inside
from labkit.pytest_machines import Machines
from labkit.qemu import Shape
from labkit.tally import Tally
from labkit.target import Target, TargetSpec, Unit
from labkit.verified import Verified

CHECKOUT = Path(__file__).parents[1]

# What tests share in the lab is no test module; its assertions are to be shown like theirs.
pytest.register_assert_rewrite("lab")

if not INSIDE:  # where importing hypothesis takes ten seconds
    from hypothesis import Phase, settings

    # A wall-clock limit for one example says nothing on a busy machine; each test has its own.
    settings.register_profile("full", deadline=None, database=None, max_examples=100)
    # The same in every run, so that the second half of them would seldom find what the first did
    # not: the slow run tries twice as many, and others each time.
    settings.register_profile(
        "ci", settings.get_profile("full"), derandomize=True, max_examples=50
    )
    settings.register_profile(
        "dev", settings.get_profile("ci"), max_examples=20, phases=(Phase.explicit, Phase.generate)
    )
    settings.load_profile("ci")


NOT_SEEN_YET = (
    "tests/kernel/test_attacks.py::test_attached_and_detached_at_any_moment_under_load",
    "tests/kernel/test_truth.py::test_walk[",
    "tests/kernel/test_truth.py::test_walk_without_reading",
)
"""Tests that were rewritten, or whose subject was, and that nobody has seen pass since on the tree
as it is.  They count as slow, so that CI tells of what is known to work; a line goes when its test
has been seen to pass."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what was not seen to pass yet, before the marks are asked for."""
    for item in items:
        if item.nodeid.startswith(NOT_SEEN_YET):
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """Spare what was imported and collected from garbage collection: a tenth of all the work.

    Looking at new objects after every 700 of them is another tenth; they live as long as a test.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--seed",
        default="0",
        help="of the tests' own random choices: a number, or 'random' (default: %(default)s)",
    )
    parser.addoption(
        "--verified", type=Path, help="write down in this file which slow tests passed, and when"
    )
    parser.addoption("--tally", type=Path, help="add to this file how many tests passed")


def pytest_configure(config: pytest.Config) -> None:
    if config.option.seed == "random":
        config.option.seed = str(random.SystemRandom().randrange(1 << 32))
    pace.factor()
    if config.option.verified is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Verified(config.option.verified))
    if config.option.tally is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Tally(config.option.tally))
    config.pluginmanager.register(Inside() if INSIDE else Machines())
    if not INSIDE and config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(_Dealing())


def pytest_report_header(config: pytest.Config) -> str:
    return f"seed {config.option.seed}; limits times {pace.limit(1):.2f}"


class _Dealing:
    """The hook that only pytest-xdist knows."""

    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: object) -> object:
        from labkit.pytest_scopes import Scopes

        return Scopes(config, log)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of this test's random choices, from --seed and its name; repeats them."""
    return zlib.crc32(f"{request.config.option.seed} {request.node.nodeid}".encode())


@pytest.fixture(scope="module")
def boot() -> Iterator[Callable[..., Machine]]:
    """Boot a machine, or hand out the one that this module already has like it.

    For tests that run here and need more of a machine than to run in it: two of them, say.
    """
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


# The fixtures of tests that run in a machine (@pytest.mark.machine).


@pytest.fixture(scope="session")
def target() -> Target:
    """What the lab built in this machine."""
    return Target.load(os.environ["LAB_TARGET"])


@pytest.fixture
def unit(target: Target) -> Unit:
    """The first logical unit."""
    return target.units[0]


@pytest.fixture
def lio(unit: Unit) -> Callable[[], OracleState]:
    """LIO's own view of the first unit, as of the call; no decoder of prtrace is in it."""
    return lambda: oracle(unit.directory)
