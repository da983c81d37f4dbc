"""What a guest's command may do, and what its reply shows (pure).

What ties a registration to another nexus than the guest's own cannot be moved with the guest,
so it is hidden: REPORT CAPABILITIES says that SPEC_I_PT and ALL_TG_PT are not supported (SIP_C,
ATP_C), and commands that use them, or that move or replace a reservation, get the sense data of
a target without them.  SPC-4 6.16.3: a SPEC_I_PT or ALL_TG_PT bit that the device server does
not support is INVALID FIELD IN PARAMETER LIST (26/00); SPC-4, Service action: an unsupported
service action is INVALID FIELD IN CDB (24/00).  Other service actions ignore the two bits, on a
target with the capability too, and are left alone.
"""

from __future__ import annotations

import enum
import tomllib
from dataclasses import dataclass
from typing import Any, Final, Self

from prtrace.errors import UsageError
from prtrace.prhelper.wire import Request, Response
from prtrace.scsi.codes import InAction, Opcode, Status
from prtrace.scsi.sense import FIXED, ILLEGAL_REQUEST, Sense

REGISTER: Final = 0
REGISTER_AND_IGNORE: Final = 6
_REGISTER_AND_MOVE: Final = 7
_REPLACE_LOST: Final = 8
_FLAGS_AT: Final = 20
_SPEC_I_PT: Final = 0x08
_ALL_TG_PT: Final = 0x04
_CAPABILITIES_AT: Final = 2
_SIP_C: Final = 0x08
_ATP_C: Final = 0x04

# As plain numbers: looking an enum's member up takes longer than comparing with it.
_PR_IN, _CAPABILITIES = int(Opcode.PR_IN), int(InAction.REPORT_CAPABILITIES)
_GOOD: Final = int(Status.GOOD)

INVALID_CDB: Final = (0x24, 0x00)
INVALID_LIST: Final = (0x26, 0x00)
NO_REGISTRATION_LEFT: Final = (0x55, 0x04)


class Guard(enum.Enum):
    """What happens when two guests use one nexus of one logical unit."""

    OFF = "off"
    WARN = "warn"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Rule:
    """Settings for a guest (name or UUID) or a logical unit (designator); "" matches all.

    A setting that is None is left to the rules behind this one.
    """

    guest: str = ""
    device: str = ""
    hide: bool | None = None
    guard: Guard | None = None

    def applies(self, guests: tuple[str, ...], device: str) -> bool:
        """Whether the rule is about a guest with one of these names, and this device."""
        named = not self.guest or self.guest.lower() in (name.lower() for name in guests)
        return named and (not self.device or self.device.lower() == device.lower())


@dataclass(frozen=True, slots=True)
class Settings:
    """hide: whether what cannot be migrated is hidden and refused."""

    hide: bool = True
    guard: Guard = Guard.WARN


@dataclass(frozen=True, slots=True)
class Policy:
    """For each setting, the first rule that applies and has it decides."""

    rules: tuple[Rule, ...] = ()
    default: Settings = Settings()

    @property
    def asks_for_device(self) -> bool:
        """Whether some rule needs the logical unit's designator."""
        return any(rule.device for rule in self.rules)

    def settings(self, guests: tuple[str, ...], device: str) -> Settings:
        """What holds for a guest with these names (name, UUID) on the logical unit."""
        hide, guard = None, None
        for rule in self.rules:
            if rule.applies(guests, device):
                hide = rule.hide if hide is None else hide
                guard = guard or rule.guard
        return Settings(self.default.hide if hide is None else hide, guard or self.default.guard)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a policy file; UsageError says what is wrong with it.

        Its keys: hide, guard, and [[rule]] tables with guest, device, hide, guard.
        """
        try:
            given = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"the policy is no TOML: {error}") from error
        tables = given.pop("rule", [])
        if not isinstance(tables, list):
            raise UsageError("the policy's rules are to be written as [[rule]]")
        top = _rule(given, "the policy", ("hide", "guard"))
        default = cls((top,)).settings((), "")
        rules = []
        for place, table in enumerate(tables, 1):
            where = f"rule {place} of the policy"
            rule = _rule(table, where, ("guest", "device", "hide", "guard"))
            if not rule.guest and not rule.device:
                raise UsageError(f"{where} names neither guest nor device")
            rules.append(rule)
        return cls(tuple(rules), default)


def refusal(request: Request) -> Response | None:
    """The answer to a request that must not reach the device, None for every other one.

    Whatever the policy: a list whose length in the CDB is not what came with it (QEMU's helper
    looks at the lower half only) cannot be sent as it was meant.
    """
    if request.opcode == Opcode.PR_OUT and request.cdb[5:7] != b"\0\0":
        return illegal(INVALID_CDB)
    return None


def hidden(request: Request) -> Response | None:
    """The answer to a request that uses what is hidden, None for every other one."""
    if request.opcode != Opcode.PR_OUT:
        return None
    if request.action in (_REGISTER_AND_MOVE, _REPLACE_LOST):
        return illegal(INVALID_CDB)
    flags = request.parameter[_FLAGS_AT] if len(request.parameter) > _FLAGS_AT else 0
    if request.action in (REGISTER, REGISTER_AND_IGNORE) and flags & (_SPEC_I_PT | _ALL_TG_PT):
        return illegal(INVALID_LIST)
    return None


def masked(request: Request, response: Response) -> Response:
    """The reply as the guest is to see it: REPORT CAPABILITIES without SIP_C and ATP_C."""
    data = response.data
    if (
        request.action != _CAPABILITIES
        or request.cdb[0] != _PR_IN
        or response.status != _GOOD
        or len(data) <= _CAPABILITIES_AT
    ):
        return response
    can = data[_CAPABILITIES_AT] & ~(_SIP_C | _ATP_C)
    shown = data[:_CAPABILITIES_AT] + bytes((can,)) + data[_CAPABILITIES_AT + 1 :]
    return Response(response.status, response.sense, shown)


def illegal(code: tuple[int, int]) -> Response:
    """CHECK CONDITION, ILLEGAL REQUEST with this ASC and ASCQ."""
    sense = Sense(FIXED, ILLEGAL_REQUEST, *code).build()
    return Response(Status.CHECK_CONDITION, sense)


def _rule(given: Any, where: str, keys: tuple[str, ...]) -> Rule:
    if not isinstance(given, dict):
        raise UsageError(f"{where} is no table")
    unknown = sorted(given.keys() - set(keys))
    if unknown:
        raise UsageError(f"{where}: unknown key {unknown[0]!r}", hint=f"known: {', '.join(keys)}")
    for key in ("guest", "device"):
        if not isinstance(given.get(key, ""), str):
            raise UsageError(f"{where}: {key} is to be a text")
    if not isinstance(given.get("hide", False), bool):
        raise UsageError(f"{where}: hide is to be true or false")
    guard = given.get("guard")
    words = [kind.value for kind in Guard]
    if guard is not None and guard not in words:
        raise UsageError(f"{where}: guard is to be one of {', '.join(words)}")
    return Rule(
        given.get("guest", ""),
        given.get("device", ""),
        given.get("hide"),
        None if guard is None else Guard(guard),
    )
