"""Another host: an iSCSI initiator in user space, whose commands pass no SCSI midlayer here.

As much of RFC 7143 as one session with one command at a time takes: no authentication, no
digests, immediate data, no R2T.  Shares no code with prtrace.

A thread answers the target's pings: LIO closes a session that leaves one unanswered for half a
minute, and a test may leave its session alone for longer.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import threading
from dataclasses import dataclass

from labkit import pace

_SECONDS = 60.0
"""For an answer, on an idle machine."""
_BHS = 48
_LOGIN, _LOGIN_RESPONSE = 0x43, 0x23  # immediate
_COMMAND, _RESPONSE, _DATA_IN = 0x01, 0x21, 0x25
_NOP_IN, _NOP_OUT = 0x20, 0x40
_OPERATIONAL_TO_FULL_FEATURE = 0x87
_FINAL, _READ, _WRITE, _SIMPLE = 0x80, 0x40, 0x20, 0x01
_NO_TAG = 0xFFFFFFFF
_PR_OUT, _PR_IN = 0x5F, 0x5E
_CHECK_CONDITION, _UNIT_ATTENTION = 0x02, 6
_SERVICE_ACTIONS = {
    "REGISTER": 0, "RESERVE": 1, "RELEASE": 2, "CLEAR": 3, "PREEMPT": 4,
    "REGISTER_AND_IGNORE": 6,
}  # fmt: skip
_KEYS = {
    "InitiatorName": "", "TargetName": "", "SessionType": "Normal", "HeaderDigest": "None",
    "DataDigest": "None", "MaxConnections": "1", "InitialR2T": "No", "ImmediateData": "Yes",
    "MaxRecvDataSegmentLength": "65536", "MaxBurstLength": "65536", "FirstBurstLength": "65536",
    "DefaultTime2Wait": "2", "DefaultTime2Retain": "0", "MaxOutstandingR2T": "1",
    "DataPDUInOrder": "Yes", "DataSequenceInOrder": "Yes", "ErrorRecoveryLevel": "0",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answer:
    """A command's status, its data and its sense data."""

    status: int
    data: bytes = b""
    sense: bytes = b""

    @property
    def is_attention(self) -> bool:
        return self.status == _CHECK_CONDITION and self.sense[2] & 0x0F == _UNIT_ATTENTION


class Stranger:
    """One session of one initiator port: name, and ISID as a number of 48 bits."""

    def __init__(self, portal: str, target: str, name: str, isid: int = 0x80_0000_000001) -> None:
        host, _, port = portal.partition(":")
        self.port = f"{name},i,0x{isid:012x}"
        self._socket = socket.create_connection((host, int(port or 3260)), timeout=_SECONDS)
        self._numbers = {"task": 0, "command": 0, "status": 0}
        keys = {**_KEYS, "InitiatorName": name, "TargetName": target}
        text = b"".join(f"{key}={value}\0".encode() for key, value in keys.items())
        head = struct.pack(
            ">BBBBB3s6sHIHHIIQQ", _LOGIN, _OPERATIONAL_TO_FULL_FEATURE, 0, 0, 0,
            len(text).to_bytes(3, "big"), isid.to_bytes(6, "big"), 0, 0, 0, 0, 0, 0, 0, 0,
        )  # fmt: skip
        self._send(head, text)
        head, answer = self._receive()
        assert head[0] & 0x3F == _LOGIN_RESPONSE, head.hex()
        assert head[36] == 0, f"login refused: class {head[36]}, detail {head[37]}, {answer!r}"
        assert head[1] & 0x80, f"the target wants to go on negotiating: {answer!r}"
        self._numbers["status"] = int.from_bytes(head[24:28], "big") + 1
        self._numbers["command"] = int.from_bytes(head[28:32], "big")
        self._socket.settimeout(None)
        self._sending = threading.Lock()
        self._came: queue.SimpleQueue[tuple[bytes, bytes] | OSError] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._take, daemon=True)
        self._reader.start()

    def close(self) -> None:
        """End the connection without a logout, as a host does that dies."""
        with contextlib.suppress(OSError):  # the target may have closed it
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join(pace.limit(_SECONDS))
        self._socket.close()

    def send(self, lun: int, cdb: bytes, out: bytes = b"", room: int = 0) -> Answer:
        """One command; unit attentions that wait for this session are taken first."""
        answer = self._once(lun, cdb, out, room)
        while answer.is_attention:
            answer = self._once(lun, cdb, out, room)
        return answer

    def pr_out(self, lun: int, action: str, key: int, sa_key: int = 0, kind: int = 0) -> Answer:
        """A PERSISTENT RESERVE OUT with a list of 24 bytes."""
        cdb = struct.pack(">BBBHIB", _PR_OUT, _SERVICE_ACTIONS[action], kind, 0, 24, 0)
        return self.send(lun, cdb, struct.pack(">QQQ", key, sa_key, 0))

    def _once(self, lun: int, cdb: bytes, out: bytes, room: int) -> Answer:
        numbers = self._numbers
        flags = _FINAL | _SIMPLE | (_WRITE if out else 0) | (_READ if room else 0)
        with self._sending:
            numbers["task"] += 1
            head = struct.pack(
                ">BBHB3sBB6sIIII16s", _COMMAND, flags, 0, 0, len(out).to_bytes(3, "big"), 0, lun,
                bytes(6), numbers["task"], len(out) or room, numbers["command"],
                numbers["status"], cdb.ljust(16, b"\0"),
            )  # fmt: skip
            numbers["command"] += 1
            self._send(head, out)
        data = b""
        while True:
            came = self._came.get(timeout=pace.limit(_SECONDS))
            if isinstance(came, OSError):
                self._came.put(came)
                raise came
            head, segment = came
            opcode = head[0] & 0x3F
            if opcode == _DATA_IN:
                data += segment
                if not head[1] & 0x01:  # the status comes with the last of it
                    continue
            numbers["status"] = int.from_bytes(head[24:28], "big") + 1
            if opcode == _DATA_IN:
                return Answer(head[3], data)
            if opcode == _RESPONSE:
                length = int.from_bytes(segment[:2], "big")
                return Answer(head[3], data, segment[2 : 2 + length])
            raise AssertionError(f"an answer of another kind: {head.hex()}")

    def _take(self) -> None:
        """Keep what the target sends for who waits for it, and answer its pings at once."""
        try:
            while True:
                head, segment = self._receive()
                if head[0] & 0x3F == _NOP_IN:
                    self._answer_ping(head)
                else:
                    self._came.put((head, segment))
        except OSError as error:
            self._came.put(error)

    def _answer_ping(self, ping: bytes) -> None:
        if int.from_bytes(ping[20:24], "big") == _NO_TAG:
            return
        with self._sending:
            self._send(
                struct.pack(
                    ">BBHI8sI4sII16s", _NOP_OUT, _FINAL, 0, 0, ping[8:16], _NO_TAG, ping[20:24],
                    self._numbers["command"], self._numbers["status"], bytes(16),
                ),
                b"",
            )  # fmt: skip

    def _send(self, head: bytes, segment: bytes) -> None:
        assert len(head) == _BHS, len(head)
        self._socket.sendall(head + segment + bytes(-len(segment) % 4))

    def _receive(self) -> tuple[bytes, bytes]:
        head = self._exactly(_BHS)
        length = int.from_bytes(head[5:8], "big")
        return head, self._exactly(length + -length % 4)[:length]

    def _exactly(self, length: int) -> bytes:
        found = b""
        while len(found) < length:
            part = self._socket.recv(length - len(found))
            if not part:
                raise ConnectionAbortedError("the target closed the connection")
            found += part
        return found
