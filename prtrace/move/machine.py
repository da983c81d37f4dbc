"""The handover of one logical unit, as a state machine (pure).

A verb begins with a look.  What the look shows, together with the journal's lines, is a row of
prtrace.move.table; the row's cell is the next command or the end; after every command, whatever
its answer, comes another look.  Nothing but the lines has to survive a kill -9.

    position = start(plan, lines)
    while not isinstance(position.request, End):
        if isinstance(position.request, Look):
            position = looked(plan, position, reading of the device)
        else:
            put position.lines on disk, send the command
            position = answered(plan, position, its outcome)

The lines are on disk before a command goes out and before an end is told.

Rules that the table relies on:
- a look is atomic: its registrations, reservation and PRGENERATION are of one moment;
- a command that was sent is over before the next look, and nobody else on this host works on
  the logical unit meanwhile (one lock for each logical unit and host);
- an older move, and an earlier verb of the same move, end as "superseded" (admit).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final, assert_never

from prtrace.model import Action, Nexus, Outcome, ReservationType
from prtrace.move.lines import Lines, Worth
from prtrace.move.reading import Reading
from prtrace.move.sight import Held, Sight, Viewpoint, blind_sight, sight_of
from prtrace.move.table import TABLE, Cell, Do, Row, Verb
from prtrace.move.word import Word

MOST_COMMANDS: Final = 64
"""Of one run of a verb; a device that never shows what was done ends it in doubt."""
TRIES: Final = 2
"""Of a command over one nexus, before the nexus is left out."""
LOOKS: Final = 8
"""Of a blind target, until PRGENERATION stands still between a look and the touches."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One verb for one logical unit.

    paths: this side's nexuses that take commands, in the order of preference; on the source
    those that had the key when the file was saved.  type, held: as in the file, for prepare.
    generation: the file's PRGENERATION where commit may register without prepare, else None.
    hands_over: the target is known to let a registrant with the holder's own key take the
    reservation by PREEMPT and keep its registration.  reserve: the type that the source has
    released for this commit.  runs, off: for RECLAIM; the guest runs on the source; the
    destination's host is off, or its guest was seen dead, which is proof from outside.
    settles: only what is in question is verified or taken away; nothing else is sent or told.
    unasked: on the source, nexuses that had the key and take no commands now, or are gone; looks
    name them as the source's all the same.  left_here: this is the destination, and a nexus of
    it may be one of the view's leftovers.
    """

    verb: Verb
    view: Viewpoint
    paths: tuple[Nexus, ...]
    type: ReservationType | None = None
    held: bool = False
    generation: int | None = None
    hands_over: bool = True
    reserve: ReservationType | None = None
    runs: bool = False
    off: bool = False
    settles: bool = False
    unasked: tuple[Nexus, ...] = ()
    left_here: bool = False

    @property
    def key(self) -> int:
        """The guest's reservation key."""
        return self.view.key


Tries = tuple[tuple[tuple[Nexus, str], int], ...]
"""How often a nexus failed, by the nexus and what failed.

"": nobody answered for the path, whatever the command was.  Else the command that met RESERVATION
CONFLICT: the path works, and what it refused says nothing of another command.
"""


class Look:
    """Read the device, atomically, over any path."""

    __slots__ = ()


LOOK: Final = Look()


@dataclass(frozen=True, slots=True)
class Send:
    """One PR OUT over nexus.  aptpl: as PTPL_A of the last look says, for a REGISTER."""

    do: Do
    nexus: Nexus
    action: Action
    key: int
    sa_key: int
    type: ReservationType | None = None


@dataclass(frozen=True, slots=True)
class End:
    """remains: nexuses of this side that could not be served, whatever the word."""

    word: Word
    remains: tuple[Nexus, ...] = ()
    row: Row | None = None


