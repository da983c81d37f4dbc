"""Programs replaced while commands are under way."""

import pytest

SPEC = {"luns": 2, "nexuses": 4}


@pytest.mark.timeout(900)
def test_upgrade_under_load(loaded) -> None:
    loaded("upgrade.py", "2", timeout=780, **SPEC)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_upgrades_under_load(loaded) -> None:
    loaded("upgrade.py", "20", timeout=3400, **SPEC)
