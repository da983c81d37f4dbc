"""A target for the explorer: its whole state is a small hashable value.

Written from the standard and from the targets' sources, and shared with nothing in prtrace.  The
characters differ where targets differ: whether a PREEMPT of the holder's key by another nexus
with that key keeps the sender, what PRGENERATION counts, whether a PREEMPT that matches nothing
is refused.
"""

from typing import NamedTuple

from prtrace.model import Action, Outcome, ReservationType

AR = (ReservationType.WEAR, ReservationType.EAAR)


class Character(NamedTuple):
    """How a target departs from the standard, or from other targets."""

    name: str
    keeps_sender: bool
    """A PREEMPT of the holder's key, which the sender has too, leaves the sender registered."""
    keeps_unreserved: bool
    """The same while nothing is reserved."""
    hands_over: bool
    """What prtrace knows of keeps_sender."""
    unmatched_good: bool
    """A PREEMPT of a key that nobody has is GOOD."""
    unregister_adds: int
    """To PRGENERATION."""
    counts_removed: bool
    """PREEMPT adds one to PRGENERATION for each registration that it removes."""
    sessions: tuple = ()
    """Groups of nexuses that are sessions of one initiator at one target port, of a target that
    mixes them as LIO does: one bit for each group says who is registered; the newest registration
    sets it, and every registration that goes clears it.  A session that is not the holder, in the
    holder's group, is taken for nobody."""
    near: bool = False
    """The sessions' ISIDs are alike in what the target compares: each session of the holder's
    group is the holder."""

    def group(self, nexus):
        """The number of nexus's group, None where it has none."""
        return next((n for n, group in enumerate(self.sessions) if nexus in group), None)


LIO = Character("LIO", True, False, True, False, 0, False)
SCST = Character("SCST", True, True, True, False, 1, False)
PAR3 = Character("3PAR-like", True, True, True, False, 1, True)
SPDK = Character("SPDK", False, False, False, True, 1, True)
HOSTILE = Character("hostile", False, False, False, False, 0, False)
CHARACTERS = {each.name: each for each in (LIO, SCST, PAR3, SPDK, HOSTILE)}


class Target(NamedTuple):
    """The whole state of a unit."""

    keys: tuple
    """(nexus, key), sorted."""
    holder: str | None = None
    """A nexus.  For the all-registrants types it is one of the registrants, at which only a target
    that mixes sessions looks."""
    type: ReservationType | None = None
    generation: int = 0
    active: frozenset = frozenset()
    """The groups of sessions whose bit is set."""

    def key(self, nexus):
        return dict(self.keys).get(nexus)

    def having(self, key):
        return tuple(nexus for nexus, found in self.keys if found == key)

    @property
    def shared(self):
        return self.type in AR


def lets_in(character, target, nexus):
    """Whether a WRITE over nexus is let in."""
    if target.type is None or _is_holder(character, target, nexus):
        return True
    return _is_registered(character, target, nexus) and not target.type.single_nexus


def _is_holder(character, target, nexus):
    alike = character.near and character.group(nexus) is not None
    same = alike and character.group(nexus) == character.group(target.holder)
    return target.holder == nexus or same


def _is_registered(character, target, nexus):
    group = character.group(nexus)
    if group is None:
        return target.key(nexus) is not None
    return group in target.active and group != character.group(target.holder)


def send(character, target, nexus, action, key, sa_key=0, kind=None):
    """The target after a command, and the outcome."""
    if not character.sessions:
        return _carried_out(character, target, nexus, action, key, sa_key, kind)
    if target.type is not None and action in (Action.PREEMPT, Action.CLEAR, Action.RELEASE):
        let = _is_holder(character, target, nexus) or _is_registered(character, target, nexus)
        if not let:
            return target, Outcome.CONFLICT
    after, outcome = _carried_out(character, target, nexus, action, key, sa_key, kind)
    active = set(target.active)
    for number, group in enumerate(character.sessions):
        for each in group:
            had, has = target.key(each) is not None, after.key(each) is not None
            if has and not had:
                active.add(number)
            elif had and not has:
                active.discard(number)
    return after._replace(active=frozenset(active)), outcome


def _carried_out(character, target, nexus, action, key, sa_key, kind):
    mine = target.key(nexus)
    if action in (Action.REGISTER, Action.REGISTER_AND_IGNORE):
        if action is Action.REGISTER and key != (mine or 0):
            return target, Outcome.CONFLICT
        return _register(character, target, nexus, sa_key), Outcome.DONE
    if mine is None or key != mine:
        return target, Outcome.CONFLICT
    if action is Action.RESERVE:
        if target.type is None:
            return target._replace(type=kind, holder=nexus), Outcome.DONE
        holds = target.shared or target.holder == nexus
        same = target.type is kind and holds
        return target, Outcome.DONE if same else Outcome.CONFLICT
    if action is Action.RELEASE:
        if target.type is None or not (target.shared or target.holder == nexus):
            return target, Outcome.DONE
        return target._replace(type=None, holder=None), Outcome.DONE
    if action is Action.CLEAR:
        return Target((), None, None, target.generation + 1), Outcome.DONE
    assert action is Action.PREEMPT
    return _preempt(character, target, nexus, sa_key, kind)


def _register(character, target, nexus, sa_key):
    keys = dict(target.keys)
    if sa_key:
        keys[nexus] = sa_key
        return target._replace(keys=_sorted(keys), generation=target.generation + 1)
    keys.pop(nexus, None)
    return _left(target, keys, target.generation + character.unregister_adds)


def _left(target, keys, generation):
    """Registrations went: a reservation goes with its holder, or with the last registrant."""
    holder, kind = target.holder, target.type
    if kind is not None and holder not in keys:
        holder = min(keys, default=None) if kind in AR else None
        if holder is None:
            kind = None
    return Target(_sorted(keys), holder, kind, generation)


def _preempt(character, target, nexus, sa_key, kind):
    removed = set(target.having(sa_key))
    if not removed:
        if not character.unmatched_good:
            return target, Outcome.CONFLICT
        return target._replace(generation=target.generation + 1), Outcome.DONE
    own = nexus in removed
    takes = target.type is not None and not target.shared and target.holder in removed
    keeps = character.keeps_sender if takes else character.keeps_unreserved
    if own and keeps and (takes or target.type is None):
        removed.discard(nexus)
    keys = {each: key for each, key in target.keys if each not in removed}
    adds = 1 + (len(removed) if character.counts_removed else 0)
    generation = target.generation + adds
    if takes and nexus in keys:
        return Target(_sorted(keys), nexus, kind, generation), Outcome.DONE
    return _left(target, keys, generation), Outcome.DONE


def _sorted(keys):
    return tuple(sorted(keys.items()))
