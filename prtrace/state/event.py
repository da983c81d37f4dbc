"""One event: a record made self-contained, as the store keeps it and `events --json` prints it.

An event carries the raw bytes (CDB, list or reply, sense) next to what they mean, so that
anybody who has the events can rebuild the state, offline and years later.  The meaning is
always derived from the bytes (prtrace.state.decode), never taken from the text beside them.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, Self

from prtrace.errors import MalformedError
from prtrace.model import IssuePath, Issuer, LocalNexus, Nexus, ReservationType
from prtrace.state.fields import fields_of

SCHEMA: Final = "prtrace.event/1"


class Command(enum.Enum):
    """What kind of event it is."""

    PR_OUT = "PR OUT"
    PR_IN = "PR IN"
    RESERVE = "RESERVE"
    RELEASE = "RELEASE"
    CONFLICT = "CONFLICT"
    UNIT_ATTENTION = "UNIT ATTENTION"
    LOST = "LOST"
    PATHS = "PATHS"
    FORGOTTEN = "FORGOTTEN"


_NEEDED: Final = ("lu", "nexus", "comm")
"""The texts that no event, and no issuer, is without."""
_TIME_END: Final = 1 << 63
"""Nanoseconds since the epoch: what a store's column holds."""

CHANGING: Final = (Command.PR_OUT, Command.RESERVE, Command.RELEASE)
"""The commands that can change reservations."""


