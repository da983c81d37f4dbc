"""prtrace detach."""

from __future__ import annotations

import click

from prtrace.cli.text import line


@click.command(
    "detach",
    epilog="""\b
Exit status 0: nothing of prtrace's is in the kernel any more.
\b
Examples:
  prtrace detach                 show what is in the kernel, and ask
  prtrace detach --yes           when the package is removed
""",
)
@click.option("--yes", is_flag=True, help="do not ask")
def command(*, yes: bool) -> None:
    """Take prtrace's programs out of the kernel, and what they recorded.

    They stay there when the agent stops, so that nothing is missed until the
    next one starts.  After this, what happens is missed: the next agent has to
    read every unit anew.
    """
    # Loads ctypes: only here.
    from prtrace.probe import attach, pins

    if not pins.is_there():
        line("nothing of prtrace's is in the kernel")
        return
    with pins.Lock() as lock:
        found = pins.epochs()
        for epoch in found:
            programs = sum(len(list(each.path.iterdir())) for each in epoch.generations)
            line(f"{epoch.path}: {programs} programs attached")
        if not found:
            line("nothing of prtrace's is in the kernel")
            return
        if not yes and not click.confirm("Detach them, and lose what no agent has read?"):
            raise click.Abort
        attach.detach(lock)
        line("detached")
