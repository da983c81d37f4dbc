"""The fold that a replay is: events in, states out, and what each event changed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Final

from prtrace.errors import MalformedError
from prtrace.explain.recording import GATHERED, SCHEMA
from prtrace.model import LocalNexus, LogicalUnit
from prtrace.state import codec
from prtrace.state.decode import TAKEN
from prtrace.state.event import Command, Event
from prtrace.state.fold import fold
from prtrace.state.paths import by_address
from prtrace.state.unit import LuState

_LONGEST_LINE: Final = 4 << 20
"""Bytes of one event as JSON: READ FULL STATUS with every descriptor is far shorter."""

_BESIDE_EVENTS: Final = (SCHEMA, GATHERED)
"""The lines of a recording that are no events."""
_WITH_CDB: Final = (Command.PR_OUT, Command.PR_IN, Command.RESERVE, Command.RELEASE)
_DERIVED: Final = ("action", "key", "sa_key", "type", "scope", "sense", "problem", "reason")
"""What decoding fills in: compared by --check beside the effect."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Where the recorded words and the recomputed ones disagree; seq 0: the final state."""

    seq: int
    lu: str
    what: str
    recorded: str
    recomputed: str


@dataclass(slots=True)
class Rebuilt:
    """The states that events lead to.

    devices: by unit and nexus, for histories from before there were PATHS events.
    """

    states: dict[str, LuState] = field(default_factory=dict)
    devices: dict[str, dict[str, str]] = field(default_factory=dict)
    events: int = 0
    newest: int = 0
    last_seq: int = 0

    def add(self, event: Event) -> Event:
        """Apply one event; returns it with the words that decoding and applying give.

        Raises MalformedError where its number is not above the one before, and where it is a
        command's without the command.
        """
        if event.seq <= self.last_seq:
            raise MalformedError(
                "events", f"number {event.seq} comes after {self.last_seq}: they are out of order"
            )
        if event.command in _WITH_CDB and not event.cdb:
            raise MalformedError(
                f"event {event.seq}", f"a {event.command.value} without its CDB tells nothing"
            )
        self.last_seq = event.seq
        folded = fold(self.states.get(event.lu), event)
        if folded.forgotten:
            self.states.pop(event.lu, None)
        if folded.state is not None:
            self.states[event.lu] = folded.state
        if event.nexus:
            self.devices.setdefault(event.lu, {})[event.nexus] = event.device
        self.events += 1
        self.newest = max(self.newest, event.time)
        return folded.event

    def unit(self, state: LuState) -> LogicalUnit:
        """The unit as far as the events name its paths."""
        vendor, product, revision = (*state.target.split("/", 2), "", "", "")[:3]
        paths = by_address(state.paths) or tuple(
            LocalNexus(nexus=nexus, lu=state.lu, device=device)
            for nexus, device in self.devices.get(state.lu, {}).items()
        )
        return LogicalUnit(
            state.lu,
            vendor,
            product,
            revision,
            nexuses=paths,
            devices=tuple(sorted({path.device for path in paths if path.device})),
        )


def read_lines(file: IO[bytes], name: str) -> Iterator[tuple[int, Event]]:
    """(bytes read so far, event) for every line of `events --json`.

    Raises MalformedError, which names the line.
    """
    done = 0
    number = 0
    while line := file.readline(_LONGEST_LINE):
        number += 1
        done += len(line)
        if len(line) >= _LONGEST_LINE:
            raise MalformedError(f"{name}, line {number}", "is longer than any event")
        if not line.strip():
            continue
        try:
            given = json.loads(line)
            if isinstance(given, dict) and given.get("schema") in _BESIDE_EVENTS:
                continue
            yield done, Event.from_json(given)
        except (ValueError, RecursionError) as error:
            raise MalformedError(f"{name}, line {number}", f"no JSON: {error}"[:200]) from error
        except MalformedError as error:
            raise MalformedError(f"{name}, line {number}", str(error)) from error


def event_differences(recorded: Event, recomputed: Event) -> Iterator[Difference]:
    """Where the words stored with an event are not those that its bytes give now."""
    for name in _DERIVED:
        before, after = getattr(recorded, name), getattr(recomputed, name)
        if before != after:
            yield Difference(recorded.seq, recorded.lu, name, str(before), str(after))
    parts = [part for part in recorded.effect.split("; ") if part != TAKEN]
    effect = "; ".join(parts)
    if effect != recomputed.effect:
        yield Difference(recorded.seq, recorded.lu, "effect", effect, recomputed.effect)


def state_differences(
    recorded: Mapping[str, LuState], recomputed: Mapping[str, LuState]
) -> Iterator[Difference]:
    """Where the states of a store are not those that its events lead to."""
    for lu, state in recorded.items():
        again = recomputed.get(lu)
        if again is None:
            # A unit that was met and never spoke of has a state, but no event.
            continue
        before, after = _comparable(state), _comparable(again)
        for name in before:
            if before[name] != after[name]:
                yield Difference(
                    0, lu, name, json.dumps(before[name])[:200], json.dumps(after[name])[:200]
                )


def _comparable(state: LuState) -> dict[str, Any]:
    found = codec.to_json(state)
    # When a unit was first met is not an event.
    found["doubts"] = [[each["what"], each["reason"]] for each in found["doubts"]]
    return found
