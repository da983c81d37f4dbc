"""The links of a chain: how something came to be as it was at one step (pure).

Each function takes the steps of one host and the number of the step that is asked about, and
yields the facts that led to it, the nearest first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from prtrace.explain.incident import Certainty, Link
from prtrace.explain.memory import Memory
from prtrace.explain.ports import iscsi_name
from prtrace.explain.timeline import Step
from prtrace.model import (
    Action,
    Attention,
    AttentionSeen,
    IssuePath,
    LegacyReserve,
    LocalNexus,
    Nexus,
    NotWatched,
    Outcome,
    PrOut,
    RecordsLost,
)
from prtrace.state.event import Event, key_text
from prtrace.state.quirks import profile_of
from prtrace.state.refusal import command_name, holder
from prtrace.state.unit import Fact, LuState, Registration, Reservation

_RESERVES: Final = (Action.RESERVE, Action.PREEMPT, Action.PREEMPT_AND_ABORT)
NOBODY_RECORDED: Final = (
    "which command it was and who sent it was recorded by no host whose recording is here"
)
_ANOTHER_UNIT: Final = (Attention.INQUIRY_CHANGED, Attention.LUNS_CHANGED)
ABOUT_RESERVATIONS: Final = (
    Attention.RESERVATIONS_PREEMPTED,
    Attention.RESERVATIONS_RELEASED,
    Attention.REGISTRATIONS_PREEMPTED,
    *_ANOTHER_UNIT,
)
"""What tells a nexus that it may have lost its access."""
OF_OTHERS: Final = frozenset((Attention.REGISTRATIONS_PREEMPTED, Attention.RESERVATIONS_PREEMPTED))
"""What tells of somebody else's PREEMPT or CLEAR."""
SOME_PARAMETERS: Final = "UNIT ATTENTION 2A/??"
"""What the kernel's log has of a unit attention 2A: not which (prtrace.paste.kernel)."""
_DISK_MAJORS: Final = {8, *range(65, 72), *range(128, 136), 259}
"""Block majors of SCSI disks and of partitions (Documentation/admin-guide/devices.txt)."""


def observed(step: Step, text: str) -> Link:
    """What the step's event says."""
    return Link(text, Certainty.OBSERVED, step.event.time, step.event.seq)


def who(event: Event) -> str:
    """Who sent a command, as people know him."""
    issuer = event.issuer
    if issuer is None:
        return "a process that is not known"
    if issuer.guest:
        return f"guest {issuer.guest}"
    if issuer.client_comm:
        return f"{issuer.client_comm}[{issuer.client_pid}]"
    return f"{issuer.comm}[{issuer.pid}]"


def command(event: Event) -> str:
    """An ordinary command and the first block that it wanted."""
    return command_name(event.cdb, block=True)


def pr_out(step: Step) -> PrOut | None:
    """The PERSISTENT RESERVE OUT of the step."""
    return next((seen for seen in step.seen if isinstance(seen, PrOut)), None)


def how_reserved(steps: Sequence[Step], number: int, memory: Memory) -> Iterator[Link]:
    """The command that made the reservation what it was, and whose nexus holds it."""
    state = steps[number].before
    if state.legacy_holder is not None:
        yield from _how_reserved_by_spc2(steps, number)
        return
    held = state.reservation
    if held is None:
        return
    for at in range(number - 1, -1, -1):
        step = steps[at]
        was = step.before.reservation
        if was is not None and (was.type, was.holder) == (held.type, held.holder):
            continue
        if was is not None and step.renames:
            held = was
            continue
        command = pr_out(step)
        now = holder(step.after)
        if command is not None:
            made = f"{command.action.value} by {who(step.event)}"
            yield observed(step, f"{made}: {now}" if now else made)
        else:
            yield observed(step, f"a reading showed: {now}")
            found = list(_may_have_reserved(steps, at, held))
            found = found or list(_reserved_between(steps, at))
            yield from found or _reserved_earlier(held, steps[0].event.time, memory)
        break
    else:
        yield from _reserved_earlier(held, steps[0].event.time, memory)
    if state.reservation is not None and state.reservation.holder is not None:
        yield from former_nexus(steps, number, state.reservation.holder)


