"""What sg_persist and sg_raw print (sg3_utils 1.46 and 1.48): transcripts, replies, lists.

sg_persist -v prints the CDB, -vv the parameter list and raw sense data, -vvv the reply.  -H prints
a reply behind its 8-byte header, whose fields stand in the line above; -HH prints it whole.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from prtrace.errors import MalformedError
from prtrace.paste.hexdump import parse_hex
from prtrace.paste.seen import GOOD, Seen, SenseTriple
from prtrace.paste.sense_words import additional_sense, sense_key
from prtrace.scsi import forms
from prtrace.scsi.codes import (
    Status,
    titled_action,
    titled_type,
)
from prtrace.scsi.recognise import reply_to
from prtrace.scsi.reply import ReadKeys, ReadReservation, ReservationDescriptor

SOURCE: Final = "sg3_utils"

_BYTES: Final = r"\[?(?P<bytes>[0-9a-f]{2}(?: [0-9a-f]{2})+)\]?"
_CDB: Final = re.compile(
    rf"(?:persistent reserv(?:ation|e) (?:in|out) (?:cdb|cmd): *|cdb to send: *[^\[]*){_BYTES}",
    re.IGNORECASE,
)
_HEADER: Final = re.compile(
    r"PR generation=0x(?P<generation>[0-9a-f]{1,8}), Additional length=(?P<length>\d{1,10})",
    re.IGNORECASE,
)
_KEYS: Final = re.compile(
    r"PR generation=0x(?P<generation>[0-9a-f]{1,8}), "
    r"(?:(?P<count>\d{1,8}) registered reservation keys? follows?|there are NO registered)",
    re.IGNORECASE,
)
_KEY: Final = re.compile(r"\s+0x(?P<key>[0-9a-f]{1,16})\s*", re.IGNORECASE)
_HELD: Final = re.compile(
    r"PR generation=0x(?P<generation>[0-9a-f]{1,8}), "
    r"(?:(?P<held>Reservation follows)|there is NO reservation)",
    re.IGNORECASE,
)
_HOLDER: Final = re.compile(r"\s+Key=0x(?P<key>[0-9a-f]{1,16})\s*", re.IGNORECASE)
_SCOPE: Final = re.compile(r"\s+scope: (?P<scope>\S+),\s+type: (?P<type>.+?)\s*")
_FULL: Final = re.compile(r"PR generation=0x(?P<generation>[0-9a-f]{1,8})$", re.IGNORECASE)
_CAPABILITIES: Final = re.compile(r"Report capabilities response:$", re.IGNORECASE)
_CAPABILITY: Final = re.compile(r"\s+(?P<name>[A-Z][^:]*?)(?:\([A-Z_]+\))?: (?P<value>\d)\s*")
_TYPED: Final = re.compile(r"(?:.*[\s/$#])?sg_persist (?P<options>-.*)")
_STATED: Final = (
    (re.compile(r"Key=0x([0-9a-f]{1,16})", re.IGNORECASE), "reservation key"),
    (re.compile(r"All target ports bit (set|clear)"), "all_tg_pt"),
    (re.compile(r"Relative port address: (0x[0-9a-f]{1,4})"), "relative target port identifier"),
    (re.compile(r"(<< Reservation holder >>|not reservation holder)"), "r_holder"),
    (re.compile(r"scope: (.+?),\s+type: .*"), "scope"),
    (re.compile(r"scope: .+?,\s+type: (.+)"), "type"),
    (re.compile(r"(?:SAS address|iSCSI (?:name|world wide (?:name|unique port id))): (\S+)"),
     "transportid"),
    (re.compile(r"Parallel SCSI initiator SCSI address: (0x[0-9a-f]{1,4})"), "scsi address"),
    (re.compile(r"relative port number \(of corresponding target\): (0x[0-9a-f]{1,4})"),
     "relative target port of the address"),
    (re.compile(r"SOP Routing ID: (0x[0-9a-f]{1,4})"), "routing id"),
)  # fmt: skip
"""What a registration of READ FULL STATUS says, line by line, and the fields' names."""
_DUMPED_PORTS: Final = {
    "FCP-2 World Wide Name:": ("naa.", 8),
    "RDMA initiator port identifier:": ("srp.", 16),
}
"""TransportIDs of which sg_decode_transportid_str() (lib/sg_lib.c) dumps so many bytes into the
next line, and how prtrace begins the port's name."""
_DUMPED_PORT: Final = re.compile(r"\s+[0-9a-f]{2}(?:\s+[0-9a-f]{2})+\s*", re.IGNORECASE)
_STATUS: Final = re.compile(r"SCSI Status: (?P<status>[A-Za-z ]+?)\s*")
_ENDED: Final = re.compile(
    r"PR (?:in|out)(?: \((?P<action>[^)]*)\))?: (?:command \((?P<done>[^)]*)\) )?(?P<words>.+)",
    re.IGNORECASE,
)
_DUMPED: Final = re.compile(
    r"(?P<list>persistent reserv(?:ation|e) out parameters)|"
    r"(?P<reply>persistent reserv(?:ation|e) in: response|Received \d+ bytes of data)|"
    r"(?P<sense>Raw sense data)",
    re.IGNORECASE,
)
_DUMP_LINE: Final = re.compile(r"\s*[0-9a-f]{2,4}(?:\s+[0-9a-f]{2}\b)+.*", re.IGNORECASE)
_STATUSES: Final = {
    "good": Status.GOOD,
    "check condition": Status.CHECK_CONDITION,
    "busy": Status.BUSY,
    "reservation conflict": Status.RESERVATION_CONFLICT,
    "task set full": Status.TASK_SET_FULL,
}
_SCOPES: Final = {"LU_SCOPE": 0}