class Event(NamedTuple):
    """One thing that happened, with everything needed to read it again.

    A tuple, because every command's event is made four times on its way, a field more or
    other each time: a frozen dataclass takes six times as long for that.

    seq: the store's number, ascending without gaps; 0 until it is stored.  epoch and record
    name the kernel's record it was made from (record 0: none), and are unique together.
    time: nanoseconds since the epoch.  start_ns: from when on the device can have had the
    command: its submission, or the end of the attempt before; 1 where that was not seen.
    done_ns: its end; both CLOCK_MONOTONIC.  count: how many of a CONFLICT, UNIT ATTENTION or
    LOST stand behind this one event.
    attempts: how often the request was tried, this time included.
    action, key, sa_key, type, scope, sense, problem: the meaning, filled in by
    prtrace.state.decode.  cdb, data, head, sense_bytes: the bytes it was read from; head is the
    parameter list as it was at submission, b"" where it was not seen.
    paths: this host's nexuses to the unit, with a PATHS event only (and with the READ FULL
    STATUS replies of histories from before there were such events).
    life: LocalNexus.life of the scsi_device that carried the command, 0 where not known.
    asked, asked_data: the CDB and the parameter list that the client asked the issuer for, b""
    where they are what was issued.
    """

    command: Command
    seq: int = 0
    epoch: str = ""
    record: int = 0
    time: int = 0
    start_ns: int = 0
    done_ns: int = 0
    lu: str = ""
    nexus: Nexus = ""
    device: str = ""
    target: str = ""
    action: str = ""
    status: str = ""
    host_byte: str = ""
    key: int | None = None
    sa_key: int | None = None
    type: ReservationType | None = None
    scope: int | None = None
    sense: str = ""
    problem: str = ""
    effect: str = ""
    attempts: int = 1
    count: int = 1  # type: ignore[assignment]  # a tuple's method, which nobody needs here
    issuer: Issuer | None = None
    exe: str = ""
    unit: str = ""
    truncated: bool = False
    cdb: bytes = b""
    data: bytes = b""
    head: bytes = b""
    sense_bytes: bytes = b""
    paths: tuple[LocalNexus, ...] = ()
    asked: bytes = b""
    asked_data: bytes = b""
    life: int = 0
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """The event as `events --json` prints it; from_json() takes it back."""
        issuer = self.issuer
        return {
            "schema": SCHEMA,
            "seq": self.seq,
            "time": rfc3339(self.time),
            "lu": self.lu,
            "nexus": self.nexus,
            "device": self.device or None,
            "command": self.command.value,
            "action": self.action or None,
            "status": self.status or None,
            "host_byte": self.host_byte or None,
            "key": key_text(self.key),
            "sa_key": key_text(self.sa_key),
            "type": None if self.type is None else self.type.name,
            "scope": self.scope,
            "sense": self.sense or None,
            "problem": self.problem or None,
            "attempts": self.attempts,
            "count": self.count,
            "pid": None if issuer is None else issuer.pid,
            "comm": None if issuer is None else issuer.comm,
            "guest": (issuer.guest or None) if issuer else None,
            "uuid": (issuer.uuid or None) if issuer else None,
            "client_pid": (issuer.client_pid or None) if issuer else None,
            "client_comm": (issuer.client_comm or None) if issuer else None,
            "path": None if issuer is None else issuer.path.value,
            "requested": (issuer.requested or None) if issuer else None,
            "exe": self.exe or None,
            "unit": self.unit or None,
            "process_start_ns": None if issuer is None else issuer.start_ns,
            "cgroup": None if issuer is None else issuer.cgroup,
            "effect": self.effect or None,
            "target": self.target or None,
            "epoch": self.epoch or None,
            "record": self.record,
            "start_ns": self.start_ns,
            "done_ns": self.done_ns,
            "truncated": self.truncated,
            "cdb": self.cdb.hex(),
            "data": self.data.hex(),
            "head": self.head.hex(),
            "sense_bytes": self.sense_bytes.hex(),
            "paths": [path_to_json(path) for path in self.paths],
            "asked": self.asked.hex(),
            "asked_data": self.asked_data.hex(),
            "life": self.life,
            "reason": self.reason or None,
            **fields_of(self.cdb, self.data, good=self.status == "GOOD"),
        }

    @classmethod
    def from_json(cls, given: object) -> Self:
        """Take back what to_json() gave; unknown keys are left alone.

        Raises MalformedError where a key is missing or has another kind of value.
        """
        if not isinstance(given, Mapping):
            raise MalformedError("event", f"a JSON object was expected, not {given!r:.60}")
        if given.get("schema", SCHEMA) != SCHEMA:
            raise MalformedError(
                "event", f"schema {given['schema']!r:.60}, this program reads {SCHEMA}"
            )
        try:
            return cls._from_json(given)
        except KeyError as error:
            raise MalformedError("event", f"has no {error.args[0]!r:.60}") from None
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise MalformedError("event", f"{type(error).__name__}: {error}"[:200]) from None

    @classmethod
    def _from_json(cls, given: Mapping[str, Any]) -> Self:
        lu = _word(given, "lu")
        issuer = None
        if given.get("pid") is not None:
            issuer = Issuer(
                pid=int(given["pid"]),
                comm=_word(given, "comm"),
                start_ns=int(given.get("process_start_ns") or 0),
                cgroup=int(given.get("cgroup") or 0),
                path=IssuePath(given.get("path") or IssuePath.UNKNOWN.value),
                requested=_word(given, "requested"),
                guest=_word(given, "guest"),
                uuid=_word(given, "uuid"),
                client_pid=int(given.get("client_pid") or 0),
                client_comm=_word(given, "client_comm"),
            )
        return cls(
            seq=_number(given, "seq"),
            epoch=_word(given, "epoch"),
            record=_number(given, "record"),
            time=_time(given["time"]),
            start_ns=_number(given, "start_ns"),
            done_ns=_number(given, "done_ns"),
            lu=lu,
            nexus=_word(given, "nexus"),
            device=_word(given, "device"),
            target=_word(given, "target"),
            command=Command(given["command"]),
            action=_word(given, "action"),
            status=_word(given, "status"),
            host_byte=_word(given, "host_byte"),
            key=_key(given.get("key")),
            sa_key=_key(given.get("sa_key")),
            type=None if given.get("type") is None else ReservationType[given["type"]],
            scope=None if given.get("scope") is None else int(given["scope"]),
            sense=_word(given, "sense"),
            problem=_word(given, "problem"),
            effect=_word(given, "effect"),
            attempts=_number(given, "attempts", 1),
            count=_number(given, "count", 1),
            issuer=issuer,
            exe=_word(given, "exe"),
            unit=_word(given, "unit"),
            truncated=bool(given.get("truncated", False)),
            cdb=bytes.fromhex(_word(given, "cdb")),
            data=bytes.fromhex(_word(given, "data")),
            head=bytes.fromhex(_word(given, "head")),
            sense_bytes=bytes.fromhex(_word(given, "sense_bytes")),
            paths=tuple(path_from_json(lu, path) for path in given.get("paths") or ()),
            asked=bytes.fromhex(_word(given, "asked")),
            asked_data=bytes.fromhex(_word(given, "asked_data")),
            life=_number(given, "life"),
            reason=_word(given, "reason"),
        )


