"""What matters least is deleted first, by number and by bytes; what stays can be replayed."""

from prtrace.state.apply import new_state
from prtrace.state.event import Command
from prtrace.store.database import Store
from store.conftest import make_event


def reading(record, **changes):
    return make_event(record, command=Command.PR_IN, **changes)


def test_idle_readings_go_before_what_changed_something(tmp_path):
    """A guest that reads all the time does not push another one's PREEMPT out of the history."""
    with Store.open(tmp_path / "prtrace.db", keep_events=1000) as store:
        store.commit("a", [make_event(n, lu=f"naa.{n}") for n in range(1, 501)])
        for start in range(501, 20_501, 500):
            numbers = range(start, start + 500)
            store.commit("a", [reading(n, lu="naa.9") for n in numbers], idle=set(numbers))
        kept = list(store.events())
        assert [e.record for e in kept if e.command is Command.PR_OUT] == list(range(1, 501))
        assert len(kept) == store.size().events <= 1000
        assert kept[-1].record == 20_500
        assert store.base()[0] >= kept[500].seq - 1


def test_readings_that_told_something_stay_as_long_as_commands(tmp_path):
    with Store.open(tmp_path / "prtrace.db", keep_events=100) as store:
        store.commit("a", [reading(n) for n in range(1, 51)])
        store.commit("a", [reading(n) for n in range(51, 201)], idle=set(range(51, 201)))
        assert {event.record for event in store.events()} >= set(range(1, 51))


def test_commands_to_one_unit_push_nothing_of_another_out(tmp_path):
    """A guest that is refused a REGISTER all the time, or changes its key all the time."""
    with Store.open(tmp_path / "prtrace.db", keep_events=2000) as store:
        store.commit("a", [make_event(n, lu=f"naa.{n % 7}") for n in range(1, 501)])
        for start in range(501, 10_501, 100):
            numbers = range(start, start + 100)
            store.commit("a", [make_event(n, lu="naa.9") for n in numbers])
        kept = [event.record for event in store.events()]
        assert kept[:500] == list(range(1, 501))
        assert kept[500:] == list(range(10_501 - len(kept[500:]), 10_501)), "the newest are kept"
        assert 1500 <= len(kept) == store.size().events <= 2000
        assert store.base()[0] >= kept[500] - 1


def test_where_every_unit_has_few_the_oldest_go(tmp_path):
    with Store.open(tmp_path / "prtrace.db", keep_events=1000) as store:
        for start in range(1, 5001, 100):
            numbers = range(start, start + 100)
            store.commit("a", [make_event(n, lu=f"naa.{n % 50}") for n in numbers])
        kept = [event.record for event in store.events()]
        assert kept == list(range(5001 - len(kept), 5001))
        assert 500 < len(kept) <= 1000


def test_a_limit_in_bytes(tmp_path):
    limit = 4 << 20
    path = tmp_path / "prtrace.db"
    with Store.open(path, keep_bytes=limit) as store:
        for start in range(1, 4001, 100):
            events = [reading(n, data=bytes(8192)) for n in range(start, start + 100)]
            store.commit("a", events, [new_state("naa.1", time=start)])
        store.commit("a", [make_event(4001)])
        assert path.stat().st_size < 1.5 * limit
        assert 100 < store.size().events < 1000
        assert store.base()[0] > 3000


def test_the_newest_stay_whatever_they_take(tmp_path):
    with Store.open(tmp_path / "prtrace.db", keep_events=1000, keep_bytes=1 << 20) as store:
        for record in range(1, 400):
            store.commit("a", [make_event(record, data=bytes(8192))])
        assert [event.record for event in store.events()][-10:] == list(range(390, 400))


def test_what_is_replaced_is_gone_and_counted(tmp_path):
    with Store.open(tmp_path / "prtrace.db") as store:
        store.commit("a", [make_event(1), reading(2)], idle={2})
        store.commit("a", [reading(3, count=2)], idle={3}, replaced=[2])
        assert [(event.record, event.count) for event in store.events()] == [(1, 1), (3, 2)]
        assert store.size().events == 2
        assert store.base() == (0, {})
