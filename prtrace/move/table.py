"""The table of the handover: what each verb does at each look (pure).

A row is a picture that a look shows, a cell is one command or one end.  After each command
comes another look, so a verb that was interrupted goes on from what the device shows.
docs/migration.md has the same table for readers; a test compares both.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from prtrace.move.word import Word


class Verb(enum.Enum):
    """What somebody wants done; the value is its name in the journal and in reports."""

    PREPARE = "prepare"
    COMMIT = "commit"
    LATE_COMMIT = "late commit"
    WITHDRAW = "abort, destination"
    EVICT = "finish, destination"
    """The source's host is off: its key is taken away from here."""
    RELEASE = "release"
    FINISH = "finish"
    RECLAIM = "abort, source"

    @property
    def on_source(self) -> bool:
        """Whether it runs on the source."""
        return self in (Verb.RELEASE, Verb.FINISH, Verb.RECLAIM)


class Do(enum.Enum):
    """What a cell does."""

    END = "end"
    VERIFY = "verify"
    """No command: what is in question is verified, then the row is looked up again."""
    REGISTER = "REGISTER"
    """REGISTER 0 to K on the next nexus that lacks it; "in question" is on disk first."""
    REGISTER_ONE = "REGISTER one"
    """The same on one nexus only."""
    PREEMPT = "PREEMPT"
    """PREEMPT K by K with the type of the look, over a nexus that is verified."""
    UNREGISTER = "REGISTER K to 0"
    """Next nexus by next nexus, then the end."""
    UNREGISTER_QUESTION = "REGISTER K to 0 where in question"
    TOUCH = "touch"
    """REGISTER K over K: it revives nothing and moves PRGENERATION."""
    RELEASE = "RELEASE"
    RESERVE = "RESERVE"


@dataclass(frozen=True, slots=True)
class Cell:
    """do: the command, or the end.  word: the end that it leads to, where there is one."""

    do: Do
    word: Word | None = None

    @property
    def text(self) -> str:
        """As the table in the documentation says it."""
        if self.word is None:
            return self.do.value
        if self.do is Do.END:
            return f"**{self.word.value}**"
        return f"{self.do.value}; **{self.word.value}**"


