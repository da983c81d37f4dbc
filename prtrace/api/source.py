"""What the server asks of the agent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from prtrace.state.event import Event
from prtrace.store.history import EventQuery


class Resolution(NamedTuple):
    """What a name stands for.  nexus: "" where it names the unit over all its nexuses."""

    lu: str
    nexus: str = ""
    devices: tuple[str, ...] = ()


class Wanted(NamedTuple):
    """A unit that a caller wants newer knowledge of."""

    lu: str
    asked: bool
    """Whether what is known is older than the caller wants."""
    problem: str = ""
    """Why nobody asks the device all the same, "" where somebody does."""


HISTORY_BEHIND: Final = "records of what happened wait to be taken: the history is not current"

Step = Callable[[str, str], None]
"""Called with a logical unit and a few words about what was done to it."""


class Observed(Protocol):
    """What the agent knows, for threads that are not the loop's; see AgentSource."""

    def show(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the prtrace.show/1 object."""

    def changes(self, lu: str, last: int) -> Iterator[Event]:
        """Return the last stored events of lu that may have changed its state, oldest first.

        At most as many as last says.  Raises StoreError while iterated.
        """


class MoveCalls(Protocol):
    """Moves reservations (prtrace.move); every method waits for devices, on a thread.

    file: a prtrace.save/2 object.  A PrtraceError or a Refusal becomes the reply's error;
    nothing else may be raised.  What is sent comes back up as events like everybody's.
    """

    def check(
        self, observed: Observed, devices: Sequence[str], guest: str | None, pid: int | None
    ) -> dict[str, Any]:
        """Return the prtrace.check/2 object; sends nothing to any device."""

    def save(
        self, observed: Observed, devices: Sequence[str], guest: str | None, pid: int | None
    ) -> dict[str, Any]:
        """Return the prtrace.save/2 object."""

    def check_file(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the prtrace.check/2 object of CheckFile; given: its parameters."""

    def carry_out(self, verb: str, given: Mapping[str, Any], step: Step) -> dict[str, Any]:
        """Return the prtrace.move/2 object of Prepare, Load, LateCommit, Release,
        Finish or Rollback.

        verb: the method's name; given: its parameters.
        """

    def unfinished(self) -> dict[str, Any]:
        """Return the prtrace.moves/1 object."""


class AgentSource(Protocol):
    """Answers from the agent.

    Called on the event loop's thread, so answers come from memory.  A PrtraceError becomes
    the reply's error; anything else is logged, and the reply says that the call failed.  New
    events go to ApiServer.publish(), after they were stored.
    """

    def caught_up(self) -> asyncio.Future[bool] | None:
        """Return None where all that has happened by now is known.

        Otherwise what is done once it is (True), or when a caller should not wait any longer
        (False): what is answered then is not current.
        """

    def show(self, names: Sequence[str], *, behind: bool) -> dict[str, Any]:
        """Return the prtrace.show/1 object of the units that names stand for; all for none.

        To be called once caught_up() says so; behind: it said that the answer is not current,
        so every unit is in doubt.  Raises NoSuchDeviceError for a name that is neither here
        nor in the state.
        """

    def events(self, query: EventQuery) -> Iterator[list[Event]]:
        """Return portions of stored events, some of them empty, in the order of their numbers.

        To be called once caught_up() says so, where what has happened by now is to be in it.
        They are taken on other threads, by one at a time; each takes a bounded time.  Raises
        StoreError, then or while iterated.
        """

    def status(self) -> dict[str, Any]:
        """Return the prtrace.status/1 object."""

    def want(self, names: Sequence[str], max_age: int) -> Sequence[Wanted]:
        """Begin to ask the devices of what is known longer than max_age seconds; all for none.

        Raises NoSuchDeviceError.
        """

    def unconfirmed(self, lus: Sequence[str]) -> Sequence[str]:
        """Return those of lus that were wanted, and that the device has not confirmed since."""

    def resolve(self, name: str) -> Resolution:
        """Find what name stands for, units included that are known but no longer here.

        Raises NoSuchDeviceError.
        """