def is_transcript(lines: Iterable[str]) -> bool:
    """Whether one of the lines can only be from sg_persist or sg_raw."""
    marks = (_CDB, _HEADER, _KEYS, _HELD, _FULL, _CAPABILITIES, _DUMPED, _STATUS, _ENDED)
    return any(mark.match(line.strip()) for line in lines for mark in marks)


class _Part(enum.IntEnum):
    """What a line tells of a command, in the order in which sg_persist and sg_raw print it."""

    COMMAND = 0
    LIST = 1
    STATUS = 2
    SENSE = 3
    RAW_SENSE = 4
    HEX = 5
    """The reply in hex."""
    WORDS = 6
    """The reply in words."""
    END = 7
    """The line with which sg_persist ends a command that failed, or a PERSISTENT RESERVE OUT."""


def read(lines: list[str]) -> Iterator[Seen]:
    """Each command of a transcript, and each reply that is there without its command.

    MalformedError for a dump that is not whole, with its line.
    """
    seen: Seen | None = None
    part = _Part.COMMAND
    device = ""
    """Of the command line above, whose CDB follows."""
    header: bool | None = None
    """Whether that command line dumps replies with their header."""
    at = 0
    while at < len(lines):
        line, number = lines[at], at + 1
        at += 1
        text = line.strip()
        cdb, typed = _CDB.match(text), _TYPED.match(text)
        if cdb is not None or typed is not None:
            if seen is not None and _says(seen):
                yield seen
            seen = Seen(
                source=SOURCE,
                line=number,
                cdb=bytes.fromhex(cdb["bytes"]) if cdb is not None else b"",
                reply_kind=_asked(typed["options"]) if typed is not None else "",
                header=_prints_header(typed["options"]) if typed is not None else header,
                device=_device(typed["options"]) if typed is not None else device,
            )
            device, header = (seen.device, seen.header) if typed is not None else ("", None)
            part = _Part.COMMAND
            continue
        step = _Step(lines, at, number)
        told = step.take(text, line, seen or Seen(source=SOURCE, line=number))
        if told is not None and seen is not None and _another(seen, part, told, step.part):
            if _says(seen):
                yield seen
            step = _Step(lines, at, number)
            told = seen = step.take(text, line, Seen(source=SOURCE, line=number))
        at = step.at
        if told is not None or step.part is _Part.END:
            part = step.part
        seen = told or seen
    if seen is not None and _says(seen):
        yield seen


def _another(seen: Seen, last: _Part, told: Seen, part: _Part) -> bool:
    """Whether what a line told is another command's than what the lines above told.

    A command has one outcome, and one reply where it was not refused.  With its CDB, -vvv prints
    the reply in hex and then in words.
    """
    sensed = last in (_Part.SENSE, _Part.RAW_SENSE)
    match part:
        case _Part.SENSE if last is part and seen.triple is not None and told.triple is not None:
            return seen.triple.asc is not None or told.triple.key != seen.triple.key
        case _ if part <= last:
            return True
        case _Part.HEX | _Part.WORDS if sensed or seen.status == Status.RESERVATION_CONFLICT:
            return True
        case _Part.WORDS if last is _Part.HEX:
            return not seen.cdb or told.reply != seen.reply
        case _Part.END:
            refused = sensed and told.status != Status.CHECK_CONDITION
            return refused or last in (_Part.STATUS, _Part.HEX, _Part.WORDS)
        case _:
            return False


