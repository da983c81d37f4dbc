"""Messages between host and guest: one JSON object a line, over a virtio port.

host to guest   {"id": N, "op": "run", "command": TEXT, "env": {...}, "cwd": TEXT,
                 "stdin": BASE64, "fresh": BOOL}
                {"id": N, "op": "build", "target": {...}}
                {"id": N, "op": "shell", "rows": N, "columns": N, "env": {...}, "cwd": TEXT}
                {"id": N, "op": "stop"}         ends the command that is running
guest to host   {"id": N, "out": BASE64}        standard output, as it comes
                {"id": N, "err": BASE64}        standard error
                {"id": N, "status": N}          the command ended; 128 + signal when one ended it
                {"id": N, "target": {...}}      the target stands
                {"id": N, "failed": TEXT}       the request could not be done
Replies to an older id than the one awaited belong to a client that has gone, and are dropped.
"""

from __future__ import annotations

import base64
import json
from typing import Any

PORT = "lab.control"

Message = dict[str, Any]


def encode(message: Message) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def pack(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def unpack(text: str) -> bytes:
    return base64.b64decode(text)


class Lines:
    """Cuts a stream of bytes into messages; a line that is no message is dropped.

    Half a line can be left over from a client that went away in the middle of it.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, octets: bytes) -> list[Message]:
        *lines, self._rest = (self._rest + octets).split(b"\n")
        messages = []
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:
                continue
            if isinstance(message, dict):
                messages.append(message)
        return messages

    def clear(self) -> None:
        self._rest = b""