@dataclass(frozen=True, slots=True)
class Position:
    """lines: of the journal.  The rest lives as long as the run.

    touched: a touch was answered GOOD.  leaving: registrations are being taken away, towards
    that word.  tries: see Tries.  expected: PRGENERATION as the first look and
    the own commands since make it, for a blind target; None when that is not known.
    answers, counted: what touches found on a blind target, and the PRGENERATION they make.
    """

    lines: Lines
    request: Look | Send | End = LOOK
    touched: bool = False
    leaving: Word | None = None
    tries: Tries = ()
    sent: int = 0
    expected: int | None = None
    first: bool = True
    answers: tuple[tuple[Nexus, bool], ...] = ()
    counted: int | None = None
    restarts: int = 0


_SETTLING: Final = frozenset({Do.UNREGISTER, Do.UNREGISTER_QUESTION})


def start(lines: Lines) -> Position:
    """Begin, or go on after a kill -9, with the lines that the journal has."""
    return Position(lines)


_RANK: Final = {
    Verb.PREPARE: 0,
    Verb.COMMIT: 1,
    Verb.LATE_COMMIT: 1,
    Verb.WITHDRAW: 2,
    Verb.EVICT: 3,
    Verb.RELEASE: 0,
    Verb.FINISH: 1,
    Verb.RECLAIM: 1,
}


_NOT_YET: Final = frozenset({Word.WAIT, Word.UNTAKEN, Word.ONLY_HERE, Word.GUEST_RUNS})
"""Ends of finish and of the abort on the source behind which the other may still begin."""


@dataclass(frozen=True, slots=True)
class Newest:
    """The journal's line "newest move here" of a logical unit.

    order: orders moves, see prtrace.move.savefile.  verb: the latest of that move on the side that
    asks, None where there was none.  end: how the verb ended, None while it runs or when it was
    killed.
    """

    order: int
    move: str
    verb: Verb | None
    end: Word | None = None


def admit(newest: Newest | None, order: int, move: str, verb: Verb) -> Word | None:
    """The word with which verb ends at once, None where it may begin.

    A verb that was delayed on its way must not undo what came after it.
    """
    if newest is None or newest.order < order:
        return None
    if newest.move != move:
        return Word.SUPERSEDED
    if newest.verb is None or newest.verb is verb:
        return None
    if newest.verb in (Verb.FINISH, Verb.RECLAIM) and verb in (Verb.FINISH, Verb.RECLAIM):
        # Both end the move on the source.  Where the one came to no end that lets the guest
        # run or that gave the key up, the other may still be what is needed.
        return None if newest.end in _NOT_YET else _after(newest)
    return Word.SUPERSEDED if _RANK[verb] < _RANK[newest.verb] else None


def _after(newest: Newest) -> Word | None:
    """Finish after an abort that ended in doubt may begin; nothing else may."""
    doubt = newest.verb is Verb.RECLAIM and newest.end is Word.IN_DOUBT
    return None if doubt else Word.SUPERSEDED


def answered(plan: Plan, position: Position, outcome: Outcome) -> Position:
    """After a command: look again, whatever the answer was."""
    sent = position.request
    if not isinstance(sent, Send):
        raise TypeError("nothing was sent")
    done = outcome is Outcome.DONE
    refused = sent.do.value if outcome is Outcome.CONFLICT else ""
    tries = position.tries if done else _tried(position, sent.nexus, refused)
    if outcome is Outcome.CONFLICT and sent.do is Do.TOUCH:
        tries = position.tries
    registers = sent.action is Action.REGISTER and sent.sa_key != 0
    expected, counted = position.expected, position.counted
    if done and registers and expected is not None:
        expected += 1
    if outcome is Outcome.UNKNOWN and registers:
        expected = None
    position = replace(position, tries=tries, expected=expected, request=LOOK)
    if sent.do is not Do.TOUCH:
        return replace(position, answers=(), counted=None)
    position = replace(position, touched=position.touched or done)
    if counted is None:
        return position
    if outcome is Outcome.UNKNOWN:
        return replace(position, answers=(), counted=None)
    position = replace(
        position,
        answers=(*position.answers, (sent.nexus, done)),
        counted=counted + 1 if done else counted,
    )
    return _ask_next(plan, position)


