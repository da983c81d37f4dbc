import pytest


@pytest.mark.timeout(400)
def test_what_the_agent_reads_disturbs_nobody(loaded) -> None:
    loaded("polite.py", nexuses=2)