def _reserved_between(steps: Sequence[Step], number: int) -> Iterator[Link]:
    """That the reservation came after an earlier reading, which showed another or none."""
    for step in reversed(steps[:number]):
        if step.told is not None and not step.after.doubted(Fact.RESERVATION):
            yield Link(
                f"who made it so is not in what was looked at, and did it after this reading "
                f"had shown: {holder(step.after) or 'nothing is reserved'}",
                Certainty.UNKNOWN,
                step.event.time,
                step.event.seq,
            )
            return


def _may_have_reserved(steps: Sequence[Step], number: int, held: Reservation) -> Iterator[Link]:
    """The commands before a reading that can have made the reservation which it shows."""
    for step in reversed(steps[:number]):
        command = pr_out(step)
        if (
            command is not None
            and command.action in _RESERVES
            and command.type is held.type
            and command.outcome in (Outcome.DONE, Outcome.UNKNOWN)
            and _may_hold(steps[number].after, command.nexus, held)
        ):
            text = f"{command.action.value} with type {held.type.name} on {command.nexus} by "
            yield Link(
                f"{text}{who(step.event)} can have made it so",
                Certainty.INFERRED,
                step.event.time,
                step.event.seq,
            )
            return
        if not step.before.doubted(Fact.RESERVATION):
            return


def _may_hold(state: LuState, nexus: Nexus, held: Reservation) -> bool:
    """Whether nexus may be the holder: one whose port is known has its own name there."""
    path = state.paths.get(nexus)
    named = path is not None and path.local.initiator_port is not None
    return not named or held.holder in (None, nexus)


def _how_reserved_by_spc2(steps: Sequence[Step], number: int) -> Iterator[Link]:
    for step in reversed(steps[:number]):
        for seen in step.seen:
            if isinstance(seen, LegacyReserve) and not seen.release:
                yield observed(step, f"{step.event.action} on {seen.nexus} by {who(step.event)}")
                yield from _how_released(steps, number)
                yield Link(
                    "sg_persist does not show an SPC-2 reservation: no PERSISTENT RESERVE IN does",
                    Certainty.INFERRED,
                )
                return
    yield Link("the SPC-2 reservation is older than what was looked at", Certainty.UNKNOWN)


def _how_released(steps: Sequence[Step], number: int) -> Iterator[Link]:
    """The command that ended an SPC-2 reservation after the step."""
    for step in steps[number:]:
        if step.after.legacy_holder is None:
            for seen in step.seen:
                if isinstance(seen, LegacyReserve) and seen.release:
                    by = f"{step.event.action} on {seen.nexus} by {who(step.event)}"
                    yield observed(step, f"{by} ended it, until that program does it again")
            return


def _reserved_earlier(held: Reservation, first: int, memory: Memory) -> Iterator[Link]:
    """Who reserved it, as another host recorded it or as the agent remembers it.

    first: when the steps begin, nanoseconds since the epoch.
    """
    kind, nexus = held.type.name, held.holder
    if (made := memory.reserved(kind, nexus)) is not None and made.at < first:
        text = f"{made.who} reserved it; the command is older than the events that are here"
        yield Link(text, Certainty.OBSERVED, made.at)
        return
    yield Link(
        "who made that reservation is not in what was looked at: another host did, or it is older",
        Certainty.UNKNOWN,
    )


def former_nexus(steps: Sequence[Step], number: int, nexus: Nexus) -> Iterator[Link]:
    """Whether a nexus that is no path of this host now was one, or looks like one."""
    state = steps[number].before
    each = state.registrations.get(nexus)
    if nexus in state.paths or each is None or each.initiator_port is None:
        return
    port = each.initiator_port
    for step, local in _departed(steps, number, each):
        address, name = local.nexus, f" ({local.device})" if local.device else ""
        text = f"{nexus} was {address}{name} of this host until it went away"
        if address in state.paths:
            now = state.paths[address].local.initiator_port or "a port that is not known"
            text += f"; {address} is {now} now"
        yield observed(step, text)
        return
    for address, path in state.paths.items():
        name, mine = iscsi_name(port), path.local.initiator_port or ""
        if name and name in (mine, iscsi_name(mine)):
            isid = (
                "another ISID: an earlier" if name != mine else "an ISID: the present, an earlier"
            )
            yield Link(
                f"{nexus} has the iSCSI name of {address} and {isid} or a parallel session of "
                "this host",
                Certainty.INFERRED,
            )
            return


