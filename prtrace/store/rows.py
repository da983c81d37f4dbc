"""Events as rows of the table event, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from prtrace.errors import MalformedError
from prtrace.model import IssuePath, Issuer, LocalNexus, ReservationType
from prtrace.state.event import Command, Event, path_from_json, path_to_json

Row = tuple[Any, ...]

COLUMNS: Final = (
    "seq", "epoch_id", "record", "time", "start_ns", "done_ns", "unit_id", "nexus", "device",
    "target", "command", "action", "status", "host_byte", "key", "sa_key", "type", "scope",
    "sense", "problem", "effect", "attempts", "count", "pid", "comm", "process_start_ns",
    "cgroup", "path", "requested", "guest", "exe", "unit", "truncated", "cdb", "data", "head",
    "sense_bytes", "paths", "uuid", "client_pid", "client_comm", "asked", "asked_data",
    "life", "reason",
)  # fmt: skip

INSERT: Final = (
    f"INSERT INTO event ({', '.join(COLUMNS)}, idle)"  # noqa: S608
    f" VALUES ({', '.join('?' * (len(COLUMNS) + 1))})"
)
"""Takes row_of()'s values, and whether the event is a reading that told nothing new."""

SELECT: Final = (
    "SELECT event.seq, epoch.name, unit.lu, "  # noqa: S608
    + ", ".join(f"event.{name}" for name in COLUMNS if name not in ("seq", "epoch_id", "unit_id"))
    + " FROM event JOIN epoch ON epoch.id = event.epoch_id JOIN unit ON unit.id = event.unit_id"
)

_COMMANDS: Final = {each.value: each for each in Command}
_PATHS: Final = {each.value: each for each in IssuePath}
_SIGN: Final = 1 << 63
_SPAN: Final = 1 << 64


def row_of(event: Event, epoch_id: int, unit_id: int) -> Row:
    """The values of COLUMNS for event."""
    issuer = event.issuer
    if issuer is None:
        by: Row = (None, None, None, None, None, None, None)
        client: Row = (None, None, None)
    else:
        by = (
            issuer.pid,
            issuer.comm,
            issuer.start_ns,
            _signed(issuer.cgroup),
            issuer.path.value,
            issuer.requested,
            issuer.guest,
        )
        # Most commands have no client: nothing is kept for them.
        client = (issuer.uuid or None, issuer.client_pid or None, issuer.client_comm or None)
    return (
        event.seq,
        epoch_id,
        event.record,
        event.time,
        event.start_ns,
        event.done_ns,
        unit_id,
        event.nexus,
        event.device,
        event.target,
        event.command.value,
        event.action,
        event.status,
        event.host_byte,
        _signed(event.key),
        _signed(event.sa_key),
        None if event.type is None else int(event.type),
        event.scope,
        event.sense,
        event.problem,
        event.effect,
        event.attempts,
        event.count,
        *by,
        event.exe,
        event.unit,
        int(event.truncated),
        event.cdb,
        event.data,
        event.head,
        event.sense_bytes,
        _paths_text(event.paths) if event.paths else None,
        *client,
        event.asked or None,
        event.asked_data or None,
        _signed(event.life) or None,
        event.reason or None,
    )


def without_surrogates(row: Row) -> Row:
    """The same row with text that UTF-8 cannot carry written as backslash escapes."""
    return tuple(
        value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
        for value in row
    )


def event_of(row: Sequence[Any]) -> Event:
    """The event of a row that SELECT gave.

    Raises MalformedError where the row holds what no event can.
    """
    try:
        return _event_of(row)
    except (ValueError, TypeError, KeyError) as error:
        raise MalformedError(
            f"stored event {row[0]}", f"{type(error).__name__}: {error}"
        ) from None


def _event_of(row: Sequence[Any]) -> Event:
    (
        seq, epoch, lu, record, time, start_ns, done_ns, nexus, device, target, command, action,
        status, host_byte, key, sa_key, kind, scope, sense, problem, effect, attempts, count, pid,
        comm, process_start_ns, cgroup, path, requested, guest, exe, unit, truncated, cdb, data,
        head, sense_bytes, paths, uuid, client_pid, client_comm, asked, asked_data, life,
        reason,
    ) = row  # fmt: skip
    issuer = None
    if pid is not None:
        issuer = Issuer(
            pid=pid,
            comm=comm,
            start_ns=process_start_ns,
            cgroup=cgroup % _SPAN,
            path=_PATHS[path],
            requested=requested,
            guest=guest,
            uuid=uuid or "",
            client_pid=client_pid or 0,
            client_comm=client_comm or "",
        )
    return Event(
        seq=seq,
        epoch=epoch,
        record=record,
        time=time,
        start_ns=start_ns,
        done_ns=done_ns,
        lu=lu,
        nexus=nexus,
        device=device,
        target=target,
        command=_COMMANDS[command],
        action=action,
        status=status,
        host_byte=host_byte,
        key=None if key is None else key % _SPAN,
        sa_key=None if sa_key is None else sa_key % _SPAN,
        type=None if kind is None else ReservationType(kind),
        scope=scope,
        sense=sense,
        problem=problem,
        effect=effect,
        attempts=attempts,
        count=count,
        issuer=issuer,
        exe=exe,
        unit=unit,
        truncated=bool(truncated),
        cdb=cdb,
        data=data,
        head=head,
        sense_bytes=sense_bytes,
        paths=_paths_of(lu, paths) if paths else (),
        asked=asked or b"",
        asked_data=asked_data or b"",
        life=(life or 0) % _SPAN,
        reason=reason or "",
    )


def _paths_text(paths: Sequence[LocalNexus]) -> str:
    return json.dumps([path_to_json(path) for path in paths])


def _paths_of(lu: str, text: str) -> tuple[LocalNexus, ...]:
    return tuple(path_from_json(lu, path) for path in json.loads(text))


def _signed(number: int | None) -> int | None:
    """A 64-bit number as the signed one of the same bits, which is what SQLite keeps."""
    return number if number is None or number < _SIGN else number - _SPAN
