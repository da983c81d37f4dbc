"""What is done on one host for one guest that libvirt moves (pure).

Inputs are what libvirt's hooks, its lock-manager plugin and its events say, and what the agent
answered; outputs are calls of io.prtrace, answers to whoever waits for one, and what is asked of
libvirt.  step() is all that decides; prtrace.libvirt.service carries out what it says.

Three rules hold whatever comes in whatever order, and tests/explore/test_libvirt.py looks for an
order in which they do not:

- A guest goes on here only after the agent said that it may, where somebody asks before it goes
  on (the plugin); where nobody asks, the agent is asked beside the running guest, and the guest
  is paused unless the answer is good.
- The source gives its key up only after libvirt said that the guest left by migration, or brings
  it back from elsewhere.  The destination gives its key up only while the guest does not run
  there.
- A phase other than HOME says that something may be left here, until the agent says otherwise, or
  the guest begins anew here.

libvirt tells that a guest left after it told that the guest ended: first hook `stopped`, which has
no reason in any version, then `release`, which has one from 10.5.0 on, then the event.  So an end
without a reason says nothing of where the guest is, and nothing is forgotten because of it.

Source of what libvirt calls and when: libvirt 9.0.0 and 11.3.0, src/qemu/qemu_migration.c and
src/util/virhook.c.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import assert_never


class Phase(enum.Enum):
    """How far the guest's newest move has come on this host; the value is what is stored."""

    HOME = "home"
    """Nothing of a move is here."""
    PREPARING = "preparing"
    """The key was to be registered here; no answer says what became of it."""
    PREPARED = "prepared"
    COMMITTING = "committing"
    """A commit was asked for, and no answer was good."""
    COMMITTED = "committed"
    """The agent said that the guest may run here; it has not been seen to run yet."""
    ARRIVED = "arrived"
    """The guest runs here, and a late commit is due."""
    HELD = "held"
    """The guest was paused here: nothing proves that it may run."""
    WITHDRAWING = "withdrawing"
    """The guest does not come here; what was registered is to be taken away."""
    LEFT = "left"
    """The guest left by migration; the key is to be given up here."""
    RECLAIMING = "reclaiming"
    """A migration failed in the pause, and no answer says that the guest may go on here.  It is
    paused here, or ended since: then it may be on the other host."""


class MoveCall(enum.Enum):
    """A call of io.prtrace about the move's file."""

    LOOK = "look"
    """CheckFile: nothing is sent but PR IN."""
    PREPARE = "prepare"
    COMMIT = "commit"
    """Load."""
    LATE_COMMIT = "late commit"
    WITHDRAW = "withdraw"
    """Rollback, as the destination."""
    FINISH = "finish"
    RECLAIM = "reclaim"
    """Rollback, as the source; the guest is paused there."""


class Answer(enum.Enum):
    """What the agent said to a call."""

    GOOD = "good"
    """What the call is for was done, and where it tells whether the guest may run: it may."""
    REFUSED = "refused"
    """Nothing of ours is left of this call."""
    SPENT = "spent"
    """Fenced, gone, or superseded: the move is over."""
    LATER = "later"
    """The other side's part comes first."""
    DOUBT = "in doubt"
    SILENT = "silent"
    """No answer, or not in time: the call may have been carried out, or may yet be."""


class Caller(enum.Enum):
    """Who waits for a reply."""

    ANNOUNCED = "migrate begin"
    COMES = "started begin, of a migration"
    STARTS = "started begin, of an ordinary start or a restore"
    ACQUIRES = "acquire"


class Given(enum.Enum):
    """What the guest's metadata say."""

    FILE = "file"
    NO_NOTE = "no note"
    BLOCKED = "blocked"
    """The source's note says why the reservation cannot move."""


