"""What goes wrong around the agent: a message, an exit status, nothing lost."""

import pytest


@pytest.mark.timeout(600)
def test_a_host_that_lacks_or_spoils_something(loaded) -> None:
    loaded("bad_input.py", "host", timeout=480, luns=2, nexuses=4)


@pytest.mark.timeout(400)
def test_a_full_disk(loaded) -> None:
    loaded("bad_input.py", "disk", timeout=300, luns=2, nexuses=4)


@pytest.mark.timeout(400)
def test_units_that_go_and_come(loaded) -> None:
    # Last on this machine: its target is not the same afterwards.
    loaded("bad_input.py", "units", timeout=300, luns=2, nexuses=4)


@pytest.mark.timeout(300)
def test_no_scsi_module(machine_without_target) -> None:
    done = machine_without_target.run(
        "python3 tests/kernel/inside/bad_input.py no-scsi", timeout=200
    )
    print(done.output)
    assert done.status == 0, done.output
