"""What the commands that move reservations know: from the agent, from the device, or both."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from prtrace.api.client import Client
from prtrace.cli.options import Function
from prtrace.errors import AgentUnreachableError
from prtrace.move import knowledge
from prtrace.move.carry import MoveOptions
from prtrace.move.verbs import Moves
from prtrace.state.event import Event, rfc3339
from prtrace.state.unit import Fact

read_option = click.option(
    "--read",
    type=click.Choice(["auto", "yes", "no"]),
    default="auto",
    help="ask the devices too; auto: only where there is no agent",
)
"""For commands that judge the state."""


def guest_options(function: Function) -> Function:
    """--guest and --pid."""
    function = click.option(
        "--pid", type=click.IntRange(1, 1 << 22), metavar="PID", help="the guest's process"
    )(function)
    return click.option("--guest", metavar="NAME", help="the guest's name or UUID")(function)


class AgentObserver:
    """The agent behind a socket, as prtrace.move.knowledge.Observer."""

    def __init__(self, socket: str, max_age: int | None = None) -> None:
        self._client = Client(socket)
        self._max_age = max_age

    def units(self, lus: Sequence[str]) -> list[Mapping[str, Any]]:
        """What the agent shows of these units; what it could not confirm in time is in doubt."""
        problems: dict[str, str] = {}
        if self._max_age is not None and lus:
            asked = self._client.call("Refresh", devices=list(lus), max_age=self._max_age)
            problems = {each["lu"]: each["problem"] for each in asked["units"]}
        shown: list[dict[str, Any]] = self._client.call("Show", devices=list(lus))["units"]
        for unit in shown:
            if problem := problems.get(unit["lu"]):
                unit["doubt"] += _too_old(unit, f"older than --max-age allows: {problem}")
        return list(shown)

    def events(self, lu: str) -> Iterator[Event]:
        """What it saw last of what changed one of them."""
        last = knowledge.LAST
        for reply in self._client.stream("Events", devices=[lu], last=last, changes=True):
            for event in reply.get("events", ()):
                yield Event.from_json(event)


def _too_old(unit: Mapping[str, Any], reason: str) -> list[dict[str, Any]]:
    since = unit.get("as_of") or rfc3339(time.time_ns())
    return [{"what": fact.value, "reason": reason, "since": since} for fact in Fact]


def observed_moves(
    options: MoveOptions, socket: str, read: str, max_age: int | None = None
) -> tuple[Moves, bool]:
    """The verbs with the agent's knowledge, and whether the devices are asked as well.

    A reading takes the unit attentions that wait for the guest's nexus, so with an agent the
    devices are asked only on request.  max_age: what the agent knows is to be no older, in
    seconds; without an agent it is as new as can be.  AgentUnreachableError where nothing may be
    asked.
    """
    observer = AgentObserver(socket, max_age)
    try:
        observer.units([])
    except AgentUnreachableError:
        if read == "no":
            raise
        return Moves(options), True
    return Moves(options, observer), read == "yes"
