"""A test switch: PRTRACE_FAULT ends this process with SIGKILL at a named point of a handover.

PRTRACE_FAULT=ROLE:MOMENT-STEP, as in "load:after-step-2".  ROLE: load, rollback.  MOMENT:
"before" (it is in the journal, and not sent), "after" (it was answered, and the journal does
not know).  STEP: look-1, look-2, …, step-1 (REGISTER), step-2 (PREEMPT), step-3 (REGISTER of
the guest's key), step-4 (other paths), evict, remove, probe, end.  Several points are
separated by commas; the first one that is reached counts.
"""

from __future__ import annotations

import os
import signal
from typing import Final

VARIABLE: Final = "PRTRACE_FAULT"


def point(role: str, moment: str, step: str) -> None:
    """End the process here if the variable names this point."""
    if f"{role}:{moment}-{step}" in os.environ.get(VARIABLE, "").split(","):
        os.kill(os.getpid(), signal.SIGKILL)