def looked(plan: Plan, position: Position, reading: Reading) -> Position:
    """After a look: the next command, or the end."""
    if not reading.blind:
        return _decide(plan, position, sight_of(plan.view, reading))
    ask = _to_ask(plan, position.lines)
    mute = tuple(nexus for nexus in ask if nexus in plan.unasked)
    if mute:
        # Nothing else tells whether it has the key.
        return _ended(position, Word.IN_DOUBT, remains=mute)
    if ask and position.counted != reading.generation:
        if position.restarts >= LOOKS:
            return _ended(position, Word.IN_DOUBT)
        position = replace(
            position, answers=(), counted=reading.generation, restarts=position.restarts + 1
        )
        return _ask_next(plan, position)
    lines = position.lines
    if plan.verb.on_source:
        before = not lines.nexuses and lines.released is None
    else:
        before = plan.verb is Verb.WITHDRAW and lines.preempted
    sight = blind_sight(
        plan.view,
        reading,
        dict(position.answers),
        held_before=before,
    )
    return _proven(plan, _decide(plan, replace(position, answers=(), counted=None), sight), sight)


def _proven(plan: Plan, position: Position, sight: Sight) -> Position:
    """On a blind target a nexus that nobody could touch may have a key that is still there."""
    end = position.request
    hidden = plan.verb is Verb.FINISH and sight.there and plan.unasked
    if hidden and isinstance(end, End) and end.word is Word.DONE:
        return _ended(position, Word.IN_DOUBT, end.row, (*end.remains, *plan.unasked))
    return position


def _to_ask(plan: Plan, lines: Lines) -> tuple[Nexus, ...]:
    """The nexuses of this side that may have the key: only a touch can tell, on a blind target."""
    return plan.paths if plan.verb.on_source else lines.listed


def _ask_next(plan: Plan, position: Position) -> Position:
    """The next touch; a look where each nexus has answered."""
    asked = {nexus for nexus, _ in position.answers}
    for nexus in _to_ask(plan, position.lines):
        if nexus not in asked:
            return _send(plan, position, Do.TOUCH, nexus, None)
    return position


def _decide(plan: Plan, position: Position, sight: Sight) -> Position:
    if sight.repeated:
        # Not even the journal's lines: which of them are still registered is not known.
        row = find_row(plan, position, sight)
        cell = TABLE[row][plan.verb]
        return _ended(position, cell.word or Word.IN_DOUBT, row)
    mine = sight.with_key(plan.key)
    lines = position.lines.only(mine)
    killed = position.first and plan.verb is Verb.RECLAIM and bool(lines.in_question)
    if killed or lines.absent:
        # Since the verb was killed the host's multipathd may have registered the key again,
        # because it was on the nexus that is in question.
        lines = replace(lines, absent=True)
        for nexus in mine:
            if killed or lines.standing(nexus) is None:
                lines = lines.with_line(nexus, Worth.IN_QUESTION)
    position = replace(position, lines=lines)
    if position.first:
        known = sight.blind and not position.lines.nexuses
        position = replace(position, first=False, expected=sight.generation if known else None)
    if position.leaving is not None:
        return _leave(plan, position, sight, position.leaving)
    while True:
        row = find_row(plan, position, sight)
        cell = TABLE[row][plan.verb]
        if cell.do is not Do.VERIFY:
            return _carry_out(plan, position, sight, row, cell)
        position = replace(position, lines=_verified(position.lines))


def _verified(lines: Lines) -> Lines:
    for nexus in lines.in_question:
        lines = lines.with_line(nexus, Worth.VERIFIED)
    return lines


