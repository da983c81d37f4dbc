"""Mutants that nothing catches (test_mutations.py), and why nobody needs what is gone there.

A condition of these is there for what is not explored, or another one does its work.
"""

from __future__ import annotations

REASONS: dict[str, tuple[str, ...]] = {
    # Rows and cells.
    "the guest must leave on the source in a migration that nobody aborts: not explored": (
        "cell D_ALONE LATE_COMMIT: **alarm** is done",
    ),
    "the rows behind it send only where the destination holds, verified": (
        "row UNTOLD",
        "code machine._DESTINATION: Row.UNTOLD without or s.sight.blind",
        "code machine._DESTINATION: Row.UNTOLD without or not s.position.lines.told",
    ),
    "the rows behind it preempt first, and register the other paths then": ("row PARTLY_COUNTED",),
    "the row behind it says gone, which lets nobody run, too": ("row REKEYED_ALONE",),
    "the row behind it says the same, under another title": ("row S_GONE",),
    "the row behind it is in doubt, too, and leaves the key to settle": ("row QUESTION_BESIDE",),
    # What never comes, in the product or in what is explored.
    "nobody asks for an abort after a finish that is done": (
        "code machine._carry_out: without and plan.verb is Verb.LATE_COMMIT",
    ),
    "a key that comes back where none was left is in question": (
        "code lines.Lines.only: without and bool(found)",
    ),
    "nobody gives an answer where nothing was sent": (
        "code machine.answered: without if not isinstance(sent, Send)",
    ),
    "every cell that ends has its word": (
        "code machine._decide: without or Word.IN_DOUBT",
        "code machine._carry_out: without or Word.IN_DOUBT",
        "code machine._carry_out: without or Word.IN_DOUBT (2)",
    ),
    "a commit has the file's PRGENERATION always, and who held has a type": (
        "code machine._Seen.count_wrong: without and self.plan.generation is not None",
        "code machine._DESTINATION: Row.UNRELEASED without and s.plan.type is not None",
    ),
    "what is explored counts neither looks nor commands: a cycle stands for them": (
        "code machine.looked: without if position.restarts >= LOOKS",
        "code machine._send: without if position.sent >= MOST_COMMANDS",
    ),
    "no finish ends in doubt where an abort is asked for after it": (
        "code machine._after: without and newest.verb is Verb.RECLAIM",
    ),
    "nobody asks for a finish after an abort that let the guest run": (
        "code machine._after: without and newest.end is Word.IN_DOUBT",
    ),
    "multipathd registers only while no verb runs on the source; a killed abort covers that": (
        "code machine._decide: without or lines.absent",
        "code machine._carry_out: without or lines.absent",
        "code machine._decide: without or lines.standing(nexus) is None",
        "code machine._decide: without or killed",
        "code machine._carry_out: without or cell.do is Do.REGISTER_ONE",
    ),
    "where an abort takes away, all that the source has is in question": (
        "code machine._leave: without if plan.verb is Verb.RECLAIM",
        "code machine._leave: without filter nexus in lines.in_question",
    ),
    "nobody else registers the key on the destination beside a nexus that has a line": (
        "code machine._leave: without if not plan.verb.on_source",
        "code machine._leave: without filter nexus in lines.listed",
    ),
    "what is in question does not hold": (
        "code machine._Seen.count_wrong: without and self.sight.held is not Held.HERE",
        "code machine._DESTINATION: Row.D_HOLDS_QUESTION without and s.verified",
        "code machine._DESTINATION: Row.D_HOLDS_PARTLY without and s.verified",
        "code machine._DESTINATION: Row.D_HOLDS_DEAF without and s.verified",
    ),
    "what was told is verified": (
        "code machine._DESTINATION: Row.TOLD without and s.verified",
        "code machine._SOURCE: Row.S_TOLD without and s.verified",
    ),
    "who takes the reservation back takes the key away, and a withdraw supersedes the commit": (
        "code machine._DESTINATION: Row.TOLD without and not s.overtaken",
    ),
    "who is paused gives no key up, and a REGISTER or a PREEMPT has moved PRGENERATION": (
        "code machine._DESTINATION: Row.FRESH_COUNTED without and s.sight.there",
        "code machine._DESTINATION: Row.FRESH_COUNTED without and not s.here",
    ),
    "no path of the source loses its key alone, and its guest changes all at once": (
        "code machine._SOURCE: Row.S_OTHER_KEY without and not s.here",
        "code sight.blind_sight: without and bool(left)",
    ),
    "release comes before an abort registers anything": (
        "code machine._SOURCE: Row.S_DEAF without and s.verified",
    ),
    # What other rows do as well.
    "the rows before it leave nothing that is not verified": (
        "code machine._Seen.both: without and self.verified",
        "code machine._DESTINATION: Row.NO_PROOF without and s.question",
        "code machine._DESTINATION: Row.QUESTION_ALONE without and not s.sight.there",
    ),
    "release sends nothing in the rows behind it": (
        "code machine._SOURCE: Row.S_DEAF_UNCLEAR without and s.verified",
        "code machine._SOURCE: Row.S_DEAF_UNCLEAR without and s.sight.held is Held.HERE",
        "code machine._SOURCE: Row.S_DEAF_UNCLEAR without and not s.plan.hands_over",
    ),
    "both rows refuse, or take away what is verified": (
        "code machine._DESTINATION: Row.D_HOLDS_QUESTION without and s.sight.held is Held.HERE",
        "code machine._DESTINATION: Row.D_HOLDS_BOTH_DEAF without and s.sight.held is Held.HERE",
        "code machine._DESTINATION: Row.RESERVED_BETWEEN without and s.both",
    ),
    "prepare registers in the row behind it, too, and takes away what has no proof": (
        "code machine._DESTINATION: Row.PARTLY_S_HOLDS without and s.sight.held is Held.THERE",
        "code machine._DESTINATION: Row.PARTLY_S_HOLDS without and s.both",
    ),
    "the other paths are registered before the PREEMPT": (
        "code machine._SOURCE: Row.S_PARTLY without and not s.sight.there",
    ),
    "only the word is another: gone instead of changed": (
        "code machine._DESTINATION: Row.QUESTION_ALONE without and not s.sight.rekeyed",
    ),
    "the rows for either holder verify what an abort registered, and preempt": (
        "code machine.looked: without and not lines.nexuses",
        "code machine._Seen.overtaken: without and not self.sight.blind",
        "code machine._Seen.gone_on: without and not self.sight.blind",
    ),
    # What is more careful than it must be.
    "in doubt, or wait, instead of gone and done": (
        "code machine._proven: without and end.word is Word.DONE",
        "code machine._proven: without and plan.verb is Verb.FINISH",
        "code machine._proven: without and sight.there",
        "code machine._carry_out: without and told",
        "code machine._SOURCE: Row.S_RELEASED_BESIDE without and bool(s.here)",
        "code machine._SOURCE: Row.S_RELEASED without and bool(s.here)",
        "code machine._SOURCE: Row.S_RESERVED_BETWEEN without and bool(s.here)",
        "code machine._SOURCE: Row.S_UNTOUCHED without and bool(s.here)",
    ),
    "the destination's key is left and named, instead of taken away": (
        "code machine._SOURCE: Row.S_DEAF_OFF without and not s.plan.hands_over",
    ),
    "load takes back what it could verify": (
        "code machine._Seen.count_wrong: without and self.position.lines.counted",
        "code machine._Seen.count_wrong: without and not self.position.lines.preempted",
        "code machine._Seen.count_wrong: without and counting",
        "code machine._Seen.count_wrong: without and self.question",
        "code machine._DESTINATION: Row.NO_PROOF without and not s.verified",
    ),
    "prepare ends in doubt where the destination holds, and takes nothing away": (
        "code machine._Seen.stale: without if self.sight.held is Held.HERE",
    ),
    "an abort takes more for in question than it must": (
        "code machine._decide: without and position.first",
    ),
    # What decides nothing that is explored.
    "only a row for blind targets looks at it": ("code machine._decide: without and sight.blind",),
    "what an abort sends after a RELEASE follows a REGISTER, which has moved PRGENERATION": (
        "code machine.answered: without if sent.do is not Do.TOUCH",
    ),
    "no key that a touch missed comes back while the verb runs": (
        "code machine.answered: without if outcome is Outcome.CONFLICT and sent.do is Do.TOUCH",
    ),
    "prepare counts, and sends only REGISTERs while something is in question": (
        "code machine.answered: without and sent.action is Action.REGISTER",
        "code machine.answered: without and sent.sa_key != 0",
        "code machine.answered: without and done",
        "code machine.answered: without and registers",
        "code machine._decide: without and not position.lines.nexuses",
    ),
    "a REGISTER that was carried out has moved PRGENERATION, any other leaves no question": (
        "code machine.answered: without if outcome is Outcome.UNKNOWN and registers",
        "code machine.answered: without and registers (2)",
    ),
    "the last touch of a run is the one that counts, and few answers are lost": (
        "code machine.answered: without or position.touched",
        "code machine.answered: without and outcome is Outcome.CONFLICT",
    ),
    "it looks once more": ("code machine.looked: without and ask",),
    "what multipathd is told depends on it": (
        "code machine._carry_out: without or lines.counted",
    ),
    "after an alarm nothing is asked of the guest, which somebody pauses": (
        "code machine._carry_out: without and word is Word.DONE",
    ),
    "a command over a nexus that is gone is not executed, and the next nexus is tried": (
        "code machine._best: without filter nexus not in plan.unasked",
    ),
    "a release after an abort that sent nothing begins anew": (
        "code machine.admit: without and verb in (Verb.FINISH, Verb.RECLAIM)",
    ),
}  # fmt: skip
HARMLESS = {name: reason for reason, names in REASONS.items() for name in names}
