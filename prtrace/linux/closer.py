"""Closing connections where a thread must not wait.

Descriptors that a peer has sent lie in the queue of a Unix socket until somebody reads.  Whoever
reads without a place for them, or closes the socket, closes them too.  That can take as long as
the sender likes: a TCP socket with SO_LINGER waits for its peer (net/ipv4/tcp.c, tcp_close), as
long as no signal comes.  After shutdown() nothing comes any more, so what MSG_PEEK sees
then is what is closed along.  Other threads close what has descriptors, and get a signal where it
takes long.  There are waits that no signal ends (a pipe whose lock somebody has who waits for a
FUSE server, fs/pipe.c, pipe_release).  So each owner, a user or a unit, has a few threads at most:
what its connections do to them holds up no other owner's.  What waits for one of them keeps its
descriptor, so whoever calls bounds what an owner has waiting, as far as it can be closed at once.

From Linux 6.16 on nobody can send a descriptor to whoever does not want one (refuse_descriptors).
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import os
import signal
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable
from typing import Final

from prtrace.linux.libc import library

_log = logging.getLogger("prtrace.linux")

_EACH: Final = 4
"""Threads of one owner."""
_THREADS: Final = 64
_IDLE_SECONDS: Final = 1.0
_PATIENCE: Final = 0.01
"""How long a thread waits in close() before it is sent a signal."""
_SLOWER: Final = 0.1
_SLOWEST: Final = 1.0
"""The next signal follows after this part of the time that it has waited, and so many seconds."""
_LOOK: Final = 1 << 16
_LOOKS: Final = 16
"""A queue takes what the peer's SO_SNDBUF allows; one that is longer is left to the threads."""
_SIGNAL: Final = signal.SIGURG
_OTHERS: Final = signal.valid_signals() - {_SIGNAL}
_SO_PASSRIGHTS: Final = 83  # include/uapi/asm-generic/socket.h, since Linux 6.16


def refuse_descriptors(sock: socket.socket) -> None:
    """Have send() of a descriptor to sock fail, or to what it accepts from now on, where it can.

    Linux kernel commit 77cbe1a6d873 ("af_unix: Introduce SO_PASSRIGHTS.") (in v6.16).
    """
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)


