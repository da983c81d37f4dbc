"""A state as JSON: any state comes back, and what is no state is declared malformed.

test_any_sequence.py has the round trip, after every observation.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_any_sequence import observations

from prtrace.errors import MalformedError
from prtrace.model import KeysRead
from prtrace.state.apply import apply, new_state
from prtrace.state.codec import from_json, to_json
from prtrace.state.unit import Fact, Registration, Source

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(st.lists(observations, max_size=6), st.data())
def test_damaged_documents_are_declared_malformed(sequence, data) -> None:
    state = new_state("naa.6", "", 1)
    for each in sequence:
        state = apply(state, each).state
    document = to_json(state)
    document[data.draw(st.sampled_from(sorted(document)))] = data.draw(json_values)
    with contextlib.suppress(MalformedError):
        assert to_json(from_json(document)) == document


@pytest.mark.parametrize("times", [{}, {"generation": 1}, {"registrations": 1, "moon": 2}])
def test_a_confirmation_has_its_time(times) -> None:
    seen = KeysRead(lu="naa.6", nexus="2:0:0:1", generation=1, keys=(), truncated=False)
    document = to_json(apply(new_state("naa.6", "", 1), seen).state)
    assert len(document["confirmed"]) == len(document["confirmed_ns"]) == 3
    with pytest.raises(MalformedError):
        from_json(document | {"confirmed_ns": times})
    del document["confirmed_ns"]
    assert set(from_json(document).confirmed) == set(Fact)


@pytest.mark.parametrize("garbage", [None, 3, "x", [], {}, {"format": 2}, {"format": 1}])
def test_garbage_is_declared_malformed(garbage) -> None:
    with pytest.raises(MalformedError):
        from_json(garbage)


@pytest.mark.parametrize(
    ("target", "port", "overlooked"),
    [
        ("LIO-ORG/disk1/4.0", "iqn.2003-01.org.example:a,i,0x00023d000001", True),
        ("LIO-ORG/disk1/4.0", "naa.6001405000000001", False),
        ("SCST_FIO/disk1/370", "iqn.2003-01.org.example:a,i,0x00023d000001", False),
    ],
)
def test_what_a_store_of_before_cannot_know_is_assumed_only_where_it_matters(
    target, port, overlooked
) -> None:
    """A registration that LIO may overlook: only of an initiator that can have two sessions."""
    each = Registration("2:0:0:1", 0xA, False, Source.READ, 1, None, port, 1)
    state = replace(new_state("naa.6", target, 1), registrations={"2:0:0:1": each})
    document = to_json(state)
    del document["registrations"][0]["overlooked"]
    assert from_json(document).registrations["2:0:0:1"].overlooked is overlooked
