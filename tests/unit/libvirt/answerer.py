"""A service that answers what hook and plugin ask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prtrace.libvirt.server import Reply


class Answerer:
    """Answers every call alike, and keeps what it was asked."""

    deadline = 60.0

    def __init__(self) -> None:
        self.calls: list[Mapping[str, Any]] = []
        self.answer: Callable[[Reply], None] = lambda reply: reply(True, "")

    def hook(self, call: Mapping[str, Any], reply: Reply) -> None:
        self.calls.append(call)
        self.answer(reply)

    def acquire(self, uuid: str, reply: Reply) -> None:
        self.calls.append({"uuid": uuid})
        self.answer(reply)
