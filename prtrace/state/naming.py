"""Commands that name nexuses other than the sender's: REGISTER AND MOVE, and SPEC_I_PT.

A TransportID and a relative target port name an I_T nexus as READ FULL STATUS does.  The effect is
applied where that is enough: the names arrived whole, and no path of this host goes by less than
these names.  Everywhere else what the command may have changed is in doubt.

Sources: SPC-6 5.14.7 (SPEC_I_PT) and 5.14.8 (REGISTER AND MOVE); Linux
drivers/target/target_core_pr.c, core_scsi3_decode_spec_i_port and
core_scsi3_emulate_pro_register_and_move.
"""

from __future__ import annotations

from dataclasses import replace

from prtrace.model import Nexus, PrOut
from prtrace.state.binding import may_be, port_names, same_ports
from prtrace.state.doubt import ALL
from prtrace.state.draft import Draft
from prtrace.state.registering import FURTHER, prove
from prtrace.state.unit import Fact, Registration, Source

_REGISTRATIONS = frozenset({Fact.REGISTRATIONS})


def move(draft: Draft, seen: PrOut) -> None:
    """Apply a REGISTER AND MOVE that was done (SPC-6 5.14.8).

    The named nexus is registered with SARK and holds the reservation, of the same type and scope;
    with UNREG the sender is registered no more.
    """
    prove(draft, seen.nexus, seen.key)
    ports = seen.transport_ids or ()
    port = ports[0] if len(ports) == 1 else None
    to = None if port is None else nexus_of(draft, port, seen.relative_target_port)
    held = draft.reservation
    if (
        to is None
        or port is None
        or to == seen.nexus
        or seen.sa_key == 0
        or held is None
        or held.holder != seen.nexus
        or held.type.all_registrants
        or not draft.known(Fact.RESERVATION)
        or not draft.known(Fact.REGISTRATIONS)
    ):
        draft.anchor = None
        draft.ordered = False
        draft.doubt(ALL, f"{seen.action.value} on {seen.nexus}")
        draft.say("in doubt: it names a nexus that is not known")
        return
    before = draft.registrations.get(to)
    draft.advance(1, 1, "")
    _put(draft, seen, to, port, seen.relative_target_port)
    draft.reservation = replace(
        held,
        holder=to,
        key=seen.sa_key,
        source=Source.OBSERVED,
        at=seen.time,
        by=seen.issuer,
        designated=None,
    )
    if seen.unreg:
        del draft.registrations[seen.nexus]
        draft.ordered = False
    draft.say(f"moved {held.type.name} to {to}, key 0x{seen.sa_key:x}")
    if before is not None and before.key != seen.sa_key and not draft.profile.move_rekeys:
        why = f"not known whether {seen.action.value} on {seen.nexus} changed the key of {to}"
        draft.doubt((Fact.REGISTRATIONS, Fact.RESERVATION), why)
    _doubt_names(draft, seen, frozenset({Fact.REGISTRATIONS, Fact.RESERVATION}))


def specify(draft: Draft, seen: PrOut) -> None:
    """Apply what a REGISTER with SPEC_I_PT that was done does beside registering its sender.

    The named initiator ports are registered with SARK on the target port that the command went to,
    on targets that are known to keep to that.
    To be called with the sender registered already.
    """
    path = draft.paths.get(seen.nexus)
    rtpi = None if path is None else path.local.relative_target_port
    ports = seen.transport_ids or ()
    found = [nexus_of(draft, port, rtpi) for port in ports]
    named = [to for to in found if to is not None]
    fresh = [to for to in named if to not in draft.registrations]
    whole = (
        draft.profile.specifies_here is True
        and bool(named)
        and len(fresh) == len(found) == len(set(fresh))
        and seen.sa_key != 0
        and not seen.all_tg_pt
        and draft.known(Fact.REGISTRATIONS)
    )
    if not whole:
        why = f"{seen.action.value} on {seen.nexus} {FURTHER}"
        draft.ordered = False
        draft.advance(0, None, why, tells=True)
        draft.doubt(_REGISTRATIONS, why, tells=True)
        return
    each = draft.profile.counts_specified
    draft.advance(
        len(fresh) if each else 0,
        0 if each is False else len(fresh),
        f"not known by how much {seen.action.value} on {seen.nexus} raised it",
    )
    for to, port in zip(fresh, ports, strict=True):
        _put(draft, seen, to, port, rtpi)
    draft.ordered = False
    draft.say(f"registered {len(fresh)} further {'nexus' if len(fresh) == 1 else 'nexuses'}")
    _doubt_names(draft, seen, _REGISTRATIONS)


def nexus_of(draft: Draft, port: str, relative_target_port: int | None) -> Nexus | None:
    """The nexus of these ports by its name here; None where it cannot be told which one it is."""
    if relative_target_port is None:
        return None
    wanted = port.casefold(), relative_target_port
    local = [path.local for path in draft.paths.values()]
    exact = [path.nexus for path in local if port_names(path) == wanted]
    others = [
        path
        for path in local
        if path.nexus not in exact and may_be(port, relative_target_port, path)
    ]
    name = f"{port},{relative_target_port}"
    foreign = [
        nexus
        for nexus, each in draft.registrations.items()
        if not each.local and nexus.casefold() == name.casefold()
    ]
    # Listed without an ISID, with one where port has none, or for all target ports.
    perhaps = any(
        same_ports(port, each.initiator_port)
        and each.relative_target_port in (None, relative_target_port)
        for nexus, each in draft.registrations.items()
        if not each.local and nexus not in foreign
    )
    if others or perhaps or len(exact) + len(foreign) > 1:
        return None
    return (exact or foreign or [name])[0]


def _put(draft: Draft, seen: PrOut, to: Nexus, port: str, rtpi: int | None) -> None:
    draft.put(
        Registration(
            to,
            seen.sa_key,
            local=to in draft.paths,
            source=Source.OBSERVED,
            at=seen.time,
            by=seen.issuer,
            initiator_port=port,
            relative_target_port=rtpi,
        )
    )


def _doubt_names(draft: Draft, seen: PrOut, facts: frozenset[Fact]) -> None:
    """The sender can write to its list while the device fetches it."""
    if not seen.compared:
        draft.anchor = None
        why = f"the names in {seen.action.value} on {seen.nexus} were not compared"
        draft.doubt(facts, f"{why} with what was submitted")
