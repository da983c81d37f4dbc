"""--anonymise: recordings that other people may read."""

from __future__ import annotations

from dataclasses import replace

import click

from prtrace.cli.rebuild import Rebuilt
from prtrace.explain.recording import Recording
from prtrace.state.anonymous import Anonymous

anonymise_option = click.option(
    "--anonymise",
    metavar="SECRET",
    help="replace names and keys; alike wherever SECRET is the same",
)
"""For commands that write recordings."""


def anonymous(recording: Recording, secret: str) -> Recording:
    """The recording with other names; what other programs said is left out, names and all."""
    by = Anonymous(secret.encode())
    rebuilt = Rebuilt()
    return replace(
        recording,
        host=by.name("host", recording.host),
        ports=tuple(sorted(map(by.port, recording.ports))),
        events=tuple(rebuilt.add(by.event(event)) for event in recording.events),
        gathered=(),
        paths=tuple(map(by.path, recording.paths)),
    )
