"""What happens to one request on its way: policy, guard, claim, execution, mask."""

from __future__ import annotations

import itertools
import logging
import os
import secrets
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from prtrace.prhelper.claim import COMM_PREFIX, UNKNOWN, begin_line, common_part, end_line
from prtrace.prhelper.execution import Execution, NotSentError, OutcomeUnknownError
from prtrace.prhelper.guard import SameHostGuard, User, guard_refusal
from prtrace.prhelper.guests import Guest, guest_of_process, is_alive, own_start
from prtrace.prhelper.policy import Guard, Policy, Settings, hidden, masked, refusal
from prtrace.prhelper.thread import name_thread
from prtrace.scsi.codes import Opcode

if TYPE_CHECKING:
    from collections.abc import Callable

    from prtrace.prhelper.claimlog import ClaimLog
    from prtrace.prhelper.descriptor import Node
    from prtrace.prhelper.wire import Request, Response

log = logging.getLogger("prtrace.prhelper")

_TOKEN_BITS: Final = 48
_WARNINGS: Final = 4096
_PR_IN, _PR_OUT = int(Opcode.PR_IN), int(Opcode.PR_OUT)

Key = tuple[int, int, int]


@dataclass(slots=True)
class Client:
    """One connection's process, and what executes for it.  start_ns 0: /proc does not say.

    settings: the policy's for it, where they are the same for every device.  Who that is gets
    looked up with its first command, on the thread of the command.
    """

    pid: int
    uid: int
    start_ns: int
    execution: Execution
    settings: Settings | None = None
    _guest: Guest | None = None
    _user: User | None = None
    _common: tuple[Node, int, str] | None = None

    @property
    def guest(self) -> Guest:
        """The process and its guest."""
        if self._guest is None:
            self._guest = guest_of_process(self.pid, self.uid, self.start_ns)
        return self._guest

    @property
    def user(self) -> User:
        """The guest as the same-host guard knows it."""
        if self._user is None:
            self._user = self.guest.user
        return self._user

    def common_part(self, node: Node, issuer_pid: int, issuer_start_ns: int) -> str:
        """What the claims for commands to this device have in common."""
        known = self._common
        if known is not None and known[0] is node and known[1] == issuer_pid:
            return known[2]
        guest = self.guest
        text = common_part(
            issuer_pid=issuer_pid,
            issuer_start_ns=issuer_start_ns,
            client_pid=guest.pid,
            client_uid=guest.uid,
            client_start_ns=guest.start_ns,
            client_comm=guest.comm,
            guest=guest.name,
            uuid=guest.uuid,
            device=node.number,
            nexuses=node.nexuses,
        )
        self._common = node, issuer_pid, text
        return text