@dataclass(frozen=True, slots=True)
class MovePolicy:
    """What the operator chose.

    without_note: a guest with a LUN whose source wrote no note may come.  late: a reservation
    that one nexus holds may be taken over beside the running guest, whose own commands nobody
    holds back meanwhile.
    """

    without_note: bool = False
    late: bool = False


@dataclass(frozen=True, slots=True)
class Announced:
    """Hook `migrate begin`, on the destination."""

    given: Given


@dataclass(frozen=True, slots=True)
class Started:
    """Hook `started begin`: a QEMU of the guest is up, and no other one is on this host."""

    given: Given
    incoming: bool | None
    """Whether the QEMU waits for a migration; None where that cannot be read."""
    suspended: bool = False
    """Whether the guest is to stay paused after the migration."""
    postcopy: bool = False
    """Whether the guest may go on before its memory is here."""
    asks: bool = False
    """Whether the plugin will ask before the guest goes on."""
    holds: bool = False
    """Whether the note says that the guest alone holds a reservation."""


@dataclass(frozen=True, slots=True)
class Ended:
    """No QEMU of the guest is on this host.

    migrated: libvirt says that it left by migration; else nobody says where it is.
    """

    migrated: bool = False


@dataclass(frozen=True, slots=True)
class Runs:
    """libvirt says that the guest runs here."""


@dataclass(frozen=True, slots=True)
class Waits:
    """libvirt says that the guest is here and paused, and that no migration is under way."""


@dataclass(frozen=True, slots=True)
class Acquires:
    """The plugin asks whether the guest may go on; it is paused here.

    outgoing: a migration from here began since the guest last went on.
    """

    outgoing: bool = False


@dataclass(frozen=True, slots=True)
class AgentSaid:
    """The agent answered the call, or did not in time.  why: a sentence for people."""

    call: MoveCall
    answer: Answer
    why: str = ""


Input = Announced | Started | Ended | Runs | Waits | Acquires | AgentSaid


@dataclass(frozen=True, slots=True)
class Ask:
    """Make the call, about the move's file or the new one; AgentSaid comes back."""

    call: MoveCall
    new: bool = False


@dataclass(frozen=True, slots=True)
class Permission:
    """Let the caller go on, or refuse with a sentence."""

    allow: bool
    why: str = ""


class Act(enum.Enum):
    """What is asked of libvirt, and of the service itself."""

    PAUSE = "pause the guest"
    RESUME = "let the guest go on"
    NOTE = "write a new note"
    ADOPT = "the new file is the move's"
    """The file that came with the caller; before, it was the old move's that counted."""
    FORGET = "the file is of no use any more"
    RENEW = "the file becomes that of a move that begins now"
    """The agent takes the call for a late one: it has heard of a newer save, or of a rollback."""


Output = Ask | Permission | Act


@dataclass(frozen=True, slots=True)
class GuestRecord:
    """What this host remembers of a guest; stored before an output is carried out."""

    phase: Phase = Phase.HOME
    announced: bool = False
    """Whether `migrate begin` came."""
    suspended: bool = False
    """Whether the guest is to arrive paused."""
    resume: bool = False
    """Whether the guest was paused here, and goes on after a good answer."""
    caller: Caller | None = None
    """Who waits for a reply; a restart forgets it."""
    asked: MoveCall | None = None
    """The call that is under way; a restart forgets it."""

    @property
    def restarted(self) -> GuestRecord:
        """The same after a restart of the service."""
        return replace(self, caller=None, asked=None)

    @property
    def incoming(self) -> bool:
        """Whether the guest may only go on here after somebody said so."""
        return self.phase in _INCOMING


Stepped = tuple[GuestRecord, tuple[Output, ...]]