class Row(enum.Enum):
    """What a look shows; the value is the row's title.

    S and D: the key K is verified on the source, on the destination.  "S?", "D?": it is
    registered and in question.  Rows are tried in this order; the first that fits and has a
    cell for the verb counts.
    """

    # Seen from the destination.
    REPEATED = "the target lists a nexus twice"
    UNTOLD = "blind, or no commit has said that the guest may run"
    FOREIGN = "D has K without a line in the journal"
    OTHER_KEY = "D has another key"
    LEFT_HERE = "an earlier move left K on a nexus of D, as the file says"
    TOLD = "D, and this commit has said that the guest may run"
    THIRD = "a third nexus has K"
    MIXED = "the target may take another session of the same initiator for one of S or D"
    UNCLEAR = "blind, K is on fewer nexuses than S and an earlier move had it on"
    LOST = "S, not D, where D was verified before"
    NO_PROOF = "S, only D?, and the PREEMPT went out"
    STALE = "S, type or holder not as in the file"
    COUNT_WRONG = "PRGENERATION is not the file's and our own REGISTERs'"
    MOVED_ON = "blind, PRGENERATION is not the first look's and our own REGISTERs'"
    FRESH_COUNTED = "S, not D, PRGENERATION as in the file, never prepared"
    FRESH = "S, not D"
    D_HOLDS_QUESTION = "D holds, another path D?"
    D_HOLDS_BOTH_DEAF = "S, D, D holds, the target cannot hand over"
    D_HOLDS_BOTH = "S, D, D holds, seen from D"
    D_HOLDS_PARTLY = "D holds, a path of D lacks K"
    D_HOLDS_DEAF = "S, D, D holds, the target cannot hand over, seen from D"
    D_HOLDS = "D holds"
    QUESTION = "S, D?"
    PARTLY_COUNTED = "S, D, a path of D lacks K, load registers without prepare"
    PARTLY_S_HOLDS = "S, D, S holds, a path of D lacks K"
    PARTLY = "S, D, S does not hold, a path of D lacks K"
    S_HOLDS_DEAF = "S, D, S holds, the target cannot hand over"
    S_HOLDS = "S, D, S holds"
    RESERVED_BETWEEN = "S, D, released by S, reserved by another"
    FREE = "S, D, released by S, nobody holds"
    UNRELEASED = "S, D, S held when saved, neither holds, load was not told of a release"
    BOTH = "S, D, another node, all registrants or nobody holds"
    D_ALONE = "D, not S, D does not hold"
    QUESTION_ALONE = "only D?"
    REKEYED = "S has another key, D has K"
    REKEYED_ALONE = "S has another key, D has not K"
    NOWHERE = "neither S nor D has K"
    NOTHING_LEFT = "S has not K, whatever D has"
    LEFT_THERE = "S has K, D does not hold"

    # Seen from the source.
    RUNS = "the guest runs on S"
    S_REPEATED = "the target lists a nexus twice, seen from S"
    S_TOLD = "S, and this abort has said that the guest may run"
    S_OTHER_KEY = "S has another key, and not K"
    S_QUESTION_HOLDS = "S?, S holds"
    S_QUESTION_ALONE = "S?, no K elsewhere, S does not hold"
    S_RELEASED_BESIDE = "S, D, released by S, nobody holds, D's host is not known to be off"
    S_RELEASED = "S, released by S, nobody holds"
    S_RESERVED_BETWEEN = "S, released by S, reserved by another"
    S_UNTOUCHED = "S, no K elsewhere, not touched yet"
    S_PARTLY = "S holds, no K elsewhere, a path of S lacks K"
    S_ALONE_HOLDS = "S holds, no K elsewhere"
    S_ALONE = "S, no K elsewhere, S does not hold"
    S_DEAF_UNCLEAR = (
        "S holds, K elsewhere only as an earlier move left it, the target cannot hand over"
    )
    S_DEAF = "S, D, S holds, the target cannot hand over, seen from S"
    S_DEAF_OFF = "S, D, S holds, the target cannot hand over, D's host is off"
    S_DEAF_BESIDE = "S, D, S holds, the target cannot hand over, D's host is not known to be off"
    S_HOLDS_BESIDE = "S, D, S holds, seen from S"
    D_HOLDS_BESIDE_QUESTION = "S?, D, D holds"
    D_HOLDS_BESIDE = "S, D, D holds"
    QUESTION_BESIDE = "S?, D, D does not hold"
    OFF = "S, D, neither holds, D's host is off"
    BESIDE = "S, D, neither holds, or D holds and the target cannot hand over"
    S_GONE_D_HOLDS = "D, not S, D holds"
    S_GONE = "D, not S, D does not hold, seen from S"
    S_NOWHERE = "K is nowhere"


def _end(word: Word) -> Cell:
    return Cell(Do.END, word)


def _undo(word: Word) -> Cell:
    return Cell(Do.UNREGISTER, word)


_P, _C, _L, _W = Verb.PREPARE, Verb.COMMIT, Verb.LATE_COMMIT, Verb.WITHDRAW
_E = Verb.EVICT
_R, _F, _A = Verb.RELEASE, Verb.FINISH, Verb.RECLAIM
_VERIFY, _REGISTER, _PREEMPT = Cell(Do.VERIFY), Cell(Do.REGISTER), Cell(Do.PREEMPT)
_TOUCH = Cell(Do.TOUCH)
_MAY = _end(Word.COMMITTED)
_DONE = _end(Word.DONE)
_ALARM = _end(Word.ALARM)
_OURS_GO = _undo(Word.WITHDRAWN)
_NOTHING = _end(Word.NOTHING)
_DOUBT = _end(Word.IN_DOUBT)

