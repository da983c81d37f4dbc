"""Old events are deleted; the states they led to stay, and a replay from there agrees."""

from dataclasses import replace

import pytest
from examples import share
from hypothesis import given, settings
from hypothesis import strategies as st

from prtrace.state.apply import new_state
from prtrace.state.event import CHANGING, Command
from prtrace.store import history
from prtrace.store.database import Store
from prtrace.store.history import EventQuery
from store.conftest import make_event


def fold(states, event):
    """A state machine of the test's own: a state counts its unit's events."""
    if event.command is Command.FORGOTTEN:
        states.pop(event.lu, None)
        return states
    before = states.get(event.lu) or new_state(event.lu)
    states[event.lu] = replace(before, generation=(before.generation or 0) + event.record)
    return states


def rebuilt(store):
    since, states = store.base()
    for event in store.events(since_seq=since):
        fold(states, event)
    return states


@given(
    keep=st.integers(1, 60),
    batches=st.lists(st.lists(st.integers(-1, 4), max_size=12), min_size=1, max_size=40),
)
def test_base_and_the_events_after_it_give_the_states(tmp_path_factory, keep, batches):
    with Store.open(tmp_path_factory.mktemp("kept") / "prtrace.db", keep_events=keep) as store:
        states, record = {}, 0
        for batch in batches:
            events = []
            for unit in batch:
                record += 1
                known = sorted(states)
                if unit >= 0 or not known:
                    events.append(make_event(record, lu=f"naa.{unit}"))
                else:
                    gone = known[record % len(known)]
                    events.append(make_event(record, lu=gone, command=Command.FORGOTTEN))
                fold(states, events[-1])
            touched = {event.lu for event in events}
            left = [states[lu] for lu in touched if lu in states]
            store.commit("a", events, left, forgotten=touched - states.keys())
            assert rebuilt(store) == states == store.states()
            size = store.size()
            assert size.events == min(record, keep)
            assert size.last == record
        store.verify()


def test_pruning_is_spread_and_comes_to_an_end(tmp_path):
    path = tmp_path / "prtrace.db"
    with Store.open(path) as store:
        store.commit("a", [make_event(n) for n in range(1, 5001)], [new_state("naa.1")])
    with Store.open(path, keep_events=100) as store:
        sizes = []
        for record in range(5001, 5011):
            store.commit("a", [make_event(record)], [new_state("naa.1")])
            sizes.append(store.size().events)
        assert sizes[0] > 3900
        assert sizes[-1] == 100
        assert store.base()[0] >= store.size().first - 1
    with Store.open(path, keep_events=100) as store:
        store.commit("a", [make_event(5011)])
        assert store.size().first == 4912


def test_checkpoints_are_bounded(tmp_path):
    with Store.open(tmp_path / "prtrace.db", keep_events=200) as store:
        for record in range(1, 3000):
            lu = f"naa.{record % 5}"
            store.commit("a", [make_event(record, lu=lu)], [new_state(lu, time=record)])
        count = "SELECT (SELECT count(*) FROM boundary), (SELECT count(*) FROM checkpoint)"
        boundaries, checkpoints = store._database.execute(count).fetchone()
    assert boundaries <= 12
    assert checkpoints <= 5 * 12


QUERIES = st.fixed_dictionaries(
    {},
    optional={
        "lus": st.lists(st.sampled_from([f"naa.{n}" for n in range(4)]), max_size=3),
        "since_seq": st.integers(0, 60),
        "since_time": st.integers(0, 40),
        "limit": st.integers(0, 60),
        "last": st.one_of(st.integers(0, 60), st.just(1 << 62)),
        "changes": st.booleans(),
    },
)


@settings(max_examples=share(150))
@given(
    made=st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(Command), st.integers(0, 40)), max_size=50
    ),
    asked=st.lists(QUERIES, min_size=1, max_size=6),
    looked_at=st.integers(1, 9),
)
def test_any_query_gives_what_a_list_would(tmp_path_factory, made, asked, looked_at):
    """A query's answer depends neither on the size of a step nor on the clock."""
    events = [
        make_event(n, lu=f"naa.{unit}", command=command, time=time)
        for n, (unit, command, time) in enumerate(made, 1)
    ]
    with (
        pytest.MonkeyPatch.context() as patch,
        Store.open(tmp_path_factory.mktemp("any") / "prtrace.db") as store,
    ):
        patch.setattr(history, "LOOKED_AT", looked_at)
        patch.setattr(history, "PORTION", 3)
        store.commit("a", events)
        for query in asked:
            wanted = [
                event
                for event in events
                if ("lus" not in query or event.lu in query["lus"])
                and event.record > query.get("since_seq", 0)
                and event.time >= query.get("since_time", 0)
                and (not query.get("changes") or event.command in CHANGING)
            ]
            if "last" in query:
                wanted = wanted[-query["last"] :] if query["last"] else []
            wanted = wanted[: query.get("limit")]
            assert [e.record for e in store.events(**query)] == [e.record for e in wanted]


def test_no_step_looks_at_many_rows(tmp_path):
    """Few of many events fit: each step ends soon (SQLite's instructions are counted)."""
    with Store.open(tmp_path / "prtrace.db") as store:
        events = [make_event(n, command=Command.PR_IN) for n in range(1, 30_001)]
        store.commit("a", [make_event(30_001), *events])
        for query in (
            EventQuery(changes=True),
            EventQuery(changes=True, last=500),
            EventQuery(changes=True, lus=("naa.1",)),
            EventQuery(last=1 << 62),
            EventQuery(since_time=1 << 62),
            EventQuery(since_time=1, last=5, changes=True),
            EventQuery(lus=("naa.9",), last=3),
        ):
            worst = most = 0

            def counted():
                nonlocal most
                most += 1000
                return 0

            store._database.set_progress_handler(counted, 1000)
            for _ in store.portions(query):
                worst, most = max(worst, most), 0
            store._database.set_progress_handler(None, 0)
            assert max(worst, most) <= 120_000, query