_INCOMING = frozenset(
    {
        Phase.PREPARING,
        Phase.PREPARED,
        Phase.COMMITTING,
        Phase.COMMITTED,
        Phase.ARRIVED,
        Phase.HELD,
        Phase.WITHDRAWING,
    }
)
_UNFINISHED = "an earlier move of this guest is unfinished on this host: prtrace moves"
_NO_NOTE = (
    "the guest has a LUN, and no note of prtrace came with it: is prtrace-libvirt running on the"
    " source?"
)
_LATE = (
    "the guest holds a reservation that cannot be taken over before it goes on: migrate with"
    " --suspend, use the lock plugin, or allow it with PRTRACE_LIBVIRT_LATE_COMMIT=warn in"
    " /etc/default/prtrace-libvirt"
)
_POSTCOPY = "post-copy lets the guest go on before its reservation can follow: leave it out"


def step(record: GuestRecord, given: Input, policy: MovePolicy) -> Stepped:
    """What the host remembers after an input, and what is to be done, in this order.

    While a call is under way (record.asked) only its AgentSaid may be given.
    """
    if record.asked is not None and not isinstance(given, AgentSaid):
        raise ValueError(f"{record.asked} is under way")
    match given:
        case Announced():
            return _announced(record, given, policy)
        case Started():
            return _started(record, given, policy)
        case Ended():
            return _ended(record, given)
        case Runs():
            return _runs(record)
        case Waits():
            return _waits(record)
        case Acquires():
            return _acquires(record, given)
        case AgentSaid():
            return _told(replace(record, asked=None), given)
        case _:
            assert_never(given)


def _ask(record: GuestRecord, call: MoveCall, *before: Output, new: bool = False) -> Stepped:
    return replace(record, asked=call), (*before, Ask(call, new))


def _home(record: GuestRecord, *outputs: Output) -> Stepped:
    """Nothing of a move is here any more."""
    if record.resume:
        outputs = (*outputs, Act.RESUME)
    return GuestRecord(caller=record.caller), (Act.FORGET, *outputs)


def _reply(
    record: GuestRecord, allow: bool, why: str = ""
) -> tuple[GuestRecord, tuple[Output, ...]]:
    if record.caller is None:
        return record, ()
    return replace(record, caller=None), (Permission(allow, why),)


def _refusal(given: Given, policy: MovePolicy) -> Permission | None:
    """The answer where no file came; None where one did."""
    match given:
        case Given.FILE:
            return None
        case Given.NO_NOTE:
            return Permission(True) if policy.without_note else Permission(False, _NO_NOTE)
        case Given.BLOCKED:
            return Permission(False)
        case _:
            assert_never(given)


def _announced(record: GuestRecord, given: Announced, policy: MovePolicy) -> Stepped:
    refused = _refusal(given.given, policy)
    if refused is not None:
        return record, (refused,)
    # Nothing is registered yet: libvirt need not call any hook after this one.
    return _ask(replace(record, caller=Caller.ANNOUNCED), MoveCall.LOOK, new=True)


def _started(record: GuestRecord, given: Started, policy: MovePolicy) -> Stepped:
    incoming = record.announced if given.incoming is None else given.incoming
    record = replace(record, announced=False)
    if not incoming:
        return _started_here(record)
    refused = _refusal(given.given, policy)
    if refused is not None:
        return record, (refused,)
    if given.postcopy and not given.asks:
        return record, (Permission(False, _POSTCOPY),)
    if given.holds and not (given.asks or given.suspended or policy.late):
        return record, (Permission(False, _LATE),)
    waiting = replace(record, caller=Caller.COMES, suspended=given.suspended)
    match record.phase:
        case Phase.HOME:
            return _prepare(waiting)
        case (
            Phase.PREPARING
            | Phase.PREPARED
            | Phase.COMMITTING
            | Phase.COMMITTED
            | Phase.ARRIVED
            | Phase.HELD
            | Phase.WITHDRAWING
        ):
            # The QEMU that this was prepared for is gone, or libvirt had not started another.
            return _ask(replace(waiting, phase=Phase.WITHDRAWING), MoveCall.WITHDRAW)
        case Phase.LEFT:
            return _ask(waiting, MoveCall.FINISH)
        case Phase.RECLAIMING:
            # It is paused or runs elsewhere: the migration had not failed there.
            return _ask(replace(waiting, phase=Phase.LEFT), MoveCall.FINISH)
        case _:
            assert_never(record.phase)


