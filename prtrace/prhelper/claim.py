"""What the proxy says about a command before it sends it, and after: the claim (pure).

The kernel's record of a command names the process that issued it: the proxy, or the helper
behind it.  A claim says for which guest that was, and what the guest had asked for.  Whoever
reads both joins them so:

* The record's comm is the claim's `comm` ("prx" and 12 hexadecimal digits), and its pid and
  process start are `issuer_pid` and `issuer_start_ns`: the proxy sent it by itself.  The worker
  thread bears that name for this one command, so the join is exact; a command on a multipath map
  can have several records with the same name, one a path.
* `comm` is "": a helper behind the proxy sent it.  The record is one whose nexus is among
  `nexuses`, whose CDB begins with the claim's ten bytes and whose submission (start_ns) lies
  between the claim's begin_ns and end_ns (at most LATE_NS later, where the claim has no end).
  The proxy sends one command at a time to each device that way, so at most one claim fits.
* A claim with `issued` false has no record: the proxy answered by itself.

One claim is two lines of JSON: at the begin, with all but the outcome, and at the end.  A begin
without an end is a command whose outcome nobody may have been told.

What a line says is what some process wrote, so every value is bounded when it is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from prtrace.errors import MalformedError

SCHEMA: Final = "prtrace.claim/1"
COMM_PREFIX: Final = "prx"
UNKNOWN: Final = "unknown"
"""The outcome of a command that was sent and whose answer never came."""

LATE_NS: Final = 180_000_000_000
"""How long after its begin a claim without an end still stands for a command."""

_WHAT: Final = "claim"
_MOST_TEXT: Final = 512
_NONE: Final = '""'
_MOST_BYTES: Final = {"cdb": 32, "parameter": 8192, "sense": 96, "shown": 8192, "answered": 8192}
_MOST_NEXUSES: Final = 1024
_NEXUS: Final = re.compile(r"\d{1,10}:\d{1,10}:\d{1,10}:\d{1,20}", re.ASCII)
_TEXTS: Final = ("comm", "guest", "uuid", "client_comm", "device")
_NUMBERS: Final = (
    "token", "begin_ns", "issuer_pid", "issuer_start_ns", "client_pid", "client_start_ns",
    "client_uid",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One command of a guest.

    token: unique in this proxy's life.  begin_ns, end_ns: CLOCK_MONOTONIC, 0 for not yet.
    client_*: the process that asked, guest and uuid what QEMU calls its machine.  device:
    "MAJOR:MINOR" of the descriptor it sent, nexuses the "H:C:T:L" behind it.  cdb, parameter:
    as asked for, which is also what was issued where issued is set.  outcome: the SCSI status
    the guest was told as two hexadecimal digits, UNKNOWN, or "" while it is under way.
    sense, shown, answered: what it was told, as it was told it, and the data of the device's
    own reply where that differs.  note: why the proxy answered or warned.
    """

    token: int
    issuer_pid: int
    issuer_start_ns: int
    comm: str
    begin_ns: int
    cdb: bytes
    issued: bool
    client_pid: int
    client_uid: int
    client_start_ns: int = 0
    client_comm: str = ""
    guest: str = ""
    uuid: str = ""
    device: str = ""
    nexuses: tuple[str, ...] = ()
    parameter: bytes = b""
    end_ns: int = 0
    outcome: str = ""
    sense: bytes = b""
    shown: bytes = b""
    answered: bytes = b""
    note: str = ""

    @property
    def key(self) -> tuple[int, int, int]:
        """What the two lines of a claim have in common."""
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
        """The claim with what its end line says; MalformedError as from_json."""
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
    guest: str,
    uuid: str,
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


def parse_lines(text: bytes, known: dict[tuple[int, int, int], Claim]) -> list[Claim]:
    """Read whole lines into known, by key; the claims that are new or have ended.

    A line that is none of ours is left out: it belongs to another version.
    """
    changed = []
    for line in text.splitlines():
        try:
            given = json.loads(line)
            if not isinstance(given, dict) or given.get("schema") != SCHEMA:
                continue
            if "cdb" in given:
                claim = Claim.from_json(given)
                if claim.key in known:
                    continue
            else:
                key = (
                    _number(given["issuer_pid"]),
                    _number(given["issuer_start_ns"]),
                    _number(given["token"]),
                )
                if key not in known:
                    continue
                claim = known[key].ended(given)
        except (MalformedError, KeyError, TypeError, ValueError, RecursionError):
            continue
        known[claim.key] = claim
        changed.append(claim)
    return changed


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
