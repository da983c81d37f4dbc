"""The calls Check, Save, Load, Rollback and Finish of io.prtrace, in the agent.

Each method runs on a thread of the server's (prtrace.api.jobs).  The agent is asked for what
it observed; commands go down through SG_IO like those of any other process, and come back up
as events.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prtrace.api.calls import Refusal
from prtrace.api.interface import Fault
from prtrace.api.source import EventQuery, Observed, Step
from prtrace.errors import UsageError
from prtrace.linux.units import scan
from prtrace.move import actions, savefile, saving
from prtrace.move.actions import MAX_AGE_S, MoveOptions
from prtrace.move.facts import User
from prtrace.move.finishing import finish, finish_view
from prtrace.move.journal import UnderWayError
from prtrace.move.knowledge import LAST, Knowledge, asked_user, learn, witness
from prtrace.move.saving import BlockedError
from prtrace.move.side import find_loading_sides, find_saved_sides, find_sides
from prtrace.move.verdict import UnitVerdict, check_view, overall
from prtrace.state.event import Event


class AgentMoves:
    """prtrace.api.source.Moves.  state_dir: where the journals are."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir

    def check(
        self, observed: Observed, devices: Sequence[str], guest: str | None, pid: int | None
    ) -> dict[str, Any]:
        """See Moves.check."""
        _, _, verdicts = _judge(observed, devices, guest, pid)
        return check_view(verdicts, socket.gethostname())

    def save(
        self, observed: Observed, devices: Sequence[str], guest: str | None, pid: int | None
    ) -> dict[str, Any]:
        """See Moves.save."""
        known, asked, verdicts = _judge(observed, devices, guest, pid)
        host = socket.gethostname()
        name = asked.guest if asked is not None else ""
        try:
            file = saving.save(known.units, verdicts, host=host, guest=name, aptpl=known.aptpl)
        except BlockedError as error:
            units = check_view(error.verdicts, host)["units"]
            verdict = overall(error.verdicts).value
            raise Refusal(
                Fault.NOT_MOVABLE,
                {
                    "message": error.message,
                    "hint": error.hint,
                    "verdict": verdict,
                    "units": units,
                },
            ) from error
        return file.to_document()

    def load(
        self,
        observed: Observed,
        file: Mapping[str, Any],
        step: Step,
        *,
        devices: Mapping[str, str],
        dry_run: bool,
        max_age: int | None,
    ) -> dict[str, Any]:
        """See Moves.load."""
        saved = savefile.from_document(file)
        options = MoveOptions(
            state_dir=self._state_dir,
            max_age_s=MAX_AGE_S if max_age is None else max_age,
            dry_run=dry_run,
            progress=step,
            witness=witness(_Observer(observed)),
        )
        sides = find_loading_sides(scan(), saved, devices)
        try:
            return actions.load(saved, sides, options).to_json()
        except UnderWayError as error:
            raise _under_way(error) from error

    def rollback(self, observed: Observed, file: Mapping[str, Any], step: Step) -> dict[str, Any]:
        """See Moves.rollback."""
        saved = savefile.from_document(file)
        options = MoveOptions(
            state_dir=self._state_dir, progress=step, witness=witness(_Observer(observed))
        )
        try:
            return actions.rollback(saved, find_saved_sides(scan(), saved), options).to_json()
        except UnderWayError as error:
            raise _under_way(error) from error

    def finish(self, file: Mapping[str, Any]) -> dict[str, Any]:
        """See Moves.finish."""
        saved = savefile.from_document(file)
        return finish_view(finish(saved, find_saved_sides(scan(), saved)), saved)


class _Observer:
    """The agent itself, as prtrace.move.knowledge.Observer."""

    def __init__(self, observed: Observed) -> None:
        self._observed = observed

    def units(self, lus: Sequence[str]) -> list[Mapping[str, Any]]:
        return list(self._observed.show(lus)["units"])

    def events(self, lu: str) -> Iterator[Event]:
        return self._observed.events(EventQuery(lus=(lu,), last=LAST, changes=True))


def _judge(
    observed: Observed, devices: Sequence[str], guest: str | None, pid: int | None
) -> tuple[Knowledge, User | None, tuple[UnitVerdict, ...]]:
    if not devices:
        raise UsageError("no device is named")
    sides = find_sides(scan(), devices)
    asked, itself = asked_user(guest, pid)
    known = learn(sides, _Observer(observed))
    verdicts = actions.check(
        sides, known.units, asked=asked, users=known.users, moves_itself=itself
    )
    return known, asked, verdicts


def _under_way(error: UnderWayError) -> Refusal:
    return Refusal(Fault.UNDER_WAY, {"message": error.message, "hint": error.hint})
