"""What readers may ask of the mover: Check and Moves."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prtrace.agent.arrivals import Mover
from prtrace.api.client import Client
from prtrace.errors import PrtraceError

if TYPE_CHECKING:
    from prtrace.api.source import Observed, Step


class _Reader(Client):
    """Asks the mover for what readers may know."""

    def __init__(self, mover: Mover) -> None:
        super().__init__(mover.path)
        self._mover = mover

    def _opened(self) -> socket.socket:
        return self._mover.reader()


class ReadersMoves:
    """What a reader may ask of the mover, for the API's server: MoveCalls.

    It is asked as nobody in particular, so the mover carries out nothing else.
    """

    def __init__(self, mover: Mover) -> None:
        self._mover = _Reader(mover)

    def check(
        self, _: Observed, devices: Sequence[str], guest: str | None, pid: int | None
    ) -> dict[str, Any]:
        """See Moves.check."""
        return self._mover.call("Check", devices=list(devices), guest=guest, pid=pid)

    def unfinished(self) -> dict[str, Any]:
        """See Moves.unfinished."""
        return self._mover.call("Moves")

    def save(
        self, _: Observed, devices: Sequence[str], guest: str | None, pid: int | None
    ) -> dict[str, Any]:
        """Not for readers, whose call is refused before."""
        raise _not_for_readers()

    def check_file(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Not for readers, whose call is refused before."""
        raise _not_for_readers()

    def carry_out(self, verb: str, given: Mapping[str, Any], step: Step) -> dict[str, Any]:
        """Not for readers, whose call is refused before."""
        raise _not_for_readers()


def _not_for_readers() -> PrtraceError:
    return PrtraceError("this connection may only read")
