"""PRGENERATION bounds how far two clocks are apart, and never wrongly."""

from hypothesis import given
from hypothesis import strategies as st

from explain.story import LU
from prtrace.explain.skew import apart
from prtrace.explain.timeline import timeline
from prtrace.model import LocalNexus
from prtrace.state.event import Command, Event

SECOND = 10**9
START = 1_790_000_000 * SECOND
TOOK = 5_000_000


def recorded(happened, number, ahead):
    """What host number of two recorded; its clock is so many nanoseconds ahead."""
    nexus = f"{number}:0:0:0"
    path = LocalNexus(nexus, LU, initiator_port=f"naa.{number:016x}", relative_target_port=1)
    found = [Event(command=Command.PATHS, lu=LU, seq=1, time=START + ahead, paths=(path,))]
    generation = 0
    for at, (host, what) in enumerate(happened):
        new = at + 1
        if what == "REGISTER":
            generation += 1
        if host != number:
            continue
        event = {
            "lu": LU,
            "nexus": nexus,
            "seq": len(found) + 1,
            "record": len(found) + 1,
            "epoch": "e",
            "time": START + ahead + (at + 1) * SECOND,
            "start_ns": (at + 1) * SECOND - TOOK,
            "done_ns": (at + 1) * SECOND,
            "status": "GOOD",
            "target": "LIO-ORG/disk/4.0",
        }
        if what == "REGISTER":
            given_list = bytes(8) + new.to_bytes(8, "big") + bytes(8)
            cdb = bytes.fromhex("5f060000000000001800")
            found.append(
                Event(command=Command.PR_OUT, cdb=cdb, data=given_list, head=given_list, **event)
            )
        else:
            cdb = bytes.fromhex("5e010000000000002000")
            reply = generation.to_bytes(4, "big") + bytes(4)
            found.append(Event(command=Command.PR_IN, cdb=cdb, data=reply, **event))
    return timeline(found, LU)


@given(
    st.lists(st.tuples(st.integers(1, 2), st.sampled_from(["REGISTER", "READ"])), max_size=12),
    st.integers(-200, 200).map(lambda each: each * SECOND),
)
def test_the_bounds_hold(happened, ahead):
    bounds = apart(recorded(happened, 1, 0), recorded(happened, 2, ahead))
    assert bounds.least is None or bounds.least <= ahead
    assert bounds.most is None or bounds.most >= ahead


def test_a_command_between_two_readings_is_placed():
    happened = [(1, "READ"), (2, "REGISTER"), (2, "READ"), (1, "READ"), (1, "REGISTER")]
    happened += [(1, "READ"), (2, "READ")]
    bounds = apart(recorded(happened, 1, 0), recorded(happened, 2, 90 * SECOND))
    assert bounds.least is not None
    assert bounds.most is not None
    assert bounds.most - bounds.least <= 5 * SECOND


def test_a_target_that_counts_anew_bounds_nothing():
    before = recorded([(1, "READ"), (1, "REGISTER"), (1, "REGISTER")], 1, 0)
    after = recorded([(2, "READ"), (2, "REGISTER")], 2, -(10**6) * SECOND)
    bounds = apart(before, after)
    assert bounds.least is None or bounds.most is None or bounds.least <= bounds.most


def test_clocks_that_no_difference_fits_are_said_to_contradict():
    """Host 2's clock is set back by a minute between its two readings."""
    one = recorded([(1, "READ"), (1, "REGISTER"), (1, "READ"), (1, "REGISTER"), (1, "READ")], 1, 0)
    happened = [(2, "READ"), (1, "REGISTER"), (2, "READ"), (1, "REGISTER"), (2, "READ")]
    early = recorded(happened[:1], 2, 60 * SECOND)
    late = recorded(happened, 2, 0)[1:]
    bounds = apart(one, early + late)
    assert bounds.contradict
    assert (bounds.least, bounds.most) == (None, None)
