"""What load sends while the guest is paused."""

import json

import pytest


def most_commands(boot, luns: int, timeout: float) -> tuple[int, int]:
    """The most PR OUT and PR IN of a unit, all units being moved side by side."""
    done = boot(luns=luns, nexuses=2).run("python3 -m benchkit.in_pause 0", timeout=timeout)
    assert done.status == 0, done.output
    found = json.loads(done.stdout.splitlines()[-1])
    return found["writes"], found["reads"]


@pytest.mark.timeout(300)
def test_few_commands(boot) -> None:
    assert most_commands(boot, 4, 200) == (1, 4)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_few_commands_for_many_units(boot) -> None:
    assert most_commands(boot, 64, 1200) == (1, 4)