def _carry_out(plan: Plan, position: Position, sight: Sight, row: Row, cell: Cell) -> Position:
    lines = position.lines
    mine = sight.with_key(plan.key)
    if plan.settles and cell.do not in _SETTLING:
        return _ended(position, Word.IN_DOUBT, row)
    match cell.do:
        case Do.END | Do.VERIFY:
            word = cell.word or Word.IN_DOUBT
            told = word.may_run or (plan.verb is Verb.LATE_COMMIT and word is Word.DONE)
            if told and mine and all(nexus in plan.unasked for nexus in mine):
                # The key is where nobody can write from here.
                return _ended(position, Word.IN_DOUBT, row, (*mine, *plan.paths))
            if told:
                position = replace(position, lines=replace(lines, told=True))
            return _ended(position, word, row, _unserved(plan, sight, word))
        case Do.REGISTER | Do.REGISTER_ONE:
            nexus = _best(plan, position, _lacking(plan, position, sight), cell.do)
            if nexus is None:
                return _ended(position, Word.IN_DOUBT, row, plan.paths)
            lines = lines.with_line(nexus, Worth.IN_QUESTION)
            lines = replace(lines, absent=lines.absent or cell.do is Do.REGISTER_ONE)
            counted = lines.counted or row in (Row.FRESH_COUNTED, Row.PARTLY_COUNTED)
            position = replace(position, lines=replace(lines, counted=counted))
            return _send(plan, position, cell.do, nexus, None)
        case Do.UNREGISTER | Do.UNREGISTER_QUESTION:
            position = replace(position, leaving=cell.word)
            return _leave(plan, position, sight, cell.word or Word.IN_DOUBT, row)
        case Do.TOUCH | Do.PREEMPT | Do.RELEASE | Do.RESERVE:
            nexus = _best(plan, position, mine, cell.do)
            if nexus is None:
                return _ended(position, Word.IN_DOUBT, row, mine)
            kind = sight.type
            if cell.do is Do.PREEMPT:
                lines = replace(lines, preempted=True)
            elif cell.do is Do.RESERVE:
                kind = lines.released or plan.reserve
            elif plan.verb is Verb.RELEASE:
                lines = replace(lines, released=sight.type)
            return _send(plan, replace(position, lines=lines), cell.do, nexus, kind)
    assert_never(cell.do)


def _leave(
    plan: Plan, position: Position, sight: Sight, word: Word, row: Row | None = None
) -> Position:
    """Take this side's registrations away, never the holder's, then end with word."""
    lines = position.lines
    mine = sight.with_key(plan.key)
    if plan.verb is Verb.RECLAIM:
        mine = tuple(nexus for nexus in mine if nexus in lines.in_question)
    elif not plan.verb.on_source:
        mine = tuple(nexus for nexus in mine if nexus in lines.listed)
    if not mine:
        return _ended(replace(position, leaving=None), word, row)
    if sight.held is Held.HERE:
        return _ended(replace(position, leaving=None), Word.IN_DOUBT, row, mine)
    nexus = _best(plan, position, mine, Do.UNREGISTER)
    if nexus is None:
        # Whoever brings one of these nexuses back can write with the key.
        return _ended(replace(position, leaving=None), Word.IN_DOUBT, row, mine)
    return _send(plan, position, Do.UNREGISTER, nexus, None)


def _send(
    plan: Plan, position: Position, do: Do, nexus: Nexus, kind: ReservationType | None
) -> Position:
    if position.sent >= MOST_COMMANDS:
        return _ended(position, Word.IN_DOUBT, remains=(nexus,))
    key, none = plan.key, 0
    shapes = {
        Do.REGISTER: (Action.REGISTER, none, key),
        Do.REGISTER_ONE: (Action.REGISTER, none, key),
        Do.UNREGISTER: (Action.REGISTER, key, none),
        Do.TOUCH: (Action.REGISTER, key, key),
        Do.PREEMPT: (Action.PREEMPT, key, key),
        Do.RELEASE: (Action.RELEASE, key, none),
        Do.RESERVE: (Action.RESERVE, key, none),
    }
    action, has, wants = shapes[do]
    command = Send(do, nexus, action, has, wants, kind)
    return replace(position, request=command, sent=position.sent + 1)


def _ended(
    position: Position,
    word: Word,
    row: Row | None = None,
    remains: tuple[Nexus, ...] = (),
) -> Position:
    return replace(position, request=End(word, remains, row))


