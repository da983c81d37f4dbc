"""What happens to one request on its way: policy, guard, attribution, execution, mask."""

from __future__ import annotations

import itertools
import logging
import os
import secrets
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from prtrace.prhelper.attribution import (
    COMM_PREFIX,
    UNKNOWN,
    begin_line,
    common_part,
    end_line,
)
from prtrace.prhelper.client import claimed_by, start_of_process
from prtrace.prhelper.execution import NotSentError, OutcomeUnknownError
from prtrace.prhelper.gate import Gate
from prtrace.prhelper.guard import Effect, User, outcome_of
from prtrace.prhelper.nexus_locks import NexusLocks
from prtrace.prhelper.policy import Policy, Settings, hidden, masked, refusal
from prtrace.prhelper.thread import name_thread
from prtrace.scsi.codes import Opcode

if TYPE_CHECKING:
    from collections.abc import Callable

    from prtrace.prhelper.attribution_log import AttributionLog
    from prtrace.prhelper.client import HelperClient
    from prtrace.prhelper.descriptor import Node
    from prtrace.prhelper.execution import Execution
    from prtrace.prhelper.protocol import Request, Response
    from prtrace.prhelper.sparing_log import SparingLog
    from prtrace.prhelper.watch import NexusWatch

_TOKEN_BITS: Final = 48
_SENSE_SHOWN: Final = 18
"""Bytes of sense data that the attribution record keeps."""

Key = tuple[int, int, int]


class _Done(NamedTuple):
    """A command that has ended."""

    key: Key
    answer: Response
    end_ns: int
    """CLOCK_MONOTONIC, while nothing else was sent over the nexus."""


class Requester:
    """One connection as the broker sees it; used by its thread only.

    has_gone says whether the client has closed its end.
    """

    __slots__ = (
        "_common", "_gate", "_policy", "_settings", "_user", "client", "execution", "has_gone",
    )  # fmt: skip

    def __init__(
        self,
        client: HelperClient,
        execution: Execution,
        has_gone: Callable[[], bool],
        gate: Gate,
    ) -> None:
        gate.come(client)
        self._gate = gate
        self.client = client
        self.execution = execution
        self.has_gone = has_gone
        self._user: User | None = None
        self._policy: Policy | None = None
        self._settings = Settings()
        self._common: tuple[Node, int, str] | None = None

    @property
    def user(self) -> User:
        """The client as the same-host guard knows it."""
        if self._user is None:
            client, claimed = self.client, claimed_by(self.client)
            self._user = User(
                client.vouched.identity, client.title, client.pid, client.start_ns,
                claimed.uuid or claimed.name,
            )  # fmt: skip
        return self._user

    def settings(self, policy: Policy, node: Node) -> Settings:
        """What the policy says of the client's commands to this device."""
        if policy.asks_for_device:
            return policy.settings(self.client, node.lu)
        if policy is not self._policy:
            self._settings = policy.settings(self.client, "")
            self._policy = policy
        return self._settings

    def common_part(self, node: Node, issuer_pid: int, issuer_start_ns: int) -> str:
        """What the attributions of the client's commands to this device have in common."""
        known = self._common
        if known is not None and known[0] is node and known[1] == issuer_pid:
            return known[2]
        client, claimed = self.client, claimed_by(self.client)
        text = common_part(
            issuer_pid=issuer_pid,
            issuer_start_ns=issuer_start_ns,
            client_pid=client.pid,
            client_uid=client.uid,
            client_start_ns=client.start_ns,
            client_comm=claimed.comm,
            client_unit=client.unit,
            guest=client.vouched.name,
            vouched_by=client.vouched.by if client.vouched.names else "",
            claimed_guest=claimed.name,
            claimed_uuid=claimed.uuid,
            device=node.number,
            nexuses=node.nexuses,
        )
        self._common = node, issuer_pid, text
        return text

    def close(self) -> None:
        """The client has left."""
        self._gate.go(self.client)
        self.execution.close()