def _says(seen: Seen) -> bool:
    """Whether there is more than a command as somebody typed it."""
    typed = Seen(
        source=SOURCE,
        line=seen.line,
        reply_kind=seen.reply_kind,
        device=seen.device,
        header=seen.header,
    )
    return seen != typed


class _Step:
    """One line and the lines that belong to it."""

    def __init__(self, lines: list[str], at: int, number: int) -> None:
        self._lines = lines
        self._number = number
        self.at = at
        """The line behind what was taken."""
        self.part = _Part.COMMAND
        """What was taken."""

    def take(self, text: str, line: str, seen: Seen) -> Seen | None:
        """seen with what the line adds, None where it adds nothing."""
        if (found := _HEADER.match(text)) is not None:
            return self._headed(found, seen)
        if (found := _KEYS.match(text)) is not None:
            return self._keys(found, seen)
        if (found := _HELD.match(text)) is not None:
            return self._held(found, seen)
        if (found := _FULL.match(text)) is not None:
            self.part = _Part.WORDS
            return replace(seen, facts=self._full(int(found["generation"], 16)))
        if _CAPABILITIES.match(text):
            self.part = _Part.WORDS
            return replace(seen, facts=self._capabilities())
        if (found := _DUMPED.match(text)) is not None:
            data = self._dump()
            if found["list"]:
                self.part = _Part.LIST
                return replace(seen, parameter_list=data)
            if found["sense"]:
                self.part = _Part.RAW_SENSE
                return replace(seen, sense=data)
            return self._reply(_Part.HEX, seen, data, reply_to(seen.cdb))
        if _DUMP_LINE.fullmatch(line):
            self.at -= 1
            told = self._reply(_Part.HEX, seen, self._dump(), reply_to(seen.cdb))
            return replace(told, header=seen.header if seen.cdb or seen.reply_kind else None)
        if (found := _STATUS.fullmatch(text)) is not None:
            self.part = _Part.STATUS
            status = _STATUSES.get(found["status"].lower())
            return None if status is None else replace(seen, status=status)
        if (found := _ENDED.match(text)) is not None:
            self.part = _Part.END
            return _ended(found, seen)
        self.part = _Part.SENSE
        return _sensed(text, seen)

    def _reply(self, part: _Part, seen: Seen, data: bytes, kind: str) -> Seen:
        self.part = part
        return replace(seen, reply=data, reply_kind=kind or seen.reply_kind, header=True)

    def _dump(self) -> bytes:
        """The bytes of the dump that follows."""
        begin = self.at
        while self.at < len(self._lines) and _DUMP_LINE.fullmatch(self._lines[self.at]):
            self.at += 1
        # Blank lines keep the line numbers that an error names.
        return parse_hex("\n" * begin + "\n".join(self._lines[begin : self.at]))

    def _headed(self, found: re.Match[str], seen: Seen) -> Seen:
        length = int(found["length"])
        header = forms.READ_KEYS.build(
            prgeneration=int(found["generation"], 16), additional_length=length
        )
        behind = self._dump() if length else b""
        if len(behind) > length:
            raise MalformedError(
                "sg_persist -H",
                f"line {self._number}: ADDITIONAL LENGTH is {length}, {len(behind)} bytes follow",
            )
        return self._reply(_Part.HEX, seen, header + behind, reply_to(seen.cdb))

    def _keys(self, found: re.Match[str], seen: Seen) -> Seen:
        keys: list[int] = []
        while self.at < len(self._lines) and (key := _KEY.fullmatch(self._lines[self.at])):
            keys.append(int(key["key"], 16))
            self.at += 1
        count = int(found["count"] or 0)
        reply = ReadKeys(int(found["generation"], 16), tuple(keys), 8 * count)
        return self._reply(_Part.WORDS, seen, reply.build(), "keys")

    def _full(self, generation: int) -> tuple[tuple[str, str], ...]:
        """What sg_persist -s says in words."""
        facts = [("prgeneration", str(generation))]
        while self.at < len(self._lines):
            text = self._lines[self.at].strip()
            if text and not self._lines[self.at].startswith("    "):
                break
            self.at += 1
            for form, name in _STATED:
                if (found := form.fullmatch(text)) is not None:
                    facts.append((name, _value(name, found[1])))
            if text in _DUMPED_PORTS and self.at < len(self._lines):
                beginning, size = _DUMPED_PORTS[text]
                line = self._lines[self.at]
                raw = bytes.fromhex(line.strip()) if _DUMPED_PORT.fullmatch(line) else b""
                if len(raw) == size:
                    facts.append(("transportid", f"{beginning}{raw.hex()}"))
        return tuple(facts)

    def _capabilities(self) -> tuple[tuple[str, str], ...]:
        """What sg_persist -c says in words."""
        facts: list[tuple[str, str]] = []
        while self.at < len(self._lines) and self._lines[self.at].startswith("  "):
            if (found := _CAPABILITY.fullmatch(self._lines[self.at])) is not None:
                facts.append((found["name"].lower(), found["value"]))
            self.at += 1
        return tuple(facts)

    def _held(self, found: re.Match[str], seen: Seen) -> Seen | None:
        generation = int(found["generation"], 16)
        if not found["held"]:
            return self._reply(
                _Part.WORDS, seen, ReadReservation(generation, None).build(), "reservation"
            )
        key = scope = None
        for line in self._lines[self.at : self.at + 2]:
            key = _HOLDER.fullmatch(line) or key
            scope = _SCOPE.fullmatch(line) or scope
        if key is None or scope is None:
            raise MalformedError(
                "sg_persist",
                f"line {self._number}: the reservation's key, scope or type is missing",
            )
        self.at += 2
        kind = titled_type(scope["type"])
        if kind is None or scope["scope"] not in _SCOPES:
            raise MalformedError(
                "sg_persist", f"line {self._number}: reservation {scope[0].strip()!r} is unknown"
            )
        held = ReservationDescriptor(int(key["key"], 16), kind, _SCOPES[scope["scope"]])
        return self._reply(
            _Part.WORDS, seen, ReadReservation(generation, held).build(), "reservation"
        )