_SERVING: Final = {
    Verb.PREPARE: (Word.PREPARED,),
    Verb.COMMIT: (Word.COMMITTED,),
    Verb.LATE_COMMIT: (Word.DONE,),
    Verb.RECLAIM: (Word.RESTORED, Word.RESTORED_BESIDE),
}
"""The ends with which each nexus of this side should have the key."""


def _unserved(plan: Plan, sight: Sight, word: Word) -> tuple[Nexus, ...]:
    """The nexuses that should have the key after a good end, and have not."""
    if word not in _SERVING.get(plan.verb, ()):
        return ()
    return tuple(
        nexus for nexus in (*plan.paths, *plan.unasked) if nexus not in sight.with_key(plan.key)
    )


def _tried(position: Position, nexus: Nexus, refused: str) -> Tries:
    tries = dict(position.tries)
    tries[nexus, refused] = min(tries.get((nexus, refused), 0) + 1, TRIES)
    return tuple(sorted(tries.items()))


def _failures(position: Position, nexus: Nexus, do: Do) -> int:
    """How often nexus failed, as far as it matters for a command; TRIES is too often."""
    tries = dict(position.tries)
    return max(tries.get((nexus, ""), 0), tries.get((nexus, do.value), 0))


def _best(plan: Plan, position: Position, nexuses: Iterable[Nexus], do: Do) -> Nexus | None:
    """The nexus with the fewest failures; None where each failed too often, or is not asked."""
    failures = {
        nexus: _failures(position, nexus, do) for nexus in nexuses if nexus not in plan.unasked
    }
    fit = (nexus for nexus, count in failures.items() if count < TRIES)
    return min(fit, key=failures.__getitem__, default=None)


def _lacking(plan: Plan, position: Position, sight: Sight) -> tuple[Nexus, ...]:
    return tuple(
        nexus
        for nexus in plan.paths
        if sight.free(nexus) and _failures(position, nexus, Do.REGISTER) < TRIES
    )


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the rows' conditions are made of."""

    plan: Plan
    position: Position
    sight: Sight

    @property
    def here(self) -> tuple[Nexus, ...]:
        """Nexuses of this side that have the key and, on the destination, a line."""
        mine = self.sight.with_key(self.plan.key)
        if self.plan.verb.on_source:
            return mine
        return tuple(nexus for nexus in mine if nexus in self.position.lines.listed)

    @property
    def question(self) -> bool:
        return any(nexus in self.position.lines.in_question for nexus in self.here)

    @property
    def verified(self) -> bool:
        return any(nexus not in self.position.lines.in_question for nexus in self.here)

    @property
    def foreign(self) -> bool:
        return bool(self.sight.with_key(self.plan.key)) and not self.here

    @property
    def other_key(self) -> bool:
        return any(key != self.plan.key for _, key in self.sight.mine)

    @property
    def lacking(self) -> bool:
        return bool(_lacking(self.plan, self.position, self.sight))

    @property
    def both(self) -> bool:
        return self.verified and self.sight.there

    @property
    def overtaken(self) -> bool:
        """The other side holds: it took the reservation, whatever was told here before."""
        return self.sight.held is Held.THERE and not self.sight.blind

    @property
    def gone_on(self) -> bool:
        """The destination has the key, and the source does not hold.

        The guest may have been told there that it runs: a prepare and a commit that come after
        the abort, with the same file, find the source's registration as it was.  Where the source
        holds, no commit has come.
        """
        return self.sight.there and not self.sight.blind and self.sight.held is not Held.HERE

    @property
    def count_wrong(self) -> bool:
        """For a load without prepare: somebody else's command was counted as well."""
        counting = self.position.lines.counted and not self.position.lines.preempted
        return (
            counting
            and self.question
            and self.sight.held is not Held.HERE
            and self.plan.generation is not None
            and self.sight.generation != self.plan.generation + len(self.here)
        )

    @property
    def stale(self) -> bool:
        holder = Held.THERE if self.plan.held else Held.ELSE
        if self.sight.held is Held.HERE:
            return False
        if self.sight.type is None:
            return self.plan.type is not None
        return self.sight.type is not self.plan.type or (
            not self.sight.type.all_registrants and self.sight.held is not holder
        )


