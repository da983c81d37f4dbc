"""save: what is to travel, all units or none; it sends nothing that it can avoid."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from prtrace.errors import PrtraceError, UsageError
from prtrace.model import LOCAL_NAME
from prtrace.move.facts import Facts
from prtrace.move.parallel import each
from prtrace.move.savefile import SavedPath, SavedUnit, SaveFile
from prtrace.move.verdict import UnitVerdict, Verdict, overall


class BlockedError(PrtraceError):
    """The reservation state may not be saved; verdicts say why."""

    exit_code = Verdict.BLOCKED.exit_code

    def __init__(self, verdicts: tuple[UnitVerdict, ...]) -> None:
        blocked = next(each for each in verdicts if each.reasons)
        reason = blocked.reasons[0]
        super().__init__(
            f"{blocked.side.name}: {reason.obstacle.value}: {reason.fact}",
            hint="prtrace check shows every reason",
        )
        self.verdicts = verdicts


class DoubtError(BlockedError):
    """The reservation state is in doubt, and nothing else is in the way."""

    exit_code = Verdict.IN_DOUBT.exit_code


def save(
    units: Mapping[str, Mapping[str, Any]],
    verdicts: Iterable[UnitVerdict],
    *,
    host: str,
    guest: str = "",
    order: int,
    aptpl: bool | None = None,
) -> SaveFile:
    """What is to travel, all units or none.

    units: as prtrace.show/1 has them, by designator.  verdicts: what check said of the sides
    on the same units; BlockedError or DoubtError unless each may move.  order: greater than that
    of every earlier move of these units.  aptpl: of all units, where it is known from outside.
    UsageError for a unit without a designator.
    """
    verdicts = tuple(verdicts)
    match overall(verdicts):
        case Verdict.BLOCKED:
            raise BlockedError(verdicts)
        case Verdict.IN_DOUBT:
            raise DoubtError(verdicts)
        case Verdict.CLEAR | Verdict.MOVABLE:
            pass

    def one(verdict: UnitVerdict) -> SavedUnit:
        facts = Facts.from_show(units[verdict.side.lu])
        return _saved(verdict, facts if aptpl is None else replace(facts, aptpl=aptpl))

    saved = tuple(each(one, verdicts))
    return SaveFile(secrets.token_hex(16), order, time.time_ns(), host, guest, saved)


def _saved(verdict: UnitVerdict, facts: Facts) -> SavedUnit:
    side = verdict.side
    if side.lu.startswith(LOCAL_NAME):
        raise UsageError(
            f"{side.name} has no designator (VPD page 0x83): another host cannot recognise it"
        )
    own = {path.nexus.nexus for path in side.paths}
    mine = {found.nexus: found for found in facts.registrations if found.nexus in own}
    others = tuple(
        (found.nexus, found.key) for found in facts.registrations if found.nexus not in own
    )
    return SavedUnit(
        lu=side.lu,
        device=side.name,
        target=side.target,
        key=verdict.key,
        type=facts.type,
        held=verdict.held,
        generation=facts.generation,
        basis="read" if any(found.source == "read" for found in mine.values()) else "observed",
        paths=tuple(
            SavedPath(
                path.nexus.nexus,
                path.nexus.device,
                path.nexus.initiator_port,
                path.nexus.relative_target_port,
                path.nexus.nexus in mine,
            )
            for path in side.paths
        ),
        others=others,
        leftovers=verdict.leftovers,
        aptpl=facts.aptpl,
    )
