"""An event's JSON form: exact both ways, and in the documented schema."""

import contextlib
import json
from datetime import datetime, timedelta, timezone

import pytest
from any_event import EVENTS, NUMBERS, TEXTS
from hypothesis import example, given, settings
from hypothesis import strategies as st
from shipped import valid

from prtrace.errors import MalformedError
from prtrace.model import Issuer
from prtrace.state.event import Command, Event, nanoseconds, rfc3339


@given(EVENTS, NUMBERS, TEXTS)
def test_json_is_exact_and_in_the_schema(event, seq, epoch):
    event = event._replace(seq=seq, epoch=epoch)
    text = json.dumps(event.to_json())
    assert Event.from_json(json.loads(text)) == event
    valid(json.loads(text), "event.1")


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
@example("status", ["GOOD"])
@example("target", 5)
@example("time", "0001-01-01T00:00:00Z")
@example("time", "9999-12-31T23:59:59Z")
@settings(deadline=None)
@given(st.sampled_from(sorted(Event(command=Command.PR_IN).to_json())), JSON_VALUES)
def test_any_value_in_any_member_is_taken_or_a_declared_error(name, value):
    document = Event(command=Command.PR_IN, issuer=Issuer(1, "a")).to_json()
    document[name] = value
    with contextlib.suppress(MalformedError):
        taken = Event.from_json(document)
        assert Event.from_json(taken.to_json()) == taken
        assert datetime.fromtimestamp(taken.time / 1e9, timezone(-timedelta(hours=14)))
        words = [
            getattr(taken, each)
            for each in Event._fields
            if getattr(Event(Command.LOST), each) == ""
        ]
        assert all(isinstance(word, str) for word in words)


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
def test_other_forms_of_time_are_understood(text, time):
    assert nanoseconds(text) == time


@pytest.mark.parametrize("text", ["", "now", "1970-01-01T00:00:00", "1970-13-01T00:00:00Z"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        nanoseconds(text)