_Condition = Callable[[_Seen], bool]

# The first row that fits counts: a condition says only what the rows before it leave open.
_DESTINATION: Final[tuple[tuple[Row, _Condition], ...]] = (
    (Row.REPEATED, lambda s: s.sight.repeated),
    (Row.UNTOLD, lambda s: s.sight.blind or not s.position.lines.told),
    (Row.FOREIGN, lambda s: s.foreign),
    (Row.OTHER_KEY, lambda s: s.other_key),
    (Row.LEFT_HERE, lambda s: s.plan.left_here),
    (Row.TOLD, lambda s: s.verified and s.position.lines.told and not s.overtaken),
    (Row.THIRD, lambda s: s.sight.third),
    (Row.MIXED, lambda s: s.sight.mixed),
    (Row.UNCLEAR, lambda s: s.sight.unclear),
    (Row.LOST, lambda s: s.sight.there and not s.here and s.position.lines.prepared),
    (
        Row.NO_PROOF,
        lambda s: s.sight.there and s.question and not s.verified and s.position.lines.preempted,
    ),
    (Row.STALE, lambda s: s.sight.there and s.stale),
    (Row.COUNT_WRONG, lambda s: s.count_wrong),
    (
        Row.MOVED_ON,
        lambda s: s.sight.blind and s.question and s.sight.generation != s.position.expected,
    ),
    (
        Row.FRESH_COUNTED,
        # A blind target's touches are counted, too: there load needs a prepare.
        lambda s: (
            s.sight.there
            and not s.here
            and not s.sight.blind
            and s.plan.generation == s.sight.generation
        ),
    ),
    (Row.FRESH, lambda s: s.sight.there and not s.here),
    (
        Row.D_HOLDS_QUESTION,
        lambda s: s.sight.held is Held.HERE and s.verified and s.question,
    ),
    (
        Row.D_HOLDS_BOTH_DEAF,
        lambda s: s.both and s.sight.held is Held.HERE and not s.plan.hands_over,
    ),
    (Row.D_HOLDS_BOTH, lambda s: s.both and s.sight.held is Held.HERE),
    (
        Row.D_HOLDS_PARTLY,
        lambda s: s.sight.held is Held.HERE and s.verified and s.lacking,
    ),
    (
        Row.D_HOLDS_DEAF,
        lambda s: (
            s.sight.held is Held.HERE and s.verified and s.sight.there and not s.plan.hands_over
        ),
    ),
    (Row.D_HOLDS, lambda s: s.sight.held is Held.HERE and s.verified),
    (Row.QUESTION, lambda s: s.sight.there and s.question),
    (
        Row.PARTLY_COUNTED,
        lambda s: s.both and s.lacking and s.position.lines.counted,
    ),
    (
        Row.PARTLY_S_HOLDS,
        lambda s: s.both and s.lacking and s.sight.held is Held.THERE,
    ),
    (Row.PARTLY, lambda s: s.both and s.lacking and s.sight.held is not Held.THERE),
    (
        Row.S_HOLDS_DEAF,
        lambda s: s.both and s.sight.held is Held.THERE and not s.plan.hands_over,
    ),
    (Row.S_HOLDS, lambda s: s.both and s.sight.held is Held.THERE),
    (
        Row.RESERVED_BETWEEN,
        lambda s: s.both and s.plan.reserve is not None and s.sight.held is Held.ELSE,
    ),
    (Row.FREE, lambda s: s.both and s.plan.reserve is not None),
    (
        Row.UNRELEASED,
        # released by prtrace release, whose rollback may reserve again, or by the guest
        lambda s: (
            s.both and s.plan.held and s.plan.type is not None and not s.plan.type.all_registrants
        ),
    ),
    (Row.BOTH, lambda s: s.both),
    (Row.D_ALONE, lambda s: s.verified and not s.sight.rekeyed),
    (Row.QUESTION_ALONE, lambda s: s.question and not s.sight.there and not s.sight.rekeyed),
    (Row.REKEYED, lambda s: bool(s.here)),
    (Row.REKEYED_ALONE, lambda s: s.sight.rekeyed),
    (Row.NOWHERE, lambda s: not s.here),
    (Row.NOTHING_LEFT, lambda s: not s.sight.there),
    (Row.LEFT_THERE, lambda s: s.sight.there),
)

