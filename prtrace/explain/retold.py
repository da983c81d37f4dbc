"""What went wrong in the common history of several hosts, as each host would tell it (pure).

Times go back to the clock of the host that recorded them, addresses to the host that has them.
What depends on the order of two hosts' events that only their clocks tell is said to do so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from prtrace.explain.causes import incidents
from prtrace.explain.incident import Certainty, Incident, IncidentKind, Link, Lost
from prtrace.explain.joined import Joined, Origin, host_of_nexus
from prtrace.explain.links import NOBODY_RECORDED, pr_out, takes, who
from prtrace.explain.timeline import Step
from prtrace.model import FullStatusRead
from prtrace.state.event import rfc3339
from prtrace.state.unit import Fact

_NAMED: Final = 6
"""Commands that are named of those whose order nobody knows; the others are counted."""
_LOOKED_AT: Final = 200
"""The newest commands whose order is asked about."""
_LOST: Final = (IncidentKind.LOST_REGISTRATION, IncidentKind.LOST_RESERVATION)
_DEPENDS: Final = (IncidentKind.CONFLICT, IncidentKind.REFUSED, *_LOST)


def retold(joined: Joined) -> Iterator[tuple[str, Incident]]:
    """Each incident of the history and the host that it happened to, by that host's clock."""
    for each in incidents(joined.steps):
        address, host = host_of_nexus(each.nexus)
        first = joined.origin(each.chain[0].seq) if each.chain else None
        if not host and first is not None:
            host = first.host
        ahead = joined.ahead.get(host, 0)
        chain = [_link(joined, link, first, host) for link in each.chain]
        if first is not None and each.kind in _DEPENDS:
            unordered = list(_by_clocks(joined, each.chain[0].seq))
            chain += unordered
            if unordered and each.kind in _LOST and first.host != host:
                # Whether it took this registration or one before it, the clocks alone tell.
                chain[0] = replace(chain[0], certainty=Certainty.INFERRED)
        if first is not None and each.lost is not None and first.host == host:
            found = list(_may_have_taken(joined, each, each.lost))
            if found:
                chain = [link for link in chain if link.text != NOBODY_RECORDED] + found
        yield (
            host,
            replace(
                each,
                nexus=address,
                at=each.at + ahead,
                last=each.last + ahead,
                chain=tuple(chain),
            ),
        )


def _link(joined: Joined, link: Link, first: Origin | None, host: str) -> Link:
    origin = joined.origin(link.seq)
    by = host if origin is None else origin.host
    certainty = link.certainty
    if origin is not None and first is not None and origin.host != first.host:
        effect = certainty is Certainty.OBSERVED and not joined.ordered(first, origin)
        certainty = Certainty.INFERRED if effect else certainty
    return replace(
        link,
        certainty=certainty,
        at=link.at + joined.ahead.get(by, 0) if link.at else 0,
        seq=0 if origin is None else origin.event.seq,
        host=by,
    )


def _may_have_taken(joined: Joined, incident: Incident, lost: Lost) -> Iterator[Link]:
    """Other hosts' commands that fit a loss which a reading showed, and of unknown order."""
    for step in joined.by_clocks(incident.chain[0].seq):
        command = pr_out(step)
        if command is not None and takes(command, incident.nexus, lost.key):
            origin = joined.origins[step.event.seq - 1]
            yield Link(
                f"{origin.host} recorded {command.action.value} by {who(step.event)}, which can "
                "have taken it away: of the two the clocks alone tell which was first",
                Certainty.INFERRED,
                origin.event.time,
                origin.event.seq,
                origin.host,
            )


def _by_clocks(joined: Joined, seq: int) -> Iterator[Link]:
    """The commands of which it is not certain whether they were before an incident."""
    found = [joined.origins[step.event.seq - 1] for step in joined.by_clocks(seq)]
    if found:
        yield Link(
            f"the clocks alone tell whether it was before or after {_commands(found)}",
            Certainty.UNKNOWN,
        )


def _commands(found: list[Origin]) -> str:
    named = [
        f"{each.event.action} by {who(each.event)} on {each.host}" for each in found[-_NAMED:]
    ]
    more = len(found) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")


def end_by_clocks(joined: Joined) -> list[dict[str, Any]]:
    """The doubts that the end of the history is in because only clocks order what led to it.

    As in prtrace.show/1.  The newest reading tells everything but what was after it.
    """
    reading = next(
        (
            number
            for number in range(len(joined.steps) - 1, -1, -1)
            if _settles(joined.steps[number])
        ),
        None,
    )
    made = joined.made[-_LOOKED_AT:]
    unordered = set()
    if reading is not None:
        told_seq = joined.steps[reading].event.seq
        told = joined.origins[told_seq - 1]
        unordered = {
            step.event.seq
            for step in made
            if (other := joined.origins[step.event.seq - 1]).host != told.host
            and not joined.ordered(told, other)
        }
        made = [step for step in made if step.event.seq >= told_seq]
    for number, step in enumerate(made):
        one = joined.origins[step.event.seq - 1]
        for later in made[number + 1 :]:
            other = joined.origins[later.event.seq - 1]
            if one.host != other.host and not joined.ordered(one, other):
                unordered |= {step.event.seq, later.event.seq}
    reasons = []
    if unordered:
        found = [joined.origins[seq - 1] for seq in sorted(unordered)]
        reasons.append(f"the hosts' clocks alone order {_commands(found)} among what others did")
    if any(each.contradict for each in joined.bounds.values()):
        reasons.append("no difference of the hosts' clocks fits PRGENERATION")
    since = rfc3339(joined.steps[-1].event.time) if joined.steps else None
    return [
        {"what": what.value, "reason": reason, "since": since}
        for reason in reasons
        for what in (Fact.REGISTRATIONS, Fact.RESERVATION)
    ]


def _settles(step: Step) -> bool:
    return any(isinstance(seen, FullStatusRead) for seen in step.seen) and not step.after.doubts
