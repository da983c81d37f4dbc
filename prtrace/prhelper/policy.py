"""What a guest's command may do, and what its reply shows (pure).

What ties a registration to another nexus than the guest's own cannot be moved with the guest,
so it is hidden: REPORT CAPABILITIES says that SPEC_I_PT and ALL_TG_PT are not supported (SIP_C,
ATP_C), and commands that use them, or that move or replace a reservation, get the sense data of
a target without them.  SPC-4 6.16.3: a SPEC_I_PT or ALL_TG_PT bit that the device server does
not support is INVALID FIELD IN PARAMETER LIST (5/26/00); SPC-4, Service action: an unsupported
service action is INVALID FIELD IN CDB (5/24/00).  Other service actions ignore the two bits, on a
target with the capability too, and are left alone.
"""

from __future__ import annotations

import enum
import tomllib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Self

from prtrace.errors import UsageError
from prtrace.prhelper.answer import INVALID_CDB, INVALID_LIST, check
from prtrace.prhelper.protocol import Request, Response
from prtrace.scsi.codes import InAction, Opcode, OutCode, Status
from prtrace.scsi.forms import (
    ALL_TG_PT,
    ATP_C,
    BASIC_PARAMETER_LIST,
    REPORT_CAPABILITIES,
    SIP_C,
    SPEC_I_PT,
)

if TYPE_CHECKING:
    from prtrace.prhelper.client import HelperClient

_FLAGS_AT: Final = BASIC_PARAMETER_LIST.offset("flags")
_CAPABILITIES_AT: Final = REPORT_CAPABILITIES.offset("capabilities")
_SHOWN: Final = ~(SIP_C | ATP_C) & 0xFF


class Guard(enum.Enum):
    """What happens when two guests use one nexus of one logical unit."""

    OFF = "off"
    WARN = "warn"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Rule:
    """Settings for the clients and logical units that it names.

    A word that is "" matches everything.  A setting that is None is left to the rules behind
    this one.
    """

    guest: str = ""
    """A name that the kernel or the administrator vouches for (prtrace.prhelper.identity), never
    the one in a command line."""
    unit: str = ""
    """The outermost systemd unit of the client's cgroup."""
    device: str = ""
    """The logical unit's designator."""
    hide: bool | None = None
    guard: Guard | None = None

    def applies(self, client: HelperClient, device: str) -> bool:
        """Whether the rule is about this client and this device."""
        if self.guest and not client.vouched.is_called(self.guest):
            return False
        if self.unit and self.unit != client.unit:
            return False
        return not self.device or self.device.lower() == device.lower()


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for a client's commands to a device."""

    hide: bool = True
    """Whether what cannot be migrated is hidden and refused."""
    guard: Guard = Guard.WARN


@dataclass(frozen=True)
class Policy:
    """For each setting, the first rule that applies and has it decides."""

    rules: tuple[Rule, ...] = ()
    default: Settings = Settings()

    @cached_property
    def asks_for_device(self) -> bool:
        """Whether some rule needs the logical unit's designator."""
        return any(rule.device for rule in self.rules)

    @property
    def refuses(self) -> bool:
        """Whether the same-host guard refuses commands of any client."""
        guards = (self.default.guard, *(rule.guard for rule in self.rules))
        return Guard.REFUSE in guards

    def settings(self, client: HelperClient, device: str) -> Settings:
        """What holds for the client on the logical unit with this designator."""
        hide, guard = None, None
        for rule in self.rules:
            if rule.applies(client, device):
                hide = rule.hide if hide is None else hide
                guard = guard or rule.guard
        return Settings(self.default.hide if hide is None else hide, guard or self.default.guard)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a policy file; UsageError says what is wrong with it.

        Its keys: hide, guard, and [[rule]] tables with guest, unit, device, hide, guard.
        """
        try:
            given = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"the policy is not TOML: {error}") from error
        except RecursionError:
            raise UsageError(
                "the policy is nested too deeply", hint="it needs no more than [[rule]] tables"
            ) from None
        tables = given.pop("rule", [])
        if not isinstance(tables, list):
            raise UsageError("the policy's rules must be written as [[rule]]")
        top = _rule(given, "the policy", ("hide", "guard"))
        default = Settings()
        default = Settings(
            default.hide if top.hide is None else top.hide, top.guard or default.guard
        )
        rules = []
        for place, table in enumerate(tables, 1):
            where = f"rule {place} of the policy"
            rule = _rule(table, where, ("guest", "unit", "device", "hide", "guard"))
            if not (rule.guest or rule.unit or rule.device):
                raise UsageError(f"{where} names neither guest nor unit nor device")
            rules.append(rule)
        return cls(tuple(rules), default)


def refusal(request: Request) -> Response | None:
    """The answer to a request that must not reach the device, None for every other one.

    Whatever the policy: a list whose length in the CDB is not what came with it (QEMU's helper
    looks at the lower half only) cannot be sent as it was meant.
    """
    if request.opcode == Opcode.PR_OUT and request.list_length != len(request.parameter):
        return check(INVALID_CDB)
    return None


def hidden(request: Request) -> Response | None:
    """The answer to a request that uses what is hidden, None for every other one."""
    if request.opcode != Opcode.PR_OUT:
        return None
    action = request.action
    if action in (OutCode.REGISTER_AND_MOVE, OutCode.REPLACE_LOST):
        return check(INVALID_CDB)
    flags = request.parameter[_FLAGS_AT] if len(request.parameter) > _FLAGS_AT else 0
    if action in (OutCode.REGISTER, OutCode.REGISTER_AND_IGNORE) and flags & (
        SPEC_I_PT | ALL_TG_PT
    ):
        return check(INVALID_LIST)
    return None


def masked(request: Request, response: Response) -> Response:
    """The reply as the guest is to see it: REPORT CAPABILITIES without SIP_C and ATP_C."""
    data = response.data
    if (
        request.opcode != Opcode.PR_IN
        or request.action != InAction.REPORT_CAPABILITIES
        or response.status != Status.GOOD
        or len(data) <= _CAPABILITIES_AT
    ):
        return response
    can = data[_CAPABILITIES_AT] & _SHOWN
    shown = data[:_CAPABILITIES_AT] + bytes((can,)) + data[_CAPABILITIES_AT + 1 :]
    return Response(response.status, response.sense, shown)


def _rule(given: Any, where: str, keys: tuple[str, ...]) -> Rule:
    if not isinstance(given, dict):
        raise UsageError(f"{where} is not a table")
    unknown = sorted(given.keys() - set(keys))
    if unknown:
        raise UsageError(f"{where}: unknown key {unknown[0]!r}", hint=f"known: {', '.join(keys)}")
    for key in ("guest", "unit", "device"):
        if not isinstance(given.get(key, ""), str):
            raise UsageError(f"{where}: {key} must be a text")
    device = given.get("device", "")
    if device and ("/" in device or "." not in device):
        raise UsageError(
            f"{where}: device {device!r} is no designator",
            hint="give the logical unit's, naa.… as a rule: `prtrace show` tells it",
        )
    if not isinstance(given.get("hide", False), bool):
        raise UsageError(f"{where}: hide must be true or false")
    guard = given.get("guard")
    words = [kind.value for kind in Guard]
    if guard is not None and guard not in words:
        raise UsageError(f"{where}: guard must be one of {', '.join(words)}")
    return Rule(
        given.get("guest", ""),
        given.get("unit", ""),
        given.get("device", ""),
        given.get("hide"),
        None if guard is None else Guard(guard),
    )
