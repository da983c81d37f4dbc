"""Numbers with names: operation codes, service actions, statuses, host bytes, types.

Sources: SPC-4 tables of PERSISTENT RESERVE IN and OUT service actions, SAM-5 status codes,
Linux include/scsi/scsi_status.h for the host byte.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

from prtrace.model import Action, ReservationType


class Opcode:
    """Operation codes that prtrace decodes or sends.  Plain numbers, compared for each command."""

    TEST_UNIT_READY: Final = 0x00
    REQUEST_SENSE: Final = 0x03
    INQUIRY: Final = 0x12
    RESERVE_6: Final = 0x16
    RELEASE_6: Final = 0x17
    RESERVE_10: Final = 0x56
    RELEASE_10: Final = 0x57
    PR_IN: Final = 0x5E
    PR_OUT: Final = 0x5F


class OutCode:
    """PERSISTENT RESERVE OUT service actions as plain numbers."""

    REGISTER: Final = 0
    RESERVE: Final = 1
    RELEASE: Final = 2
    CLEAR: Final = 3
    PREEMPT: Final = 4
    PREEMPT_AND_ABORT: Final = 5
    REGISTER_AND_IGNORE: Final = 6
    REGISTER_AND_MOVE: Final = 7
    REPLACE_LOST: Final = 8


class InAction(enum.IntEnum):
    """PERSISTENT RESERVE IN service actions, by their codes."""

    READ_KEYS = 0
    READ_RESERVATION = 1
    REPORT_CAPABILITIES = 2
    READ_FULL_STATUS = 3

    @property
    def title(self) -> str:
        """The name as the standard writes it."""
        return self.name.replace("_", " ")


class Status:
    """SAM status codes.  Plain numbers, compared for each command."""

    GOOD: Final = 0x00
    CHECK_CONDITION: Final = 0x02
    CONDITION_MET: Final = 0x04
    BUSY: Final = 0x08
    RESERVATION_CONFLICT: Final = 0x18
    TASK_SET_FULL: Final = 0x28
    ACA_ACTIVE: Final = 0x30
    TASK_ABORTED: Final = 0x40


_STATUS_TITLES: Final = {
    Status.GOOD: "GOOD",
    Status.CHECK_CONDITION: "CHECK CONDITION",
    Status.CONDITION_MET: "CONDITION MET",
    Status.BUSY: "BUSY",
    Status.RESERVATION_CONFLICT: "RESERVATION CONFLICT",
    Status.TASK_SET_FULL: "TASK SET FULL",
    Status.ACA_ACTIVE: "ACA ACTIVE",
    Status.TASK_ABORTED: "TASK ABORTED",
}


class ReservedCode(NamedTuple):
    """A code that the standard reserves or has made obsolete: its number is kept and shown."""

    field: str
    code: int

    @property
    def text(self) -> str:
        """For people: "reserved TYPE 0x9"."""
        return f"reserved {self.field} {self.code:#x}"


OUT_ACTIONS: Final[dict[int, Action]] = {
    OutCode.REGISTER: Action.REGISTER,
    OutCode.RESERVE: Action.RESERVE,
    OutCode.RELEASE: Action.RELEASE,
    OutCode.CLEAR: Action.CLEAR,
    OutCode.PREEMPT: Action.PREEMPT,
    OutCode.PREEMPT_AND_ABORT: Action.PREEMPT_AND_ABORT,
    OutCode.REGISTER_AND_IGNORE: Action.REGISTER_AND_IGNORE,
    OutCode.REGISTER_AND_MOVE: Action.REGISTER_AND_MOVE,
    OutCode.REPLACE_LOST: Action.REPLACE_LOST,
}
"""PERSISTENT RESERVE OUT service actions by code."""

OUT_CODES: Final[dict[Action, int]] = {action: code for code, action in OUT_ACTIONS.items()}

SCOPE_LU: Final = 0
"""The one scope that is not obsolete."""

_IN_ACTIONS = {action.value: action for action in InAction}
_TYPES = {kind.value: kind for kind in ReservationType}

_HOST_BYTES = {
    0x00: "DID_OK",
    0x01: "DID_NO_CONNECT",
    0x02: "DID_BUS_BUSY",
    0x03: "DID_TIME_OUT",
    0x04: "DID_BAD_TARGET",
    0x05: "DID_ABORT",
    0x06: "DID_PARITY",
    0x07: "DID_ERROR",
    0x08: "DID_RESET",
    0x09: "DID_BAD_INTR",
    0x0A: "DID_PASSTHROUGH",
    0x0B: "DID_SOFT_ERROR",
    0x0C: "DID_IMM_RETRY",
    0x0D: "DID_REQUEUE",
    0x0E: "DID_TRANSPORT_DISRUPTED",
    0x0F: "DID_TRANSPORT_FAILFAST",
    # 0x10 to 0x13 left the header in v6.1; older kernels still report them.
    0x10: "DID_TARGET_FAILURE",
    0x11: "DID_NEXUS_FAILURE",
    0x12: "DID_ALLOC_FAILURE",
    0x13: "DID_MEDIUM_ERROR",
    0x14: "DID_TRANSPORT_MARGINAL",
}


def out_action(code: int) -> Action | ReservedCode:
    """Name a PERSISTENT RESERVE OUT service action."""
    return OUT_ACTIONS.get(code) or ReservedCode("PR OUT service action", code)


def in_action(code: int) -> InAction | ReservedCode:
    """Name a PERSISTENT RESERVE IN service action."""
    action = _IN_ACTIONS.get(code)
    return ReservedCode("PR IN service action", code) if action is None else action


def reservation_type(code: int) -> ReservationType | ReservedCode:
    """Name the TYPE field's value."""
    return _TYPES.get(code) or ReservedCode("TYPE", code)


def titled_type(words: str) -> ReservationType | None:
    """The type of that title, whatever its case and punctuation; None where it is no type's."""
    return _TITLED.get(_letters(words))


def titled_action(words: str) -> Action | InAction | None:
    """The service action of that name, whatever its case; None where it is none's."""
    return _TITLED_ACTIONS.get(_letters(words))


def _letters(words: str) -> str:
    return "".join(filter(str.isalpha, words.lower()))


_TITLED = {_letters(kind.title): kind for kind in ReservationType}
_TITLED_ACTIONS: Final[dict[str, Action | InAction]] = {
    **{_letters(each.value): each for each in Action},
    **{_letters(each.title): each for each in InAction},
}


def type_code(kind: ReservationType | ReservedCode | None) -> int:
    """The TYPE field's value; None is 0, which is what commands without a type carry."""
    if kind is None:
        return 0
    return kind.code if isinstance(kind, ReservedCode) else kind.value


def status_title(code: int) -> str:
    """Name a SAM status, a byte; an unknown one keeps its number ("STATUS 0x22")."""
    return _STATUS_TITLES.get(code) or f"STATUS {code:#04x}"


def host_byte_name(code: int) -> str:
    """Name the Linux host byte of a command's result; an unknown one keeps its number."""
    return _HOST_BYTES.get(code, f"DID_{code:#04x}")
