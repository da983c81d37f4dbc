"""`prtrace proxy`, put together: from its options to a served socket."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import resource
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from prtrace.errors import PrtraceError, UnavailableError, UsageError
from prtrace.linux.libc import load_unwinder
from prtrace.linux.systemd import notify
from prtrace.linux.unixsocket import Listener
from prtrace.prhelper.attribution_log import AttributionLog
from prtrace.prhelper.broker import Broker
from prtrace.prhelper.client import claimed_by, client_of, is_alive
from prtrace.prhelper.control import Control
from prtrace.prhelper.execution import DirectExecution
from prtrace.prhelper.guard_book import GuardBook
from prtrace.prhelper.places import Limits
from prtrace.prhelper.policy import Policy
from prtrace.prhelper.policy_file import read_policy
from prtrace.prhelper.server import STACK_BYTES, Server
from prtrace.prhelper.sparing_log import SparingLog
from prtrace.prhelper.upstream import UpstreamExecution
from prtrace.prhelper.watch import NexusWatch

if TYPE_CHECKING:
    from prtrace.prhelper.execution import Execution

log = logging.getLogger("prtrace.prhelper")

GRACE_SECONDS: Final = 10.0
_ACCEPT_PAUSE: Final = 0.2
_DESCRIPTORS_EACH: Final = 3
"""A connection, its request's descriptor, and the connection to the helper."""
_DESCRIPTORS_SPARE: Final = 128
CONTROL_NAME: Final = "control"
GUEST_NAME: Final = "guest-"
"""FileDescriptorName= of the control socket, and how that of a guest's own socket begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyOptions:
    """The options of `prtrace proxy`, checked by the command."""

    socket: Path | None
    """Where to listen; None for the sockets that systemd passes."""
    guest_sockets: tuple[tuple[str, Path], ...] = ()
    """Sockets that one guest each has: its name, and where to listen."""
    control: Path | None = None
    """Where to listen for those who hold guests' commands, None for nowhere."""
    upstream: Path | None = None
    """The helper that executes, None for prtrace itself."""
    policy: Path | None = None
    run_dir: Path | None = None
    """Where the attribution records and the guard's book go, None for nowhere."""
    socket_mode: int = 0o600
    limits: Limits


@dataclass(frozen=True, slots=True)
class _Listening:
    """A listening socket, and what is done with who comes in."""

    listener: Listener
    welcome: Callable[[socket.socket], None]


def run(options: ProxyOptions) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP has the policy read again.

    Raises UsageError (options, policy file) and UnavailableError (socket, run directory).
    """
    threading.stack_size(STACK_BYTES)
    policy = _policy(options)
    sparing = SparingLog(log)
    run_dir = options.run_dir
    attributions = None if run_dir is None else AttributionLog(run_dir, sparing)
    watch = NexusWatch(is_alive, None if run_dir is None else GuardBook(run_dir), sparing)
    _allow_descriptors(options.limits.connections)
    broker = Broker(policy, attributions, watch, _execution(options.upstream), sparing)
    server = Server(broker, options.limits, sparing)
    control = Control(broker.gate, os.geteuid(), sparing)
    _load()
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(_signals())
        sockets = _listening(options, server, control)
        for listening in sockets:
            stack.callback(listening.listener.close, server.closer)
        notify("READY=1")
        for listening in sockets:
            log.info("listening at %s", listening.listener.path)
        for number in _accept(sockets, signals, sparing):
            if number != signal.SIGHUP:
                break
            _reload(broker, options, sparing)
        notify("STOPPING=1")
        # Before a successor can have the sockets, and reads who uses which nexus.
        server.stop()
    # The sockets are closed and their paths removed.
    server.wait(GRACE_SECONDS)
    watch.close()


def _load() -> None:
    """The first look at a process loads what it needs, which takes longer than any command."""
    load_unwinder()
    one, other = socket.socketpair()
    with one, other:
        claimed_by(client_of(one, ""))
    # What was made so far stays: the collector need not look at it again.
    gc.collect()
    gc.freeze()


@contextlib.contextmanager
def _signals() -> Iterator[socket.socket]:
    """A socket that gets the number of each signal that is meant for the service, as a byte."""
    reads, writes = socket.socketpair()
    with reads, writes:
        reads.setblocking(False)
        writes.setblocking(False)
        signal.set_wakeup_fd(writes.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        try:
            yield reads
        finally:
            signal.set_wakeup_fd(-1)


def _accept(
    sockets: tuple[_Listening, ...], signals: socket.socket, sparing: SparingLog
) -> Iterator[int]:
    """Accept for ever; each signal's number as it comes."""
    poll = select.poll()
    poll.register(signals, select.POLLIN)
    by_number = {listening.listener.socket.fileno(): listening for listening in sockets}
    for number in by_number:
        poll.register(number, select.POLLIN)
    while True:
        for number, _ in poll.poll():
            listening = by_number.get(number)
            if listening is None:
                yield from signals.recv(64)
                continue
            try:
                sock, _ = listening.listener.socket.accept()
            except BlockingIOError:
                continue
            except OSError as error:
                # Out of descriptors, or the client is gone already: the next one may do better.
                sparing.say(logging.WARNING, "accept", f"nobody could be accepted: {error}")
                time.sleep(_ACCEPT_PAUSE)
                continue
            listening.welcome(sock)


