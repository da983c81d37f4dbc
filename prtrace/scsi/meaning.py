"""What service actions, types and unit attentions mean, in words for people (pure).

The words say what the standard says.  Where targets are known to differ, the words say that.

Sources: SPC-5 5.14 (the model of persistent reservations), 6.15 and 6.16 (the service actions),
SAM-5 5.14 (unit attentions).
"""

from __future__ import annotations

from typing import Final

from prtrace.model import Action, Attention, ReservationType
from prtrace.scsi.codes import InAction, ReservedCode
from prtrace.scsi.parameter import BasicList, MoveList, ParameterList

_TYPES: Final = {
    ReservationType.WE: "everybody may read, only the holder may write",
    ReservationType.EA: "only the holder may read and write",
    ReservationType.WERO: "everybody may read, only registered nexuses may write",
    ReservationType.EARO: "only registered nexuses may read and write",
    ReservationType.WEAR: (
        "everybody may read, only registered nexuses may write, and each of them is a holder"
    ),
    ReservationType.EAAR: (
        "only registered nexuses may read and write, and each of them is a holder"
    ),
}

_IN: Final = {
    InAction.READ_KEYS: (
        "asks for the keys of all registrations: a key for each registered I_T nexus, without "
        "saying whose it is"
    ),
    InAction.READ_RESERVATION: "asks what is reserved, and with which key and type",
    InAction.REPORT_CAPABILITIES: "asks what the device server can do",
    InAction.READ_FULL_STATUS: (
        "asks for all registrations, each with its key, its initiator port, its target port and "
        "whether it holds the reservation"
    ),
}

_OUT: Final = {
    Action.REGISTER: (
        "registers the sender's I_T nexus, changes its key or removes its registration, as the "
        "keys in the parameter list say"
    ),
    Action.RESERVE: "reserves the logical unit for the sender",
    Action.RELEASE: (
        "ends the reservation if the sender holds it; GOOD is also the answer to a registered "
        "sender that holds nothing, and then nothing has changed"
    ),
    Action.CLEAR: (
        "ends the reservation and removes all registrations, those of others and the sender's own"
    ),
    Action.PREEMPT: (
        "takes the registrations with one key away from other nexuses, and their reservation"
    ),
    Action.PREEMPT_AND_ABORT: (
        "takes the registrations with one key away from other nexuses, and their reservation, and "
        "aborts their commands"
    ),
    Action.REGISTER_AND_IGNORE: (
        "registers the sender's I_T nexus, or removes its registration, whatever key it had before"
    ),
    Action.REGISTER_AND_MOVE: (
        "gives the sender's reservation to another I_T nexus, and registers that nexus"
    ),
    Action.REPLACE_LOST: (
        "replaces a reservation that the device has lost (sense code 44/01): the sender holds it"
    ),
}
"""What a service action does, where its parameter list is not there."""

_ATTENTIONS: Final = {
    Attention.RESERVATIONS_PREEMPTED: (
        "raised by a CLEAR of another nexus, which ended the reservation and all registrations; "
        "for every nexus that was registered"
    ),
    Attention.RESERVATIONS_RELEASED: (
        "raised by another nexus that held the reservation and released it or unregistered, or by "
        "a PREEMPT that changed its type; for every nexus that is registered still"
    ),
    Attention.REGISTRATIONS_PREEMPTED: (
        "raised by a PREEMPT or PREEMPT AND ABORT of another nexus; for every nexus whose "
        "registration it took away"
    ),
    Attention.RESET: (
        "the device was reset or switched on, or this nexus was lost. A reset ends an SPC-2 "
        "RESERVE; registrations and persistent reservations outlive it, and outlive a loss of "
        "power only with APTPL"
    ),
    Attention.INFORMATION_LOST: (
        "the device lost its registrations and its reservation: nothing protects the medium"
    ),
    Attention.INQUIRY_CHANGED: "the INQUIRY data changed: it may be another logical unit now",
    Attention.LUNS_CHANGED: (
        "the target's logical units changed: another one may be at this address now"
    ),
}
_FOR_OTHERS: Final = (
    Attention.RESERVATIONS_PREEMPTED,
    Attention.RESERVATIONS_RELEASED,
    Attention.REGISTRATIONS_PREEMPTED,
)
"""Those that one nexus raises for others.  SPC-5 raises them for an initiator port, which may have
more nexuses than the one that the command concerned."""
_OTHERS: Final = (
    ", never for the sender; other nexuses of the same initiator port may be told, too"
)


