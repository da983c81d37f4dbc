"""prtrace doctor."""

from __future__ import annotations

from typing import Any, Final

import click

from prtrace.cli.checks import all_checks
from prtrace.cli.options import json_option, socket_option
from prtrace.cli.text import document, labelled, line
from prtrace.probe.requirements import Check, CheckResult, Part, can_run

SCHEMA: Final = "prtrace.doctor/1"


@click.command(
    "doctor",
    epilog="""\b
Exit status 0: an agent can run here; 1: neither engine can.
\b
Examples:
  sudo prtrace doctor
  prtrace doctor --json | jq '.checks[] | select(.verdict != "ok")'
""",
)
@json_option
@socket_option
def command(*, as_json: bool, socket: str) -> int:
    """Say what this host lacks for an agent to run, and how to get it."""
    checks = all_checks(socket)
    core, bcc = can_run(checks, Part.CORE), can_run(checks, Part.BCC)
    if as_json:
        document(report(checks, core=core, bcc=bcc))
    else:
        for check in checks:
            _print(check)
        line()
        line(f"engine core can{'' if core else 'not'} run, bcc can{'' if bcc else 'not'}.")
    return 0 if core or bcc else 1


def report(checks: list[Check], *, core: bool, bcc: bool) -> dict[str, Any]:
    """The prtrace.doctor/1 object."""
    return {
        "schema": SCHEMA,
        "engines": {"core": core, "bcc": bcc},
        "checks": [
            {
                "name": check.name,
                "verdict": check.verdict.value,
                "detail": check.detail,
                "fix": check.fix or None,
                "needed_by": check.part.value,
            }
            for check in checks
        ],
    }


def _print(check: Check) -> None:
    needed = "" if check.part is Part.BOTH else f" [{check.part.value}]"
    head = f"{check.verdict.value:<8} {check.name}{needed}"
    for text in labelled(head, check.detail, indent=0, column=34):
        line(text)
    if check.fix and check.verdict is not CheckResult.OK:
        for text in labelled("", check.fix, column=34):
            line(text)