def _started_here(record: GuestRecord) -> Stepped:
    """An ordinary start, or a restore."""
    match record.phase:
        case Phase.HOME | Phase.ARRIVED | Phase.RECLAIMING:
            return record, (Permission(True),)
        case Phase.COMMITTED | Phase.HELD:
            # Committed: it may run here.  Held: its QEMU ended, and the guest begins anew.
            return GuestRecord(), (Act.FORGET, Permission(True))
        case Phase.PREPARING | Phase.PREPARED | Phase.COMMITTING | Phase.WITHDRAWING:
            waiting = replace(record, phase=Phase.WITHDRAWING, caller=Caller.STARTS)
            return _ask(waiting, MoveCall.WITHDRAW)
        case Phase.LEFT:
            return _ask(replace(record, caller=Caller.STARTS), MoveCall.FINISH)
        case _:
            assert_never(record.phase)


def _prepare(record: GuestRecord) -> Stepped:
    preparing = GuestRecord(Phase.PREPARING, suspended=record.suspended, caller=record.caller)
    return _ask(preparing, MoveCall.PREPARE, Act.ADOPT)


def _ended(record: GuestRecord, given: Ended) -> Stepped:
    record = replace(record, resume=False)
    match record.phase:
        case Phase.HOME | Phase.RECLAIMING if given.migrated:
            return _ask(replace(record, phase=Phase.LEFT), MoveCall.FINISH)
        case Phase.LEFT:
            return _ask(record, MoveCall.FINISH)
        case Phase.HOME | Phase.RECLAIMING:
            return record, ()
        case Phase.ARRIVED | Phase.HELD if not given.migrated:
            # The guest ran here: its key stays.  The reservation follows it when it runs again.
            return record, ()
        case (
            Phase.PREPARING
            | Phase.PREPARED
            | Phase.COMMITTING
            | Phase.COMMITTED
            | Phase.ARRIVED
            | Phase.HELD
            | Phase.WITHDRAWING
        ):
            return _ask(replace(record, phase=Phase.WITHDRAWING), MoveCall.WITHDRAW)
        case _:
            assert_never(record.phase)


def _runs(record: GuestRecord) -> Stepped:
    match record.phase:
        case Phase.HOME:
            return record, (Act.NOTE,)
        case Phase.COMMITTED | Phase.LEFT:
            # Left: somebody started it here again, which the hook let happen.
            return GuestRecord(), (Act.FORGET, Act.NOTE)
        case Phase.RECLAIMING:
            return GuestRecord(), (Act.NOTE,)
        case Phase.PREPARED | Phase.COMMITTING if record.suspended:
            # Resumed before the commit ended: what is not seen as running can be committed.
            held = replace(record, phase=Phase.COMMITTING, resume=True)
            return _ask(held, MoveCall.COMMIT, Act.PAUSE)
        case (
            Phase.PREPARING
            | Phase.PREPARED
            | Phase.COMMITTING
            | Phase.WITHDRAWING
            | Phase.ARRIVED
            | Phase.HELD
        ):
            return _ask(replace(record, phase=Phase.ARRIVED), MoveCall.LATE_COMMIT)
        case _:
            assert_never(record.phase)


def _waits(record: GuestRecord) -> Stepped:
    if record.phase is Phase.PREPARED and record.suspended:
        return _ask(replace(record, phase=Phase.COMMITTING), MoveCall.COMMIT)
    if record.phase is Phase.ARRIVED:
        return _ask(record, MoveCall.LATE_COMMIT)
    # A commit that nobody waits for any more could meet a source that goes on.
    return record, ()


