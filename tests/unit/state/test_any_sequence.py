"""Whatever is observed, in any order: no exception, and the state keeps its word."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prtrace.model import (
    Action,
    Attention,
    AttentionSeen,
    Capabilities,
    CapabilitiesRead,
    ConflictSeen,
    FullStatus,
    FullStatusRead,
    IssuePath,
    Issuer,
    KeysRead,
    LegacyReserve,
    LocalNexus,
    NotWatched,
    Outcome,
    PathsSeen,
    PrOut,
    ReadFailed,
    RecordsLost,
    ReservationRead,
    ReservationType,
    UnreadablePrOut,
    Unsupported,
)
from prtrace.state.apply import apply, in_doubt, new_state
from prtrace.state.codec import from_json, to_json, to_text
from prtrace.state.doubt import MAX_PER_FACT
from prtrace.state.unit import Fact

nexuses = st.sampled_from(["2:0:0:1", "3:0:0:1", "4:0:0:1"])
ports = st.sampled_from(
    ["naa.1", "NAA.1", "naa.2", "iqn.a,i,0x01", "iqn.a", "iqn.A,i,0x02", "iqn.b"]
)
keys = st.integers(0, 3) | st.just(2**64 - 1)
generations = st.sampled_from([0, 1, 2, 3, 2**32 - 1])
types = st.sampled_from(ReservationType)
spans = st.tuples(st.integers(0, 200), st.integers(0, 60)).map(lambda s: (s[0], s[0] + s[1]))
issuers = st.none() | st.builds(
    Issuer, pid=st.integers(1, 9), comm=st.text(max_size=3), path=st.sampled_from(IssuePath)
)
paths = st.lists(
    st.builds(
        LocalNexus,
        nexus=nexuses,
        lu=st.just("naa.6"),
        initiator_port=st.none() | ports,
        relative_target_port=st.none() | st.integers(1, 2),
        life=st.integers(0, 3),
    ),
    max_size=3,
).map(tuple)
descriptors = st.lists(
    st.builds(
        FullStatus,
        initiator_port=ports,
        relative_target_port=st.integers(0, 2),
        key=keys,
        holder=st.booleans(),
        all_target_ports=st.booleans(),
        type=st.none() | types,
    ),
    max_size=4,
).map(tuple)


def seen(kind, **fields):
    def build(span, common, rest):
        return kind(lu="naa.6", start_ns=span[0], done_ns=span[1], **common, **rest)

    common = st.fixed_dictionaries(
        {
            "nexus": nexuses,
            "target": st.sampled_from(
                ["", "LIO-ORG/x/4.0", "SCST_FIO/x/370", "INTEL/Malloc disk/0001", "ACME/x/1"]
            ),
            "seq": st.integers(0, 9),
            "time": st.integers(0, 9),
            "issuer": issuers,
            "life": st.integers(0, 3),
        }
    )
    return st.builds(build, spans, common, st.fixed_dictionaries(fields))


outcomes = st.sampled_from(Outcome)
flags = dict.fromkeys(("rlr_c", "crh", "sip_c", "atp_c", "ptpl_c", "ptpl_a"), st.booleans())
masks = st.none() | st.lists(types, unique=True, max_size=3).map(tuple)
capabilities = st.builds(Capabilities, **flags, allow_commands=st.integers(0, 7), types=masks)
observations = st.one_of(
    seen(
        PrOut,
        action=st.sampled_from(Action),
        outcome=outcomes,
        key=keys,
        sa_key=keys,
        type=st.none() | types,
        spec_i_pt=st.booleans(),
        transport_ids=st.none() | st.lists(st.sampled_from(["naa.1", "naa.9", ""])).map(tuple),
        relative_target_port=st.sampled_from([None, 0, 1, 7]),
        compared=st.booleans(),
        all_tg_pt=st.booleans(),
        unreg=st.booleans(),
        timed_out=st.booleans(),
    ),
    seen(
        PrOut,
        action=st.sampled_from([Action.REGISTER_AND_IGNORE, Action.RESERVE, Action.PREEMPT]),
        outcome=st.just(Outcome.DONE),
        key=keys,
        sa_key=keys,
        type=types,
    ),
    seen(UnreadablePrOut, outcome=outcomes, problem=st.just("too short")),
    seen(
        KeysRead,
        generation=generations,
        keys=st.lists(keys, max_size=4).map(tuple),
        truncated=st.booleans(),
    ),
    seen(ReservationRead, generation=generations, key=keys, type=st.none() | types),
    seen(
        FullStatusRead,
        generation=generations,
        registrations=descriptors,
        truncated=st.booleans(),
        paths=paths,
    ),
    seen(ReadFailed, action=st.just("READ KEYS"), outcome=outcomes),
    seen(LegacyReserve, release=st.booleans(), outcome=outcomes),
    seen(AttentionSeen, attention=st.sampled_from(Attention), count=st.integers(1, 3)),
    seen(ConflictSeen, count=st.integers(1, 3)),
    seen(NotWatched),
    seen(Unsupported, full_status=st.booleans()),
    seen(CapabilitiesRead, capabilities=capabilities),
    seen(PathsSeen, paths=paths),
    seen(RecordsLost, cause=st.just("ring full"), count=st.integers(1, 3)),
)
RESOLVING = (FullStatusRead, KeysRead, ReservationRead, Unsupported)


@pytest.mark.timeout(240)
@settings(max_examples=4 * settings.default.max_examples)
@given(st.lists(observations, max_size=25))
def test_any_sequence_keeps_the_invariants(sequence) -> None:
    state = new_state("naa.6", "LIO-ORG/x/4.0", 1)
    for each in sequence:
        before = state
        change = apply(state, each)
        state = change.state
        assert change.effect
        for fact in Fact:
            count = sum(doubt.what is fact for doubt in state.doubts)
            assert count <= MAX_PER_FACT
            if before.doubted(fact) and not state.doubted(fact):
                cleared = isinstance(each, PrOut) and each.action is Action.CLEAR
                assert cleared or isinstance(each, RESOLVING)
        if isinstance(each, PathsSeen):
            assert set(state.paths) == {path.nexus for path in each.paths}
            assert all(
                one.nexus in state.paths for one in state.registrations.values() if one.local
            )
        assert all(nexus == one.nexus for nexus, one in state.registrations.items())
        assert all(len(waiting) <= 8 for waiting in state.expected.values())
        if state.unattributed and state.names_nexuses:
            assert state.doubted(Fact.REGISTRATIONS)
        held = state.reservation
        if held is not None and not state.doubted(Fact.RESERVATION):
            assert held.type.all_registrants or held.holder is not None or not state.names_nexuses
            if held.holder is not None and not state.doubted(Fact.REGISTRATIONS):
                assert held.holder in state.registrations
        known = state.doubted(Fact.GENERATION) or state.generation is not None
        assert known or not state.supported
        assert from_json(json.loads(json.dumps(to_json(state)))) == state
        assert json.loads(to_text(state)) == to_json(state)


@given(st.lists(observations, max_size=8))
def test_restart_and_external_doubt(sequence) -> None:
    state = new_state("naa.6", "", 1)
    for each in sequence:
        state = apply(state, each).state
    assert all(in_doubt(state, "operator", 2).doubted(fact) for fact in Fact)
    fresh = apply(state, NotWatched(lu="naa.6", nexus="", time=2)).state
    assert fresh.settled_ns == 0
    assert not any(each.local for each in fresh.registrations.values())
    assert not fresh.paths
    assert from_json(to_json(fresh)) == fresh
