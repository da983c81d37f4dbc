"""`prtrace proxy`, put together: from its options to a served socket."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from prtrace.errors import UnavailableError, UsageError
from prtrace.linux.systemd import notify
from prtrace.linux.unixsocket import Listener
from prtrace.prhelper.anteroom import Anteroom
from prtrace.prhelper.claimlog import ClaimLog
from prtrace.prhelper.execution import DirectExecution
from prtrace.prhelper.guests import guest_of_process, own_start
from prtrace.prhelper.lanes import STACK_BYTES
from prtrace.prhelper.passage import Passage
from prtrace.prhelper.policy import Policy
from prtrace.prhelper.service import Limits, Service
from prtrace.prhelper.upstream import UpstreamExecution

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from prtrace.prhelper.execution import Execution

log = logging.getLogger("prtrace.prhelper")

GRACE_SECONDS: Final = 10.0
_DESCRIPTORS_EACH: Final = 3
"""A connection, its request's descriptor, and the connection to the helper."""
_DESCRIPTORS_SPARE: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyOptions:
    """The options of `prtrace proxy`, checked by the command.

    socket: where to listen, None for the socket that systemd passes.  upstream: the helper that
    executes, None for prtrace itself.  run_dir: where the claims go, None for nowhere.
    """

    socket: Path | None
    upstream: Path | None = None
    policy: Path | None = None
    run_dir: Path | None = None
    socket_mode: int = 0o600
    limits: Limits


def run(options: ProxyOptions) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises UsageError (options, policy file) and UnavailableError (socket, run directory).
    """
    threading.stack_size(STACK_BYTES)
    policy = _policy(options.policy)
    claims = None if options.run_dir is None else ClaimLog(options.run_dir)
    listener = _listener(options)
    _allow_descriptors(options.limits.connections)
    passage = Passage(policy, claims, _execution(options.upstream))
    # The first look loads what it needs, which takes longer than anybody's command.
    guest_of_process(os.getpid(), os.getuid(), own_start())
    # What was made so far stays: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    anteroom = Anteroom()
    with asyncio.Runner(loop_factory=anteroom.new_loop) as runner:
        runner.run(_serve(passage, options.limits, listener, anteroom))
    anteroom.close()
    listener.close()


async def _serve(passage: Passage, limits: Limits, listener: Listener, anteroom: Anteroom) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    service = Service(passage, limits, anteroom)
    service.serve(listener.socket)
    notify("READY=1")
    log.info("listening at %s", listener.path)
    await ended.wait()
    notify("STOPPING=1")
    await service.stop(GRACE_SECONDS)


def _policy(path: Path | None) -> Policy:
    if path is None:
        return Policy()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    return Policy.parse(text)


def _listener(options: ProxyOptions) -> Listener:
    passed = Listener.handed_over()
    if options.socket is not None:
        if passed is not None:
            raise UsageError("systemd passed a socket: --listen is one too many")
        return Listener.bind(options.socket, mode=options.socket_mode)
    if passed is None:
        raise UsageError("nothing to listen at", hint="give --listen PATH, or start a socket unit")
    return passed


def _execution(upstream: Path | None) -> Callable[[], Execution]:
    if upstream is not None:
        return lambda: UpstreamExecution(upstream)
    direct = DirectExecution()
    return lambda: direct


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
