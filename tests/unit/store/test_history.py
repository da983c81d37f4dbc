"""Old events go; what they led to stays, and replaying from there gives the same states."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from prtrace.state.apply import new_state
from prtrace.store.database import Store
from store.conftest import make_event


def fold(states, event):
    """A state machine of the test's own: a state counts its unit's events."""
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
    batches=st.lists(st.lists(st.integers(0, 4), max_size=12), min_size=1, max_size=40),
)
def test_base_and_the_events_after_it_give_the_states(tmp_path_factory, keep, batches):
    with Store.open(tmp_path_factory.mktemp("kept") / "prtrace.db", keep_events=keep) as store:
        states, record = {}, 0
        for batch in batches:
            events = []
            for unit in batch:
                record += 1
                events.append(make_event(record, lu=f"naa.{unit}"))
                fold(states, events[-1])
            touched = {event.lu for event in events}
            store.commit("a", events, [states[lu] for lu in touched])
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
