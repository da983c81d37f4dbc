"""From a reading of the device to the handover's next request (pure).

The device says which of the keys K (the guest's), R (this side's temporary one) and the
other side's are where; memory adds only what a reading cannot show.  Whoever removed K, if it
is not certain that it was this handover, has fenced the guest: K does not come back.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from prtrace.model import Nexus, ReservationType
from prtrace.move import handover
from prtrace.move.handover import End, Plan, Position, Request, Result, Role
from prtrace.move.memory import Memory, Sent
from prtrace.move.reading import Entry, Reading
from prtrace.state.quirks import profile_of

MAX_LOOKS = 8
"""More than that and somebody else is working on the same registrations."""

_MODULUS = 1 << 32


def looked(
    plan: Plan, position: Position, reading: Reading, witness: bool | None = None
) -> Position:
    """The position after a look.

    witness: whether somebody saw the PREEMPT succeed whose outcome was lost in a crash; None
    where nobody was there to see it.
    """
    reading = attributed(plan, position.memory, reading)
    kind = plan.type if plan.held and plan.type else reading.type or ReservationType.WE
    position = replace(position, looks=position.looks + 1, kind=kind)
    memory = settled(plan, position.memory, reading, witness)
    position = replace(position, memory=memory)
    lead = reading.own.get(memory.lead)
    refusal = _refusal(plan, memory, reading)
    if refusal is None and (memory.gave_up or position.looks > MAX_LOOKS):
        why = "somebody else works on the same registrations, or the device does not settle"
        refusal = End(Result.IN_DOUBT, why)
    if refusal is not None:
        # What nobody can use any more is not left behind, as long as the device goes along.
        useless = lead == plan.mine and memory.preempt is not Sent.DONE
        if useless and position.looks <= MAX_LOOKS + 2:
            memory = replace(memory, gave_up=True)
            return replace(position, memory=memory, request=handover.remove(plan, memory))
        return replace(position, request=refusal)
    if lead == plan.mine:
        return _with_temporary(plan, position, reading)
    if _blind_question(plan, memory, reading):
        return replace(position, request=handover.probe(plan, memory))
    if plan.key in reading.own.values():
        return _with_key(plan, position, reading)
    return _with_nothing(plan, position, reading)


def attributed(plan: Plan, memory: Memory, reading: Reading) -> Reading:
    """A blind reading with the keys that can only be this side's own taken out."""
    if not reading.blind:
        return reading
    left = list(reading.others)
    own: dict[Nexus, int] = {}

    def claim(nexus: Nexus, key: int) -> bool:
        entry = next((entry for entry in left if entry.key == key), None)
        if entry is not None:
            left.remove(entry)
            own[nexus] = key
        return entry is not None

    if not claim(memory.lead, plan.mine) and memory.probe:
        claim(memory.lead, plan.key)
    if own.get(memory.lead) == plan.key:
        for nexus in memory.paths_done:
            claim(nexus, plan.key)
    holds = reading.holder_key is not None and (
        reading.holder_key in own.values()
        and all(entry.key != reading.holder_key for entry in left)
    )
    shared = reading.type is not None and reading.type.all_registrants
    return replace(
        reading,
        own=MappingProxyType(own),
        others=tuple(left),
        own_holds=bool(own) if shared else holds,
    )


def _refusal(plan: Plan, memory: Memory, reading: Reading) -> End | None:
    """Why nothing may be done, whatever this side has."""
    for nexus, key in reading.own.items():
        if key not in (plan.key, plan.mine):
            why = f"{nexus} is registered with another key, {key:#x}"
            return End(Result.REFUSED, why)
        if key == plan.mine and nexus != memory.lead:
            why = f"the temporary key is on {nexus}, which takes no commands now: bring it back"
            return End(Result.REFUSED, why)
    foreign = reading.elsewhere(plan.mine)
    if foreign:
        why = f"{foreign[0].nexus} has this file's temporary key: another host works on it"
        return End(Result.REFUSED, why)
    if plan.role is Role.ROLLBACK:
        return None
    begun = reading.elsewhere(plan.theirs)
    if begun:
        why = f"a rollback has begun at the source ({begun[0].nexus})"
        return End(Result.TAKEN_BACK, why)
    third = _third(plan, reading)
    if third and memory.preempt is not Sent.DONE:
        names = ", ".join(entry.nexus for entry in third)
        why = f"key {plan.key:#x} is also on {names}, which is not the source's"
        return End(Result.REFUSED, why)
    return None


