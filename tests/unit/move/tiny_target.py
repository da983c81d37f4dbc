"""A target of a few lines for the handover's tests: LIO's way, or SPDK's where asked.

Registrations in order, one holder slot as in LIO, PRGENERATION.
"""

from prtrace.model import Action, FullStatus, Outcome, ReservationType

AR = (ReservationType.WEAR, ReservationType.EAAR)
RO = (ReservationType.WERO, ReservationType.EARO)


class TinyTarget:
    def __init__(self, *, spdk=False):
        self.spdk = spdk
        self.generation = 0
        self.keys = {}
        self.holder = None
        self.type = None

    def copy(self):
        other = TinyTarget(spdk=self.spdk)
        other.generation, other.keys = self.generation, dict(self.keys)
        other.holder, other.type = self.holder, self.type
        return other

    @property
    def shared(self):
        return self.type in AR

    def holders(self):
        if self.type is None:
            return set()
        return set(self.keys) if self.shared else {self.holder}

    def full_status(self):
        return tuple(
            FullStatus(
                initiator_port=f"naa.{nexus}",
                relative_target_port=1,
                key=key,
                holder=nexus in self.holders(),
                type=self.type if nexus in self.holders() else None,
            )
            for nexus, key in self.keys.items()
        )

    def reservation_key(self):
        if self.type is None:
            return None
        return 0 if self.shared else self.keys[self.holder]

    def send(self, nexus, action, key, sa_key, kind=None):
        mine = self.keys.get(nexus)
        if action in (Action.REGISTER, Action.REGISTER_AND_IGNORE):
            if action is Action.REGISTER and key != (mine or 0):
                return Outcome.CONFLICT
            if sa_key:
                self.keys[nexus] = sa_key
                self.generation += 1
            elif mine is not None:
                self.unregister(nexus)
            return Outcome.DONE
        if mine is None:
            return Outcome.CONFLICT if self.type else Outcome.UNKNOWN
        if key != mine:
            return Outcome.CONFLICT
        if action is Action.RESERVE:
            if self.type is None:
                self.type, self.holder = kind, nexus
                return Outcome.DONE
            same = self.type is kind and nexus in self.holders()
            return Outcome.DONE if same else Outcome.CONFLICT
        if action is Action.CLEAR:
            self.keys, self.holder, self.type = {}, None, None
            self.generation += 1
            return Outcome.DONE
        assert action is Action.PREEMPT
        return self.preempt(nexus, sa_key, kind)

    def preempt(self, nexus, sa_key, kind):
        assert kind is not None, "LIO refuses TYPE 0"
        hit = [each for each, key in self.keys.items() if key == sa_key]
        if not hit:
            return Outcome.DONE if self.spdk else Outcome.CONFLICT
        # Nobody who knows the targets preempts its own key.
        assert nexus not in hit
        if self.type is not None and self.keys[self.holder] == sa_key:
            self.holder, self.type = nexus, kind
        for each in hit:
            del self.keys[each]
        self.generation += 1 + (len(hit) if self.spdk else 0)
        return Outcome.DONE

    def unregister(self, nexus):
        del self.keys[nexus]
        if nexus != self.holder:
            return
        self.holder = next(iter(self.keys), None) if self.shared else None
        if self.holder is None:
            self.type = None
