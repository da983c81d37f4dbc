"""The process that looks after the attached programs for the agent, which may not.

Pins that somebody removed, modules that came later, generations that are needed no more: all of it
takes CAP_SYS_ADMIN or root's folder in the bpf file system.  The keeper reads what the programs
themselves wrote into their maps, and requests of one letter and at most a store's name.  It ends
with the agent, and removes the agent's socket then.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from prtrace.agent.child import receive
from prtrace.errors import PrtraceError
from prtrace.linux.capabilities import Capability
from prtrace.linux.unixsocket import Listener
from prtrace.probe import pins
from prtrace.probe.attach import Attached, forget_ended, keep, retire
from prtrace.probe.misses import Skipped

KEPT: Final = (
    Capability.SYS_ADMIN,
    Capability.BPF,
    Capability.PERFMON,
    Capability.SYSLOG,
)
"""To load and attach (types of modules, fentry; SYSLOG: the addresses of functions)."""

_LOOK, _MISSES, _READERS, _CLAIM = "look", "misses", "readers", "claim"
_NAME: Final = re.compile(r"[0-9a-f]{16}")
_LONGEST_REQUEST: Final = 64
_LONGEST: Final = 1 << 17
_PATIENCE: Final = 60.0
"""Seconds for an answer.  To load programs for a module that came takes a few at most; the agent
answers nobody meanwhile, and its unit's watchdog would end it then."""
_FORGET_EVERY: Final = 60
"""Looks between two looks for requests that ended long ago."""


class KeeperGoneError(PrtraceError):
    """Nobody looks after the programs any more: the agent cannot go on."""


@dataclass(slots=True)
class _Work:
    """What the keeper does, once a second."""

    attached: Attached
    looks: int = 0

    def look(self) -> dict[str, Any]:
        said = keep(self.attached)
        retire(self.attached)
        self.looks += 1
        if self.looks % _FORGET_EVERY == 0:
            forget_ended(self.attached)
        programs = self.attached.programs
        return {
            "said": said,
            "generation": programs.generation,
            "links": list(programs.links),
            "missing": dict(programs.missing),
            "fallback": programs.fallback,
        }

    def misses(self) -> dict[str, Any]:
        skipped = self.attached.misses.skipped()
        return {"ends": [*skipped.ends.items()], "signs": [*skipped.signs.items()]}

    def answer(self, request: bytes) -> dict[str, Any]:
        what, _, name = request.decode("ascii", "replace").partition(" ")
        if what == _LOOK:
            return self.look()
        if what == _MISSES:
            return self.misses()
        if what == _READERS:
            return {"readers": [*pins.readers(self.attached.epoch)]}
        if what == _CLAIM and _NAME.fullmatch(name):
            self.attached.claim(name)
            return {}
        raise PrtraceError("the keeper knows no such request")


def serve(link: socket.socket, attached: Attached, listeners: Sequence[Listener]) -> None:
    """Answer requests until the agent is gone; then remove its sockets."""
    for listener in listeners:
        # Its descriptor is closed here; the path is what is left to be looked after.
        listener.socket.detach()
    work = _Work(attached)
    while request := receive(link, _LONGEST_REQUEST):
        try:
            answer = work.answer(request)
        except PrtraceError as error:
            answer = {"problem": error.message}
        except OSError as error:
            answer = {"problem": f"the programs cannot be looked after: {error}"}
        try:
            link.send(json.dumps(answer).encode())
        except OSError:
            break
    for listener in listeners:
        listener.close()


class Kept(NamedTuple):
    """What a look came to."""

    said: list[str]
    """For the log."""
    generation: int
    """Of the programs at work, and so for the next three: see Programs."""
    links: frozenset[str]
    missing: Mapping[str, str]
    fallback: str


class Keeper:
    """The agent's side, for the thread of its event loop.

    patience: seconds for an answer.  Raises KeeperGoneError, and ever after once an answer did not
    come in time: it would be taken for the next one.
    """

    def __init__(self, link: socket.socket, *, patience: float = _PATIENCE) -> None:
        self._link = link
        link.settimeout(patience)

    def look(self) -> Kept:
        """Look after the programs; PrtraceError says what is wrong with them."""
        told = self._ask(_LOOK)
        return Kept(
            told["said"],
            told["generation"],
            frozenset(told["links"]),
            told["missing"],
            told["fallback"],
        )

    def skipped(self) -> Skipped:
        """See prtrace.probe.misses.Misses.skipped."""
        told = self._ask(_MISSES)
        return Skipped(dict(told["ends"]), dict(told["signs"]))

    def readers(self) -> set[str]:
        """See prtrace.probe.pins.readers."""
        return set(self._ask(_READERS)["readers"])

    def claim(self, store: str) -> None:
        """See prtrace.probe.attach.Attached.claim."""
        self._ask(f"{_CLAIM} {store}")

    def _ask(self, request: str) -> dict[str, Any]:
        try:
            self._link.send(request.encode())
            answer = self._link.recv(_LONGEST)
        except TimeoutError as error:
            self._link.close()
            raise _gone("does not answer") from error
        except OSError as error:
            raise _gone() from error
        if not answer:
            raise _gone()
        told: dict[str, Any] = json.loads(answer)
        if "problem" in told:
            raise PrtraceError(told["problem"])
        return told


def descriptors(attached: Attached) -> set[int]:
    """What the keeper needs of the agent's."""
    programs = attached.programs
    held = attached.misses.descriptors
    return {*programs.maps.values(), *programs.links.values(), *held, attached.lock.descriptor}


def _gone(how: str = "has ended") -> KeeperGoneError:
    return KeeperGoneError(
        f"the agent's keeper {how}",
        hint="see the log for why; an agent that starts goes on where this one was",
    )