class Closer:
    """Closes what is given to it, and waits for nothing; called by any thread.

    owner: whose threads do it, where it may take long.  closed: called once it is closed, by
    whichever thread has done it.
    """

    def __init__(self) -> None:
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        self._threads = 0
        self._idle = 0
        """Threads that take what is ready, also those that have yet to begin."""
        self._kicker: threading.Thread | None = None
        self._ready: deque[tuple[Hashable, Callable[[], None]]] = deque()
        self._taken: Counter[Hashable] = Counter()
        """Of each owner, what is ready or under way."""
        self._held: dict[Hashable, deque[Callable[[], None]]] = {}
        """Of an owner with as many as it may have, what comes after that."""
        self._working: dict[int, float] = {}
        """Threads that may wait, and since when."""
        self._begun = threading.Condition(lock)
        """What the kicker waits for, who looks next at self._next_look."""
        self._next_look = math.inf

    def close(
        self, sock: socket.socket, owner: Hashable, closed: Callable[[], None] | None = None
    ) -> None:
        """Shut the connection down, and close it now or on a thread of owner's."""
        if sock.fileno() < 0:
            return
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        if _has_bytes_alone(sock):
            os.close(sock.detach())
            if closed is not None:
                closed()
        else:
            self.let_go(sock, owner, closed)

    def let_go(
        self, sock: socket.socket, owner: Hashable, closed: Callable[[], None] | None = None
    ) -> None:
        """Close a socket that is not to be shut down, because others have it as well."""
        fd = sock.detach()

        def work() -> None:
            try:
                with contextlib.suppress(OSError):
                    os.close(fd)
            finally:
                if closed is not None:
                    closed()

        self.have_done(owner, work)

    def have_done(self, owner: Hashable, work: Callable[[], None]) -> None:
        """Have a thread of owner's do what may wait as close() may; it raises nothing."""
        with self._changed:
            if self._taken[owner] < _EACH:
                self._taken[owner] += 1
                self._ready.append((owner, work))
            else:
                self._held.setdefault(owner, deque()).append(work)
            try:
                if self._kicker is None:
                    _ignore_softly()
                    kicker = threading.Thread(target=self._kick, daemon=True)
                    kicker.start()
                    self._kicker = kicker
            except (RuntimeError, OSError, MemoryError) as error:
                # The next one that is left tries again.
                _log.debug("what takes long to close gets no signal yet: %s", error)
            if not self._hired():
                self._begun.notify()
            self._changed.notify()

    def _hired(self) -> bool:
        """Start a thread where all are at work; False where that is to be tried again."""
        if self._idle >= len(self._ready) or self._threads >= _THREADS:
            return True
        try:
            threading.Thread(target=self._run, daemon=True).start()
        except (RuntimeError, MemoryError) as error:
            _log.debug("a connection is closed later: %s", error)
            return False
        self._threads += 1
        self._idle += 1
        return True

    def _run(self) -> None:
        # Whoever started this thread may have blocked the signal that ends a wait.
        signal.pthread_sigmask(signal.SIG_SETMASK, _OTHERS)
        me = threading.get_ident()
        while True:
            with self._changed:
                found = self._changed.wait_for(lambda: self._ready, _IDLE_SECONDS)
                self._idle -= 1
                if not found:
                    self._threads -= 1
                    return
                owner, work = self._ready.popleft()
                now = self._working[me] = time.monotonic()
                if self._next_look > now + _PATIENCE:
                    self._begun.notify()
            try:
                work()
            except Exception:
                _log.exception("what a thread was to close is not closed")
            finally:
                with self._changed:
                    del self._working[me]
                    self._done(owner)
                    self._idle += 1

    def _done(self, owner: Hashable) -> None:
        """Owner may have one more under way."""
        held = self._held.get(owner)
        if held:
            self._ready.append((owner, held.popleft()))
            return
        self._held.pop(owner, None)
        self._taken[owner] -= 1
        if not self._taken[owner]:
            del self._taken[owner]

    def _kick(self) -> None:
        """Have no thread wait in close(), as far as a signal can, and no work for a thread."""
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        due: dict[tuple[int, float], float] = {}
        with self._changed:
            while True:
                now = time.monotonic()
                # A thread that has begun something else since has a time of its own for that.
                due = {each: due.get(each, each[1] + _PATIENCE) for each in self._working.items()}
                for (thread, since), at in due.items():
                    if now < at:
                        continue
                    # Where it may not be sent, each waits for itself.
                    with contextlib.suppress(OSError):
                        signal.pthread_kill(thread, _SIGNAL)
                    pause = min(max(_PATIENCE, (now - since) * _SLOWER), _SLOWEST)
                    due[thread, since] = now + pause
                # Whoever begins meanwhile, and is due before that, says so.
                tries = math.inf if self._hired() else now + _SLOWEST
                self._next_look = max(now + _PATIENCE, min((*due.values(), tries)))
                self._begun.wait(None if self._next_look == math.inf else self._next_look - now)


def _has_bytes_alone(sock: socket.socket) -> bool:
    """Take the bytes from the queue of a socket that was shut down; False at a descriptor."""
    for _ in range(_LOOKS):
        try:
            # A byte that is out of band lies there as well, and a look ends at it.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
            data, _, got, _ = sock.recvmsg(_LOOK, 0, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            if got & socket.MSG_CTRUNC:
                return False
            if not data:
                return True
            socket.socket.recv(sock, len(data), socket.MSG_DONTWAIT)
        except ConnectionResetError:
            # The peer has not read everything; that is told once.
            continue
        except OSError:
            return False
    return False


def _ignore_softly() -> None:
    """Have the signal interrupt, and do nothing.

    A signal that is ignored interrupts nothing, and a handler in Python would run in the main
    thread and wake whoever waits there for other signals.  abs() takes a number and does nothing.
    """
    libc = library()
    libc.signal(int(_SIGNAL), ctypes.cast(libc.abs, ctypes.c_void_p))
