"""The command line: finds the command, and turns what happened into an exit status.

0 done; 1 failed; 2 the request makes no sense; 3 no such device; 4 answered, but part of the
answer is in doubt; 5 no agent reachable; 24 RESERVATION CONFLICT; 130 interrupted; 141 the
reader of the output went away.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final, NoReturn

import click

from prtrace import __version__
from prtrace.cli.text import flush, lose_output, warn
from prtrace.errors import PrtraceError

COMMANDS: Final = {
    "agent": "watch this host, keep the state, serve the socket",
    "check": "can this host's part of the state move now",
    "decode": "say what the bytes of a command, list, reply or sense mean",
    "detach": "take the programs out of the kernel",
    "doctor": "say what this host lacks, and how to get it",
    "events": "list what happened",
    "explain": "who did this, and what may be done about it",
    "finish": "after a migration: give the guest's key up on the source",
    "gather": "collect what this host knows into one file for explain",
    "import": "turn other programs' log lines into recorded events",
    "libvirt": "let libvirt's migrations take reservations along",
    "load": "in the pause: take the reservation over on the destination",
    "metrics": "write the state as metrics for Prometheus",
    "moves": "list the moves that are unfinished here",
    "ports": "list the initiator ports of this host",
    "prepare": "register the guest's key on the destination, beside the source",
    "proxy": "stand between QEMU and the device: hide what cannot move",
    "read": "ask a device itself, without an agent",
    "record": "write what the agent saw into a file for explain",
    "release": "in the pause: release on the source, for targets that need it",
    "replay": "rebuild the state from recorded events",
    "report": "draw what happened as one page of HTML",
    "rollback": "abort a move: this host's part of it",
    "save": "write down what the destination needs to know",
    "show": "who is registered, who holds the reservation",
    "status": "how the agent is doing",
    "watch": "show the state on the terminal, as it changes",
}

_MODULES: Final = {"import": "import_"}
"""The modules of commands whose names are words of Python."""

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""How a write of the output fails, which names no file."""
_INTERRUPTED: Final = 130
_READER_GONE: Final = 141
DEBUG_VARIABLE: Final = "PRTRACE_DEBUG"


class _Commands(click.Group):
    """Imports a command's module (prtrace.cli.NAME) when the command is wanted."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = import_module(f"prtrace.cli.{_MODULES.get(cmd_name, cmd_name)}").command
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=_Commands,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 80,
        "show_default": True,
        # Every option has an environment name: PRTRACE_AGENT_ENGINE for agent --engine.
        "auto_envvar_prefix": "PRTRACE",
    },
    epilog="""\b
Examples:
  prtrace doctor              what is missing for an agent to run
  prtrace agent               run it (as root; usually a service)
  prtrace show /dev/sda       who is registered, who holds the reservation
  prtrace events --follow     watch what happens
""",
)
@click.version_option(__version__, prog_name="prtrace")
def cli() -> None:
    """SCSI persistent reservations on this host: who is registered on a LUN,
    who holds the reservation, and how did it get that way."""


def run() -> NoReturn:
    """The program's entry: runs the command and exits."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Run the command that arguments name; returns the exit status, and never raises."""
    try:
        with cli.make_context("prtrace", list(arguments)) as context:
            status = cli.invoke(context)
        flush()
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except PrtraceError as error:
        _report(error)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _INTERRUPTED
    except BrokenPipeError:
        lose_output()
        return _READER_GONE
    except PermissionError as error:
        if error.filename is None:
            return _internal(error)
        _report(
            PrtraceError(
                f"{os.fsdecode(error.filename)}: {error.strerror}",
                hint="run it as root, or name what this user may look into",
            )
        )
        return PrtraceError.exit_code
    except OSError as error:
        if error.filename is not None or error.errno not in _NO_ROOM:
            return _internal(error)
        lose_output()
        _report(
            PrtraceError(
                f"the output cannot be written: {error.strerror}",
                hint="make room where it goes to, and call again",
            )
        )
        return PrtraceError.exit_code
    except Exception as error:  # a fault of ours: never a traceback, unless asked for
        return _internal(error)
    return status if isinstance(status, int) else 0


def _internal(error: Exception) -> int:
    if os.environ.get(DEBUG_VARIABLE):
        raise error
    warn(f"prtrace: internal error: {type(error).__name__}: {error}")
    warn(f"hint: {DEBUG_VARIABLE}=1 shows where; please report it")
    return PrtraceError.exit_code


def _report(error: PrtraceError) -> None:
    warn(f"prtrace: {error.message}")
    if error.hint:
        warn(f"hint: {error.hint}")
    if os.environ.get(DEBUG_VARIABLE) and error.__cause__ is not None:
        warn(f"cause: {error.__cause__!r}")
