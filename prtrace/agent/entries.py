"""What the journal is told: entries made of events and of the states that they led to.

One for each PERSISTENT RESERVE OUT, each local registration that went away without its nexus
asking for it, each new doubt, and the first conflict of a nexus: a later one is told only when the
reservation is another one.  And one for each unit that a verb of a move was carried out for.  This
module sends nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from prtrace.linux.text import clean
from prtrace.model import Action, Issuer, Outcome
from prtrace.state.decode import outcome
from prtrace.state.event import Command, Event, key_text
from prtrace.state.unit import Fact, LuState

PR_OUT: Final = "985e927a5e8b4672ba074b521ffa07c4"
CONFLICT: Final = "e626c96e2f3743e8b9a59491ceac871d"
LOST_REGISTRATION: Final = "804184c26c564c8183d0d7ad1f11f54f"
IN_DOUBT: Final = "4485c6d4de994e9f9db06250b7b0aee2"
MOVE: Final = "23a9ee58b0b74b178218d1e53130ff79"
"""MESSAGE_IDs; prtrace/systemd/prtrace.catalog explains them."""

A_SECOND: Final = 10
"""The most entries for one logical unit in one second of the events' time."""
_LONGEST: Final = 400
_WARNING, _NOTICE = "4", "5"
_GOOD: Final = "GOOD"
_REGISTER: Final = (Action.REGISTER.value, Action.REGISTER_AND_IGNORE.value)
_UNREGISTER: Final = (Action.CLEAR.value, Action.REGISTER_AND_MOVE.value)


class Entries:
    """Makes entries of what was stored, and remembers what it need not say again.

    states: what was known before the first event.
    """

    def __init__(self, states: Mapping[str, LuState]) -> None:
        self._states = dict(states)
        # The newest states whose registrations were certain: a loss is told once it is, too.
        self._certain = dict(states)
        self._asked: dict[str, set[str]] = {}
        self._conflicts: dict[str, tuple[object, set[str]]] = {}
        self._pace: dict[str, tuple[int, int]] = {}
        self._untold: dict[str, int] = {}

    def of(
        self, stored: Iterable[Event], states: Mapping[str, LuState]
    ) -> Iterator[dict[str, str]]:
        """The entries for a batch of stored events.  states: those that the batch changed."""
        events = [each for each in stored if each.lu]
        for event in events:
            if event.command is Command.PR_OUT:
                if _unregisters(event):
                    self._asked.setdefault(event.lu, set()).add(event.nexus)
                yield from self._paced(event.lu, event.time, _pr_out(event))
            elif event.command is Command.CONFLICT:
                state = states.get(event.lu) or self._states.get(event.lu)
                if self._is_news(event, state):
                    yield from self._paced(event.lu, event.time, _conflict(event))
        newest = {event.lu: event.time for event in events}
        for lu, state in states.items():
            before = self._states.get(lu)
            self._states[lu] = state
            at = newest.get(lu, 0)
            if not state.doubted(Fact.REGISTRATIONS):
                asked = self._asked.pop(lu, set())
                certain = self._certain.get(lu)
                self._certain[lu] = state
                if certain is not None:
                    for nexus in _lost(certain, state, asked):
                        yield from self._paced(lu, at, _registration(certain, nexus))
            for fact, reason in _doubts(before, state):
                yield from self._paced(lu, at, _doubt(state, fact, reason))

    def forget(self, lus: Iterable[str]) -> None:
        """Nothing is known of these units any more."""
        for lu in lus:
            for known in (
                self._states,
                self._certain,
                self._asked,
                self._conflicts,
                self._pace,
                self._untold,
            ):
                known.pop(lu, None)

    def _is_news(self, event: Event, state: LuState | None) -> bool:
        """Whether a conflict of this nexus was not told since the reservation changed."""
        held = None
        if state is not None:
            kept = state.reservation
            held = (
                state.legacy_holder,
                None if kept is None else (kept.type, kept.holder, kept.key),
            )
        known, told = self._conflicts.get(event.lu, (None, set()))
        if event.lu not in self._conflicts or known != held:
            told = set()
            self._conflicts[event.lu] = held, told
        news = event.nexus not in told
        told.add(event.nexus)
        return news

    def _paced(self, lu: str, time: int, entry: dict[str, str]) -> Iterator[dict[str, str]]:
        """The entry, or nothing where its second is full: the next one says how many."""
        second = time // 1_000_000_000
        of, count = self._pace.get(lu, (second, 0))
        count = count + 1 if of == second else 1
        self._pace[lu] = second, count
        if count > A_SECOND:
            self._untold[lu] = self._untold.get(lu, 0) + 1
            return
        if untold := self._untold.pop(lu, 0):
            entry["PRTRACE_UNTOLD"] = str(untold)
            entry["MESSAGE"] += f" ({untold} more before this: see prtrace events)"
        yield entry


