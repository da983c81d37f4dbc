import pytest

from .conftest import KERNELS


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kernel", KERNELS)
def test_an_offline_device(loaded, kernel) -> None:
    loaded("offline.py", kernel=kernel, nexuses=2)


@pytest.mark.timeout(600)
def test_what_a_busy_program_missed_is_seen_when_the_request_is_over(loaded) -> None:
    loaded("skipped.py", "3000", timeout=480, luns=2, nexuses=4)


@pytest.mark.timeout(900)
def test_who_asked_is_known_where_programs_are_preempted(loaded) -> None:
    loaded("preempted.py", "500", kernel="7", timeout=780, nexuses=2)


@pytest.mark.timeout(300)
def test_nobody_is_named_where_the_submission_was_not_seen(loaded) -> None:
    loaded("unsubmitted.py", nexuses=2)