def _third(plan: Plan, reading: Reading) -> tuple[Entry, ...]:
    """Nexuses with the guest's key that are not the source's."""
    unknown = [entry for entry in reading.elsewhere(plan.key) if not entry.other_side]
    return tuple(unknown) if len(unknown) > plan.blank else ()


def _blind_question(plan: Plan, memory: Memory, reading: Reading) -> bool:
    """Whether only the lead itself can tell if it still has the key."""
    return (
        reading.blind
        and (plan.role is Role.ROLLBACK or memory.rekeying)
        and memory.probe is None
        and bool(reading.elsewhere(plan.key))
    )


def _victim(plan: Plan, reading: Reading) -> int:
    """The key that has to go first, 0 where there is none."""
    if reading.elsewhere(plan.key):
        return plan.key
    return plan.theirs if reading.elsewhere(plan.theirs) else 0


def _aimed(memory: Memory, reading: Reading, victim: int) -> Memory:
    return replace(
        memory,
        base=reading.generation,
        bumps=0,
        victim=victim,
        victims=len(reading.elsewhere(victim)),
        preempt=Sent.NO,
        paths_done=(),
    )


def settled(plan: Plan, memory: Memory, reading: Reading, witness: bool | None) -> Memory:
    """The memory with the question answered whether a PREEMPT was carried out."""
    if memory.preempt is not Sent.SENT or reading.own.get(memory.lead) != plan.mine:
        return memory
    if _was_ours(plan, memory, reading, witness):
        return replace(memory, preempt=Sent.DONE)
    return replace(memory, preempt=Sent.REFUSED)


def _with_temporary(plan: Plan, position: Position, reading: Reading) -> Position:
    """The lead has R."""
    memory = position.memory
    victim = _victim(plan, reading)
    if memory.preempt is Sent.DONE and plan.role is Role.LOAD:
        # Whoever registered K since then is not the source.
        victim = 0
    request: Request
    if victim:
        memory = replace(
            _aimed(memory, reading, victim), fenced=_fenced(plan, memory, reading, victim)
        )
        return replace(position, memory=memory, request=handover.preempt(plan, position, memory))
    if memory.preempt is Sent.DONE and not memory.fenced:
        request = handover.rekey(plan, memory)
    else:
        request = handover.remove(plan, memory)
    return replace(position, memory=memory, request=request)


def _was_ours(plan: Plan, memory: Memory, reading: Reading, witness: bool | None) -> bool:
    """Whether the PREEMPT whose outcome was lost is what removed the key.

    A reservation of a single holder shows it: nothing else makes this nexus the holder.
    Otherwise PRGENERATION must have counted our commands and nothing else.  That is not
    quite a proof: a peer's PREEMPT would count as much, had it come in the moment between the
    last look and ours.
    """
    if reading.elsewhere(memory.victim):
        return False
    if witness is not None:
        return witness
    if plan.held and plan.type is not None and not plan.type.all_registrants:
        return reading.own_holds is True and reading.type is plan.type
    if memory.base is None:
        return False
    expected = {memory.base + memory.bumps + 1}
    if profile_of(plan.target).counts_removed is not False:
        expected.add(memory.base + memory.bumps + 1 + memory.victims)
    return reading.generation in {number % _MODULUS for number in expected}