def former_address(steps: Sequence[Step], number: int, each: Registration) -> Nexus | None:
    """The address of this host that a registration had until its path went away."""
    return next((local.nexus for _, local in _departed(steps, number, each)), None)


def _departed(
    steps: Sequence[Step], number: int, each: Registration
) -> Iterator[tuple[Step, LocalNexus]]:
    """The paths of a registration that went away before the step, the newest first."""
    for step in reversed(steps[:number]):
        for address, path in step.before.paths.items() if step.renames else ():
            local = path.local
            if (
                local.initiator_port == each.initiator_port
                and local.relative_target_port == each.relative_target_port
                and address not in step.after.paths
            ):
                yield step, local


def how_unregistered(steps: Sequence[Step], number: int, nexus: Nexus) -> Iterator[Link]:
    """What took the registration of nexus away, or that none was seen."""
    before = steps[number].before
    if nexus in before.registrations or before.doubted(Fact.REGISTRATIONS):
        return
    for step in reversed(steps[:number]):
        if nexus in step.before.registrations and nexus not in step.after.registrations:
            command = pr_out(step)
            what = "a reading showed that it is not"
            if step.renames:
                what = "the path that was there went away"
            elif command is not None:
                what = f"{command.action.value} by {who(step.event)} ended it"
            yield observed(step, f"{nexus} was registered until then: {what}")
            return
        if nexus in step.after.paths and nexus not in step.before.paths and _beside(step, nexus):
            yield observed(step, f"{nexus} appeared then, beside the paths that were there")
            break
    first = next((step for step in steps if nexus in step.after.paths), steps[0]).event
    text = f"since then {nexus} was not seen registered"
    yield Link(text, Certainty.OBSERVED, first.time, first.seq)


def _beside(step: Step, nexus: Nexus) -> bool:
    """Whether the nexus's host had other paths before the step."""
    host = nexus.partition(" of ")[2]
    return any(other.partition(" of ")[2] == host for other in step.before.paths)


def how_registered(steps: Sequence[Step], number: int, nexus: Nexus) -> Iterator[Link]:
    """The command that gave nexus the key that it had."""
    each = steps[number].before.registrations.get(nexus)
    if each is None or steps[number].before.doubted(Fact.REGISTRATIONS):
        return
    for step in reversed(steps[:number]):
        was = step.before.registrations.get(nexus)
        if was is not None and was.key == each.key:
            continue
        command = pr_out(step)
        if step.renames:
            yield observed(step, f"{nexus} appeared then, and had {key_text(each.key)} already")
        elif command is None:
            yield observed(step, f"a reading showed {nexus} registered with {key_text(each.key)}")
        else:
            yield observed(
                step,
                f"{command.action.value} by {who(step.event)} registered {nexus} with key "
                f"{key_text(each.key)}",
            )
        return


def key_elsewhere(step: Step, seen: PrOut) -> Iterator[Link]:
    """The nexuses of no path here that have the key which a refused command gave.

    The program knows the key; its host may have registered it by a port that it has no more.
    """
    for nexus, each in step.before.registrations.items():
        if seen.key and each.key == seen.key and not each.local and nexus != seen.nexus:
            yield Link(
                f"whether {nexus}, which is registered with that very key, was a port of this "
                "host (a replaced adapter, say), or is a host's that shares the key",
                Certainty.UNKNOWN,
            )


def registered_again(steps: Sequence[Step], number: int, nexus: Nexus, key: int) -> Iterator[Link]:
    """The command by which nexus's host registered the key that it had lost, on any of its paths.

    A fence keeps nobody off a path that multipathd, say, registers again by itself.
    """
    host = nexus.partition(" of ")[2]
    for step in steps[number + 1 :]:
        seen = pr_out(step)
        if (
            seen is not None
            and seen.outcome is Outcome.DONE
            and seen.action in (Action.REGISTER, Action.REGISTER_AND_IGNORE)
            and seen.sa_key == key
            and seen.nexus.partition(" of ")[2] == host
        ):
            made = f"{seen.action.value} by {who(step.event)}"
            yield observed(step, f"{made} registered {seen.nexus} with the lost key again")
            return


