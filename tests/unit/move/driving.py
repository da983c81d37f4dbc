"""Driving the pure machine against the tiny target, with whatever goes wrong on the way."""

from tiny_target import TinyTarget

from prtrace.model import Action, LocalNexus, Outcome, ReservationType
from prtrace.move.decision import looked
from prtrace.move.handover import End, Look, Plan, Role, about_to_send, answered, start
from prtrace.move.memory import Memory, Sent
from prtrace.move.reading import OTHER_SIDE, of_full_status, of_keys

K, R1, R2, PEER = 0x4B, 0x1111, 0x2222, 0x9999
SOURCE = ("1:0:0:0", "2:0:0:0")
DESTINATION = ("3:0:0:0", "4:0:0:0")
THIRD = "9:0:0:0"
LU = "naa.6001405"


def local(nexus, name=None):
    return LocalNexus(
        name or nexus, LU, initiator_port=f"naa.{nexus}", relative_target_port=1, state="running"
    )


class Driver:
    """One side's handover.  trouble(n, moment) is called around the n-th command."""

    def __init__(self, target, role, kind, held, *, paths=2, blind=False):
        own = (DESTINATION if role is Role.LOAD else SOURCE)[:paths]
        other = SOURCE[:paths]
        self.target = target
        self.plan = Plan(
            role=role,
            lu=LU,
            target="OTHER/ARRAY/1" if target.spdk else "LIO-ORG/disk/4.0",
            key=K,
            type=kind,
            held=held,
            aptpl=False,
            mine=R1 if role is Role.LOAD else R2,
            theirs=R2 if role is Role.LOAD else R1,
            paths=own,
            blank=paths if blind else 0,
        )
        self.blind = blind
        self.own = tuple(local(nexus) for nexus in own)
        self.other = ()
        if role is Role.LOAD:
            self.other = tuple(local(nexus, OTHER_SIDE + nexus) for nexus in other)
        self.journal = Memory(own[0])
        self.requests = []
        # As the kernel counts what was sent through a nexus, and as the journal keeps it.
        self.dispatched = self.noted = 0

    def look(self):
        target = self.target
        if self.blind:
            keys = list(target.keys.values())
            return of_keys(target.generation, keys, target.type, target.reservation_key())
        return of_full_status(
            target.generation, target.full_status(), self.own, self.other, self.plan.target
        )

    def run(self, trouble=lambda number, moment: None, limit=60):
        """Go to the end; trouble returns "kill", "attention", "lost" or None."""
        resumed = self.journal.preempt is Sent.SENT and self.dispatched == self.noted
        witness = False if resumed else None
        position = start(Memory.from_json(self.journal.to_json()))
        for _ in range(limit):
            request = position.request
            if isinstance(request, End):
                self.journal = position.memory
                return request
            self.requests.append(request)
            number = len(self.requests)
            if isinstance(request, Look):
                if trouble(number, "before") == "kill":
                    return None
                position = looked(self.plan, position, self.look(), witness)
                continue
            self.journal = about_to_send(position)
            self.noted = self.dispatched
            witness = None
            before = trouble(number, "before")
            if before == "kill":
                return None
            if before == "attention":
                position = answered(self.plan, position, Outcome.NOT_EXECUTED)
                continue
            outcome = Outcome.UNKNOWN
            if before != "unsent":
                self.dispatched += 1
                outcome = self.target.send(
                    request.nexus, request.action, request.key, request.sa_key, request.type
                )
            after = trouble(number, "after")
            if after == "kill":
                return None
            if after == "lost":
                outcome = Outcome.UNKNOWN
            position = answered(self.plan, position, outcome)
        raise AssertionError("the handover does not end")


def guest(kind, held, *, paths=2, peer=None, spdk=False):
    """A target on which the guest is registered over the source's paths.

    peer: a third nexus with a key of its own, which reserves where the guest does not.
    """
    target = TinyTarget(spdk=spdk)
    for nexus in SOURCE[:paths]:
        target.send(nexus, Action.REGISTER, 0, K)
    if peer:
        target.send(THIRD, Action.REGISTER, 0, PEER)
    if kind is not None:
        nexus, key = (SOURCE[0], K) if held else (THIRD, PEER)
        target.send(nexus, Action.RESERVE, key, 0, kind)
    return target


TYPES = [*ReservationType, None]
