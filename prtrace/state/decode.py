"""From bytes to meaning: an event with its bytes in, the event with its words and what it
tells the state out (pure).

The same function reads a record that just came from the kernel and an event that somebody
saved years ago, so that replay and live tracking cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, assert_never

from prtrace.errors import MalformedError
from prtrace.model import (
    Action,
    AnyObservation,
    AttentionSeen,
    Capabilities,
    CapabilitiesRead,
    ConflictSeen,
    FullStatus,
    FullStatusRead,
    KeysRead,
    LegacyReserve,
    NotWatched,
    OtherUnit,
    Outcome,
    PathsSeen,
    PrOut,
    ReadFailed,
    RecordsLost,
    ReservationRead,
    ReservationType,
    UnreadablePrOut,
    Unsupported,
)
from prtrace.scsi.cdb import (
    LegacyCdb,
    OtherCdb,
    PrInCdb,
    PrOutCdb,
    as_device_reads,
    parse_cdb,
)
from prtrace.scsi.codes import InAction, Opcode, ReservedCode, Status, status_title
from prtrace.scsi.commands import medium_command
from prtrace.scsi.parameter import BasicList, MoveList, parse_list
from prtrace.scsi.reply import (
    ReadFullStatus,
    ReadKeys,
    ReadReservation,
    ReportCapabilities,
    parse_reply,
)
from prtrace.scsi.sense import UNIT_ATTENTION, Sense, attention, may_be_attention
from prtrace.state.event import Command, Event

TIMEOUT: Final = "TIMEOUT"
REFUSED: Final = "NOT QUEUED"
"""The statuses that no device sent: the timer ran out; the driver did not take the command."""

TAKEN: Final = "unit attention taken by prtrace itself"
"""What the agent adds to an effect, because only it knows which commands are its own."""

NOT_WATCHED: Final = "nobody was watching"
"""The problem of a LOST event that stands for a time without programs, not for records."""

OTHER_UNIT: Final = "another logical unit is at this address: "
"""How the problem of a LOST event begins that stands for commands which met another unit."""

UNPROVEN: Final = "which logical unit answered is not known"
"""The problem of a LOST event that stands for replies which may be those of another unit."""

END_LOST: Final = "it timed out, its request is over, and no record tells how it ended"
"""The problem of a LOST event after which nothing is under way on the nexus any more."""

_UNKNOWN_OPERATION: Final = (5, 0x20, 0x00)
"""ILLEGAL REQUEST, INVALID COMMAND OPERATION CODE."""
_INVALID_FIELD: Final = (5, 0x24, 0x00)
"""ILLEGAL REQUEST, INVALID FIELD IN CDB."""
_SHORTEST_REPLY: Final = 8
"""Bytes of PRGENERATION and ADDITIONAL LENGTH."""
COMMANDS: Final[Mapping[int, Command]] = {
    Opcode.PR_IN: Command.PR_IN,
    Opcode.PR_OUT: Command.PR_OUT,
    Opcode.RESERVE_6: Command.RESERVE,
    Opcode.RESERVE_10: Command.RESERVE,
    Opcode.RELEASE_6: Command.RELEASE,
    Opcode.RELEASE_10: Command.RELEASE,
}
"""What kind of event the end of a command is, by operation code."""
_GOOD: Final = status_title(Status.GOOD)
_CONFLICT: Final = status_title(Status.RESERVATION_CONFLICT)
_CHECK_CONDITION: Final = status_title(Status.CHECK_CONDITION)
_NOT_EXECUTED: Final = {
    status_title(Status.BUSY),
    status_title(Status.TASK_SET_FULL),
    status_title(Status.ACA_ACTIVE),
    REFUSED,
}
_TYPED: Final = (Action.RESERVE, Action.RELEASE, Action.PREEMPT, Action.PREEMPT_AND_ABORT,
                 Action.REPLACE_LOST)  # fmt: skip


def decode(event: Event) -> tuple[Event, tuple[AnyObservation, ...]]:
    """Give event its words, and say what it tells about the logical unit.

    Never raises for what a device or a guest sent: bytes that cannot be read become a
    problem, and an observation that puts the state in doubt where it has to.
    """
    match event.command:
        case Command.CONFLICT:
            seen = ConflictSeen(
                **_seen(event), count=event.count, access=medium_command(event.cdb).access
            )
            return event, (seen,)
        case Command.UNIT_ATTENTION:
            sense = _sense(event.sense_bytes)
            return event._replace(sense=_sense_text(sense)), _attention(event, sense)
        case Command.LOST:
            if event.problem == NOT_WATCHED:
                return event, (NotWatched(**_seen(event)),)
            if event.problem.startswith(OTHER_UNIT):
                found = event.problem.removeprefix(OTHER_UNIT)
                return event, (OtherUnit(**_seen(event), found=found),)
            if event.problem == UNPROVEN:
                return event, (OtherUnit(**_seen(event), found=""),)
            lost = RecordsLost(
                **_seen(event),
                cause=event.problem,
                count=event.count,
                over=event.problem == END_LOST,
            )
            return event, (lost,)
        case Command.PATHS:
            return event, (PathsSeen(**_seen(event), paths=event.paths),)
        case Command.FORGOTTEN:
            return event, ()
        case Command.PR_OUT | Command.PR_IN | Command.RESERVE | Command.RELEASE:
            return _command(event)
        case _:
            assert_never(event.command)


def _attention(event: Event, sense: Sense | str | None) -> tuple[AttentionSeen | RecordsLost, ...]:
    """What a unit attention tells; one whose ASCQ is not known may have told of anything."""
    if not isinstance(sense, Sense):
        return ()
    if (news := attention(sense)) is not None:
        return (AttentionSeen(**_seen(event), attention=news, count=event.count),)
    if may_be_attention(sense):
        cause = f"{_sense_text(sense)}: it may have told of reservations"
        return (RecordsLost(**_seen(event), cause=cause, count=event.count),)
    return ()


def _seen(event: Event) -> dict[str, Any]:
    return {
        "lu": event.lu,
        "nexus": event.nexus,
        "target": event.target,
        "seq": event.record,
        "time": event.time,
        "start_ns": event.start_ns,
        "done_ns": event.done_ns,
        "issuer": event.issuer,
        "life": event.life,
    }


def _worded(event: Event, **words: Any) -> Event:
    """The event with these words; itself where it has them, as when it is replayed."""
    for name, word in words.items():
        if getattr(event, name) != word:
            return event._replace(**words)
    return event


def _command(event: Event) -> tuple[Event, tuple[AnyObservation, ...]]:
    sense = _sense(event.sense_bytes) if event.sense_bytes else None
    outcome, why = _outcome(event, sense)
    event = _worded(event, sense=_sense_text(sense))
    extra: tuple[AnyObservation, ...] = _attention(event, sense)
    try:
        cdb = parse_cdb(as_device_reads(event.cdb, len(event.cdb)))
    except MalformedError as error:
        event = event._replace(problem=str(error))
        if event.command is Command.PR_OUT:
            told_badly = UnreadablePrOut(
                **_seen(event),
                outcome=outcome,
                problem=event.problem,
                timed_out=event.status == TIMEOUT,
            )
            return event, (told_badly, *extra)
        cdb = OtherCdb(event.cdb)
    told: AnyObservation | None
    match cdb:
        case PrOutCdb():
            event, told = _pr_out(event, cdb, outcome, why)
        case PrInCdb():
            event, told = _pr_in(event, cdb, outcome, sense)
        case LegacyCdb():
            action = "RELEASE" if cdb.release else "RESERVE"
            event = event._replace(action=f"{action}({cdb.length})")
            told = LegacyReserve(
                **_seen(event), release=cdb.release, outcome=outcome, third_party=cdb.third_party
            )
        case OtherCdb():
            event, told = _unreadable(event, outcome, why)
        case _:
            assert_never(cdb)
    return event, extra if told is None else (told, *extra)


def _unreadable(
    event: Event, outcome: Outcome, why: str
) -> tuple[Event, UnreadablePrOut | LegacyReserve | ReadFailed]:
    """A reservation command whose CDB cannot be read: the device may have understood it."""
    problem = why or event.problem or "the CDB has the operation code of another command"
    event = _worded(event, problem=problem)
    if event.command in (Command.RESERVE, Command.RELEASE):
        release = event.command is Command.RELEASE
        return event, LegacyReserve(**_seen(event), release=release, outcome=outcome)
    if event.command is Command.PR_IN:
        return event, ReadFailed(**_seen(event), action=event.action, outcome=outcome)
    return event, UnreadablePrOut(
        **_seen(event), outcome=outcome, problem=problem, timed_out=event.status == TIMEOUT
    )


def outcome(event: Event) -> Outcome:
    """What became of a command, as far as its answer tells."""
    return _outcome(event, _sense(event.sense_bytes) if event.sense_bytes else None)[0]


def _outcome(event: Event, sense: Sense | str | None) -> tuple[Outcome, str]:
    """What became of a command, and why that is not certain."""
    status = event.status
    if status in _NOT_EXECUTED:
        return Outcome.NOT_EXECUTED, ""
    if event.host_byte:
        return Outcome.UNKNOWN, f"host error {event.host_byte}"
    if status == _GOOD:
        return Outcome.DONE, ""
    if status == _CONFLICT:
        return Outcome.CONFLICT, ""
    if status == _CHECK_CONDITION:
        if isinstance(sense, Sense) and sense.key == UNIT_ATTENTION and not sense.deferred:
            return Outcome.NOT_EXECUTED, ""
        return Outcome.UNKNOWN, f"CHECK CONDITION, {_sense_text(sense) or 'no sense data'}"
    return Outcome.UNKNOWN, status or "no status"


def _pr_out(
    event: Event, cdb: PrOutCdb, outcome: Outcome, why: str
) -> tuple[Event, PrOut | UnreadablePrOut]:
    kind = cdb.type if isinstance(cdb.type, ReservationType) else None
    if isinstance(cdb.action, ReservedCode):
        problem = why or f"service action {cdb.action.code:#x} is reserved"
        event = event._replace(action=cdb.action.text, problem=problem)
        return event, UnreadablePrOut(
            **_seen(event), outcome=outcome, problem=problem, timed_out=event.status == TIMEOUT
        )
    typed = cdb.action in _TYPED
    words: dict[str, Any] = {
        "action": cdb.action.value,
        "type": kind if typed else None,
        "scope": cdb.scope if typed else None,
    }
    try:
        sent = parse_list(event.data, cdb.action)
    except MalformedError as error:
        event = _worded(event, **words, problem=why or str(error))
        return event, UnreadablePrOut(
            **_seen(event),
            outcome=outcome,
            problem=event.problem,
            timed_out=event.status == TIMEOUT,
        )
    event = _worded(
        event, **words, key=sent.key, sa_key=sent.sa_key, problem=why or _doubtful(event, cdb)
    )
    if event.problem and outcome is Outcome.DONE:
        outcome = Outcome.UNKNOWN
    basic = sent if isinstance(sent, BasicList) else None
    move = sent if isinstance(sent, MoveList) else None
    return event, PrOut(
        **_seen(event),
        action=cdb.action,
        outcome=outcome,
        key=sent.key,
        sa_key=sent.sa_key,
        type=event.type,
        scope=event.scope or 0,
        aptpl=sent.aptpl,
        spec_i_pt=basic is not None and basic.spec_i_pt,
        all_tg_pt=basic is not None and basic.all_tg_pt,
        unreg=move is not None and move.unreg,
        transport_ids=_named_ports(sent),
        relative_target_port=None if move is None else move.relative_target_port,
        compared=not event.head or len(event.head) >= len(event.data),
        problem=event.problem,
        timed_out=event.status == TIMEOUT,
    )


def _named_ports(sent: BasicList | MoveList) -> tuple[str, ...] | None:
    """The initiator ports that a list names; None where it names none, or is not whole."""
    if sent.truncated or sent.problem:
        return None
    if isinstance(sent, MoveList):
        return None if sent.transport_id is None else (sent.transport_id.text,)
    return tuple(port.text for port in sent.transport_ids) if sent.spec_i_pt else None


def _doubtful(event: Event, cdb: PrOutCdb) -> str:
    """Why the list of a PR OUT that went well cannot be taken at its word, or ""."""
    if event.head and event.head != event.data[: len(event.head)]:
        # A zero-copy buffer can be changed by the sender while the device fetches it.
        return "the parameter list changed while the command was under way"
    if event.issuer is not None and event.data and not event.head:
        return "the parameter list could not be compared with what was submitted"
    if event.truncated:
        return "the parameter list is longer than what was captured"
    if cdb.action in (Action.RESERVE, Action.PREEMPT, Action.PREEMPT_AND_ABORT) and isinstance(
        cdb.type, ReservedCode
    ):
        return f"reservation type {cdb.type.code:#x} is reserved"
    return ""


def _pr_in(
    event: Event, cdb: PrInCdb, outcome: Outcome, sense: Sense | str | None
) -> tuple[Event, AnyObservation | None]:
    event = _worded(
        event, action=cdb.action.text if isinstance(cdb.action, ReservedCode) else cdb.action.title
    )
    if (
        cdb.action in (InAction.READ_KEYS, InAction.READ_FULL_STATUS)
        and isinstance(sense, Sense)
        and _is_unknown(event.cdb, cdb, sense)
    ):
        return event, Unsupported(
            **_seen(event), full_status=cdb.action is InAction.READ_FULL_STATUS
        )
    failed = ReadFailed(**_seen(event), action=event.action, outcome=outcome)
    if outcome is not Outcome.DONE or isinstance(cdb.action, ReservedCode):
        return event, failed
    try:
        reply = parse_reply(cdb.action, event.data)
    except MalformedError as error:
        return event._replace(problem=str(error)), failed
    match reply:
        case ReadKeys():
            cut = event.truncated or reply.truncated or reply.may_be_cut(cdb.allocation_length)
            return event, KeysRead(
                **_seen(event), generation=reply.generation, keys=reply.keys, truncated=cut
            )
        case ReadReservation(reservation=None):
            return event, ReservationRead(**_seen(event), generation=reply.generation)
        case ReadReservation(reservation=held) if held is not None:
            if not isinstance(held.type, ReservationType):
                problem = f"reservation type {held.type} is reserved"
                return event._replace(problem=problem), failed
            event = _worded(event, key=held.key, type=held.type, scope=held.scope)
            return event, ReservationRead(
                **_seen(event),
                generation=reply.generation,
                key=held.key,
                type=held.type,
                scope=held.scope,
            )
        case ReportCapabilities():
            return event, CapabilitiesRead(**_seen(event), capabilities=_capabilities(reply))
        case ReadFullStatus():
            cut = event.truncated or reply.truncated or reply.may_be_cut(cdb.allocation_length)
            return event, _full_status(event, reply, cut)
        case _:
            return event, failed


def _is_unknown(raw: bytes, cdb: PrInCdb, sense: Sense) -> bool:
    """Whether the device does not know the command; an invalid field may be another one's fault.

    LIO answers so to an ALLOCATION LENGTH of less than 8, anybody to a reserved bit that is set.
    """
    told = sense.key, sense.asc, sense.ascq
    if told == _UNKNOWN_OPERATION:
        return True
    plain = raw == cdb.build() and not cdb.control
    return told == _INVALID_FIELD and plain and cdb.allocation_length >= _SHORTEST_REPLY


def _capabilities(reply: ReportCapabilities) -> Capabilities:
    return Capabilities(
        rlr_c=reply.rlr_c,
        crh=reply.crh,
        sip_c=reply.sip_c,
        atp_c=reply.atp_c,
        ptpl_c=reply.ptpl_c,
        ptpl_a=reply.ptpl_a,
        allow_commands=reply.allow_commands,
        types=tuple(sorted(reply.types)) if reply.tmv else None,
    )


def _full_status(event: Event, reply: ReadFullStatus, cut: bool) -> FullStatusRead:
    return FullStatusRead(
        **_seen(event),
        generation=reply.generation,
        truncated=cut,
        paths=event.paths,
        registrations=tuple(
            FullStatus(
                initiator_port=each.transport_id.text,
                relative_target_port=each.relative_target_port,
                key=each.key,
                holder=each.holder,
                all_target_ports=each.all_tg_pt,
                type=each.type if isinstance(each.type, ReservationType) else None,
                scope=each.scope,
            )
            for each in reply.descriptors
        ),
    )


def _sense(raw: bytes) -> Sense | str:
    try:
        return Sense.parse(raw)
    except MalformedError as error:
        return str(error)


def _sense_text(sense: Sense | str | None) -> str:
    if sense is None:
        return ""
    return sense if isinstance(sense, str) else sense.text
