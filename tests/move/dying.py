"""prtrace, which dies by SIGKILL where FAULT says: VERB:POINT (see MoveOptions.checkpoint)."""

from __future__ import annotations

import functools
import os
import signal
import sys

from prtrace.cli import carrying
from prtrace.cli.main import run
from prtrace.move.carry import MoveOptions

verb, _, fatal = os.environ.get("FAULT", "").partition(":")


def checkpoint(point: str) -> None:
    if sys.argv[1] == verb and point == fatal:
        os.kill(os.getpid(), signal.SIGKILL)


carrying.MoveOptions = functools.partial(MoveOptions, checkpoint=checkpoint)  # type: ignore[assignment, misc]
run()
