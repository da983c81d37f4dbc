import pytest


@pytest.mark.timeout(900)
def test_who_asked_is_known_where_programs_are_preempted(loaded) -> None:
    loaded("preempted.py", "500", kernel="7", timeout=780, nexuses=2)
