"""`python -m prtrace`."""

from __future__ import annotations

from prtrace.cli.main import run

run()
