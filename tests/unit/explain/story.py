"""Stories: what happened, line by line, and what must be said of it.

    host NAME                        the lines that follow are this host's recording
    paths sda=1:0:0:0@naa.…a,1 …     its paths: disk, address, initiator port, relative target port
    12:00:00 paths sda=…             the same, when paths changed
    12:00:00 WHO DISK COMMAND …      WHO is a process (its pid is 100), guest:NAME, or ? where
                                     nobody knows; NAME@MAJOR:MINOR asked by IOC_PR on that node
    log TEXT                         a line of that host's kernel log, and nothing else of it
    ports NAME port …                somebody's prtrace ports --json
    target MAKER/MODEL/REVISION      who made the disk, where it is not LIO
    say KIND CERTAINTY: text         some chain of an incident of that kind has a link like it
    say registered: text             a line about a registration says so
    say clock: text                  the line about a host's clock says so
    say reservation: text            the line about the reservation says so
    say path: text                   a line about a path says so
    say IN DOUBT: text               a line about a doubt says so
    say may be done: text            something is offered in these words, its command behind them
    offers no TEXT                   nothing is offered that has that word in its command
    quiet                            nothing went wrong
    harmless                         every conflict is a scan's
    never: text                      no link that is observed or inferred says so
    no KIND                          nothing of that kind happened

Commands:  REGISTER old new | IGNORE new | RESERVE key TYPE | RELEASE key TYPE | CLEAR key
           PREEMPT key victim TYPE | FULL generation [port,rtp:key[*TYPE]]…, rtp "all" for any
           KEYS generation [key]… | ATTENTION asc+ascq
           READ lba | WRITE lba (both refused) | RESERVE6 | RELEASE6 | GAP | LOST count
An answer other than GOOD stands last: CONFLICT, TIMEOUT, HOSTERROR, NOTREADY.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from prtrace.explain.ports import Ports
from prtrace.model import IssuePath, Issuer, LocalNexus, ReservationType
from prtrace.paste.reader import read_text
from prtrace.paste.recorded import Import
from prtrace.paste.stamp import Clock
from prtrace.scsi.reply import FullStatusDescriptor, ReadFullStatus
from prtrace.scsi.transportid import FcPort, IscsiPort
from prtrace.state.decode import NOT_WATCHED, TIMEOUT
from prtrace.state.event import Command, Event

LU = "naa.6001405000000001"
_TARGET = "LIO-ORG/disk/4.0"
_LINE = re.compile(r"say (registered|clock|reservation|IN DOUBT|path|may be done): (.+)")
_DAY = 1_790_000_000_000_000_000
_SERVICE = {"REGISTER": 0, "RESERVE": 1, "RELEASE": 2, "CLEAR": 3, "PREEMPT": 4, "IGNORE": 6}


@dataclass
class Story:
    title: str
    hosts: dict[str, list[Event]] = field(default_factory=dict)
    ports: list[Ports] = field(default_factory=list)
    says: list[tuple[str, str, str]] = field(default_factory=list)
    lines: list[tuple[str, str]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    never: list[str] = field(default_factory=list)
    no: list[str] = field(default_factory=list)
    offers_no: list[str] = field(default_factory=list)
    quiet: bool = False
    harmless: bool = False


def read(file: Path) -> Story:
    story = Story(file.stem)
    events = story.hosts.setdefault("", [])
    paths: dict[str, LocalNexus] = {}
    target = _TARGET
    for line in file.read_text().splitlines():
        words = line.split("#")[0].split()
        if not words:
            continue
        if words[0] == "host":
            story.hosts.pop("", None)
            events, paths = story.hosts.setdefault(words[1], []), {}
        elif words[0] == "paths":
            paths = {path.device: path for path in map(_path, words[1:])}
            told = tuple(paths.values())
            events.append(_event(events, Command.PATHS, _seconds("11:57:00"), paths=told))
        elif words[0] == "log":
            story.log.append(line.removeprefix("log "))
        elif words[0] == "target":
            target = line.removeprefix("target ")
        elif words[0] == "ports":
            story.ports.append(Ports(words[1], frozenset(words[2:])))
        elif (said := _LINE.fullmatch(line.strip())) is not None:
            story.lines.append(said.groups())
        elif words[0] == "say":
            kind, certainty, text = re.fullmatch(
                r"say (.+) (observed|inferred|not known): (.+)", line.strip()
            ).groups()
            story.says.append((kind, certainty, text))
        elif len(words) > 1 and words[1] == "paths":
            paths = {path.device: path for path in map(_path, words[2:])}
            told = tuple(paths.values())
            events.append(_event(events, Command.PATHS, _seconds(words[0]), paths=told))
        elif words[0] == "never:":
            story.never.append(line.split("never:")[1].strip())
        elif words[:2] == ["offers", "no"]:
            story.offers_no.append(words[2])
        elif words[0] == "no":
            story.no.append(" ".join(words[1:]))
        elif words[0] in ("quiet", "harmless"):
            setattr(story, words[0], True)
        else:
            events.append(_command(events, words, paths))
    for told in story.hosts.values():
        told[:] = [event._replace(target=target) for event in told]
    if story.log:
        found = Import()
        found.add(read_text("\n".join(story.log)), Clock(), {"sda": LU, "1:0:0:0": LU})
        events += found.numbered()
    return story


def _path(word: str) -> LocalNexus:
    device, nexus, port, relative = re.fullmatch(r"(\w+)=([\d:]+)@(.+),(\d+)", word).groups()
    return LocalNexus(
        nexus,
        LU,
        device=f"/dev/{device}",
        initiator_port=port,
        relative_target_port=int(relative),
        state="running",
        transport="iscsi" if port.startswith("iqn.") else "fc",
    )


def _event(events: list[Event], command: Command, seconds: int, **fields: object) -> Event:
    seq = len(events) + 1
    return Event(
        command=command,
        seq=seq,
        epoch="e",
        record=seq,
        time=_DAY + seconds * 10**9,
        start_ns=seq * 1000,
        done_ns=seq * 1000 + 500,
        lu=LU,
        target=_TARGET,
        **fields,
    )


_ANSWERS = {
    "CONFLICT": ("RESERVATION CONFLICT", b""),
    "TIMEOUT": (TIMEOUT, b""),
    "HOSTERROR": ("", b""),
    "NOTREADY": ("CHECK CONDITION", bytes.fromhex("700002000000000a00000000040000000000")),
}


def _seconds(text: str) -> int:
    hours, minutes, seconds = map(int, text.split(":"))
    return (hours * 60 + minutes) * 60 + seconds


def _issuer(who: str) -> Issuer:
    name, _, node = who.partition("@")
    if name.startswith("guest:"):
        return Issuer(100, "qemu-system-x86", guest=name.removeprefix("guest:"))
    return Issuer(100, name, path=IssuePath.IOC_PR if node else IssuePath.SG_NODE, requested=node)


def _command(events: list[Event], words: list[str], paths: dict[str, LocalNexus]) -> Event:
    at = _seconds(words[0])
    who, disk, action, *rest = words[1:]
    status, sense = "GOOD", b""
    if rest and rest[-1] in _ANSWERS:
        status, sense = _ANSWERS[rest.pop()]
    fields: dict[str, object] = {
        "host_byte": "" if status else "DID_ERROR",
        "sense_bytes": sense,
        "nexus": paths[f"/dev/{disk}"].nexus if disk != "-" else "",
        "device": f"/dev/{disk}" if disk != "-" else "",
        "status": status,
        "issuer": None if who == "?" else _issuer(who),
    }
    if action in _SERVICE:
        fields |= _pr_out(action, rest)
        return _event(events, Command.PR_OUT, at, **fields)
    match action:
        case "FULL":
            cdb = bytes.fromhex("5e030000000000200000")
            return _event(events, Command.PR_IN, at, cdb=cdb, data=_full(rest), **fields)
        case "KEYS":
            cdb = bytes.fromhex("5e000000000000200000")
            keys = b"".join(int(key, 16).to_bytes(8, "big") for key in rest[1:])
            data = int(rest[0]).to_bytes(4, "big") + len(keys).to_bytes(4, "big") + keys
            return _event(events, Command.PR_IN, at, cdb=cdb, data=data, **fields)
        case "ATTENTION":
            del fields["sense_bytes"]
            sense = bytes.fromhex(f"70000600000000 0a 00000000 {rest[0]} 00000000")
            fields["status"] = "CHECK CONDITION"
            return _event(events, Command.UNIT_ATTENTION, at, sense_bytes=sense, **fields)
        case "READ" | "WRITE":
            code = "28" if action == "READ" else "2a"
            cdb = bytes.fromhex(f"{code}00{int(rest[0]):08x}00000100")
            fields["status"] = "RESERVATION CONFLICT"
            return _event(events, Command.CONFLICT, at, cdb=cdb, **fields)
        case "RESERVE6" | "RELEASE6":
            code = 0x16 if action == "RESERVE6" else 0x17
            kind = Command.RESERVE if action == "RESERVE6" else Command.RELEASE
            return _event(events, kind, at, cdb=bytes([code, 0, 0, 0, 0, 0]), **fields)
        case "LOST":
            return _event(
                events, Command.LOST, at, problem="the ring was full", count=int(rest[0]), **fields
            )
        case "GAP":
            return _event(events, Command.LOST, at, problem=NOT_WATCHED, **fields)
    raise ValueError(f"{action} is no command of a story")


def _pr_out(action: str, rest: list[str]) -> dict[str, object]:
    given = [word for word in rest if word not in ReservationType.__members__]
    kinds = [ReservationType[word] for word in rest if word in ReservationType.__members__]
    key, other = (int(word, 16) for word in [*given, "0", "0"][:2])
    if action == "IGNORE":
        key, other = 0, key
    listed = key.to_bytes(8, "big") + other.to_bytes(8, "big") + bytes(8)
    cdb = bytes([0x5F, _SERVICE[action], kinds[0] if kinds else 0, 0, 0, 0, 0, 0, 24, 0])
    return {"cdb": cdb, "data": listed, "head": listed}


def _full(rest: list[str]) -> bytes:
    """A READ FULL STATUS reply."""
    found = []
    for word in rest[1:]:
        port, relative, key, kind = re.fullmatch(
            r"(.+),(\d+|all):(\w+?)(?:\*(\w+))?", word
        ).groups()
        found.append(
            FullStatusDescriptor(
                int(key, 16),
                0 if relative == "all" else int(relative),
                _transport_id(port),
                all_tg_pt=relative == "all",
                holder=kind is not None,
                type=ReservationType[kind] if kind else None,
            )
        )
    return ReadFullStatus.of(int(rest[0]), *found).build()


def _transport_id(port: str) -> FcPort | IscsiPort:
    if port.startswith("naa."):
        return FcPort(int(port.removeprefix("naa."), 16))
    name, _, isid = port.partition(",i,0x")
    return IscsiPort(name.encode(), int(isid, 16))
