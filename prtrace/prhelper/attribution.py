"""The attribution record: what a proxy says about a command before and after it sends it (pure).

The kernel's record of a command names the process that issued it: the proxy, or the helper
behind it.  An attribution record says for which guest that was, and what the guest had asked for.
Whoever reads both joins them so:

* The kernel's comm is the record's `comm` ("prx" and 12 hexadecimal digits), and its pid and
  process start are `issuer_pid` and `issuer_start_ns`: the proxy sent it by itself.  The thread
  bears that name for this one command, so the join is exact; a command on a multipath map can
  have several kernel records with the same name, one a path.
* `comm` is "": a helper behind the proxy sent it.  The kernel's record is one whose nexus is
  among `nexuses`, whose CDB begins with the attribution's ten bytes and whose submission
  (start_ns) lies between begin_ns and end_ns (at most LATE_NS later, where there is no end).
  The proxy sends one command at a time over each nexus, so at most one attribution fits.
* An attribution with `issued` false has no kernel record: the proxy answered by itself.

`guest` is what the kernel or the administrator vouches for (prtrace.prhelper.identity), and
`vouched_by` says how.  `claimed_guest` and `claimed_uuid` are what the client's command line says:
any process can say so.

One attribution is two lines of JSON: at the begin, with all but the outcome, and at the end.  A
begin without an end is a command whose outcome nobody may have been told.

Every value is bounded when it is read: a damaged file must not cost its reader more than that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from prtrace.errors import MalformedError

SCHEMA: Final = "prtrace.attribution/1"
COMM_PREFIX: Final = "prx"
UNKNOWN: Final = "unknown"
"""The outcome of a command that was sent and whose answer never came."""

LATE_NS: Final = 180_000_000_000
"""How long after its begin an attribution without an end still stands for a command."""

_WHAT: Final = "attribution record"
_MOST_TEXT: Final = 512
_NONE: Final = '""'
LINE_BEGINNING: Final = f'{{"schema":"{SCHEMA}",'.encode()
"""How every line begins."""
_NEWLINE: Final = ord("\n")
_MOST_BYTES: Final = {"cdb": 32, "parameter": 8192, "sense": 96, "shown": 8192, "answered": 8192}
_MOST_NEXUSES: Final = 1024
_NEXUS: Final = re.compile(r"\d{1,10}:\d{1,10}:\d{1,10}:\d{1,20}", re.ASCII)
_TEXTS: Final = (
    "comm", "guest", "vouched_by", "claimed_guest", "claimed_uuid", "client_comm", "client_unit",
    "device",
)  # fmt: skip
_NUMBERS: Final = (
    "token", "begin_ns", "issuer_pid", "issuer_start_ns", "client_pid", "client_start_ns",
    "client_uid",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """One command of a guest."""

    token: int
    """Unique in this proxy's life."""
    issuer_pid: int
    """The process that sends it, 0 where unknown."""
    issuer_start_ns: int
    """CLOCK_BOOTTIME, to a clock tick; 0 where unknown."""
    comm: str
    """The name of the thread that sends it, "" where a helper does."""
    begin_ns: int
    """CLOCK_MONOTONIC."""
    cdb: bytes
    """As asked for, which is also what was issued where issued is set."""
    issued: bool
    client_pid: int
    """The process that asked."""
    client_uid: int
    client_start_ns: int = 0
    client_comm: str = ""
    client_unit: str = ""
    """The outermost systemd unit of its cgroup."""
    guest: str = ""
    vouched_by: str = ""
    claimed_guest: str = ""
    claimed_uuid: str = ""
    device: str = ""
    """"MAJOR:MINOR" of the descriptor that the client sent."""
    nexuses: tuple[str, ...] = ()
    """"H:C:T:L" of the device, of every path of a map."""
    parameter: bytes = b""
    """The parameter list, as asked for."""
    end_ns: int = 0
    """CLOCK_MONOTONIC; 0 for not yet."""
    outcome: str = ""
    """The SCSI status that the guest was told as two hexadecimal digits, UNKNOWN, or "" while the
    command is under way."""
    sense: bytes = b""
    shown: bytes = b""
    """The data that the guest was told, where the device answered something else."""
    answered: bytes = b""
    """The device's own data, where they differ."""
    note: str = ""
    """Why the proxy answered or warned."""

    @property
    def key(self) -> tuple[int, int, int]:
        """What the two lines of an attribution have in common."""
        return self.issuer_pid, self.issuer_start_ns, self.token

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Self:
        """Take a begin line back; MalformedError where a key is missing or of another kind."""
        try:
            fields: dict[str, Any] = {name: _text(given[name]) for name in _TEXTS}
            fields |= {name: _number(given[name]) for name in _NUMBERS}
            return cls(
                **fields,
                cdb=_bytes("cdb", given["cdb"]),
                parameter=_bytes("parameter", given["parameter"]),
                nexuses=_nexuses(given["nexuses"]),
                issued=given["issued"] is True,
                note=_text(given["note"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise MalformedError(_WHAT, f"{type(error).__name__}: {error}"[:200]) from None

    def ended(self, given: Mapping[str, Any]) -> Self:
        """The same with what its end line says; MalformedError as from_json."""
        try:
            return replace(
                self,
                end_ns=_number(given["end_ns"]),
                outcome=_text(given["outcome"]),
                sense=_bytes("sense", given["sense"]),
                shown=_bytes("shown", given.get("shown", "")),
                answered=_bytes("answered", given.get("answered", "")),
                note=_text(given.get("note", self.note)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise MalformedError(_WHAT, f"{type(error).__name__}: {error}"[:200]) from None


def common_part(
    *,
    issuer_pid: int,
    issuer_start_ns: int,
    client_pid: int,
    client_uid: int,
    client_start_ns: int,
    client_comm: str,
    client_unit: str,
    guest: str,
    vouched_by: str,
    claimed_guest: str,
    claimed_uuid: str,
    device: str,
    nexuses: tuple[str, ...],
) -> str:
    """What the begin lines of one client's commands to one device have in common."""
    return json.dumps(locals(), separators=(",", ":"))[1:-1]


def begin_line(
    common: str,
    token: int,
    comm: str,
    begin_ns: int,
    cdb: bytes,
    parameter: bytes,
    note: str,
    *,
    issued: bool,
) -> bytes:
    """The line to write before the command goes out.  A guest waits, so no json.dumps()."""
    return (
        f'{{"schema":"{SCHEMA}","token":{token},"comm":"{comm}","begin_ns":{begin_ns},'
        f'"cdb":"{cdb.hex()}","parameter":"{parameter.hex()}",'
        f'"issued":{"true" if issued else "false"},{common},'
        f'"note":{json.dumps(note[:_MOST_TEXT]) if note else _NONE}}}\n'
    ).encode()


def end_line(
    key: tuple[int, int, int],
    end_ns: int,
    outcome: str,
    sense: bytes = b"",
    *,
    shown: bytes = b"",
    answered: bytes = b"",
    note: str = "",
) -> bytes:
    """The line to write when the guest has its answer; note where it is not the begin's."""
    issuer_pid, issuer_start_ns, token = key
    more = f',"shown":"{shown.hex()}","answered":"{answered.hex()}"' if shown != answered else ""
    more += f',"note":{json.dumps(note[:_MOST_TEXT])}' if note else ""
    return (
        f'{{"schema":"{SCHEMA}","token":{token},"issuer_pid":{issuer_pid},'
        f'"issuer_start_ns":{issuer_start_ns},"end_ns":{end_ns},"outcome":"{outcome}",'
        f'"sense":"{sense.hex()}"{more}}}\n'
    ).encode()


def parse_lines(text: bytes, known: dict[tuple[int, int, int], Attribution]) -> list[Attribution]:
    """Read whole lines into known, by key; the attributions that are new or have ended.

    A line of something else is left out: it belongs to another version.  Only a line that
    begins as all begin is given to the JSON parser, whose errors take longer than its successes.
    """
    changed = []
    start = 0
    while (start := text.find(LINE_BEGINNING, start)) >= 0:
        end = text.find(b"\n", start)
        line = text[start : end if end >= 0 else len(text)]
        whole = not start or text[start - 1] == _NEWLINE
        start += len(line)
        if not whole or (found := _parse(line, known)) is None:
            continue
        known[found.key] = found
        changed.append(found)
    return changed


def _parse(line: bytes, known: dict[tuple[int, int, int], Attribution]) -> Attribution | None:
    try:
        given = json.loads(line)
        if "cdb" in given:
            found = Attribution.from_json(given)
            return None if found.key in known else found
        key = (
            _number(given["issuer_pid"]),
            _number(given["issuer_start_ns"]),
            _number(given["token"]),
        )
        return known[key].ended(given) if key in known else None
    except (MalformedError, KeyError, TypeError, ValueError, RecursionError):
        return None


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError("a number from 0 to 2^63 is wanted")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _MOST_TEXT:
        raise ValueError(f"a text of at most {_MOST_TEXT} characters is wanted")
    return value


def _bytes(name: str, value: Any) -> bytes:
    raw = bytes.fromhex(value)
    if len(raw) > _MOST_BYTES[name]:
        raise ValueError(f"{name} has {len(raw)} bytes")
    return raw


def _nexuses(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > _MOST_NEXUSES:
        raise ValueError(f"at most {_MOST_NEXUSES} nexuses are wanted")
    if not all(isinstance(nexus, str) and _NEXUS.fullmatch(nexus) for nexus in value):
        raise ValueError("a nexus is H:C:T:L")
    return tuple(value)
