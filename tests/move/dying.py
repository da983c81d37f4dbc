"""prtrace, which dies by SIGKILL where FAULT says: VERB:POINT (see MoveOptions.checkpoint)."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace

from prtrace.cli import carrying
from prtrace.cli.main import run
from prtrace.move.carry import MoveOptions

verb, _, fatal = os.environ.get("FAULT", "").partition(":")
plain = carrying.MoveOptions


def checkpoint(point: str) -> None:
    if sys.argv[1] == verb and point == fatal:
        os.kill(os.getpid(), signal.SIGKILL)


def options(*given: object, **more: object) -> MoveOptions:
    return replace(plain(*given, **more), checkpoint=checkpoint)  # type: ignore[arg-type]


carrying.MoveOptions = options  # type: ignore[assignment,misc]
run()
