"""The host's end of a machine's control port."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from labkit import channel, places, qemu
from labkit.failure import DeadlineError, LabError, LostMachineError
from labkit.target import Target, TargetSpec

_STOP_SECONDS = 15.0
_CONSOLE_LINES = 40

Sink = Callable[[str, bytes], None]


@dataclass(frozen=True, slots=True)
class CompletedRun:
    """A command that ended: its exit status (128 + signal when one ended it) and what it wrote."""

    status: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


class Control:
    """The host's end of the control port of one machine.  One client at a time."""

    def __init__(self, folder: Path, *, own_root: bool = False) -> None:
        self._folder = folder
        self._own_root = own_root
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(str(folder / "control"))
        except OSError:
            self._socket.close()
            raise
        self._lines = channel.Lines()
        self._number = time.monotonic_ns()

    def close(self) -> None:
        self._socket.close()

    def build(self, spec: TargetSpec, timeout: float) -> Target:
        """Build a target in the machine."""
        reply = self.request("build", timeout, target=spec.to_json())
        return Target.from_json(reply["target"])

    def run(
        self,
        command: str,
        timeout: float,
        *,
        env: dict[str, str] | None = None,
        stdin: bytes = b"",
        fresh: bool = False,
        sink: Sink | None = None,
    ) -> CompletedRun:
        """Run command by bash in the checkout; sink("out"|"err", octets) sees its output live.

        In a machine with a root of its own it runs in /.

        fresh: files that changed on the host since the machine read them are read again.
        """
        written: dict[str, list[bytes]] = {"out": [], "err": []}

        def take(stream: str, octets: bytes) -> None:
            written[stream].append(octets)
            if sink is not None:
                sink(stream, octets)

        reply = self.request(
            "run",
            timeout,
            take,
            command=command,
            env=qemu.environment(env or {}, own_root=self._own_root),
            cwd="/" if self._own_root else str(places.CHECKOUT),
            stdin=channel.pack(stdin),
            fresh=fresh,
        )
        out, err = (b"".join(written[s]).decode(errors="replace") for s in ("out", "err"))
        return CompletedRun(reply["status"], out, err)

    def request(
        self, operation: str, timeout: float, sink: Sink | None = None, **fields: object
    ) -> channel.Message:
        """Send a request and wait up to timeout seconds for its last reply.

        Raises DeadlineError when the command had to be ended, LostMachineError when the machine
        ended or did not even do that.
        """
        self._number += 1
        self._send({"id": self._number, "op": operation, **fields})
        reply = self._await(time.monotonic() + timeout, sink)
        if reply is None:
            self._send({"id": self._number, "op": "stop"})
            if self._await(time.monotonic() + _STOP_SECONDS, sink) is None:
                raise self.lost("no longer answers")
            raise DeadlineError("the command was still running at its deadline, and was ended")
        if "failed" in reply:
            raise LabError(f"in the machine: {reply['failed']}")
        return reply

    def _send(self, message: channel.Message) -> None:
        try:
            self._socket.sendall(channel.encode(message))
        except OSError as error:
            raise self.lost("ended") from error

    def _await(self, deadline: float, sink: Sink | None) -> channel.Message | None:
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._socket], [], [], left)[0]:
                return None
            try:
                octets = self._socket.recv(1 << 20)
            except OSError:
                octets = b""
            if not octets:
                raise self.lost("ended")
            for message in self._lines.feed(octets):
                if message.get("id") != self._number:
                    continue
                for stream in message.keys() & {"out", "err"}:
                    if sink is not None:
                        sink(stream, channel.unpack(message[stream]))
                if message.keys() & {"status", "target", "failed"}:
                    return message

    def lost(self, how: str) -> LostMachineError:
        return LostMachineError(f"the machine {how}; its console:\n{console_tail(self._folder)}")


def console_tail(folder: Path) -> str:
    """The last lines that the machine's kernel wrote."""
    console = folder / "console"
    if not console.exists():
        return "(no console)"
    lines = console.read_bytes().decode(errors="replace").splitlines()
    return "\n".join(f"  | {line}" for line in lines[-_CONSOLE_LINES:])
