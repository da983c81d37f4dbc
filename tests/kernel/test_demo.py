"""The README's demonstration, on every kernel, and with the other engine."""

import pytest

from .conftest import KERNELS


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("kernel", "engine"), [*((kernel, "core") for kernel in KERNELS), ("6.1", "bcc")]
)
def test_demo(boot, kernel, engine) -> None:
    machine = boot(kernel, luns=1, nexuses=2)
    done = machine.run(f"tools/demokit/inside {engine}", timeout=500)
    assert done.status == 0, done.output
    assert "WRONG" not in done.output
    assert done.output.count("\nok    ") == 4
    # Nothing that a terminal of 80 columns would break, but for what the clients print.
    shown = [part.partition("\n\n")[0] for part in done.output.split("$ prtrace ")[1:]]
    assert not [line for part in shown for line in part.splitlines() if len(line) > 80]
