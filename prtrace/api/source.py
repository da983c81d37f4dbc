"""What the server asks of the agent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from prtrace.event import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class EventQuery:
    """Which events, as Store.events takes it.

    lus: of these logical units, None for all.  since_seq: with greater numbers.  since_time:
    not older, nanoseconds since the epoch.  limit: at most so many; last: the newest so many.
    """

    lus: tuple[str, ...] | None = None
    since_seq: int = 0
    since_time: int = 0
    limit: int | None = None
    last: int | None = None


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a name stands for.  nexus: "" where it names the unit over all its nexuses."""

    lu: str
    nexus: str = ""
    devices: tuple[str, ...] = ()


class Source(Protocol):
    """Answers from the agent.

    Called on the event loop's thread, so answers come from memory or by short reads of the
    store.  A PrtraceError becomes the reply's error; nothing else may be raised.  New events
    go to ApiServer.publish(), after they were stored.
    """

    def show(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the prtrace.show/1 object of the units that names stand for; all for none.

        Raises NoSuchDeviceError for a name that is neither here nor in the state.
        """

    def events(self, query: EventQuery) -> Iterator[Event]:
        """Return stored events in the order of their numbers; reads as it is iterated.

        Raises StoreError, then or while iterated.
        """

    def status(self) -> dict[str, Any]:
        """Return the prtrace.status/1 object."""

    def resolve(self, name: str) -> Resolution:
        """Find what name stands for, units included that are known but no longer here.

        Raises NoSuchDeviceError.
        """