def _with_key(plan: Plan, position: Position, reading: Reading) -> Position:
    """At least one own path has K, and none has R."""
    memory = position.memory
    if plan.role is Role.LOAD and reading.elsewhere(plan.key):
        why = f"both sides have key {plan.key:#x}: it was not this program that registered it"
        return replace(position, request=End(Result.REFUSED, why))
    if reading.elsewhere(plan.key):
        # Never preempt K while carrying K: begin anew with R.
        memory = _aimed(memory, reading, plan.key)
        return replace(position, memory=memory, request=handover.register(plan, memory))
    registered = next(nexus for nexus, key in reading.own.items() if key == plan.key)
    if memory.rekeying and reading.own.get(memory.lead) is None and not reading.blind:
        # The lead had it before any other path: whoever took it there has fenced the guest,
        # and a path that was registered after that has undone it.
        return replace(position, request=handover.withdraw(plan, registered))
    if reading.elsewhere(plan.theirs):
        return replace(position, request=handover.evict(plan, position, registered))
    for nexus in plan.paths:
        if reading.own.get(nexus) is None and nexus not in (
            *memory.paths_failed,
            *(memory.paths_done if reading.blind else ()),
        ):
            if reading.blind and nexus == memory.lead:
                continue
            return replace(position, request=handover.path(plan, nexus))
    return replace(position, request=_verified(plan, position, reading))


def _verified(plan: Plan, position: Position, reading: Reading) -> End:
    """The end, if the reservation is where it belongs."""
    if plan.held and plan.type is not None:
        title = plan.type.title
        if reading.type is not plan.type:
            found = "nothing" if reading.type is None else f"a {reading.type.title} one"
            why = f"the {title} reservation is gone, {found} is there instead"
            return End(Result.IN_DOUBT, why)
        if not reading.own_holds:
            return End(Result.IN_DOUBT, f"the {title} reservation is held by another nexus")
    failed = position.memory.paths_failed
    why = f"without the key are: {', '.join(failed)}" if failed else ""
    if not position.sends and not position.memory.registering:
        return End(Result.UNTOUCHED, why)
    return End(Result.MOVED if plan.role is Role.LOAD else Result.RESTORED, why)


def _with_nothing(plan: Plan, position: Position, reading: Reading) -> Position:
    """No own path is registered."""
    memory = position.memory
    victim = _victim(plan, reading)
    if not victim:
        why = f"key {plan.key:#x} is registered nowhere any more"
        return replace(position, request=End(Result.FENCED, why))
    if plan.role is Role.LOAD:
        spent = memory.registered or (
            memory.registering and memory.base not in (None, reading.generation)
        )
        if spent:
            why = "the source has taken the key back since this file was first loaded"
            return replace(position, request=End(Result.TAKEN_BACK, why))
        stale = _stale(plan, reading)
        if stale:
            return replace(position, request=End(Result.REFUSED, stale))
    memory = replace(
        _aimed(memory, reading, victim), fenced=_fenced(plan, memory, reading, victim)
    )
    return replace(position, memory=memory, request=handover.register(plan, memory))


def _fenced(plan: Plan, memory: Memory, reading: Reading, victim: int) -> bool:
    """Whether a rollback finds the destination's temporary key, and K removed by a stranger.

    Where a single nexus holds, the destination that preempted K holds now; one that did not
    was overtaken.  For the other reservations nothing on the device tells the two apart, and
    the destination's PREEMPT is what is assumed: a crash between its two last commands is
    likelier than a crash before the PREEMPT with a fencing after it.
    """
    if victim == plan.key:
        return False
    if not plan.held or plan.type is None or plan.type.all_registrants:
        return memory.fenced
    if reading.blind:
        holds = reading.holder_key == plan.theirs
    else:
        holds = any(entry.holder for entry in reading.elsewhere(plan.theirs))
    return not (holds and reading.type is plan.type)


def _stale(plan: Plan, reading: Reading) -> str:
    """How the device's reservation differs from the saved one, "" where it does not matter."""
    if not plan.held or plan.type is None:
        return ""
    if reading.type is not plan.type:
        found = "none" if reading.type is None else reading.type.name
        return f"the file is stale: the reservation was {plan.type.name} and is {found} now"
    if plan.type.all_registrants:
        return ""
    holder = (
        reading.holder_key
        if reading.blind
        else next((entry.key for entry in reading.others if entry.holder), None)
    )
    if holder != plan.key:
        return "the file is stale: the guest no longer holds the reservation"
    return ""
