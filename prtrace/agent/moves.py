"""The calls of io.prtrace that move reservations, in the agent.

Each runs on a thread of the server's (prtrace.api.jobs).  The agent is asked for what it observed;
commands go down through SG_IO like those of any other process, and come back up as events.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from prtrace.agent.parser import Parsers
from prtrace.api.calls import Refusal
from prtrace.api.interface import Fault
from prtrace.api.source import Observed, Step
from prtrace.errors import PrtraceError
from prtrace.move import savefile
from prtrace.move.carry import MoveOptions
from prtrace.move.journal import UnderWayError
from prtrace.move.knowledge import LAST
from prtrace.move.saving import BlockedError
from prtrace.move.verbs import Moves, Report, moves_view
from prtrace.move.verdict import check_view, overall
from prtrace.state.event import Event

_log = logging.getLogger(__name__)


class AgentMoves:
    """prtrace.api.source.MoveCalls.  state_dir: where the journals are.

    parsers: who looks into what devices answer; this process has root's rights.
    """

    def __init__(self, state_dir: Path, parsers: Parsers) -> None:
        self._state_dir = state_dir
        self._parsers = parsers

    def _options(self, kept: bool | None = None, **more: Any) -> MoveOptions:
        """kept: whether parsers wait for the next verb of their units; see Parsers.of_verb."""
        given = self._parsers
        return MoveOptions(
            self._state_dir, parsers=partial(given.of_verb, kept), pages=given.of_scan, **more
        )

    def check(
        self, observed: Observed, devices: Sequence[str], guest: str | None, pid: int | None
    ) -> dict[str, Any]:
        """See Moves.check."""
        moves = Moves(self._options(), _Observer(observed))
        verdicts = moves.check(devices, guest=guest, pid=pid)
        return check_view(verdicts, socket.gethostname())

    def save(
        self, observed: Observed, devices: Sequence[str], guest: str | None, pid: int | None
    ) -> dict[str, Any]:
        """See Moves.save."""
        moves = Moves(self._options(), _Observer(observed))
        host = socket.gethostname()
        try:
            return moves.save(devices, guest=guest, pid=pid, host=host).to_document()
        except BlockedError as error:
            raise Refusal(
                Fault.NOT_MOVABLE,
                {
                    "message": error.message,
                    "hint": error.hint,
                    "verdict": overall(error.verdicts).value,
                    "units": check_view(error.verdicts, host)["units"],
                },
            ) from error
        except UnderWayError as error:
            raise _under_way(error) from error

    def check_file(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """See Moves.check_arrival."""
        moves = Moves(self._options(until=_until(given)))
        file, devices = savefile.from_document(given["file"]), given.get("devices") or {}
        verdicts = moves.check_arrival(file, devices, late=bool(given.get("late")))
        return check_view(verdicts, socket.gethostname())

    def carry_out(self, verb: str, given: Mapping[str, Any], step: Step) -> dict[str, Any]:
        """See Moves.carry_out."""
        file = savefile.from_document(given["file"])
        dry_run = bool(given.get("dry_run"))
        until = _until(given)
        # After Prepare comes Load, for which the guest is paused.
        kept = None if dry_run else verb == "Prepare"
        moves = Moves(self._options(kept, dry_run=dry_run, progress=step, until=until))
        try:
            return _run(moves, verb, file, given).to_json()
        except UnderWayError as error:
            raise _under_way(error) from error

    def unfinished(self) -> dict[str, Any]:
        """See Moves.unfinished."""
        moves = Moves(self._options())
        for error in moves.unreadable():
            raise error
        return moves_view(moves.moves())

    def settle(self) -> None:
        """Finish what is in question since before this agent started; what cannot be is logged."""
        for settled in Moves(self._options()).settle():
            if isinstance(settled, PrtraceError):
                _log.warning("a move's key stays in question: %s", settled.message)


def _run(moves: Moves, verb: str, file: savefile.SaveFile, given: Mapping[str, Any]) -> Report:
    devices = given.get("devices") or {}
    match verb:
        case "Prepare":
            return moves.prepare(file, devices, late=bool(given.get("late")))
        case "Load":
            return moves.load(file, devices, released=bool(given.get("released")))
        case "LateCommit":
            return moves.late_commit(file, devices)
        case "Release":
            return moves.release(file)
        case "Finish" if given.get("from_destination"):
            return moves.finish_from_destination(file, paused=bool(given.get("paused")))
        case "Finish":
            return moves.finish(file)
        case "Rollback":
            return moves.rollback(
                file,
                side=given.get("side") or "",
                runs=bool(given.get("runs")),
                destination_is_off=bool(given.get("destination_is_off")),
            )
        case _:
            raise LookupError(verb)


def _until(given: Mapping[str, Any]) -> float | None:
    """When the time of a call is over, by time.monotonic(); its deadline is in milliseconds."""
    deadline = given.get("deadline")
    return None if deadline is None else time.monotonic() + deadline / 1000


class _Observer:
    """The agent itself, as prtrace.move.knowledge.Observer."""

    def __init__(self, observed: Observed) -> None:
        self._observed = observed

    def units(self, lus: Sequence[str]) -> list[Mapping[str, Any]]:
        return list(self._observed.show(lus)["units"])

    def events(self, lu: str) -> Iterator[Event]:
        return self._observed.changes(lu, LAST)


def _under_way(error: UnderWayError) -> Refusal:
    return Refusal(Fault.UNDER_WAY, {"message": error.message, "hint": error.hint})
