"""iSCSI in captured frames: whole frames of Ethernet, as tshark -x prints them (pure).

A frame is read where its TCP segment is a row of whole iSCSI PDUs, from its first byte to its
last: lengths that fit each other show that nothing was guessed.  What goes on in the next segment
is told as not read.  A command and an answer are joined within one TCP connection, by a task tag
that nothing can have used for another command in between.

Sources: RFC 7143 11.2 to 11.8 (PDUs), RFC 791, RFC 8200, RFC 9293 (headers).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final, NamedTuple

from prtrace.paste.hexdump import Run
from prtrace.paste.seen import Seen
from prtrace.scsi.codes import Opcode
from prtrace.scsi.recognise import reply_to

SOURCE: Final = "iSCSI"

_ETHERNET: Final = 14
_IPV4: Final = 0x0800
_IPV6: Final = 0x86DD
_VLAN: Final = 0x8100
_TCP: Final = 6
_SEQUENCES: Final = 1 << 32
"""Sequence numbers that there are."""
_BHS: Final = 48
"""Bytes of a basic header segment."""
_PDUS: Final = frozenset((*range(0x07), 0x10, *range(0x20, 0x27), 0x31, 0x32, 0x3F))
_FROM_TARGET: Final = 0x20
_WITH_STATUS: Final = 0x01
"""Of byte 1 of a Data-In: it has the command's status."""
_COMPLETED: Final = 0x00
"""Of byte 2 of a response: the target carried the command out, and the status is its."""


class _Opcode:
    """Of the PDUs that tell of a command.  Plain numbers, as they are matched."""

    COMMAND: Final = 0x01
    DATA_OUT: Final = 0x05
    RESPONSE: Final = 0x21
    DATA_IN: Final = 0x25


class _Segment(NamedTuple):
    """A TCP segment."""

    sender: _End
    receiver: _End
    sequence: int
    payload: bytes


class _Pdu(NamedTuple):
    """An iSCSI PDU: its basic header segment and its data segment."""

    header: bytes
    data: bytes

    @property
    def opcode(self) -> int:
        return self.header[0] & 0x3F

    @property
    def task(self) -> int:
        """INITIATOR TASK TAG, which all PDUs of a command have."""
        return int.from_bytes(self.header[16:20], "big")


_End = tuple[str, int]
"""Address and TCP port: a task tag counts within one session, and two hosts may have several."""


class _Task(NamedTuple):
    """A command by what names it, until its status is there: tags are used again."""

    initiator: _End
    target: _End
    tag: int


def is_frame(raw: bytes) -> bool:
    """Whether raw is a frame with whole iSCSI PDUs."""
    segment = _segment(raw)
    return segment is not None and bool(segment.payload) and _pdus(segment.payload) is not None


def read(runs: Iterable[Run]) -> Iterator[Seen]:
    """Each command with its data and its answer, and each answer whose command is not there."""
    capture = _Capture()
    for line, raw, _ in runs:
        segment = _segment(raw)
        if segment is None:
            capture.unread(line, raw)
        elif segment.payload:  # else an acknowledgement
            capture.take(line, raw, segment)
    yield from capture.found


class _Capture:
    """What the frames so far told."""

    def __init__(self) -> None:
        self.found: list[Seen] = []
        self._open: dict[_Task, int] = {}
        """The place in found of each command whose status was not there yet."""
        self._doubtful: set[_Task] = set()
        """Those of which the status can have been in what was not read."""
        self._segments: set[_Segment] = set()
        self._next: dict[tuple[_End, _End], int] = {}
        """The sequence number that follows, by sender and receiver."""

    def unread(self, line: int, raw: bytes) -> None:
        """Tell of a frame that is not read."""
        text = f"{len(raw)} bytes that are no frame with whole iSCSI PDUs"
        self.found.append(Seen(source=SOURCE, line=line, facts=(("not read", text),)))

    def take(self, line: int, raw: bytes, segment: _Segment) -> None:
        """Read a frame's segment, which may have been sent again."""
        if segment in self._segments:
            return
        self._segments.add(segment)
        sender, receiver = segment.sender, segment.receiver
        behind = (segment.sequence + len(segment.payload)) % _SEQUENCES
        expected = self._next.get((sender, receiver), segment.sequence)
        self._next[sender, receiver] = behind
        if 0 < (segment.sequence - expected) % _SEQUENCES < _SEQUENCES // 2:
            self._missed(sender, receiver)
        pdus = _pdus(segment.payload)
        if pdus is None:
            self._missed(sender, receiver)
            self.unread(line, raw)
            return
        for pdu in pdus:
            answer = pdu.opcode >= _FROM_TARGET
            ends = (receiver, sender) if answer else (sender, receiver)
            self._pdu(line, _Task(*ends, pdu.task), pdu)

    def _missed(self, sender: _End, receiver: _End) -> None:
        """PDUs that are not here may have ended a command, and begun another one with its tag."""
        for task in list(self._open):
            if (task.initiator, task.target) == (receiver, sender):
                self._doubtful.add(task)
            elif (task.initiator, task.target) == (sender, receiver) and task in self._doubtful:
                self._close(task)

    def _pdu(self, line: int, task: _Task, pdu: _Pdu) -> None:
        if pdu.opcode == _Opcode.COMMAND:
            self._close(task)
        place = self._open.get(task)
        new = Seen(source=SOURCE, line=line, facts=_between(task))
        told = _told(new if place is None else self.found[place], pdu)
        if told is None:
            return
        if place is None:
            place = len(self.found)
            self.found.append(told)
            self._open[task] = place
        self.found[place] = told
        if told.status is not None:
            self._close(task)

    def _close(self, task: _Task) -> None:
        self._open.pop(task, None)
        self._doubtful.discard(task)


