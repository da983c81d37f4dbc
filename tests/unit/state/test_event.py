"""An event's JSON form: exact both ways, and in the documented schema."""

import contextlib
import json
from importlib import resources

import jsonschema
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prtrace.errors import MalformedError
from prtrace.model import IssuePath, Issuer, LocalNexus, ReservationType
from prtrace.state.event import Command, Event, nanoseconds, rfc3339

SCHEMA = json.loads((resources.files("prtrace") / "schema" / "event.1.json").read_text())

texts = st.text(max_size=20)
numbers = st.integers(0, (1 << 64) - 1)
keys = st.none() | numbers
events = st.builds(
    Event(command=Command.LOST)._replace,  # st.builds(Event) would fill what is not named
    seq=numbers,
    epoch=texts,
    record=numbers,
    time=st.integers(0, 4_000_000_000_000_000_000),
    start_ns=numbers,
    done_ns=numbers,
    lu=texts,
    nexus=texts,
    device=texts,
    target=texts,
    command=st.sampled_from(Command),
    action=texts,
    status=texts,
    host_byte=texts,
    key=keys,
    sa_key=keys,
    type=st.none() | st.sampled_from(ReservationType),
    scope=st.none() | st.integers(0, 15),
    sense=texts,
    problem=texts,
    effect=texts,
    attempts=numbers,
    count=numbers,
    issuer=st.none()
    | st.builds(
        Issuer,
        pid=st.integers(0, 1 << 22),
        comm=texts,
        start_ns=numbers,
        cgroup=numbers,
        path=st.sampled_from(IssuePath),
        requested=texts,
        guest=texts,
        uuid=texts,
        client_pid=st.integers(0, 1 << 22),
        client_comm=texts,
    ),
    exe=texts,
    unit=texts,
    truncated=st.booleans(),
    cdb=st.binary(max_size=32),
    data=st.binary(max_size=64),
    head=st.binary(max_size=32),
    sense_bytes=st.binary(max_size=32),
    asked=st.binary(max_size=16),
    asked_data=st.binary(max_size=24),
)


@settings(deadline=None)
@given(events, st.booleans())
def test_json_is_exact_and_in_the_schema(event, with_paths):
    if with_paths:
        path = LocalNexus("2:0:0:1", event.lu, "/dev/sda", initiator_port="naa.5")
        event = event._replace(paths=(path,))
    text = json.dumps(event.to_json())
    assert Event.from_json(json.loads(text)) == event
    jsonschema.validate(json.loads(text), SCHEMA)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@settings(deadline=None)
@given(JSON_VALUES)
def test_any_json_is_an_event_or_a_declared_error(value):
    with pytest.raises(MalformedError):
        Event.from_json(value)


@example("seq", float("inf"))
@settings(deadline=None)
@given(st.sampled_from(sorted(Event(command=Command.PR_IN).to_json())), JSON_VALUES)
def test_any_value_in_any_member_is_taken_or_a_declared_error(name, value):
    document = Event(command=Command.PR_IN, issuer=Issuer(1, "a")).to_json()
    document[name] = value
    with contextlib.suppress(MalformedError):
        Event.from_json(document)


@settings(deadline=None)
@given(st.integers(0, 250_000_000_000_000_000_000))
def test_times_keep_every_nanosecond(time):
    assert nanoseconds(rfc3339(time)) == time


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T01:00:00.5+01:00", 500_000_000),
        ("1970-01-01T00:00:00.123456789123Z", 123_456_789),
    ],
)
def test_other_forms_of_time(text, time):
    assert nanoseconds(text) == time


@pytest.mark.parametrize("text", ["", "now", "1970-01-01T00:00:00", "1970-13-01T00:00:00Z"])
def test_what_is_no_time(text):
    with pytest.raises(ValueError, match=r"."):
        nanoseconds(text)