def moved(report: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """The entries for what became of a verb, a prtrace.move/2 object; none for a dry run."""
    if report["dry_run"]:
        return
    for unit in report["units"]:
        why = f": {unit['why']}" if unit["why"] else ""
        yield _entry(
            MOVE,
            _NOTICE if report["good"] else _WARNING,
            f"{unit['lu']}: {report['verb']} of the move {report['id']}: {unit['result']}{why}",
            lu=unit["lu"],
            device=unit["device"],
            verb=report["verb"],
            move=report["id"],
            result=unit["result"],
            may_run="yes" if unit["may_run"] else "no",
        )


def _entry(kind: str, priority: str, message: str, **fields: object) -> dict[str, str]:
    """The entry's fields; those that are not known are left out."""
    known = {
        f"PRTRACE_{name.upper()}": clean(str(value), _LONGEST)
        for name, value in fields.items()
        if value not in (None, "")
    }
    return {
        "MESSAGE": clean(message, _LONGEST),
        "MESSAGE_ID": kind,
        "PRIORITY": priority,
        "SYSLOG_IDENTIFIER": "prtrace",
        **known,
    }


def _pr_out(event: Event) -> dict[str, str]:
    outcome = event.status or event.host_byte or "its end was not seen"
    why = event.reason or event.effect or event.problem
    message = f"{event.action or 'PERSISTENT RESERVE OUT'} of {_sender(event)}: {outcome}"
    return _entry(
        PR_OUT,
        _NOTICE if event.status == _GOOD else _WARNING,
        f"{event.lu}: {message}; {why}" if why else f"{event.lu}: {message}",
        **_common(event),
        action=event.action,
        key=key_text(event.key),
        sa_key=key_text(event.sa_key),
        type="" if event.type is None else event.type.name,
        effect=event.effect,
    )


def _conflict(event: Event) -> dict[str, str]:
    why = event.reason or "the reason is not known"
    return _entry(
        CONFLICT,
        _WARNING,
        f"{event.lu}: reservation conflict of {_sender(event)}: {why}",
        **_common(event),
        count=event.count,
    )


def _common(event: Event) -> dict[str, object]:
    issuer = event.issuer
    return {
        "lu": event.lu,
        "nexus": event.nexus,
        "device": event.device,
        "status": event.status,
        "reason": event.reason,
        "seq": event.seq,
        "pid": "" if issuer is None else issuer.pid,
        "comm": "" if issuer is None else issuer.comm,
        "guest": "" if issuer is None else issuer.guest,
    }


def _sender(event: Event) -> str:
    path = f"{event.nexus} ({event.device})" if event.device else event.nexus
    return f"{path}, {_process(event.issuer)}" if event.issuer is not None else path


def _process(issuer: Issuer) -> str:
    guest = f", guest {issuer.guest}" if issuer.guest else ""
    return f"process {issuer.pid} ({issuer.comm}){guest}"


def _registration(before: LuState, nexus: str) -> dict[str, str]:
    key = key_text(before.registrations[nexus].key)
    path = before.paths[nexus].local
    name = f"{nexus} ({path.device})" if path.device else nexus
    return _entry(
        LOST_REGISTRATION,
        _WARNING,
        f"{before.lu}: {name} lost its registration, key {key}: prtrace explain says by whom",
        lu=before.lu,
        nexus=nexus,
        device=path.device,
        initiator=path.initiator_port,
        key=key,
    )


def _unregisters(event: Event) -> bool:
    """Whether a PR OUT may have taken its own nexus's registration away.

    One that was answered by a unit attention has not: the device did not execute it.  A nexus
    that was fenced learns of the fence by such an answer, and its own command may have asked for
    just what the fence had done.
    """
    if outcome(event) in (Outcome.CONFLICT, Outcome.NOT_EXECUTED):
        return False
    return event.action in _UNREGISTER or (event.action in _REGISTER and event.sa_key == 0)


def _lost(before: LuState, after: LuState, asked: set[str]) -> Iterator[str]:
    """Nexuses of this host that were registered, are not, are still here, and did not ask."""
    for nexus, each in before.registrations.items():
        then, now = before.paths.get(nexus), after.paths.get(nexus)
        same_path = then is not None and now is not None and then.local.life == now.local.life
        if each.local and same_path and nexus not in after.registrations and nexus not in asked:
            yield nexus


def _doubts(before: LuState | None, after: LuState) -> Iterator[tuple[str, str]]:
    """Facts that were not in doubt and are, with the first reason."""
    for fact in Fact:
        reasons = [doubt.reason for doubt in after.doubts if doubt.what is fact]
        if reasons and (before is None or not before.doubted(fact)):
            yield fact.value, reasons[0]


def _doubt(state: LuState, fact: str, reason: str) -> dict[str, str]:
    return _entry(
        IN_DOUBT,
        _NOTICE,
        f"{state.lu}: {fact} in doubt: {reason}",
        lu=state.lu,
        fact=fact,
        reason=reason,
        generation=state.generation,
    )