def path_to_json(path: LocalNexus) -> dict[str, Any]:
    """A path as events, stored states and `show --json` write it."""
    return {
        "nexus": path.nexus,
        "device": path.device or None,
        "sg": path.sg or None,
        "bsg": path.bsg or None,
        "initiator_port": path.initiator_port,
        "target_port": path.target_port,
        "relative_target_port": path.relative_target_port,
        "transport": path.transport or None,
        "state": path.state or None,
        "life": path.life,
    }


def path_from_json(lu: str, given: Any) -> LocalNexus:
    """Take back what path_to_json() gave, and the rows of four that events had before.

    Raises KeyError, TypeError or ValueError for anything else.
    """
    if isinstance(given, list):
        nexus, port, relative, device = given
        given = {
            "nexus": nexus,
            "initiator_port": port,
            "relative_target_port": relative,
            "device": device,
        }
    relative = given.get("relative_target_port")
    return LocalNexus(
        nexus=str(given["nexus"]),
        lu=lu,
        device=str(given.get("device") or ""),
        sg=str(given.get("sg") or ""),
        bsg=str(given.get("bsg") or ""),
        initiator_port=_text(given.get("initiator_port")),
        target_port=_text(given.get("target_port")),
        relative_target_port=None if relative is None else int(relative),
        transport=str(given.get("transport") or ""),
        state=str(given.get("state") or ""),
        life=int(given.get("life") or 0),
    )


def _word(given: Mapping[str, Any], name: str) -> str:
    """A text; "" where it is null, or absent and not needed.

    Raises KeyError where it is needed and absent, TypeError for what is no text.
    """
    value = given[name] if name in _NEEDED else given.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"{name} is a text, not {value!r:.40}")
    return value


def _number(given: Mapping[str, Any], name: str, absent: int = 0) -> int:
    """A number that is not negative and fits into 64 bits.

    Raises KeyError where it is needed and absent, ValueError for another one.
    """
    value = given[name] if name in _NEEDED else given.get(name, absent)
    number = int(value or 0)
    if not 0 <= number < 1 << 64:
        raise ValueError(f"{name} is no number of 64 bits: {value!r:.40}")
    return number


def _time(given: object) -> int:
    time = nanoseconds(str(given))
    if not 0 <= time < _TIME_END:
        raise ValueError(f"a time lies between 1970 and 2262, not {given!r:.40}")
    return time


def _text(given: object) -> str | None:
    return None if given is None else str(given)


def key_text(key: int | None) -> str | None:
    """A reservation key as prtrace writes it everywhere: 16 hex digits."""
    return None if key is None else f"0x{key:016x}"


def _key(text: str | None) -> int | None:
    if text is None:
        return None
    key = int(text, 16)
    if not 0 <= key < 1 << 64:
        raise ValueError(f"a key has 64 bits, not {text}")
    return key


def rfc3339(time: int) -> str:
    """Nanoseconds since the epoch as RFC 3339 in UTC, nine decimals, so that none is lost."""
    seconds, rest = divmod(time, 1_000_000_000)
    whole = datetime.fromtimestamp(seconds, UTC).isoformat().removesuffix("+00:00")
    return f"{whole}.{rest:09d}Z"


def nanoseconds(text: str) -> int:
    """Take rfc3339()'s text back; other RFC 3339 forms with a zone are understood too."""
    whole, dot, rest = text.partition(".")
    digits = ""
    while dot and rest and rest[0].isdigit():
        digits, rest = digits + rest[0], rest[1:]
    moment = datetime.fromisoformat(whole + rest if dot else whole)
    if moment.tzinfo is None:
        raise ValueError(f"no time zone in {text!r:.40}")
    return int(moment.timestamp()) * 1_000_000_000 + int(digits[:9].ljust(9, "0"))