def lets_in(kind: ReservationType) -> str:
    """Who may read and write under a reservation of that type, as a clause."""
    return _TYPES[kind]


def asked_in(action: InAction) -> str:
    """What a PERSISTENT RESERVE IN asks for, as a clause without its subject."""
    return _IN[action]


def asked_out(
    action: Action,
    kind: ReservationType | ReservedCode | None = None,
    listed: ParameterList | None = None,
) -> str:
    """What a PERSISTENT RESERVE OUT does where it is carried out, as a clause without its subject.

    kind: of the CDB.  listed: the parameter list, None where it is not there.
    """
    match action:
        case Action.REGISTER | Action.REGISTER_AND_IGNORE if isinstance(listed, BasicList):
            return _register(action, listed) + _reach(listed)
        case Action.RESERVE:
            return _OUT[action] + _typed(kind)
        case Action.PREEMPT | Action.PREEMPT_AND_ABORT if isinstance(listed, BasicList):
            return _preempt(action, kind, listed)
        case Action.REGISTER_AND_MOVE if isinstance(listed, MoveList):
            return _move(listed)
        case _:
            return _OUT[action]


def raised_by(attention: Attention) -> str:
    """What raises a unit attention, and for whom; for 44/01, what it says."""
    return _ATTENTIONS[attention] + (_OTHERS if attention in _FOR_OTHERS else "")


def _key(key: int) -> str:
    return f"0x{key:016x}"


def _typed(kind: ReservationType | ReservedCode | None) -> str:
    return f": {_TYPES[kind]}" if isinstance(kind, ReservationType) else ""


def _register(action: Action, listed: BasicList) -> str:
    old, new = _key(listed.key), _key(listed.sa_key)
    if action is Action.REGISTER_AND_IGNORE:
        if listed.sa_key:
            return f"registers the sender's I_T nexus with key {new}, whatever key it had before"
        return (
            "removes the registration of the sender's I_T nexus, if there is one, whatever its key"
        )
    if not listed.key:
        if listed.sa_key:
            return f"registers the sender's I_T nexus, which is not registered yet, with key {new}"
        return "changes nothing: a nexus that is not registered asks for no key"
    if not listed.sa_key:
        return f"removes the registration of the sender's I_T nexus, which has key {old}"
    if listed.key == listed.sa_key:
        return f"registers the sender's I_T nexus with key {new}, which it has already"
    return f"changes the key of the sender's I_T nexus from {old} to {new}"


def _reach(listed: BasicList) -> str:
    words = ""
    if listed.all_tg_pt:
        words += ", the same on every target port (ALL_TG_PT)"
    if listed.spec_i_pt:
        words += ", the same for the initiator ports that are listed (SPEC_I_PT)"
    if listed.aptpl:
        words += "; from now on all of this is kept over a loss of power (APTPL)"
    return words


def _preempt(
    action: Action, kind: ReservationType | ReservedCode | None, listed: BasicList
) -> str:
    aborts = "; commands of the nexuses that lose theirs are aborted"
    abort = aborts if action is Action.PREEMPT_AND_ABORT else ""
    typed = kind.name if isinstance(kind, ReservationType) else "the type in the CDB"
    if not listed.sa_key:
        return (
            "takes the registrations of all other nexuses away under an all-registrants type, and "
            f"the sender holds {typed}; with other types no key is 0 and it is an error{abort}"
        )
    words = (
        f"takes the registrations with key {_key(listed.sa_key)} away from other nexuses; where "
        f"one of these held the reservation alone, the sender holds it instead, as {typed}"
        f"{_typed(kind)}{abort}"
    )
    if listed.sa_key == listed.key:
        words += "; it is the sender's own key, too: some targets remove the sender as well"
    return words


def _move(listed: MoveList) -> str:
    port = (
        "a port that cannot be read" if listed.transport_id is None else listed.transport_id.text
    )
    left = (
        "the sender's registration is removed" if listed.unreg else "the sender stays registered"
    )
    return (
        f"gives the sender's reservation to {port} on target port {listed.relative_target_port}, "
        f"which is registered with key {_key(listed.sa_key)}; {left}"
    )
