"""prtrace finish."""

from __future__ import annotations

import click

from prtrace.cli.carrying import agreed, read_file, say, yes_option
from prtrace.cli.options import json_option
from prtrace.cli.text import document
from prtrace.errors import InDoubtError
from prtrace.linux.units import scan
from prtrace.move.finishing import finish, finish_view
from prtrace.move.side import find_saved_sides


@click.command(
    "finish",
    epilog="""\b
Exit status 4: something of the guest is left, and is named.
\b
Examples:
  prtrace finish db1.json
""",
)
@click.argument("file")
@yes_option
@json_option
def command(file: str, *, yes: bool, as_json: bool) -> int:
    """See to it, on the source, that nothing of the guest is left there.

    To be run after a successful migration.  The key that multipathd stores
    is forgotten too: it would register it again on a path that returns.
    """
    saved = read_file(file)
    for each in saved.units if not as_json else ():
        if each.key is not None:
            say(each.lu, f"plan: remove key {each.key:#x} from the paths of this host")
    if not agreed("Has the guest moved, and may this go?", yes=yes or as_json):
        return 1
    units = finish(saved, find_saved_sides(scan(), saved))
    if as_json:
        document(finish_view(units, saved))
    else:
        for unit in units:
            for text in unit.removed:
                say(unit.lu, f"removed {text}")
            for text in unit.remains:
                say(unit.lu, f"left: {text}")
            if not unit.remains:
                say(unit.lu, "nothing of the guest is left here")
    return InDoubtError.exit_code if any(unit.remains for unit in units) else 0
