"""What a handover must remember over a kill -9: the little that the device cannot tell (pure)."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prtrace.errors import MalformedError
from prtrace.model import Nexus


class Sent(enum.Enum):
    """What is known of the PREEMPT."""

    NO = "not sent"
    SENT = "sent, outcome unknown"
    DONE = "done"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Memory:
    """lead: the path that the handover goes over.

    base: PRGENERATION before the temporary key was registered or, if it was there already,
    before the PREEMPT; bumps: what our own commands added since; victims: how many
    registrations with the key victim there were.
    registering, rekeying: the command was sent, or was about to be.  registered: it is known
    that it was done.  paths_done, paths_failed: of the other paths.  probe: whether the lead
    has the guest's key, by its answer in this run; asked only where a reading is blind.
    fenced: the guest turned out to be fenced; only the temporary keys are to go.
    gave_up: the temporary key is being removed because nothing else works.
    """

    lead: Nexus
    base: int | None = None
    bumps: int = 0
    victim: int = 0
    victims: int = 0
    registering: bool = False
    registered: bool = False
    preempt: Sent = Sent.NO
    rekeying: bool = False
    paths_done: tuple[Nexus, ...] = ()
    paths_failed: tuple[Nexus, ...] = ()
    probe: bool | None = None
    fenced: bool = False
    gave_up: bool = False

    def to_json(self) -> dict[str, Any]:
        """For the journal."""
        return {
            "lead": self.lead,
            "base": self.base,
            "bumps": self.bumps,
            "victim": f"{self.victim:#x}",
            "victims": self.victims,
            "registering": self.registering,
            "registered": self.registered,
            "preempt": self.preempt.value,
            "rekeying": self.rekeying,
            "paths_done": list(self.paths_done),
            "fenced": self.fenced,
        }

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Memory:
        """Take back what to_json() gave; MalformedError where it is something else."""
        try:
            return cls(
                lead=str(given["lead"]),
                base=None if given["base"] is None else int(given["base"]),
                bumps=int(given["bumps"]),
                victim=int(given["victim"], 16),
                victims=int(given["victims"]),
                registering=bool(given["registering"]),
                registered=bool(given["registered"]),
                preempt=Sent(given["preempt"]),
                rekeying=bool(given["rekeying"]),
                paths_done=tuple(str(path) for path in given["paths_done"]),
                fenced=bool(given["fenced"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise MalformedError("journal", f"{type(error).__name__}: {error}"[:200]) from None
