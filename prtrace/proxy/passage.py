"""What happens to one request on its way: policy, guard, claim, execution, mask."""

from __future__ import annotations

import itertools
import logging
import secrets
import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from prtrace.proxy.claim import COMM_PREFIX, UNKNOWN, Claim
from prtrace.proxy.execution import Execution, NotSentError, OutcomeUnknownError
from prtrace.proxy.guard import SameHostGuard, guard_refusal
from prtrace.proxy.guests import Guest, guest_of_process, is_alive, own_start
from prtrace.proxy.policy import Guard, Policy, hidden, masked, refusal
from prtrace.proxy.thread import name_thread
from prtrace.scsi.codes import Opcode

if TYPE_CHECKING:
    from collections.abc import Callable

    from prtrace.prhelper.wire import Request, Response
    from prtrace.proxy.claimlog import ClaimLog
    from prtrace.proxy.descriptor import Node

log = logging.getLogger("prtrace.proxy")

_TOKEN_BITS: Final = 48
_WARNINGS: Final = 4096


@dataclass(slots=True)
class Client:
    """One connection's process, and what executes for it.  start_ns 0: /proc does not say.

    Who that is gets looked up with its first command, on the thread of the command.
    """

    pid: int
    uid: int
    start_ns: int
    execution: Execution
    _guest: Guest | None = field(default=None)

    @property
    def guest(self) -> Guest:
        """The process and its guest."""
        if self._guest is None:
            self._guest = guest_of_process(self.pid, self.uid, self.start_ns)
        return self._guest


class Passage:
    """One for all clients; carry_out is called from the lanes' threads."""

    def __init__(
        self, policy: Policy, claims: ClaimLog | None, connect: Callable[[], Execution]
    ) -> None:
        self.connect = connect
        self._policy = policy
        self._claims = claims
        self._tokens = itertools.count(secrets.randbits(_TOKEN_BITS - 1))
        self._start_ns = own_start()
        self._guard = SameHostGuard(is_alive)
        self._guard_lock = threading.Lock()
        self._warned: set[tuple[str, ...]] = set()

    def carry_out(self, client: Client, request: Request, fd: int, node: Node) -> Response | None:
        """The answer for the client; None where its connection has to end without one."""
        guest = client.guest
        lu = node.lu if self._policy.asks_for_device else ""
        settings = self._policy.settings(guest.names, lu)
        answer = refusal(request)
        note = "" if answer is None else "the list's length is not what came with it"
        if answer is None and settings.hide:
            answer = hidden(request)
            note = "" if answer is None else "hidden from the guest: it cannot be migrated"
        if answer is None and settings.guard is not Guard.OFF:
            answer, note = self._watch(client, request, node, settings.guard)
        claim = self._begin(client, request, node, note, issued=answer is None)
        if answer is not None:
            self._end(claim, answer, answer)
            return answer
        name_thread(claim.comm)
        try:
            answer = client.execution.execute(request, fd, node)
        except OutcomeUnknownError as error:
            log.warning("%s: %s; its outcome is unknown", guest.title, error)
            self._end(claim, None, None, "the helper did not answer")
            return None
        except NotSentError as error:
            log.warning("%s: %s", guest.title, error)
            self._end(claim, None, None, "not sent: no helper", outcome="not sent")
            return None
        with self._guard_lock:
            self._guard.note(node.nexuses, guest.user, request, answer.status)
        shown = masked(request, answer) if settings.hide else answer
        self._end(claim, shown, answer)
        return shown

    def _watch(
        self, client: Client, request: Request, node: Node, guard: Guard
    ) -> tuple[Response | None, str]:
        """Whether another guest uses the nexus; the refusal where policy wants one, and why."""
        if request.opcode != Opcode.PR_OUT:
            return None, ""
        guest = client.guest
        with self._guard_lock:
            others = self._guard.others(node.nexuses, guest.user)
        if not others:
            return None, ""
        named = ", ".join(other.title for other in others)
        note = f"{guest.title} and {named} use one nexus ({', '.join(node.nexuses)})"
        pair = (guest.user.identity, *(other.identity for other in others), *node.nexuses)
        if guard is Guard.REFUSE or pair not in self._warned:
            log.warning("%s%s", note, ": refused" if guard is Guard.REFUSE else "")
            if len(self._warned) < _WARNINGS:
                self._warned.add(pair)
        return guard_refusal(request) if guard is Guard.REFUSE else None, note

    def _begin(
        self, client: Client, request: Request, node: Node, note: str, *, issued: bool
    ) -> Claim:
        token = next(self._tokens)
        guest, execution = client.guest, client.execution
        own = execution.own
        claim = Claim(
            token=token,
            issuer_pid=execution.issuer(),
            issuer_start_ns=self._start_ns if own else 0,
            comm=f"{COMM_PREFIX}{token:012x}" if own and issued else "",
            begin_ns=time.monotonic_ns(),
            cdb=request.cdb,
            issued=issued,
            client_pid=guest.pid,
            client_uid=guest.uid,
            client_start_ns=guest.start_ns,
            client_comm=guest.comm,
            guest=guest.name,
            uuid=guest.uuid,
            device=node.number,
            nexuses=node.nexuses,
            parameter=request.parameter,
            note=note,
        )
        if self._claims is not None:
            self._claims.write(claim.begin_line())
        return claim

    def _end(
        self,
        claim: Claim,
        shown: Response | None,
        answer: Response | None,
        note: str = "",
        outcome: str = UNKNOWN,
    ) -> None:
        if self._claims is None:
            return
        differs = shown is not None and answer is not None and shown.data != answer.data
        ended = replace(
            claim,
            end_ns=time.monotonic_ns(),
            outcome=outcome if shown is None else f"{shown.status:02x}",
            sense=b"" if shown is None else shown.sense[:18],
            shown=shown.data if differs and shown is not None else b"",
            answered=answer.data if differs and answer is not None else b"",
            note=note or claim.note,
        )
        self._claims.write(ended.end_line())
