"""What the proxy costs a guest, in instructions, which repeat: no other machine decides it."""

from __future__ import annotations

import pytest
from bench import AIMS, measure, ratios


@pytest.mark.machine(nexuses=1, icount=True)
@pytest.mark.timeout(300)
def test_a_read_costs_at_most_so_much_more_than_by_the_helper(unit) -> None:
    found = ratios(measure(unit.paths[0].block, 100))
    assert {name: found[name] for name in AIMS if found[name] > AIMS[name]} == {}, found