TABLE: Final[Mapping[Row, Mapping[Verb, Cell]]] = {
    Row.REPEATED: {_P: _DOUBT, _C: _DOUBT, _L: _ALARM, _W: _DOUBT, _E: _DOUBT},
    Row.UNTOLD: {_E: _end(Word.REFUSED)},
    Row.FOREIGN: {
        _P: _end(Word.KEY_HERE),
        _C: _end(Word.NOT_PREPARED),
        _L: _ALARM,
        _W: _NOTHING,
    },
    Row.OTHER_KEY: {
        _P: _undo(Word.OTHER_KEY),
        _C: _end(Word.OTHER_KEY),
        _L: _ALARM,
    },
    # A file that says so is older than the end of that move: what D registers now would pass for
    # what is left, on the source and on every other destination of the file.
    Row.LEFT_HERE: {_P: _undo(Word.REFUSED), _C: _undo(Word.REFUSED), _L: _ALARM},
    Row.TOLD: {_C: _MAY, _L: _DONE},
    Row.THIRD: {_P: _undo(Word.THIRD), _C: _end(Word.THIRD), _E: _end(Word.THIRD)},
    Row.MIXED: {_P: _undo(Word.REFUSED), _C: _end(Word.REFUSED)},
    Row.UNCLEAR: {_P: _undo(Word.IN_DOUBT), _C: _DOUBT, _L: _ALARM},
    Row.LOST: {
        _P: _end(Word.TAKEN_BACK),
        _C: _end(Word.TAKEN_BACK),
        _L: _ALARM,
        _W: _NOTHING,
    },
    Row.NO_PROOF: {
        _C: _undo(Word.TAKEN_BACK),
        _L: _undo(Word.ALARM),
        _W: _OURS_GO,
        _E: _undo(Word.TAKEN_BACK),
    },
    Row.STALE: {_P: _undo(Word.CHANGED)},
    Row.COUNT_WRONG: {_C: _undo(Word.CHANGED)},
    Row.MOVED_ON: {_P: _undo(Word.CHANGED)},
    Row.FRESH_COUNTED: {_C: _REGISTER},
    Row.FRESH: {
        _P: _REGISTER,
        _C: _end(Word.NOT_PREPARED),
        _L: _ALARM,
        _W: _NOTHING,
    },
    Row.D_HOLDS_QUESTION: {_C: _VERIFY, _L: _VERIFY, _E: _VERIFY},
    Row.D_HOLDS_BOTH_DEAF: {_E: _end(Word.TARGET)},
    Row.D_HOLDS_BOTH: {_E: _PREEMPT},
    Row.D_HOLDS_PARTLY: {_C: _REGISTER, _L: _REGISTER, _E: _REGISTER},
    Row.D_HOLDS_DEAF: {_W: Cell(Do.RELEASE)},
    Row.D_HOLDS: {
        _P: _end(Word.SUPERSEDED),
        _C: _MAY,
        _L: _DONE,
        _W: _end(Word.SOURCE_FIRST),
        _E: _DONE,
    },
    Row.QUESTION: {_P: _VERIFY, _C: _VERIFY, _L: _VERIFY, _W: _OURS_GO},
    Row.PARTLY_COUNTED: {_C: _REGISTER},
    Row.PARTLY_S_HOLDS: {_P: _REGISTER},
    Row.PARTLY: {_P: _REGISTER, _C: _REGISTER, _L: _REGISTER},
    Row.S_HOLDS_DEAF: {_P: _end(Word.PREPARED), _C: _end(Word.TARGET), _L: _ALARM},
    Row.S_HOLDS: {
        _P: _end(Word.PREPARED),
        _C: _PREEMPT,
        _L: _PREEMPT,
        _W: _OURS_GO,
    },
    Row.RESERVED_BETWEEN: {_C: _end(Word.CHANGED)},
    Row.FREE: {_C: Cell(Do.RESERVE)},
    Row.UNRELEASED: {_C: _DOUBT},
    Row.BOTH: {
        _P: _end(Word.PREPARED),
        _C: _MAY,
        _L: _DONE,
        _W: _OURS_GO,
    },
    Row.D_ALONE: {
        _P: _undo(Word.LEFT),
        _C: _undo(Word.LEFT),
        _L: _ALARM,
        _W: _OURS_GO,
    },
    Row.QUESTION_ALONE: {
        _P: _undo(Word.GONE),
        _C: _undo(Word.GONE),
        _L: _undo(Word.GONE),
        _W: _OURS_GO,
        _E: _undo(Word.GONE),
    },
    Row.REKEYED: {
        _P: _undo(Word.CHANGED),
        _C: _undo(Word.CHANGED),
        _L: _ALARM,
        _W: _OURS_GO,
    },
    Row.REKEYED_ALONE: {
        _P: _end(Word.CHANGED),
        _C: _end(Word.CHANGED),
        _L: _ALARM,
        _W: _NOTHING,
    },
    Row.NOWHERE: {
        _P: _end(Word.GONE),
        _C: _end(Word.GONE),
        _L: _end(Word.GONE),
        _W: _NOTHING,
    },
    Row.NOTHING_LEFT: {_E: _DONE},
    # One command that takes S's key and leaves D's is there for the holder only.
    Row.LEFT_THERE: {_E: _end(Word.REFUSED)},
    Row.RUNS: {_A: _end(Word.GUEST_RUNS)},
    Row.S_REPEATED: {_A: _DOUBT, _F: _DOUBT, _R: _DOUBT},
    Row.S_TOLD: {_A: _end(Word.RESTORED)},
    Row.S_OTHER_KEY: {_A: _end(Word.RESTORED_CHANGED), _F: _DONE, _R: _end(Word.CHANGED)},
    Row.S_QUESTION_HOLDS: {_A: _VERIFY},
    # Whether D has not reserved yet, or its guest has released since, nothing tells: before, S is
    # the guest's only way back.
    Row.S_RELEASED_BESIDE: {_A: _DOUBT, _F: _end(Word.UNTAKEN), _R: _end(Word.RELEASED)},
    Row.S_RELEASED: {_A: Cell(Do.RESERVE), _F: _end(Word.ONLY_HERE), _R: _end(Word.RELEASED)},
    Row.S_RESERVED_BETWEEN: {_A: _DOUBT, _F: _end(Word.UNTAKEN), _R: _DOUBT},
    Row.S_UNTOUCHED: {_A: _TOUCH},
    Row.S_PARTLY: {_A: _REGISTER},
    Row.S_ALONE_HOLDS: {
        _A: _end(Word.RESTORED),
        _F: _end(Word.ONLY_HERE),
        _R: _end(Word.NOT_PREPARED),
    },
    Row.S_QUESTION_ALONE: {_A: Cell(Do.UNREGISTER_QUESTION, Word.GONE)},
    Row.S_ALONE: {
        _A: _end(Word.RESTORED),
        _F: _undo(Word.DONE),
        _R: _end(Word.NOT_PREPARED),
    },
    Row.S_DEAF_UNCLEAR: {_R: _DOUBT},
    Row.S_DEAF: {_R: Cell(Do.RELEASE)},
    Row.S_DEAF_OFF: {_A: _end(Word.RESTORED_BESIDE)},
    # D can have said that the guest may run: after a release D held, and its guest can release.
    Row.S_DEAF_BESIDE: {_A: _DOUBT},
    Row.S_HOLDS_BESIDE: {_A: _PREEMPT, _F: _end(Word.WAIT), _R: _end(Word.REFUSED)},
    Row.D_HOLDS_BESIDE_QUESTION: {_A: _VERIFY},
    Row.D_HOLDS_BESIDE: {_A: _PREEMPT, _F: _undo(Word.DONE)},
    Row.QUESTION_BESIDE: {_A: Cell(Do.UNREGISTER_QUESTION, Word.IN_DOUBT)},
    Row.OFF: {_A: _end(Word.RESTORED_BESIDE)},
    Row.BESIDE: {_A: _DOUBT, _F: _undo(Word.DONE), _R: _end(Word.REFUSED)},
    Row.S_GONE_D_HOLDS: {_A: Cell(Do.REGISTER_ONE), _F: _DONE, _R: _end(Word.REFUSED)},
    Row.S_GONE: {_A: _end(Word.GONE), _F: _DONE, _R: _end(Word.GONE)},
    Row.S_NOWHERE: {_A: _end(Word.GONE), _F: _DONE, _R: _end(Word.GONE)},
}
"""The cells by row; a row without a cell for a verb does not speak of it."""