class Broker:
    """One for all clients; carry_out is called by the connections' threads.

    policy may be replaced at any time.
    """

    def __init__(
        self,
        policy: Policy,
        attributions: AttributionLog | None,
        watch: NexusWatch,
        connect: Callable[[], Execution],
        sparing: SparingLog,
    ) -> None:
        self.policy = policy
        self.gate = Gate()
        self._attributions = attributions
        self._watch = watch
        self._connect = connect
        self._log = sparing
        self._locks = NexusLocks()
        self._tokens = itertools.count(secrets.randbits(_TOKEN_BITS - 1))
        self._pid = os.getpid()
        self._start_ns = start_of_process(self._pid)

    def requester(self, client: HelperClient, has_gone: Callable[[], bool]) -> Requester:
        """A new connection of the client."""
        return Requester(client, self._connect(), has_gone, self.gate)

    def carry_out(
        self,
        requester: Requester,
        request: Request,
        fd: int,
        node: Node,
        tell: Callable[[Response], None],
    ) -> bool:
        """Get the client an answer and tell it; False where its connection has to end without.

        Raises what tell raises.
        """
        settings = requester.settings(self.policy, node)
        if request.cdb[0] == Opcode.PR_IN:
            # Who reads by itself needs no lock: the device puts reads and changes in order, and
            # a read must not wait for a change that hangs.
            if requester.execution.own and not node.multipath:
                done = self._send(requester, request, fd, node, "")
            else:
                done = self._run(requester, request, fd, node, settings, waited=False)
        else:
            done = self._change(requester, request, fd, node, settings)
        if isinstance(done, Effect):
            return False
        shown = masked(request, done.answer) if settings.hide else done.answer
        try:
            tell(shown)
        finally:
            self._end(done, shown)
        return True

    def _change(
        self, requester: Requester, request: Request, fd: int, node: Node, settings: Settings
    ) -> _Done | Effect:
        """A request that may change something: all that may keep it from being sent, then that."""
        objection = self._objection(requester, request, node, settings)
        if objection is not None:
            return objection
        with self.gate.passing(requester.client) as waited:
            done = self._run(requester, request, fd, node, settings, waited=waited)
            if done is Effect.UNKNOWN:
                self.gate.lose(requester.client)
        if done is not Effect.NOTHING:
            answer = done.answer if isinstance(done, _Done) else None
            self.gate.tell(requester.client, request, answer)
        return done

    def _objection(
        self, requester: Requester, request: Request, node: Node, settings: Settings
    ) -> _Done | None:
        """The answer where the device is not to see the request, whoever else is there."""
        answer, note = refusal(request), "the list's length is not what came with it"
        if answer is None and settings.hide:
            answer, note = hidden(request), "hidden from the guest: it cannot be migrated"
        if answer is None:
            return None
        key = self._begin(requester, request, node, self._pid, note, issued=False)
        return _Done(key, answer, time.monotonic_ns())

    def _run(
        self,
        requester: Requester,
        request: Request,
        fd: int,
        node: Node,
        settings: Settings,
        *,
        waited: bool,
    ) -> _Done | Effect:
        """Send the request while no other command is sent over its nexus."""
        keys = node.keys
        waited = self._locks.acquire(keys) or waited
        try:
            if waited and requester.has_gone():
                # What a guest asked for that is gone may be undone elsewhere by now.
                return Effect.NOTHING
            if request.cdb[0] == Opcode.PR_IN:
                return self._send(requester, request, fd, node, "")
            return self._guarded(requester, request, fd, node, settings)
        finally:
            self._locks.release(keys)

    def _guarded(
        self, requester: Requester, request: Request, fd: int, node: Node, settings: Settings
    ) -> _Done | Effect:
        """Send a request that may change something, if the same-host guard admits it."""
        keys, user = node.keys, requester.user
        admission = self._watch.admit(keys, node.nexuses, user, request, settings.guard)
        if admission.refusal is not None:
            key = self._begin(requester, request, node, self._pid, admission.note, issued=False)
            return _Done(key, admission.refusal, time.monotonic_ns())
        outcome = Effect.UNKNOWN
        try:
            done = self._send(requester, request, fd, node, admission.note)
            outcome = done if isinstance(done, Effect) else outcome_of(done.answer)
        finally:
            self._watch.settle(keys, user, request, outcome, new=admission.new)
        return done

    def _send(
        self, requester: Requester, request: Request, fd: int, node: Node, note: str
    ) -> _Done | Effect:
        """Send the request; what is known of its effect where there is no answer."""
        execution = requester.execution
        try:
            issuer = execution.prepare()
        except NotSentError as error:
            self._trouble(requester, str(error))
            key = self._begin(requester, request, node, 0, note, issued=False)
            self._write(end_line(key, time.monotonic_ns(), "not sent", note="not sent: no helper"))
            return Effect.NOTHING
        key = self._begin(requester, request, node, issuer, note, issued=True)
        try:
            answer = execution.execute(request, fd, node)
        except OutcomeUnknownError as error:
            self._trouble(requester, f"{error}; its outcome is unknown")
            note = "the helper did not answer"
            self._write(end_line(key, time.monotonic_ns(), UNKNOWN, note=note))
            return Effect.UNKNOWN
        return _Done(key, answer, time.monotonic_ns())

    def _trouble(self, requester: Requester, what: str) -> None:
        client = requester.client
        self._log.say(
            logging.WARNING, f"upstream {client.vouched.identity}", f"{client.title}: {what}"
        )

    def _begin(
        self, requester: Requester, request: Request, node: Node, issuer: int, note: str, *,
        issued: bool,
    ) -> Key:  # fmt: skip
        """Attribute the command, and name the thread after it; how its end is to be called."""
        token = next(self._tokens)
        own = issuer == self._pid
        key = issuer, self._start_ns if own else 0, token
        if self._attributions is None:
            return key
        comm = f"{COMM_PREFIX}{token:012x}" if own and issued else ""
        common = requester.common_part(node, key[0], key[1])
        line = begin_line(
            common, token, comm, time.monotonic_ns(), request.cdb, request.parameter, note,
            issued=issued,
        )  # fmt: skip
        self._attributions.write(line)
        if comm:
            name_thread(comm)
        return key

    def _end(self, done: _Done, shown: Response) -> None:
        if self._attributions is None:
            return
        sense = shown.sense[:_SENSE_SHOWN]
        outcome = f"{shown.status:02x}"
        if shown is done.answer:
            self._write(end_line(done.key, done.end_ns, outcome, sense))
            return
        answered = done.answer.data
        self._write(
            end_line(done.key, done.end_ns, outcome, sense, shown=shown.data, answered=answered)
        )

    def _write(self, line: bytes) -> None:
        if self._attributions is not None:
            self._attributions.write(line)
