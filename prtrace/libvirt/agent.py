"""The calls of io.prtrace that the service makes, and what their answers mean for the machine."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from prtrace.api.client import Client
from prtrace.errors import ConflictError, InDoubtError, PrtraceError, UsageError
from prtrace.libvirt.machine import AgentSaid, Answer, MoveCall
from prtrace.move.word import Word

_METHODS: Final = {
    MoveCall.LOOK: "CheckFile",
    MoveCall.PREPARE: "Prepare",
    MoveCall.COMMIT: "Load",
    MoveCall.LATE_COMMIT: "LateCommit",
    MoveCall.WITHDRAW: "Rollback",
    MoveCall.FINISH: "Finish",
    MoveCall.RECLAIM: "Rollback",
}
_IN_STEPS: Final = frozenset({"Prepare", "Load", "LateCommit", "Rollback"})
_TELLS: Final = frozenset({MoveCall.COMMIT, MoveCall.RECLAIM})
"""Calls whose good answer is that the guest may run, and nothing less."""
_MAY_MOVE: Final = frozenset({"movable", "clear"})
_LATER: Final = frozenset(
    each.value for each in (Word.SOURCE_FIRST, Word.WAIT, Word.UNTAKEN, Word.ONLY_HERE)
)
_MARGIN_S: Final = 2.0
"""How much longer than its own deadline an answer is waited for."""


@dataclass(frozen=True, slots=True)
class Move:
    """What a call is about.  devices: this host's node of each logical unit."""

    file: dict[str, Any]
    devices: dict[str, str]


class AgentCalls:
    """The agent of this host.  deadline: seconds that a call may take."""

    def __init__(self, socket: str, deadline: float) -> None:
        self._socket = socket
        self._deadline = deadline

    def carry_out(self, call: MoveCall, move: Move, *, late: bool = False) -> AgentSaid:
        """Make a call.  late: no commit in the pause will come."""
        parameters: dict[str, Any] = {
            "file": move.file,
            "deadline": math.ceil(self._deadline * 1000),
        }
        if call in (MoveCall.LOOK, MoveCall.PREPARE, MoveCall.COMMIT, MoveCall.LATE_COMMIT):
            parameters["devices"] = move.devices or None
        if call is MoveCall.PREPARE:
            parameters["late"] = late
        elif call is MoveCall.WITHDRAW:
            parameters["side"] = "destination"
        elif call is MoveCall.RECLAIM:
            parameters["side"] = "source"
        try:
            reply = self._call(_METHODS[call], parameters)
        except PrtraceError as error:
            return failed(call, error)
        return judged(call, reply)

    def save(self, devices: list[str], guest: str) -> dict[str, Any]:
        """The prtrace.save/2 object; raises PrtraceError, with why the reservation cannot move."""
        reply = self._client().call("Save", devices=devices, guest=guest)
        return dict(reply["file"])

    def newest_order(self, lus: Iterable[str]) -> int:
        """The order of the newest move of these units that this host knows; 0 without one, and
        where the agent cannot be asked, which the call that follows then says."""
        wanted = frozenset(lus)
        try:
            listed = self._client().call("Moves")["moves"]
            return max((int(each["order"]) for each in listed if each["lu"] in wanted), default=0)
        except (PrtraceError, KeyError, TypeError, ValueError):
            return 0

    def changes(self) -> Iterator[str]:
        """The designator of each logical unit whose registrations or reservation may change."""
        stream = self._client().stream("Events", patient=True, last=0, changes=True, follow=True)
        for reply in stream:
            for event in reply.get("events") or ():
                yield str(event.get("lu"))

    def _client(self) -> Client:
        return Client(self._socket, timeout=max(1.0, self._deadline + _MARGIN_S))

    def _call(self, method: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        if method not in _IN_STEPS:
            return self._client().call(method, **parameters)
        replies = list(self._client().stream(method, **parameters))
        return replies[-1] if replies else {}


def failed(call: MoveCall, error: PrtraceError) -> AgentSaid:
    """The machine's input where no report came."""
    why = f"{error.message}; {error.hint}" if error.hint else error.message
    return AgentSaid(call, Answer.REFUSED if isinstance(error, UsageError) else Answer.SILENT, why)


def judged(call: MoveCall, reply: Mapping[str, Any]) -> AgentSaid:
    """The machine's input for a prtrace.check/2 object (LOOK) or a reply with a report."""
    if call is MoveCall.LOOK:
        reasons = [
            str(reason.get("fact"))
            for unit in reply.get("units", ())
            for reason in unit.get("reasons", ())
        ]
        good = reply.get("verdict") in _MAY_MOVE
        return AgentSaid(call, Answer.GOOD if good else Answer.REFUSED, "; ".join(reasons))
    report = reply.get("report")
    if not isinstance(report, Mapping):
        return AgentSaid(call, Answer.SILENT, "the agent gave no report")
    bad = [unit for unit in report["units"] if call in _TELLS or unit["result"] != "done"]
    why = "; ".join(
        f"{unit['device']}: {unit['result']}" + (f" ({unit['why']})" if unit.get("why") else "")
        for unit in bad
    )
    return AgentSaid(call, _answer(call, report), why)


def _answer(call: MoveCall, report: Mapping[str, Any]) -> Answer:
    status = report["exit_status"]
    if status == 0:
        told = call not in _TELLS or report["may_run"] is True
        return Answer.GOOD if told else Answer.DOUBT
    if status == ConflictError.exit_code:
        return Answer.SPENT
    if status == InDoubtError.exit_code:
        results = {unit["result"] for unit in report["units"] if not _good(unit["result"])}
        return Answer.LATER if results <= _LATER else Answer.DOUBT
    return Answer.REFUSED


def _good(result: str) -> bool:
    return Word(result).good