def _asked(options: str) -> str:
    """The kind of reply that a typed sg_persist asked for, "" where it does not say one."""
    words = options.split()
    short = {letter for word in words if re.fullmatch(r"-[A-Za-z]+", word) for letter in word}
    kinds = {
        kind
        for letter, option, kind in (
            ("k", "--read-keys", "keys"),
            ("r", "--read-reservation", "reservation"),
            ("c", "--report-capabilities", "capabilities"),
            ("s", "--read-full-status", "full-status"),
        )
        if letter in short or option in words
    }
    return kinds.pop() if len(kinds) == 1 else ""


def _prints_header(options: str) -> bool | None:
    """Whether a typed sg_persist dumps replies with their header, None where it does not dump."""
    words = options.split()
    short = "".join(word for word in words if re.fullmatch(r"-[A-Za-z]+", word))
    count = short.count("H") + words.count("--hex")
    return None if count == 0 else count > 1


def _device(options: str) -> str:
    """The disk or sg node that a typed sg_persist asked, "" where it does not name one."""
    named = {word.removeprefix("/dev/") for word in options.split() if word.startswith("/dev/")}
    return named.pop() if len(named) == 1 else ""


def _value(name: str, text: str) -> str:
    match name:
        case "reservation key":
            return f"0x{int(text, 16):016x}"
        case "all_tg_pt":
            return "1" if text == "set" else "0"
        case "r_holder":
            return "0" if text.startswith("not") else "1"
        case "relative target port identifier" | "relative target port of the address":
            return str(int(text, 16))
        case _:
            return text


def _ended(found: re.Match[str], seen: Seen) -> Seen | None:
    lowered = found["words"].lower()
    if not seen.cdb:
        seen = replace(seen, asks=titled_action(found["action"] or found["done"] or ""))
    if "conflict" in lowered:
        return replace(seen, status=Status.RESERVATION_CONFLICT)
    if "successful" in lowered:
        return replace(seen, status=GOOD)
    return None


def _sensed(text: str, seen: Seen) -> Seen | None:
    triple = seen.triple
    if (key := sense_key(text)) is not None:
        triple = SenseTriple(key)
    elif triple is not None and (code := additional_sense(text)) is not None:
        triple = SenseTriple(triple.key, *code)
    else:
        return None
    return replace(seen, triple=triple, status=Status.CHECK_CONDITION)