def attention(
    steps: Sequence[Step],
    number: int,
    nexus: Nexus,
    wanted: Iterable[Attention] = tuple(Attention),
) -> Iterator[Link]:
    """The newest of the wanted unit attentions on the nexus before the step, and who was told."""
    on = f" on {nexus}" if nexus else ""
    for step in reversed(steps[:number]):
        if step.event.nexus != nexus:
            continue
        for seen in step.seen:
            if isinstance(seen, AttentionSeen) and seen.attention in wanted:
                said = "told of it"
                if seen.attention is Attention.RESERVATIONS_RELEASED:
                    said = "told of a RELEASE or of another type"
                told = f"a unit attention{on} {said}: {step.event.sense}{_taker(step.event)}"
                if seen.attention is Attention.RESET:
                    told = (
                        f"a unit attention{on} said {step.event.sense}: a power loss ends "
                        "registrations that were made without APTPL, and the reservation"
                        f"{_aptpl(steps[:number], nexus)}"
                    )
                if seen.attention in _ANOTHER_UNIT:
                    told = (
                        f"a unit attention{on} said {step.event.sense}: another logical "
                        "unit may be behind this address since then"
                    )
                yield observed(step, told)
                return
        if step.event.sense == SOME_PARAMETERS:
            yield Link(
                f'the kernel logged "Parameters changed" for a unit attention{on}: 2A/03, 2A/04 '
                "and 2A/05, of preempted or released reservations, are logged so, and so "
                "are a few others",
                Certainty.INFERRED,
                step.event.time,
                step.event.seq,
            )
            return


def _aptpl(steps: Sequence[Step], nexus: Nexus) -> str:
    """How the newest registration of the nexus was made, "" where it was not seen."""
    for step in reversed(steps):
        for seen in step.seen:
            registering = (Action.REGISTER, Action.REGISTER_AND_IGNORE)
            if isinstance(seen, PrOut) and seen.nexus == nexus and seen.action in registering:
                return f"; this one was made {'with' if seen.aptpl else 'without'} APTPL"
    return ""


def attentions_before(
    steps: Sequence[Step], number: int, nexus: Nexus
) -> Iterator[tuple[Step, Attention]]:
    """The unit attentions on the nexus since it was last known to be registered, newest first."""
    for step in reversed(steps[:number]):
        if nexus in step.after.registrations and not step.after.doubted(Fact.REGISTRATIONS):
            return
        if step.event.nexus == nexus:
            for seen in step.seen:
                if isinstance(seen, AttentionSeen):
                    yield step, seen.attention


def attentions_after(steps: Sequence[Step], number: int, nexus: Nexus) -> set[Attention]:
    """The unit attentions that waited on the nexus at the step: before its next GOOD."""
    found: set[Attention] = set()
    for step in steps[number + 1 :]:
        if step.event.nexus == nexus:
            found |= {seen.attention for seen in step.seen if isinstance(seen, AttentionSeen)}
            if step.event.status == "GOOD":
                break
    return found


def told_later(steps: Sequence[Step], number: int, nexus: Nexus) -> Iterator[Link]:
    """The unit attention that told the nexus of a command, and who took it."""
    for step in steps[number + 1 :]:
        if step.event.nexus != nexus:
            continue
        for seen in step.seen:
            if isinstance(seen, AttentionSeen) and seen.attention in ABOUT_RESERVATIONS:
                of = "of it"
                if seen.attention is Attention.RESERVATIONS_RELEASED:
                    of = "of a RELEASE or of another type"
                told = f"a unit attention told {nexus} {of}: {step.event.sense}"
                yield observed(step, f"{told}{_taker(step.event)}")
                return
        if step.event.status == "GOOD":
            return  # none waited


def _taker(event: Event) -> str:
    """Which command met a unit attention and whose it was: nobody else is told of it again."""
    if event.issuer is not None:
        return f"; it went to {who(event)}, and nobody else is told again"
    if not event.cdb:
        return ""
    name = command_name(event.cdb)
    # libmultipath/checkers/tur.c, the checker that most maps have.
    sender = ", as multipathd's checker sends it" if name == "TEST UNIT READY" else ""
    return f"; it went to a {name} of a process that is not recorded{sender}"


def author(steps: Sequence[Step], number: int, nexus: Nexus, key: int) -> Iterator[Link]:
    """Who took key away from nexus while no command was seen to do it."""
    found = list(_may_have_been(steps, number, nexus, key))
    yield from found
    told = {each for _, each in attentions_before(steps, number, nexus)}
    if Attention.RESET in told and not told & OF_OTHERS:
        return
    if any(each.certainty is Certainty.INFERRED for each in found):
        return
    step = steps[number]
    now = holder(step.after)
    if now:
        yield Link(f"since then {now}", Certainty.OBSERVED, step.event.time, step.event.seq)
    yield Link(NOBODY_RECORDED, Certainty.UNKNOWN)


