"""What is made of what an agent saw."""

import pytest

from prtrace.errors import AgentUnreachableError, UsageError
from prtrace.model import Issuer, LocalNexus
from prtrace.move.knowledge import asked_user, learn
from prtrace.move.side import LocalPath, Side
from prtrace.scsi.form import Form
from prtrace.state.event import Command, Event

LU, HERE, ELSEWHERE = "naa.6", "1:0:0:0", "9:0:0:0"
SIDE = Side("/dev/sda", LU, "", (LocalPath(LocalNexus(HERE, LU), "/dev/sda"),))
AT = "2026-01-01T00:00:10.000000000Z"
SECOND = 1_767_225_610  # AT, in seconds since the epoch


class Observed:
    def __init__(self, *events, units=()):
        self._events, self._units = events, units

    def units(self, lus):
        return [unit for unit in self._units if unit["lu"] in lus]

    def events(self, lu):
        yield from (event for event in self._events if event.lu == lu)


class Nobody:
    def units(self, lus):
        raise AgentUnreachableError("no agent")

    def events(self, lu):
        raise AgentUnreachableError("no agent")
        yield


def out(action="REGISTER", seconds=0, nexus=HERE, status="GOOD", comm="qemu", **fields):
    return Event(
        time=(SECOND + seconds) * 10**9,
        lu=LU,
        nexus=nexus,
        command=Command.PR_OUT,
        action=action,
        status=status,
        issuer=Issuer(pid=7, comm=comm, start_ns=1),
        **fields,
    )


def unit(*registrations):
    return {"lu": LU, "registrations": [{"at": at} for at in registrations]}


@pytest.mark.parametrize(
    ("event", "users"),
    [
        (out(), ["qemu"]),
        (out(seconds=-1), []),  # before what is registered now was registered
        (out(nexus=ELSEWHERE), []),
        (out(status="RESERVATION CONFLICT"), []),
        (out(comm="prtrace"), ["prtrace"]),  # a name proves nothing: the journal does
    ],
    ids=["used", "earlier", "another nexus", "refused", "called as we are"],
)
def test_those_who_changed_something_used_the_nexus(event, users):
    known = learn((SIDE,), Observed(event, units=[unit(AT)]))
    assert [user.comm for user in known.users[LU]] == users
    assert known.units == {LU: unit(AT)}


def test_no_byte_of_an_event_is_looked_into(monkeypatch):
    """The mover has root's rights, and the bytes are those of guests and devices."""

    def parse(*_arguments):
        raise AssertionError("parsed")

    monkeypatch.setattr(Form, "parse", parse)
    event = out(cdb=bytes.fromhex("5f000000000000001800"), data=bytes(24))
    with pytest.raises(AssertionError, match="parsed"):
        event.to_json()
    known = learn((SIDE,), Observed(event, units=[unit(AT)]))
    assert [user.comm for user in known.users[LU]] == ["qemu"]


def test_a_reading_does_not_hide_who_used_the_nexus():
    """What a reading found was there before it: its own time is not when that began."""

    def read(_sides):
        fresh = {"at": "2031-01-01T00:00:00.000000000Z", "nexus": HERE, "key": "0xa"}
        return {LU: {"lu": LU, "registrations": [fresh]}}

    before = {"lu": LU, "registrations": [{"at": AT, "nexus": HERE, "key": "0xa"}]}
    events = (out(seconds=-1, comm="earlier"), out(), out(seconds=1, comm="other"))
    known = learn((SIDE,), Observed(*events, units=[before]), read)
    assert [user.comm for user in known.users[LU]] == ["qemu", "other"]
    assert known.units[LU]["registrations"][0]["at"].startswith("2031")


def test_without_an_agent_nothing_is_learned():
    with pytest.raises(AgentUnreachableError):
        learn((SIDE,), Nobody())


def test_a_guest_and_a_process_are_not_asked_for_at_once():
    assert asked_user(None, None) == (None, "")
    with pytest.raises(UsageError):
        asked_user("db1", 7)