_SOURCE: Final[tuple[tuple[Row, _Condition], ...]] = (
    (Row.RUNS, lambda s: s.plan.runs),
    (Row.S_REPEATED, lambda s: s.sight.repeated),
    (Row.S_TOLD, lambda s: s.verified and s.position.lines.told and not s.gone_on),
    (Row.S_OTHER_KEY, lambda s: s.other_key and not s.here),
    (Row.S_QUESTION_HOLDS, lambda s: s.question and s.sight.held is Held.HERE),
    (Row.S_QUESTION_ALONE, lambda s: s.question and not s.sight.there),
    (
        Row.S_RELEASED_BESIDE,
        lambda s: (
            bool(s.here)
            and s.position.lines.released is not None
            and s.sight.held is Held.NOBODY
            and s.sight.there
            and not s.plan.off
        ),
    ),
    (
        Row.S_RELEASED,
        lambda s: (
            bool(s.here) and s.position.lines.released is not None and s.sight.held is Held.NOBODY
        ),
    ),
    (
        Row.S_RESERVED_BETWEEN,
        lambda s: (
            bool(s.here) and s.position.lines.released is not None and s.sight.held is Held.ELSE
        ),
    ),
    (
        Row.S_UNTOUCHED,
        lambda s: bool(s.here) and not s.sight.there and not s.position.touched,
    ),
    (
        Row.S_PARTLY,
        lambda s: not s.sight.there and s.sight.held is Held.HERE and s.lacking,
    ),
    (Row.S_ALONE_HOLDS, lambda s: not s.sight.there and s.sight.held is Held.HERE),
    (Row.S_ALONE, lambda s: bool(s.here) and not s.sight.there),
    (
        Row.S_DEAF_UNCLEAR,
        lambda s: (
            s.verified and s.sight.unclear and s.sight.held is Held.HERE and not s.plan.hands_over
        ),
    ),
    (
        Row.S_DEAF,
        lambda s: s.verified and s.sight.held is Held.HERE and not s.plan.hands_over,
    ),
    (
        Row.S_DEAF_OFF,
        lambda s: s.sight.held is Held.HERE and not s.plan.hands_over and s.plan.off,
    ),
    (Row.S_DEAF_BESIDE, lambda s: s.sight.held is Held.HERE and not s.plan.hands_over),
    (Row.S_HOLDS_BESIDE, lambda s: s.sight.held is Held.HERE),
    (Row.D_HOLDS_BESIDE_QUESTION, lambda s: s.question and s.sight.held is Held.THERE),
    (
        Row.D_HOLDS_BESIDE,
        lambda s: bool(s.here) and s.sight.held is Held.THERE and s.plan.hands_over,
    ),
    (Row.QUESTION_BESIDE, lambda s: s.question),
    (
        Row.OFF,
        lambda s: bool(s.here) and s.sight.held in (Held.ELSE, Held.NOBODY) and s.plan.off,
    ),
    (Row.BESIDE, lambda s: bool(s.here)),
    (Row.S_GONE_D_HOLDS, lambda s: s.sight.held is Held.THERE),
    (Row.S_GONE, lambda s: s.sight.there),
    (Row.S_NOWHERE, lambda s: not s.here),
)


def find_row(plan: Plan, position: Position, sight: Sight) -> Row:
    """The first row that fits and speaks of the verb."""
    seen = _Seen(plan, position, sight)
    for row, fits in _SOURCE if plan.verb.on_source else _DESTINATION:
        if plan.verb in TABLE[row] and fits(seen):
            return row
    raise LookupError(f"no row for {plan.verb.value} fits {sight}")
