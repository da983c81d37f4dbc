"""Any event that there can be, for properties of what keeps events."""

from __future__ import annotations

import dataclasses

from hypothesis import strategies as st

from prtrace.model import IssuePath, Issuer, LocalNexus, ReservationType
from prtrace.state.event import Command, Event

TEXTS = st.text(max_size=20)
NUMBERS = st.integers(0, (1 << 64) - 1)
SIGNED = st.integers(0, (1 << 63) - 1)
"""What SQLite's numbers hold; those of NUMBERS are kept there as bits."""
TIMES = st.integers(0, 4_000_000_000_000_000_000)
PIDS = st.integers(0, 1 << 22)

_ISSUER = {
    "pid": PIDS,
    "comm": TEXTS,
    "start_ns": SIGNED,
    "cgroup": NUMBERS,
    "path": st.sampled_from(IssuePath),
    "requested": TEXTS,
    "guest": TEXTS,
    "uuid": TEXTS,
    "client_pid": PIDS,
    "client_comm": TEXTS,
}
_EVENT = {
    "record": SIGNED,
    "time": TIMES,
    "start_ns": SIGNED,
    "done_ns": SIGNED,
    "lu": TEXTS,
    "nexus": TEXTS,
    "device": TEXTS,
    "target": TEXTS,
    "command": st.sampled_from(Command),
    "action": TEXTS,
    "status": TEXTS,
    "host_byte": TEXTS,
    "key": st.none() | NUMBERS,
    "sa_key": st.none() | NUMBERS,
    "type": st.none() | st.sampled_from(ReservationType),
    "scope": st.none() | st.integers(0, 15),
    "sense": TEXTS,
    "problem": TEXTS,
    "effect": TEXTS,
    "attempts": st.integers(0, 1 << 31),
    "count": SIGNED,
    "issuer": st.none() | st.builds(Issuer, **_ISSUER),
    "exe": TEXTS,
    "unit": TEXTS,
    "truncated": st.booleans(),
    "cdb": st.binary(max_size=32),
    "data": st.binary(max_size=64),
    "head": st.binary(max_size=32),
    "sense_bytes": st.binary(max_size=32),
    "asked": st.binary(max_size=16),
    "asked_data": st.binary(max_size=24),
    "life": NUMBERS,
    "reason": TEXTS,
}
_OF_THE_STORE = {"seq", "epoch"}
# A field that is added and not tried here would be lost somewhere without a test that fails.
assert {*_EVENT, *_OF_THE_STORE, "paths"} == set(Event._fields)
assert set(_ISSUER) == {field.name for field in dataclasses.fields(Issuer)}

_PATHS = st.lists(
    st.builds(
        LocalNexus,
        nexus=TEXTS,
        lu=st.just(""),
        device=TEXTS,
        initiator_port=st.none() | TEXTS,
        relative_target_port=st.none() | st.integers(0, 65535),
    ),
    max_size=3,
)


def _with_paths(event: Event, paths: list[LocalNexus]) -> Event:
    return event._replace(paths=tuple(dataclasses.replace(path, lu=event.lu) for path in paths))


EVENTS = st.builds(
    _with_paths,
    # st.builds(Event) would fill what is not named.
    st.builds(Event(command=Command.LOST)._replace, **_EVENT),
    _PATHS,
)
"""Not stored yet: without number and epoch."""