class Passage:
    """One for all clients; carry_out is called from the lanes' threads."""

    def __init__(
        self, policy: Policy, claims: ClaimLog | None, connect: Callable[[], Execution]
    ) -> None:
        self.connect = connect
        self._policy = policy
        self._claims = claims
        self._tokens = itertools.count(secrets.randbits(_TOKEN_BITS - 1))
        self._pid = os.getpid()
        self._start_ns = own_start()
        self._guard = SameHostGuard(is_alive)
        self._guard_lock = threading.Lock()
        self._warned: set[tuple[str, ...]] = set()

    def carry_out(
        self,
        client: Client,
        request: Request,
        fd: int,
        node: Node,
        tell: Callable[[Response], None],
    ) -> bool:
        """Get the client an answer and tell it; False where its connection has to end without.

        Raises what tell raises.
        """
        settings = self._settings(client, node)
        answer, note = None, ""
        out = request.cdb[0] == _PR_OUT
        if out:
            answer, note = self._objection(client, request, node, settings)
        issuer, unsent = self._pid if client.execution.own else 0, None
        if answer is None:
            try:
                issuer = client.execution.prepare()
            except NotSentError as error:
                unsent = error
        key = self._begin(client, request, node, issuer, note, issued=answer is None)
        if unsent is not None:
            log.warning("%s: %s", client.guest.title, unsent)
            self._end(key, outcome="not sent", note="not sent: no helper")
            return False
        if answer is None:
            try:
                answer = client.execution.execute(request, fd, node)
            except OutcomeUnknownError as error:
                log.warning("%s: %s; its outcome is unknown", client.guest.title, error)
                self._end(key, note="the helper did not answer")
                return False
            if request.cdb[0] != _PR_IN:
                with self._guard_lock:
                    self._guard.note(node.nexuses, client.user, request, answer.status)
        shown = masked(request, answer) if settings.hide else answer
        end_ns = time.monotonic_ns()
        try:
            tell(shown)
        finally:
            self._end(key, end_ns, shown, answer)
        return True

    def _settings(self, client: Client, node: Node) -> Settings:
        if self._policy.asks_for_device:
            return self._policy.settings(client.guest.names, node.lu)
        if client.settings is None:
            client.settings = self._policy.settings(client.guest.names, "")
        return client.settings

    def _objection(
        self, client: Client, request: Request, node: Node, settings: Settings
    ) -> tuple[Response | None, str]:
        """The answer where the device is not to see the request; a note in any case."""
        answer = refusal(request)
        if answer is not None:
            return answer, "the list's length is not what came with it"
        if settings.hide:
            answer = hidden(request)
            if answer is not None:
                return answer, "hidden from the guest: it cannot be migrated"
        if settings.guard is Guard.OFF:
            return None, ""
        return self._watch(client, request, node, settings.guard)

    def _watch(
        self, client: Client, request: Request, node: Node, guard: Guard
    ) -> tuple[Response | None, str]:
        """Whether another guest uses the nexus; the refusal where policy wants one, and why."""
        guest = client.guest
        with self._guard_lock:
            others = self._guard.others(node.nexuses, client.user)
        if not others:
            return None, ""
        named = ", ".join(other.title for other in others)
        note = f"{guest.title} and {named} use one nexus ({', '.join(node.nexuses)})"
        pair = (client.user.identity, *(other.identity for other in others), *node.nexuses)
        if guard is Guard.REFUSE or pair not in self._warned:
            log.warning("%s%s", note, ": refused" if guard is Guard.REFUSE else "")
            if len(self._warned) < _WARNINGS:
                self._warned.add(pair)
        return guard_refusal(request) if guard is Guard.REFUSE else None, note

    def _begin(
        self, client: Client, request: Request, node: Node, issuer: int, note: str, *, issued: bool
    ) -> Key:
        """Claim the command, and name the thread after it; how its end is to be called."""
        token = next(self._tokens)
        own = client.execution.own
        key = issuer, self._start_ns if own else 0, token
        if self._claims is None:
            return key
        comm = f"{COMM_PREFIX}{token:012x}" if own and issued else ""
        common = client.common_part(node, key[0], key[1])
        line = begin_line(
            common, token, comm, time.monotonic_ns(), request.cdb, request.parameter, note,
            issued=issued,
        )  # fmt: skip
        self._claims.write(line)
        name_thread(comm)
        return key

    def _end(
        self,
        key: Key,
        end_ns: int = 0,
        shown: Response | None = None,
        answer: Response | None = None,
        *,
        outcome: str = UNKNOWN,
        note: str = "",
    ) -> None:
        if self._claims is None:
            return
        if shown is None or answer is None:
            line = end_line(key, time.monotonic_ns(), outcome, note=note)
        elif shown is answer:
            line = end_line(key, end_ns, f"{shown.status:02x}", shown.sense[:18])
        else:
            line = end_line(
                key, end_ns, f"{shown.status:02x}", shown.sense[:18], shown=shown.data,
                answered=answer.data,
            )  # fmt: skip
        self._claims.write(line)