def _policy(options: ProxyOptions) -> Policy:
    """The policy that holds; UsageError where it cannot be kept."""
    policy = Policy() if options.policy is None else read_policy(options.policy)
    if policy.refuses and options.run_dir is None:
        raise UsageError(
            'guard = "refuse" needs a place to remember over a restart who uses which nexus',
            hint="give --run-dir",
        )
    return policy


def _reload(broker: Broker, options: ProxyOptions, sparing: SparingLog) -> None:
    """Read the policy again; where it is wrong, the present one stays."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
    try:
        broker.policy = _policy(options)
        log.info("the policy was read again")
    except PrtraceError as error:
        sparing.say(logging.ERROR, "policy", f"the policy stays as it was: {error.message}")
    notify("READY=1")


def _listening(options: ProxyOptions, server: Server, control: Control) -> tuple[_Listening, ...]:
    """Every listening socket; UsageError where there is none to serve guests on."""
    found: list[tuple[str, Listener]] = list(Listener.all_handed_over())
    if found and options.socket is not None:
        raise UsageError("systemd passed a socket: --listen is one too many")
    mode = options.socket_mode
    if options.socket is not None:
        found.append(("", Listener.bind(options.socket, mode=mode)))
    for name, path in options.guest_sockets:
        found.append((f"{GUEST_NAME}{name}", Listener.bind(path, mode=mode)))
    if options.control is not None:
        found.append((CONTROL_NAME, Listener.bind(options.control, mode=0o600)))
    sockets = []
    serving = False
    for name, listener in found:
        if name == CONTROL_NAME:
            listener.refuse_descriptors()
            sockets.append(_Listening(listener, control.welcome))
            continue
        guest = name.removeprefix(GUEST_NAME) if name.startswith(GUEST_NAME) else ""
        sockets.append(_Listening(listener, lambda sock, guest=guest: server.welcome(sock, guest)))  # type: ignore[misc]
        serving = True
    if not serving:
        for _, listener in found:
            listener.close()
        raise UsageError("nothing to listen at", hint="give --listen PATH, or start a socket unit")
    return tuple(sockets)


def _execution(upstream: Path | None) -> Callable[[], Execution]:
    if upstream is not None:
        return lambda: UpstreamExecution(upstream)
    return DirectExecution


def _allow_descriptors(connections: int) -> None:
    wanted = connections * _DESCRIPTORS_EACH + _DESCRIPTORS_SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        if allowed < wanted:
            raise UnavailableError(
                f"{wanted} descriptors are needed for {connections} connections, {hard} allowed",
                hint="raise LimitNOFILE, or lower --connections",
            )
