"""The agent's other processes: forked before the agent reads a byte, ended with it.

Each has one end of a socket; the kernel closes the other end with the agent, whatever ends it, and
that ends them.  They keep no descriptor that they do not need and no capability that they do not
need, and no signal meant for the agent ends them in the middle of a command.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from prtrace.errors import PrtraceError
from prtrace.linux import capabilities
from prtrace.linux.capabilities import Capability

_IGNORED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Sent to the agent's control group, or by a terminal to all that runs in it."""

_ENDS_IN: Final = 10.0
"""Seconds for a process to end that has begun nothing that it must bring to its end."""
_LOOKS_EACH: Final = 0.02

_log = logging.getLogger("prtrace.child")


class Child(NamedTuple):
    """One of them.  link: the agent's end of the socket, of whole messages (SOCK_SEQPACKET)."""

    name: str
    pid: int
    link: socket.socket

    @classmethod
    def start(
        cls,
        name: str,
        serve: Callable[[socket.socket], None],
        *,
        kept: tuple[Capability, ...],
        descriptors: Iterable[int] = (),
        user: tuple[int, int] | None = None,
    ) -> Child:
        """Fork a process that serves its end of a socket until the agent's is closed.

        kept: its capabilities.  descriptors: those that it keeps beside the standard ones; every
        other one is closed.  user: the uid and gid that it becomes, None for root's.  Call it
        before the first thread is started.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Nothing that exists now is collected in either process.  Where no memory may be made
        # executable, as under the agent's unit, libffi keeps the callbacks of ctypes in a mapped
        # file, which a fork shares: the second process to free one there is ended by abort().
        gc.collect()
        gc.freeze()
        pid = os.fork()
        if pid:
            theirs.close()
            return cls(name, pid, ours)
        status = 1
        try:
            for number in _IGNORED:
                signal.signal(number, signal.SIG_IGN)
            close_all_but({0, 1, 2, theirs.fileno(), *descriptors})
            if user is None:
                capabilities.drop(kept)
            else:
                capabilities.become(*user, kept)
            serve(theirs)
            status = 0
        except Exception:
            _log.exception("the agent's %s failed", name)
        finally:
            with contextlib.suppress(OSError):
                sys.stderr.flush()
            # This process is a copy of the agent: an ordinary exit would run the agent's exit
            # functions, and close what the agent still uses.
            os._exit(status)

    def require_alive(self) -> None:
        """Raise PrtraceError where it has ended: the agent cannot go on without it."""
        try:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            ended, status = self.pid, 0
        if ended:
            raise PrtraceError(
                f"the agent's {self.name} has ended (wait status {status})",
                hint="see the log for why; an agent that starts goes on where this one was",
            )

    def end(self, patience: float | None = _ENDS_IN) -> None:
        """Tell it to end, and wait until it has.

        patience: seconds; None for a process that brings to its end what it has begun, however
        long that takes.  One that has not ended then is left to the service manager: the agent
        may send it no signal.
        """
        self.link.close()
        with contextlib.suppress(ChildProcessError):
            if patience is None:
                os.waitpid(self.pid, 0)
                return
            end_by = time.monotonic() + patience
            while not os.waitpid(self.pid, os.WNOHANG)[0]:
                if time.monotonic() >= end_by:
                    _log.warning("the agent's %s does not end", self.name)
                    return
                time.sleep(_LOOKS_EACH)


def receive(link: socket.socket, size: int) -> bytes:
    """The agent's next request, b"" once the agent is gone.

    A request is bytes and nothing else: a descriptor that comes along is closed by the kernel,
    because recv() has no place for it.  What a descriptor leads to, nobody but its maker knows:
    these processes make connections and give the agent an end, and take none from it.
    """
    try:
        return link.recv(size)
    except ConnectionResetError:  # the agent is gone, and has not read what was sent to it
        return b""


def close_all_but(kept: set[int]) -> None:
    """Close every descriptor of this process but these."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            with contextlib.suppress(OSError):  # that of the listing itself is closed by now
                os.close(int(name))
