"""What the destination says of a move before it (pure): the verdict on this side, and vetoes."""

from __future__ import annotations

from prtrace.model import ReservationType
from prtrace.move.carry import UnitReport
from prtrace.move.savefile import SavedUnit
from prtrace.move.side import Side
from prtrace.move.verdict import Obstacle, Reason, UnitVerdict, Verdict
from prtrace.move.word import Word

_LATE = (ReservationType.WERO, ReservationType.EARO)


def late_veto(unit: SavedUnit, side: Side) -> str:
    """Why no commit of unit may come after its guest went on, "" where one may.

    A guest that does not hold needs no command.  A holder's commit is one PREEMPT:

    - with WE and EA the guest, which runs and does not hold yet, could not write until then;
    - PREEMPT takes the key from the side's other paths, and REGISTER of the key there under a
      guest that runs would revive it after a fence.  Suspending the map meanwhile is no way out:
      a suspended map refuses SG_IO with EAGAIN (dm_prepare_ioctl of drivers/md/dm.c), which is an
      I/O error for a guest that has the disk as scsi-block.
    """
    if not unit.held or unit.type is None or unit.type.all_registrants:
        return ""
    if unit.type not in _LATE:
        return f"{unit.type.title}: a guest that goes on before load cannot write"
    if len(side.paths) > 1:
        return (
            f"{side.name} has {len(side.paths)} paths: load takes the key from all but one for a "
            "moment, and must come before the guest goes on"
        )
    return ""


def arrival(unit: SavedUnit, side: Side, report: UnitReport) -> UnitVerdict:
    """The verdict on this host as unit's destination; report: of a dry run of prepare."""
    notes = tuple(
        f"{path.nexus.nexus} ({path.node}) takes no commands"
        for path in side.paths
        if not path.usable
    )
    reasons: tuple[Reason, ...] = ()
    verdict = Verdict.CLEAR if unit.key is None else Verdict.MOVABLE
    if not report.word.good:
        words = f"{report.word.value}: {report.why}" if report.why else report.word.value
        doubt = report.word is Word.IN_DOUBT
        reasons = (Reason(Obstacle.IN_DOUBT if doubt else Obstacle.ARRIVAL, words),)
        verdict = Verdict.IN_DOUBT if doubt else Verdict.BLOCKED
    return UnitVerdict(
        side,
        verdict,
        unit.key,
        unit.type,
        unit.held,
        reasons,
        () if reasons else report.planned,
        notes,
    )
