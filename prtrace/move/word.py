"""How a verb ends: one word for each end, with its exit status (pure)."""

from __future__ import annotations

import enum
from typing import Final


class Word(enum.Enum):
    """The end of a verb for one logical unit; the value is its name in reports and messages."""

    PREPARED = "prepared"
    """The destination has the key beside the source."""
    COMMITTED = "may run on the destination"
    RESTORED = "may run on the source"
    RESTORED_BESIDE = "may run on the source, the destination's key is left"
    """The destination is off and keeps its registration."""
    RESTORED_CHANGED = "may run on the source, with another key"
    """The guest changed its key on the source while the move was prepared."""
    RELEASED = "released"
    """The source has released the reservation, for the destination to take."""
    DONE = "done"
    WITHDRAWN = "withdrawn"
    NOTHING = "nothing of this move is here"
    NO_KEY = "no key to move"
    """Nothing was registered when the file was saved, and nothing is now."""
    GUEST_RUNS = "the guest runs here: nothing to do"
    UNTOUCHED = "untouched"
    """A dry run: nothing was sent."""

    SOURCE_FIRST = "the source first"
    """The destination holds the reservation: the source takes it back."""
    WAIT = "wait: the source holds"
    UNTAKEN = "wait: the destination has not reserved"
    """The source has released the reservation, and nobody has it."""
    ONLY_HERE = "the key is only here"
    IN_DOUBT = "in doubt"
    ALARM = "alarm"
    """The guest runs on the destination without what it needs: pause it."""

    REFUSED = "refused"
    NOT_PREPARED = "not prepared"
    THIRD = "the key is on a third nexus"
    OTHER_KEY = "another key is registered here"
    KEY_HERE = "the key is here already"
    TARGET = "the target is not known to hand a reservation over"

    FENCED = "fenced"
    GONE = "gone"
    """The key is nowhere: fenced, or given up."""
    LEFT = "left"
    """The source does not have the key any more, and nobody fenced it."""
    TAKEN_BACK = "taken back"
    """The source took back what was prepared or committed here."""
    CHANGED = "changed since"
    SUPERSEDED = "superseded"
    """A newer move or a later verb of this move has been here."""

    @property
    def exit_code(self) -> int:
        """0 done; 24 fenced, gone or spent; 4 in doubt; 1 refused."""
        return _EXIT_CODES.get(self, 0)

    @property
    def good(self) -> bool:
        """Whether what was asked for is done."""
        return self.exit_code == 0

    @property
    def may_run(self) -> bool:
        """Whether it lets the guest run on the host that says it."""
        return self in _MAY_RUN


_EXIT_CODES: Final = {
    Word.SOURCE_FIRST: 4,
    Word.WAIT: 4,
    Word.UNTAKEN: 4,
    Word.ONLY_HERE: 4,
    Word.IN_DOUBT: 4,
    Word.ALARM: 4,
    Word.REFUSED: 1,
    Word.NOT_PREPARED: 1,
    Word.THIRD: 1,
    Word.OTHER_KEY: 1,
    Word.KEY_HERE: 1,
    Word.TARGET: 1,
    Word.FENCED: 24,
    Word.GONE: 24,
    Word.LEFT: 24,
    Word.TAKEN_BACK: 24,
    Word.CHANGED: 24,
    Word.SUPERSEDED: 24,
}

_MAY_RUN: Final = frozenset(
    {
        Word.COMMITTED,
        Word.RESTORED,
        Word.RESTORED_BESIDE,
        Word.RESTORED_CHANGED,
    }
)