def forgotten(steps: Iterable[Step], nexuses: Sequence[Nexus]) -> Iterator[Link]:
    """When the target may have forgotten what nexuses had registered, so that no command did it:
    see prtrace.state.quirks.Profile.forgets_at_logout."""
    for step in steps:
        before, after = step.before.paths, step.after.paths
        went = [nexus for nexus in nexuses if nexus in before and nexus not in after]
        if not went or profile_of(step.after.target).forgets_at_logout is False:
            continue
        yield observed(step, f"the path {', '.join(went)} went away")
        yield Link(
            "whether the target forgot then what was registered over it: not every target keeps "
            "that until the initiator logs in again",
            Certainty.UNKNOWN,
            step.event.time,
            step.event.seq,
        )


def _may_have_been(steps: Sequence[Step], number: int, nexus: Nexus, key: int) -> Iterator[Link]:
    """Commands whose effect nobody knew for certain, and times without records."""
    for step in reversed(steps[:number]):
        if not step.after.doubted(Fact.REGISTRATIONS) and nexus in step.after.registrations:
            return
        yield from forgotten((step,), (nexus,))
        for seen in step.seen:
            match seen:
                case PrOut() if _may_take(seen, nexus, key):
                    ended = step.event.status or step.event.host_byte
                    yield Link(
                        f"{seen.action.value} on {seen.nexus} by {who(step.event)} ended with "
                        f"{ended}, and can have taken it away",
                        Certainty.INFERRED,
                        step.event.time,
                        step.event.seq,
                    )
                case RecordsLost():
                    text = f"{seen.count} records were lost ({seen.cause}); the command may be one"
                    yield Link(text, Certainty.UNKNOWN, step.event.time, step.event.seq)
                case NotWatched():
                    text = "nobody watched this unit before then"
                    yield Link(text, Certainty.UNKNOWN, step.event.time, step.event.seq)
                case _:
                    pass


def _may_take(seen: PrOut, nexus: Nexus, key: int) -> bool:
    return seen.outcome in (Outcome.DONE, Outcome.UNKNOWN) and takes(seen, nexus, key)


def takes(seen: PrOut, nexus: Nexus, key: int) -> bool:
    """Whether a command that takes effect can end the registration of nexus with key."""
    match seen.action:
        case Action.CLEAR:
            return True
        case Action.PREEMPT | Action.PREEMPT_AND_ABORT:
            return seen.sa_key in (key, 0)
        case Action.REGISTER | Action.REGISTER_AND_IGNORE:
            return seen.nexus == nexus and seen.sa_key == 0
        case Action.REGISTER_AND_MOVE:
            return seen.nexus == nexus and seen.unreg
        case _:
            return False


def lost_abort(step: Step, seen: PrOut) -> Iterator[Link]:
    """What cannot be known of a PREEMPT that came through device-mapper.

    dm_pr_preempt() (drivers/md/dm.c) does not hand the abort of IOC_PR_PREEMPT_ABORT on.
    """
    issuer = step.event.issuer
    if seen.action is not Action.PREEMPT or issuer is None or issuer.path is not IssuePath.IOC_PR:
        return
    if _is_map(issuer.requested):
        yield Link(
            f"it was asked for on block device {issuer.requested}, which is no disk: if that is "
            "device-mapper and PREEMPT AND ABORT was asked for, Linux sent PREEMPT alone, and "
            "commands of the preempted nexus may have been carried out after it",
            Certainty.UNKNOWN,
            step.event.time,
            step.event.seq,
        )


def _is_map(requested: str) -> bool:
    """Whether a command was asked for on a map, by the node's name or by its number."""
    major = requested.partition(":")[0]
    if major.isdecimal():
        return int(major) not in _DISK_MAJORS
    return requested.startswith(("/dev/dm-", "/dev/mapper/"))


def device(state: LuState, nexus: Nexus) -> str:
    """The disk of a nexus of this host, "" for others."""
    path = state.paths.get(nexus)
    return "" if path is None else path.local.device