def _acquires(record: GuestRecord, given: Acquires) -> Stepped:
    waiting = replace(record, caller=Caller.ACQUIRES)
    match record.phase:
        case Phase.HOME if given.outgoing:
            return _ask(replace(waiting, phase=Phase.RECLAIMING), MoveCall.RECLAIM)
        case Phase.HOME:
            return record, (Permission(True),)
        case Phase.RECLAIMING:
            return _ask(waiting, MoveCall.RECLAIM)
        case Phase.PREPARED | Phase.COMMITTING | Phase.COMMITTED:
            # Committed before: a fence may have come since.
            return _ask(replace(waiting, phase=Phase.COMMITTING), MoveCall.COMMIT)
        case Phase.ARRIVED | Phase.HELD:
            return _ask(waiting, MoveCall.LATE_COMMIT)
        case Phase.PREPARING | Phase.WITHDRAWING | Phase.LEFT:
            return record, (Permission(False, _UNFINISHED),)
        case _:
            assert_never(record.phase)


def _told(record: GuestRecord, told: AgentSaid) -> Stepped:
    good = told.answer is Answer.GOOD
    match told.call:
        case MoveCall.LOOK:
            record, replies = _reply(record, good, told.why)
            return replace(record, announced=record.announced or good), replies
        case MoveCall.PREPARE:
            return _told_prepare(record, told)
        case MoveCall.COMMIT:
            return _told_commit(record, told)
        case MoveCall.LATE_COMMIT:
            return _told_late(record, told)
        case MoveCall.WITHDRAW | MoveCall.FINISH:
            return _told_end(record, told)
        case MoveCall.RECLAIM:
            record, replies = _reply(record, good, told.why)
            if not good:
                return record, replies
            # The file is kept: the guest takes it along where it leaves before its next note.
            return GuestRecord(), (*replies, Act.NOTE)
        case _:
            assert_never(told.call)


def _told_prepare(record: GuestRecord, told: AgentSaid) -> Stepped:
    good = told.answer is Answer.GOOD
    record, replies = _reply(record, good, told.why)
    if good:
        return replace(record, phase=Phase.PREPARED), replies
    # Whatever the answer was: a registration that nobody waits for is taken away.
    return _ask(replace(record, phase=Phase.WITHDRAWING), MoveCall.WITHDRAW, *replies)


def _told_commit(record: GuestRecord, told: AgentSaid) -> Stepped:
    good = told.answer is Answer.GOOD
    record, replies = _reply(record, good, told.why)
    if not good:
        return record, replies
    if record.resume:
        return _home(record, *replies, Act.NOTE)
    return replace(record, phase=Phase.COMMITTED), replies


def _told_late(record: GuestRecord, told: AgentSaid) -> Stepped:
    good = told.answer is Answer.GOOD
    record, replies = _reply(record, good, told.why)
    match told.answer:
        case Answer.GOOD:
            return _home(record, *replies, Act.NOTE)
        case Answer.SILENT | Answer.LATER | Answer.REFUSED:
            # The device protects its data as before; it is asked again.
            return record, replies
        case Answer.DOUBT | Answer.SPENT:
            return replace(record, phase=Phase.HELD), (*replies, Act.PAUSE)
        case _:
            assert_never(told.answer)


def _told_end(record: GuestRecord, told: AgentSaid) -> Stepped:
    """The move ends here, or has not yet; whoever wants to start the guest waits for it."""
    over = told.answer in (Answer.GOOD, Answer.SPENT)
    superseded = told.call is MoveCall.FINISH and told.answer is Answer.SPENT
    if superseded and record.caller is not Caller.STARTS:
        # Neither a newer save nor a rollback gives the key up, and the guest is not here.
        record, replies = _reply(record, False, told.why or _UNFINISHED)
        return record, (Act.RENEW, *replies)
    if over and record.caller is Caller.COMES:
        return _prepare(record)
    record, replies = _reply(record, over, told.why or _UNFINISHED)
    return _home(record, *replies) if over else (record, replies)
