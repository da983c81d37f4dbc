"""What the proxy says about a command before it sends it, and after: the claim (pure).

The kernel's record of a command names the process that issued it: the proxy, or the helper
behind it.  A claim says for which guest that was, and what the guest had asked for.  Whoever
reads both joins them so:

* The record's comm is the claim's `comm` ("prx" and 12 hexadecimal digits), and its pid and
  process start are `issuer_pid` and `issuer_start_ns`: the proxy sent it by itself.  The worker
  thread bears that name for this one command, so the join is exact; a command on a multipath map
  can have several records with the same name, one a path.
* `comm` is "": a helper behind the proxy sent it.  The record is one whose nexus is among
  `nexuses`, whose CDB begins with the claim's ten bytes and whose dispatch (start_ns) lies between
  the claim's begin_ns and end_ns (or later, where the claim has no end).  The proxy sends one
  command at a time to each device that way, so at most one claim fits.
* A claim with `issued` false has no record: the proxy answered by itself.

One claim is two lines of JSON: at the begin, with all but the outcome, and at the end.  A begin
without an end is a command whose outcome nobody was told.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from prtrace.errors import MalformedError

SCHEMA: Final = "prtrace.claim/1"
COMM_PREFIX: Final = "prx"
UNKNOWN: Final = "unknown"
"""The outcome of a command that was sent and whose answer never came."""

_WHAT: Final = "claim"
_TEXTS: Final = ("comm", "guest", "uuid", "client_comm", "device", "note", "outcome")
_NUMBERS: Final = (
    "token",
    "issuer_pid",
    "issuer_start_ns",
    "client_pid",
    "client_start_ns",
    "client_uid",
    "begin_ns",
    "end_ns",
)


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

    def begin_line(self) -> bytes:
        """The line to write before the command goes out."""
        fields: dict[str, Any] = {"schema": SCHEMA}
        for name in (*_NUMBERS, *_TEXTS):
            fields[name] = getattr(self, name)
        fields["issued"] = self.issued
        fields["nexuses"] = list(self.nexuses)
        for name in ("cdb", "parameter", "sense", "shown", "answered"):
            fields[name] = getattr(self, name).hex()
        return json.dumps(fields, separators=(",", ":")).encode() + b"\n"

    def end_line(self) -> bytes:
        """The line to write when the guest has its answer."""
        fields = {
            "schema": SCHEMA,
            "token": self.token,
            "issuer_pid": self.issuer_pid,
            "issuer_start_ns": self.issuer_start_ns,
            "end_ns": self.end_ns,
            "outcome": self.outcome,
            "sense": self.sense.hex(),
            "shown": self.shown.hex(),
            "answered": self.answered.hex(),
            "note": self.note,
        }
        return json.dumps(fields, separators=(",", ":")).encode() + b"\n"

    @property
    def key(self) -> tuple[int, int, int]:
        """What the two lines of a claim have in common."""
        return self.issuer_pid, self.issuer_start_ns, self.token

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Self:
        """Take a begin line back; MalformedError where a key is missing or of another kind."""
        try:
            fields: dict[str, Any] = {name: str(given[name]) for name in _TEXTS}
            fields |= {name: int(given[name]) for name in _NUMBERS}
            for name in ("cdb", "parameter", "sense", "shown", "answered"):
                fields[name] = bytes.fromhex(given[name])
            nexuses = tuple(str(nexus) for nexus in given["nexuses"])
            return cls(**fields, issued=bool(given["issued"]), nexuses=nexuses)
        except (KeyError, TypeError, ValueError) as error:
            raise MalformedError(_WHAT, f"{type(error).__name__}: {error}"[:200]) from None

    def ended(self, given: Mapping[str, Any]) -> Self:
        """The claim with what its end line says; MalformedError as from_json."""
        try:
            return replace(
                self,
                end_ns=int(given["end_ns"]),
                outcome=str(given["outcome"]),
                sense=bytes.fromhex(given["sense"]),
                shown=bytes.fromhex(given["shown"]),
                answered=bytes.fromhex(given["answered"]),
                note=str(given["note"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise MalformedError(_WHAT, f"{type(error).__name__}: {error}"[:200]) from None


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
            else:
                key = (
                    int(given["issuer_pid"]),
                    int(given["issuer_start_ns"]),
                    int(given["token"]),
                )
                if key not in known:
                    continue
                claim = known[key].ended(given)
        except (MalformedError, KeyError, TypeError, ValueError):
            continue
        known[claim.key] = claim
        changed.append(claim)
    return changed
