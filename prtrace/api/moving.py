"""The calls that move reservations, and what each has to do; whoever answers them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from prtrace.api.address import INTERFACE
from prtrace.api.calls import Call
from prtrace.api.source import MoveCalls, Observed, Step

_VERBS: Final = ("Prepare", "Load", "LateCommit", "Release", "Finish", "Rollback")
NAMING: Final = frozenset({f"{INTERFACE}.Check", f"{INTERFACE}.Save"})
"""Those whose caller names devices of this host."""
MOVING: Final = NAMING | {f"{INTERFACE}.{name}" for name in ("CheckFile", "Moves", *_VERBS)}
"""The calls of prtrace.api.source.MoveCalls."""

Work = Callable[[Step], Mapping[str, Any]]
"""Waits for devices; returns the last reply's parameters.  PrtraceError and Refusal become the
reply's error."""


def work_of(call: Call, moves: Callable[[], MoveCalls], observed: Observed) -> Work | None:
    """What a call of MOVING has to do, None for another one."""
    if call.method not in MOVING:
        return None
    given = call.parameters
    who = (given.get("guest"), given.get("pid"))
    match call.method.removeprefix(f"{INTERFACE}."):
        case "Check":
            return lambda _: moves().check(observed, given["devices"], *who)
        case "CheckFile":
            return lambda _: moves().check_file(given)
        case "Save":
            return lambda _: {"file": moves().save(observed, given["devices"], *who)}
        case "Moves":
            return lambda _: moves().unfinished()
        case verb:
            return lambda step: {"report": moves().carry_out(verb, given, step)}
