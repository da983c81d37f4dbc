"""`prtrace agent`, whose mover ends where it parses a byte of a device itself.

The mover has root's rights.  Who parses for it are the processes of prtrace.agent.parser, which
are forked before this takes the parsing away.
"""

from __future__ import annotations

import os
import traceback
from typing import Any, NoReturn

from prtrace.agent import mover
from prtrace.cli.main import run
from prtrace.scsi.form import Form

_serve = mover.serve


def ended(*_arguments: object, **_more: object) -> NoReturn:
    """An exception might be taken for an answer of the device."""
    traceback.print_stack()
    os._exit(9)


def serve(*arguments: Any) -> None:
    # Every parser of prtrace.scsi begins with a form.
    Form.parse = ended  # type: ignore[method-assign]
    _serve(*arguments)


mover.serve = serve

if __name__ == "__main__":
    run()
