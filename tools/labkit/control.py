"""The host's end of a machine's control port."""

from __future__ import annotations

import re
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
_DYING_WORDS = re.compile(r"\] (BUG: |Oops|Kernel panic|general protection|kernel BUG|sysrq: )")
"""What a kernel writes first when it dies: the line after which its own account begins."""

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

    def begin(
        self,
        command: str,
        *,
        env: dict[str, str] | None = None,
        stdin: bytes = b"",
        fresh: bool = False,
        sink: Sink | None = None,
    ) -> Running:
        """Start command by bash in the checkout; sink("out"|"err", octets) sees its output live.

        In a machine with a root of its own it runs in /.

        fresh: files that changed on the host since the machine read them are read again.
        """
        running = Running(self, sink)
        self.send(
            "run",
            command=command,
            env=qemu.environment(env or {}, own_root=self._own_root),
            cwd="/" if self._own_root else str(places.CHECKOUT),
            stdin=channel.pack(stdin),
            fresh=fresh,
        )
        return running

    def request(
        self, operation: str, timeout: float, sink: Sink | None = None, **fields: object
    ) -> channel.Message:
        """Send a request and wait up to timeout seconds for its last reply.

        Raises DeadlineError when the command had to be ended, LostMachineError when the machine
        ended or could not end the command.
        """
        self.send(operation, **fields)
        return self.reply(timeout, sink)

    def send(self, operation: str, **fields: object) -> None:
        """Send a request; replies to the one before it are dropped from now on."""
        self._number += 1
        self._send({"id": self._number, "op": operation, **fields})

    def reply(self, timeout: float, sink: Sink | None = None) -> channel.Message:
        """The last reply to the request that was sent last; see request."""
        reply = self.follow(time.monotonic() + timeout, sink)
        if reply is None:
            self._send({"id": self._number, "op": "stop"})
            if self.follow(time.monotonic() + _STOP_SECONDS, sink) is None:
                raise self.lost("no longer answers")
            raise DeadlineError("the command was still running at its deadline, and was ended")
        if "failed" in reply:
            raise LabError(f"in the machine: {reply['failed']}")
        return reply

    def follow(
        self, deadline: float, sink: Sink | None, enough: Callable[[], bool] = lambda: False
    ) -> channel.Message | None:
        """The last reply to the request that was sent last.

        None when it has not come before deadline (by time.monotonic), or when enough() is true
        after some output.  LostMachineError when the machine has ended.
        """
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
            last = None
            for message in self._lines.feed(octets):
                if message.get("id") != self._number:
                    continue
                for stream in message.keys() & {"out", "err"}:
                    if sink is not None:
                        sink(stream, channel.unpack(message[stream]))
                if message.keys() & {"status", "target", "failed"}:
                    last = message
            if last is not None or enough():
                return last

    def _send(self, message: channel.Message) -> None:
        try:
            self._socket.sendall(channel.encode(message))
        except OSError as error:
            raise self.lost("ended") from error

    def lost(self, how: str) -> LostMachineError:
        return LostMachineError(f"the machine {how}; its console:\n{console_tail(self._folder)}")


class Running:
    """A command that runs in a machine, from Control.begin to its end."""

    def __init__(self, control: Control, sink: Sink | None) -> None:
        self._control = control
        self._sink = sink
        self._written: dict[str, list[bytes]] = {"out": [], "err": []}
        self.completed: CompletedRun | None = None

    def finish(self, timeout: float) -> CompletedRun:
        """Wait up to timeout seconds for the end.

        Raises DeadlineError when the command had to be ended, LostMachineError when the machine
        ended or hangs.
        """
        return self._ended(self._control.reply(timeout, self._take))

    def follow(self, deadline: float, enough: Callable[[], bool]) -> bool:
        """Wait for output until enough() or the end, which completed then tells.

        False when neither came before deadline (by time.monotonic): the command goes on.
        LostMachineError when the machine ended.
        """
        reply = self._control.follow(deadline, self._take, enough)
        if reply is not None:
            self._ended(reply)
        return reply is not None or enough()

    def lost(self, how: str) -> LostMachineError:
        """The error that tells what became of the machine."""
        return self._control.lost(how)

    def _take(self, stream: str, octets: bytes) -> None:
        self._written[stream].append(octets)
        if self._sink is not None:
            self._sink(stream, octets)

    def _ended(self, reply: channel.Message) -> CompletedRun:
        out, err = (b"".join(self._written[s]).decode(errors="replace") for s in ("out", "err"))
        self.completed = CompletedRun(reply["status"], out, err)
        return self.completed


def console_tail(folder: Path) -> str:
    """The last lines that the machine's kernel wrote, and before them the account of its death.

    The registers and the stack of a panic are longer than what is worth reading, and grow by what
    the dying kernel was in the middle of.  So the account is shown from its beginning.
    """
    console = folder / "console"
    if not console.exists():
        return "(no console)"
    lines = console.read_bytes().decode(errors="replace").splitlines()
    begin = max(0, len(lines) - _CONSOLE_LINES)
    account = next(
        (
            n
            for n in range(max(0, begin - 10 * _CONSOLE_LINES), begin)
            if _DYING_WORDS.search(lines[n])
        ),
        begin,
    )
    shown = lines[account : min(account + _CONSOLE_LINES, begin)]
    if account + _CONSOLE_LINES < begin:
        shown.append("...")
    return "\n".join(f"  | {line}" for line in [*shown, *lines[begin:]])
