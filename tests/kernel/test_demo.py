"""The README's demonstration, on every kernel, and with the other engine."""

from __future__ import annotations

import subprocess

import pytest
from lab.kernels import FIRST
from labkit.kernels import OLD

pytestmark = pytest.mark.machine(luns=1, nexuses=2)


def demonstrated(engine: str) -> None:
    done = subprocess.run(
        ["tools/demokit/inside", engine], capture_output=True, text=True, check=False
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    assert "WRONG" not in done.stdout
    assert done.stdout.count("\nok    ") == 4
    # Nothing that a terminal of 80 columns would break, but for what the clients print.
    shown = [part.partition("\n\n")[0] for part in done.stdout.split("$ prtrace ")[1:]]
    assert not [line for part in shown for line in part.splitlines() if len(line) > 80]


@pytest.mark.timeout(300)
@pytest.mark.machine(kernels=FIRST)
def test_demo() -> None:
    demonstrated("core")


# Compiling takes minutes in a machine, and test_attach has the same engine compiled, killed and
# adopted every day, with more said of what it records.
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.machine(needs=("headers",))
def test_demo_with_bcc() -> None:
    demonstrated("bcc")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.machine(kernels=(OLD,), needs=("headers",))
def test_demo_on_debian_11() -> None:
    demonstrated("bcc")