def _between(task: _Task) -> tuple[tuple[str, str], ...]:
    return ("initiator", task.initiator[0]), ("target", task.target[0])


def _told(seen: Seen, pdu: _Pdu) -> Seen | None:
    """seen with what the PDU adds, None where it adds nothing."""
    match pdu.opcode:
        case _Opcode.COMMAND:
            facts = (*seen.facts, ("logical unit number", _lun(pdu.header[8:16])))
            told = replace(seen, cdb=pdu.header[32:48], facts=facts)
            return _with_data(told, pdu)
        case _Opcode.DATA_OUT:
            return _with_data(seen, pdu)
        case _Opcode.DATA_IN:
            data = _with_data(seen, pdu)
            if not pdu.header[1] & _WITH_STATUS:
                return data
            return replace(data or seen, status=pdu.header[3])
        case _Opcode.RESPONSE if pdu.header[2] == _COMPLETED:
            size = int.from_bytes(pdu.data[:2], "big")
            return replace(seen, status=pdu.header[3], sense=pdu.data[2 : 2 + size])
        case _:
            return None


def _with_data(seen: Seen, pdu: _Pdu) -> Seen | None:
    """seen with the data of a reservation command; what others move is left out."""
    if not seen.cdb or not pdu.data:
        return seen if seen.cdb else None
    # A command's immediate data have no BUFFER OFFSET, and are its first.
    at = 0 if pdu.opcode == _Opcode.COMMAND else int.from_bytes(pdu.header[40:44], "big")
    out = pdu.opcode in (_Opcode.COMMAND, _Opcode.DATA_OUT)
    if seen.cdb[0] != (Opcode.PR_OUT if out else Opcode.PR_IN):
        return seen
    before = seen.parameter_list if out else seen.reply
    if at != len(before):
        told = ("not read", f"data at offset {at}, while {len(before)} bytes were there")
        return replace(seen, facts=(*seen.facts, told))
    whole = before + pdu.data
    if out:
        return replace(seen, parameter_list=whole)
    return replace(seen, reply=whole, reply_kind=reply_to(seen.cdb))


def _lun(raw: bytes) -> str:
    """A logical unit number of one level, in decimal; any other in hex (SAM-5 4.7)."""
    single = raw[0] >> 6 in (0, 1) and not any(raw[2:])
    if not single or (raw[0] >> 6 == 0 and raw[0]):
        return f"0x{raw.hex()}"
    return str(int.from_bytes(raw[:2], "big") & 0x3FFF)


def _pdus(payload: bytes) -> list[_Pdu] | None:
    """The PDUs that payload is a row of, None where it is none."""
    found: list[_Pdu] = []
    at = 0
    while at < len(payload):
        header = payload[at : at + _BHS]
        if len(header) < _BHS or header[0] & 0x80 or header[0] & 0x3F not in _PDUS:
            return None
        size = int.from_bytes(header[5:8], "big")
        begin = at + _BHS + 4 * header[4]
        at = begin + size + -size % 4
        if at > len(payload):
            return None
        found.append(_Pdu(header, payload[begin : begin + size]))
    return found


def _segment(raw: bytes) -> _Segment | None:
    """The TCP segment of an Ethernet frame, None where raw is none."""
    kind, at = int.from_bytes(raw[12:14], "big"), _ETHERNET
    if kind == _VLAN:
        kind, at = int.from_bytes(raw[16:18], "big"), _ETHERNET + 4
    packet = raw[at:]
    if kind == _IPV4 and len(packet) >= 20 and packet[0] >> 4 == 4 and packet[9] == _TCP:
        begin, end = 4 * (packet[0] & 0xF), int.from_bytes(packet[2:4], "big")
        addresses = packet[12:16], packet[16:20]
    elif kind == _IPV6 and len(packet) >= 40 and packet[0] >> 4 == 6 and packet[6] == _TCP:
        begin, end = 40, 40 + int.from_bytes(packet[4:6], "big")
        addresses = packet[8:24], packet[24:40]
    else:
        return None
    tcp = packet[begin:end]
    if end > len(packet) or len(tcp) < 20:
        return None
    header = 4 * (tcp[12] >> 4)
    if not 20 <= header <= len(tcp):
        return None
    sender, receiver = (
        (str(ipaddress.ip_address(address)), int.from_bytes(port, "big"))
        for address, port in zip(addresses, (tcp[:2], tcp[2:4]), strict=True)
    )
    return _Segment(sender, receiver, int.from_bytes(tcp[4:8], "big"), tcp[header:])
