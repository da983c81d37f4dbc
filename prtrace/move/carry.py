"""Carrying a handover out: looks, commands, journal and report for one logical unit."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from prtrace.errors import ConflictError, PrtraceError
from prtrace.linux.sysfs import SYS, read_text
from prtrace.model import LocalNexus, Outcome
from prtrace.move import fault
from prtrace.move.decision import looked
from prtrace.move.device import Paths
from prtrace.move.handover import (
    End,
    Look,
    Plan,
    Position,
    Result,
    Send,
    Step,
    about_to_send,
    answered,
    start,
)
from prtrace.move.journal import Journal
from prtrace.move.memory import Memory, Sent
from prtrace.state.event import key_text

DEVICES: Final = SYS / "bus/scsi/devices"

Witness = Callable[[Plan, Memory], bool | None]
"""Whether the PREEMPT of plan.mine against memory.victim was seen to succeed; None: unseen."""

Progress = Callable[[str, str], None]
"""Called with the logical unit and a few words about what was done."""


@dataclass(frozen=True, slots=True)
class SentCommand:
    """A command of the handover and its outcome."""

    command: Send
    outcome: Outcome
    milliseconds: float

    def to_json(self) -> dict[str, Any]:
        """As reports show it."""
        sent = self.command
        return {
            "step": sent.step.value,
            "nexus": sent.nexus,
            "action": sent.action.value,
            "key": key_text(sent.key),
            "sa_key": key_text(sent.sa_key),
            "type": None if sent.type is None else sent.type.name,
            "outcome": self.outcome.value,
            "milliseconds": round(self.milliseconds, 3),
        }


@dataclass(frozen=True, slots=True)
class UnitReport:
    """What became of one logical unit.

    reads, writes: PR IN and PR OUT commands sent, repetitions included.  attentions: what
    the device delivered on the way: nobody else will see it.
    """

    lu: str
    device: str
    end: End
    sent: tuple[SentCommand, ...] = ()
    attentions: tuple[str, ...] = ()
    reads: int = 0
    writes: int = 0
    planned: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """One element of "units" of prtrace.move/1."""
        return {
            "lu": self.lu,
            "device": self.device,
            "result": self.end.result.value,
            "why": self.end.why or None,
            "steps": [each.to_json() for each in self.sent],
            "attentions": list(self.attentions),
            "reads": self.reads,
            "writes": self.writes,
            "planned": list(self.planned),
        }


_TITLES: Final = {
    Step.REGISTER: "register the temporary key",
    Step.PREEMPT: "preempt",
    Step.REKEY: "register the guest's key",
    Step.PATH: "register the guest's key on another path",
    Step.PROBE: "ask whether the key is here",
    Step.EVICT: "remove the other side's temporary key",
    Step.REMOVE: "remove the temporary key",
    Step.WITHDRAW: "take the guest's key away",
}


def title(command: Send) -> str:
    """The command in a few words."""
    text = f"{_TITLES[command.step]} on {command.nexus}"
    if command.step is Step.PREEMPT and command.type is not None:
        text = f"preempt {command.sa_key:#x} ({command.type.name}) over {command.nexus}"
    return text


class Carrier:
    """One handover on open paths.

    other: the other side's nexuses, as readings name them.  journal is None for a dry run,
    which looks and sends nothing.  The first look is made by begin(), everything else by run().
    """

    def __init__(
        self,
        plan: Plan,
        paths: Paths,
        other: tuple[LocalNexus, ...],
        journal: Journal | None,
        progress: Progress,
        witness: Witness | None = None,
    ) -> None:
        self.plan = plan
        self._paths = paths
        self._other = other
        self._journal = journal
        self._progress = progress
        self._witness = witness
        self._sent: list[SentCommand] = []
        self._looks = 0
        known = None if journal is None else journal.last
        # The lead of an earlier attempt is kept while it can be used: it may have the key.
        keep = known is not None and known.lead in plan.paths
        memory = known if known is not None and keep else Memory(plan.paths[0])
        self.position: Position = start(memory)
        # Before anything is sent, or the device opened: opening a disk may send commands, too.
        noted = None if journal is None else journal.requests
        self._never_sent = (
            memory.preempt is Sent.SENT and noted is not None and noted == self._requests()
        )

    @property
    def untouched(self) -> bool:
        """Whether the next request would be the first thing ever sent for this handover."""
        request = self.position.request
        return isinstance(request, Send) and not self.position.memory.registering

    def begin(self) -> None:
        """Look for the first time."""
        self._look()

    def planned(self) -> tuple[str, ...]:
        """The commands that come next if each is answered GOOD, in words."""
        words: list[str] = []
        position = self.position
        while isinstance(position.request, Send):
            words.append(title(position.request))
            position = answered(self.plan, position, Outcome.DONE)
        return tuple(words)

    def hold_back(self, why: str) -> UnitReport:
        """End before anything was sent."""
        self.position = replace(self.position, request=End(Result.REFUSED, why))
        return self.report()

    def run(self) -> UnitReport:
        """Go on to the end."""
        while True:
            request = self.position.request
            match request:
                case Look():
                    self._look()
                case Send():
                    self._send(request)
                case End():
                    self._end(request)
                    return self.report()

    def report(self) -> UnitReport:
        """What was done so far."""
        request = self.position.request
        end = request if isinstance(request, End) else End(Result.IN_DOUBT, "not finished")
        return UnitReport(
            self.plan.lu,
            self._paths.side.name,
            end,
            tuple(self._sent),
            tuple(self._paths.attentions),
            self._paths.reads,
            self._paths.writes,
        )

    def _look(self) -> None:
        self._looks += 1
        self._point("before", f"look-{self._looks}")
        memory = self.position.memory
        try:
            reading = self._paths.look(memory.lead, self._other)
        except ConflictError as error:
            end = End(Result.IN_DOUBT, f"{error.message}; {error.hint}")
            self.position = replace(self.position, request=end)
            return
        except PrtraceError as error:
            self.position = replace(self.position, request=End(Result.IN_DOUBT, error.message))
            return
        witness = None
        if memory.preempt is Sent.SENT:
            if self._never_sent:
                witness = False
            elif self._witness is not None:
                witness = self._witness(self.plan, memory)
        self._progress(self.plan.lu, f"read the device over {memory.lead}")
        self.position = looked(self.plan, self.position, reading, witness)
        self._point("after", f"look-{self._looks}")

    def _send(self, request: Send) -> None:
        step = request.step.value
        memory = about_to_send(self.position)
        if self._journal is None:
            raise TypeError("a dry run sends nothing")
        self._never_sent = False
        self._journal.write(time.time_ns(), step, memory, self._requests())
        self._point("before", step)
        begun = time.monotonic()
        outcome = self._paths.send(request)
        took = (time.monotonic() - begun) * 1000
        self._point("after", step)
        self._sent.append(SentCommand(request, outcome, took))
        self._progress(self.plan.lu, f"{title(request)}: {outcome.value}")
        self.position = answered(self.plan, self.position, outcome)

    def _requests(self) -> int | None:
        """How many commands the kernel has sent through the lead's nexus; None if unknown."""
        counter = DEVICES / self.position.memory.lead / "iorequest_cnt"
        return int(text, 16) if (text := read_text(counter)) else None

    def _end(self, request: End) -> None:
        self._point("before", "end")
        if self._journal is not None:
            self._journal.end(time.time_ns(), request.result, self.position.memory)
        self._progress(self.plan.lu, request.result.value)

    def _point(self, moment: str, step: str) -> None:
        fault.point(self.plan.role.value, moment, step)
