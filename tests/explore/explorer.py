"""Every interleaving of a move: the real machine on both hosts, a target, a guest, peers, crashes.

A state is a small tuple.  explore() visits every state that can be reached, breadth first, checks
the invariants of docs/migration.md on the way, and returns the shortest story to the first state
that breaks one.  Everything that may happen at a moment is a transition: a step of a verb, a
command that is lost before or after the target carried it out, a kill -9, the start of a verb
(also late, also twice), the guest's pause, its going on, its own PR commands, a peer's.

What orders the verbs is the orchestrator's part of the protocol; nothing else of it is assumed:
commit is asked for after "prepared", while the guest is paused and nobody asked for an abort;
the destination goes on after commit's answer and while nobody asked for an abort; the source goes
on after the abort's answer.  What was asked for may begin at any later moment.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from small_target import CHARACTERS, Target, lets_in, send

from prtrace.model import Action, FullStatus, LocalNexus, Outcome, ReservationType
from prtrace.move import machine
from prtrace.move.lines import Lines
from prtrace.move.machine import End, Look, Newest, Plan, answered, looked, start
from prtrace.move.reading import OTHER_SIDE, OtherRegistration, Reading, of_full_status
from prtrace.move.sight import Viewpoint
from prtrace.move.table import Do, Verb
from prtrace.move.word import Word

K, K2, PEER = 0x4B, 0x4C, 0x99
P, T = "P", "T"
S, D, E = 0, 1, 2
NAMES = ("S", "D", "E")
WERO = ReservationType.WERO

# Bits of the orchestrator's and the checker's memory.
PREPARED, ABORTED, MAY_COMMIT, TOLD_D, FINISHABLE, GAVE_UP = 1, 2, 4, 8, 16, 32
TOLD_S, D_OFF, LEFT, RELEASED, SUSPENDED, LATE_DONE = 128, 256, 512, 1024, 2048, 4096
TYPE_FREE, PREPARED_E, TOLD_E, FINISHED, ALARMED = 16384, 32768, 65536, 131072, 262144
EVICTING, VANISHED, LATE_FINISH = 524288, 1048576, 2097152
PLANNED_ANEW = {"S": ("finish", "reclaim"), "D": ("prepare", "commit", "late", "withdraw")}
REST = " over the rest"
"""A side's verbs, and what they are called when one of its paths is gone."""
TARGET = "LIO-ORG/explored/1"
TWIN = "D0"
"""Another session of D's host, which the target lists by D1's names."""
NEIGHBOUR, NEIGHBOURS_KEY = "X1", 0x55
"""A session that another guest uses: one of the initiators' of the move (Setting.alike)."""


@dataclass(frozen=True)
class Setting:
    """What one exploration is about: the target, the move, and what may happen beside it."""

    character: str = "LIO"
    """The target's, a name of small_target.CHARACTERS."""
    kind: ReservationType | None = WERO
    """The reservation's type; None: nothing is reserved."""
    holder: str = "S"
    """"S" (the guest, on the source) or "P" (the peer)."""
    paths: int = 1
    """Of each side."""
    blind: bool = False
    """The target has no READ FULL STATUS."""
    flow: str = "plain"
    """"plain": commit in the pause.  "late": the guest goes on, then commit.  "counted": a load
    without prepare, and nobody orders load and rollback.  "give up": the source gives the key up
    in the pause.  "release": the target cannot hand a reservation over."""
    crashes: int = 1
    """How many processes may be killed."""
    lost: int = 0
    """How many answers of the target may be lost."""
    extra: int = 1
    """How many verbs may begin once more than asked for."""
    peers: tuple[str, ...] = ("preempt",)
    """What peers may do, each once for every time that it is named."""
    guest: tuple[str, ...] = ()
    """What the guest may do while it runs, each once for every time that it is named."""
    off: bool = False
    """The destination's host may be fenced by its power switch, which the abort is told."""
    two: bool = False
    """The same file may be loaded on a third host, E, too."""
    old: bool = False
    """Verbs of the move before this one, from D to S, may come late."""
    suspends: bool = True
    """A guest with several paths, moved late, goes on suspended."""
    holds_back: bool = True
    """The proxy holds the guest's PERSISTENT RESERVE OUT back until a late commit is done."""
    running: bool = False
    """The abort may be asked for while the guest runs on the source."""
    forgets: bool = False
    """A load may come without --released, too."""
    early: bool = False
    """finish may come before anything was committed."""
    apart: bool = False
    """finish never runs while another verb runs."""
    evicts: bool = False
    """The destination may take the source's key away after its guest went on."""
    careless: bool = False
    """The guest may go on on the destination without prepare and commit: only what ends claim
    counts."""
    settles: bool = False
    """An agent that starts finishes what is in question on its host."""
    left: str = ""
    """The nexus that has the key since an earlier move, whose finish may come at any moment before
    this move has begun there ("D1": the move goes back to where the guest came from); "": none."""
    vanishes: str = ""
    """The last path of "S" or of "D" may go away for ever at any moment."""
    alike: tuple[tuple[str, ...], ...] = ()
    """Groups of nexuses that are sessions of one initiator, on a target that mixes them (see
    small_target.Character); the neighbour is registered from the beginning where it is named."""
    near: bool = False
    """Their ISIDs are alike in what the target compares."""

    def __str__(self):
        held = (
            "nothing reserved" if self.kind is None else f"{self.kind.name} held by {self.holder}"
        )
        words = [self.character, held, f"{self.paths} path(s)", self.flow]
        words += ["blind"] if self.blind else []
        words += [f"{self.crashes} crash(es)", f"{self.lost} lost", f"{self.extra} extra"]
        words += ["peers " + "+".join(self.peers)] if self.peers else []
        words += ["guest " + "+".join(self.guest)] if self.guest else []
        words += [
            name
            for name in (
                "off", "two", "old", "running", "forgets", "early", "apart", "evicts", "careless",
                "settles",
            )
            if getattr(self, name)
        ]  # fmt: skip
        words += [f"a path of {self.vanishes} vanishes"] if self.vanishes else []
        words += [f"{self.left} left"] if self.left else []
        words += ["one initiator " + "+".join(group) for group in self.alike]
        words += ["ISIDs alike"] if self.near else []
        return ", ".join(words)


class TooManyError(Exception):
    """There are more states than the limit."""


class BrokenError(Exception):
    """An invariant does not hold; args: its letter, what is wrong."""


@dataclass
class Found:
    """states, transitions: how many.  story: the shortest way to a broken invariant, or None."""

    setting: Setting
    states: int = 0
    transitions: int = 0
    story: list[str] | None = None
    invariant: str = ""
    ends: dict[str, set[str]] = field(default_factory=dict)

    def __str__(self):
        if self.story is None:
            return f"{self.setting}: {self.states} states, {self.transitions} transitions"
        steps = "\n".join(f"  {place}. {step}" for place, step in enumerate(self.story, 1))
        return f"{self.setting}\n broken: {self.invariant}\n{steps}"


class Pool:
    """Small numbers for values that are compared often."""

    def __init__(self):
        self.numbers, self.values = {}, []

    def put(self, value):
        number = self.numbers.get(value)
        if number is None:
            number = self.numbers[value] = len(self.values)
            self.values.append(value)
        return number


# A state: target, guest, the guest's key, fenced, flags, hosts, budgets, peer, todo.
# A host: (lines as source, lines as destination, newest as source, as destination, process).
# A process: (name of the plan, number of the position).
# Budgets: (crashes, lost answers, extra, starts by plan).


class Explorer:
    def __init__(self, setting, *, journal=True, admit=None, hands_over=None, knows_gone=True):
        self.set = setting
        self.knows_gone = knows_gone
        self.character = CHARACTERS[setting.character]._replace(
            sessions=setting.alike, near=setting.near
        )
        # As the machine has it now: a mutant may have taken its place.
        self.journal, self.admit = journal, machine.admit if admit is None else admit
        known = self.character.hands_over
        self.hands_over = known if hands_over is None else hands_over
        self.positions, self.lines = Pool(), Pool()
        self.memo_look, self.memo_reading, self.memo_alone = {}, {}, {}
        paths = setting.paths
        self.own = {
            S: tuple(f"S{n}" for n in range(1, paths + 1)),
            D: tuple(f"D{n}" for n in range(1, paths + 1)),
            E: ("E1",),
        }
        self.gone = setting.vanishes and self.own[NAMES.index(setting.vanishes)][-1]
        self.plans = self._plans()
        self.names = sorted(self.plans)
        first = self.first()
        self.shared = first.shared
        self.neighbour_may = first.key(NEIGHBOUR) is not None and lets_in(
            self.character, first, NEIGHBOUR
        )
        self.found = Found(setting)
        self.stop = None

    # ---- the beginning

    def _plans(self):
        held = self.set.holder == "S" and self.set.kind is not None
        kind = self.set.kind
        left = frozenset({self._listed_as(self.set.left)} if self.set.left else ())
        there = Viewpoint(K, False, self.set.paths, left)
        here = Viewpoint(K, True, self.set.paths, left)
        hands = self.hands_over
        generation = self.first().generation if self.set.flow == "counted" else None

        def plan(verb, host, **more):
            view = here if verb.on_source else there
            more = {"left_here": self.set.left in self.own[host], **more}
            paths = more.pop("paths", self.own[host])
            return host, Plan(verb, view, paths, kind, held, hands_over=hands, **more)

        plans = {
            "prepare": plan(Verb.PREPARE, D),
            "commit": plan(Verb.COMMIT, D, generation=generation),
            "withdraw": plan(Verb.WITHDRAW, D),
            "finish": plan(Verb.FINISH, S),
            "reclaim": plan(Verb.RECLAIM, S),
        }
        if self.set.off:
            plans["reclaim off"] = plan(Verb.RECLAIM, S, off=True)
        if self.set.evicts:
            plans["evict"] = plan(Verb.EVICT, D)
        if self.set.running:
            plans["reclaim running"] = plan(Verb.RECLAIM, S, runs=True)
        if self.set.flow == "late":
            plans["late"] = plan(Verb.LATE_COMMIT, D)
            del plans["commit"]
        if self.set.flow == "counted":
            del plans["prepare"]
        if self.set.flow == "release":
            plans["release"] = plan(Verb.RELEASE, S)
            plans["commit"] = plan(Verb.COMMIT, D, reserve=kind if held else None)
        if self.set.forgets:
            plans["commit untold"] = plan(Verb.COMMIT, D)
        if self.set.settles:
            for name, (host, known) in [*plans.items()]:
                plans[f"settle {name}"] = host, replace(known, settles=True, reserve=None)
        if self.set.vanishes:
            for name in plans.keys() & PLANNED_ANEW[self.set.vanishes]:
                host, known = plans[name]
                rest = tuple(nexus for nexus in known.paths if nexus != self.gone)
                plans[f"{name}{REST}"] = host, replace(known, paths=rest, unasked=(self.gone,))
        if self.set.two:
            plans["prepare E"] = plan(Verb.PREPARE, E)
            plans["commit E"] = plan(Verb.COMMIT, E)
            plans["withdraw E"] = plan(Verb.WITHDRAW, E)
        if self.set.old:
            # The move before went from D to S.
            back_there = Viewpoint(K, source=False, registered=self.set.paths)
            for name, verb in (("prepare", Verb.PREPARE), ("commit", Verb.COMMIT),
                               ("withdraw", Verb.WITHDRAW)):  # fmt: skip
                plans[f"old {name}"] = (
                    S, Plan(verb, back_there, self.own[S], kind, held, hands_over=hands)
                )  # fmt: skip
            for name, verb in (("finish", Verb.FINISH), ("reclaim", Verb.RECLAIM)):
                plans[f"old {name}"] = (
                    D, Plan(verb, here, self.own[D], kind, held, hands_over=hands)
                )  # fmt: skip
        return plans

    def first(self):
        keys = dict.fromkeys(self.own[S], K)
        keys[P] = PEER
        if self.set.left:
            keys[self.set.left] = K
        if self.character.group(NEIGHBOUR) is not None and "neighbour" not in self.set.peers:
            keys[NEIGHBOUR] = NEIGHBOURS_KEY
        kind = self.set.kind
        holder = None if kind is None else ("S1" if self.set.holder == "S" else P)
        active = frozenset(self.character.group(each) for each in keys) - {None}
        return Target(tuple(sorted(keys.items())), holder, kind, 0, active)

    def initial(self):
        host = (self.lines.put(Lines()), self.lines.put(Lines()), None, None, None)
        counted = self.set.flow == "counted"
        starts = tuple(0 if name.startswith("old") else 1 for name in self.names)
        budgets = (self.set.crashes, self.set.lost, self.set.extra, starts)
        hosts = (host, host, host) if self.set.two else (host, host)
        todo = (tuple(sorted(self.set.peers)), tuple(sorted(self.set.guest)))
        guest = "P" if counted else "S"
        return (self.first(), guest, K, False, 0, hosts, budgets, 0, todo)

    # ---- exploring

    def explore(self, limit=3_000_000):
        first = self.initial()
        before = {first: None}
        queue = [first]
        found = self.found
        try:
            self.check(first)
        except BrokenError as broken:
            self._tell(before, first, broken)
            return found
        try:
            for state in queue:
                try:
                    for label, reached in self.moves(state):
                        found.transitions += 1
                        counts = reached[0].generation
                        after = self.counted_from_zero(reached) if counts else reached
                        if after in before:
                            continue
                        before[after] = (state, label)
                        try:
                            self.check(after)
                        except BrokenError as broken:
                            self._tell(before, after, broken)
                            return found
                        queue.append(after)
                except BrokenError as broken:
                    self._tell(before, state, broken)
                    return found
                if len(queue) > limit:
                    raise TooManyError(f"{self.set}: more than {limit} states")
        finally:
            found.states = len(queue)
        return found

    def counted_from_zero(self, state):
        """Equal states as one: PRGENERATION only counts in comparison with what verbs remember.

        It never goes down: a value that was passed is passed for good, by one or by ten.
        """
        target = state[0]
        now = target.generation
        if self.set.flow == "counted":
            # What the file says stays comparable; more than a few own REGISTERs never fit.
            return (target._replace(generation=min(now, 8)), *state[1:])
        if not self.set.blind:
            return (target._replace(generation=0), *state[1:])
        hosts = tuple(self._shifted(host, now) for host in state[5])
        return (target._replace(generation=0), *state[1:5], hosts, *state[6:])

    def _shifted(self, host, now):
        if host[4] is None:
            return host
        name, place = host[4]
        known = ("shift", place, now)
        after = self.memo_look.get(known)
        if after is None:
            position = self.positions.values[place]
            moved = {
                what: max(value - now, -1)
                for what in ("expected", "counted")
                if (value := getattr(position, what)) is not None
            }
            after = self.memo_look[known] = self.positions.put(replace(position, **moved))
        return (*host[:4], (name, after))

    def _tell(self, before, state, broken):
        letter, why, *last = broken.args
        story = list(last)
        while before[state] is not None:
            state, label = before[state]
            story.append(label)
        self.found.story = [*reversed(story)]
        self.found.invariant = f"({letter}) {why}"

    # ---- what may happen

    def moves(self, state):
        target, guest, key, fenced, flags, hosts, budgets, peer, todo = state
        for number, host in enumerate(hosts):
            if host[4] is None:
                yield from self._starts(state, number)
            else:
                yield from self._steps(state, number)
                if budgets[0]:
                    name = host[4][0]
                    again = (budgets[0] - 1, *budgets[1:3], _plus(budgets[3], self.names, name))
                    killed = _with_host(hosts, number, (*host[:4], None))
                    label = f"{NAMES[number]}: {name} is killed"
                    yield label, (target, guest, key, fenced, flags, killed, again, peer, todo)
        yield from self._orchestrator(state)
        yield from self._peers(state)
        if todo[1] and guest in "SD" and not fenced:
            yield from self._guest(state)

    def _may_start(self, state, name):
        _target, guest, _key, _fenced, flags, _hosts, _budgets, _peer, _todo = state
        paused = guest == "P"
        if flags & VANISHED and name in PLANNED_ANEW[self.set.vanishes]:
            return False
        if name.endswith(REST) and not flags & VANISHED:
            return False
        match name.removesuffix(REST):
            case "prepare" | "prepare E":
                return True
            case "commit":
                if self.set.flow == "release" and self.plans["commit"][1].reserve is not None:
                    return bool(flags & MAY_COMMIT and flags & RELEASED)
                return bool(flags & MAY_COMMIT) or self.set.flow == "counted"
            case "commit untold":
                return bool(flags & MAY_COMMIT)
            case "commit E":
                return bool(flags & PREPARED_E) and paused and not flags & ABORTED
            case "late":
                return guest == "D"
            case "release":
                return bool(flags & MAY_COMMIT)
            case "finish":
                return bool(flags & FINISHABLE) or self.set.early
            case "withdraw" | "withdraw E":
                return bool(flags & ABORTED)
            case "evict":
                # With several paths the guest must be paused.
                told = paused and bool(flags & TOLD_D) and not flags & ABORTED
                return guest == "D" if self.set.paths == 1 else told
            case "reclaim":
                return bool(flags & ABORTED) and paused
            case "reclaim running":
                return bool(flags & ABORTED) and guest == "S"
            case "reclaim off":
                return bool(flags & ABORTED and flags & D_OFF) and paused
        return name.startswith("old")

    def _starts(self, state, number):
        target, guest, key, fenced, flags, hosts, budgets, peer, todo = state
        if number == D and flags & D_OFF:
            return
        crashes, lost, extra, starts = budgets
        running = {other[4][0] for other in hosts if other[4] is not None}
        for place, name in enumerate(self.names):
            host, plan = self.plans[name]
            if host != number:
                continue
            if self.set.apart and running and (name == "finish" or "finish" in running):
                continue
            late = starts[place] == 0
            if late and not extra:
                continue
            # What was asked for once may begin again, late, whatever the orchestrator thinks now.
            asked = ASKED.get(name.removesuffix(REST), 0)
            if not (plan.settles or self._may_start(state, name) or (late and flags & asked)):
                continue
            side = 0 if plan.verb.on_source else 1
            old = name.startswith("old")
            newest = hosts[number][2 + side]
            word = self._admitted(hosts[number], side, plan.verb, old)
            left = (extra - 1, starts) if late else (extra, _minus(starts, place))
            if word is not None:
                continue
            lines = self.lines.values[hosts[number][side]]
            if plan.settles and not (lines.in_question and newest and newest[0] is plan.verb):
                continue
            process = (name, self.positions.put(start(Lines() if old else lines)))
            after = list(hosts[number])
            after[2 + side] = newest if old or plan.settles else (plan.verb, None)
            after[4] = process
            begun = flags | EVICTING if name == "evict" else flags
            label = f"{NAMES[number]}: {name} begins" + (" (late)" if late else "")
            yield (
                label,
                (target, guest, key, fenced, begun, _with_host(hosts, number, tuple(after)),
                 (crashes, lost, *left), peer, todo),
            )  # fmt: skip

    def _admitted(self, host, side, verb, old):
        for place, newest in enumerate((host[2], host[3])):
            known = None
            if newest is not None:
                known = Newest(2, "this", newest[0], newest[1])
            elif self.set.old:
                known = Newest(2, "this", None)
            elif place == 0:
                # Of a move before this one: as a destination the host has had none.
                known = Newest(1, "before", Verb.FINISH, Word.DONE)
            if place != side and known is not None:
                known = replace(known, verb=None)
            word = self.admit(known, 1 if old else 2, "before" if old else "this", verb)
            if word is not None:
                return word
        return None

    def _steps(self, state, number):
        target, guest, key, fenced, flags, hosts, budgets, peer, todo = state
        name, place = hosts[number][4]
        position = self.positions.values[place]
        _, plan = self.plans[name]
        who = f"{NAMES[number]}: {name}"
        side = 0 if plan.verb.on_source else 1
        if isinstance(position.request, Look):
            after = self._look(number, name, place, target)
            position = self.positions.values[after]
            end = isinstance(position.request, End)
            label = f"{who} looks"
            if end:
                label += f": {position.request.word.value} [{position.request.row}]"
                self._check_end(state, number, name, position, label)
            yield label, self._put(state, number, side, name, after, position)
            return
        if isinstance(position.request, End):
            yield from self._announce(state, number, name, position)
            return
        sent = position.request
        changed, outcome = send(
            self.character, target, sent.nexus, sent.action, sent.key, sent.sa_key, sent.type
        )
        if flags & VANISHED and sent.nexus == self.gone:
            changed, outcome = target, Outcome.NOT_EXECUTED
        text = f"{who} sends {sent.do.value} over {sent.nexus}"
        if sent.do is Do.RESERVE and number == S and guest == "S":
            raise BrokenError("g", "the abort reserves what the running guest has released", text)
        following = self._answer(name, place, outcome)
        yield (
            f"{text}: {outcome.value}",
            self._put(
                (changed, *state[1:]), number, side, name, following,
                self.positions.values[following], durable=False,
            ),
        )  # fmt: skip
        if budgets[1]:
            spent = (budgets[0], budgets[1] - 1, *budgets[2:])
            unknown = self._answer(name, place, Outcome.UNKNOWN)
            for moment, seen in (("before", target), ("after", changed)):
                yield (
                    f"{text}: lost {moment} it was carried out",
                    self._put(
                        (seen, guest, key, fenced, flags, hosts, spent, peer, todo),
                        number, side, name, unknown, self.positions.values[unknown],
                        durable=False,
                    ),
                )  # fmt: skip

    def _look(self, number, name, place, target):
        known = (number, name, place, target)
        after = self.memo_look.get(known)
        if after is None:
            _, plan = self.plans[name]
            reading = self.reading(number, name, target)
            position = looked(plan, self.positions.values[place], reading)
            after = self.memo_look[known] = self.positions.put(_uncounted(position))
        return after

    def _answer(self, name, place, outcome):
        if outcome is Outcome.NOT_EXECUTED:
            outcome = Outcome.UNKNOWN  # as prtrace.move.carry has it
        known = (name, place, outcome)
        after = self.memo_look.get(known)
        if after is None:
            position = answered(self.plans[name][1], self.positions.values[place], outcome)
            after = self.memo_look[known] = self.positions.put(_uncounted(position))
        return after

    def reading(self, number, name, target):
        known = (number, name, target)
        reading = self.memo_reading.get(known)
        if reading is None:
            reading = self.memo_reading[known] = self._read(*known)
        return reading

    def _read(self, number, name, target):
        old, on_source = name.startswith("old"), self.plans[name][1].verb.on_source
        own = set(self.own[number])
        if name.endswith(REST) and not self.knows_gone:
            own.remove(self.own[number][-1])
        if self.set.blind:
            holder_key = None
            if target.type is not None:
                holder_key = 0 if target.shared else target.key(target.holder)
            entries = tuple(OtherRegistration("?", key) for _, key in target.keys)
            return Reading(
                target.generation, {}, entries, target.type, None, blind=True,
                holder_key=holder_key,
            )  # fmt: skip
        other = () if on_source else self.own[D] if old and number == S else self.own[S]
        return of_full_status(
            target.generation,
            [self._listed(target, nexus, key) for nexus, key in target.keys],
            [self._local(nexus, nexus) for nexus in sorted(own)],
            [self._local(nexus, OTHER_SIDE + nexus) for nexus in other],
            TARGET,
        )

    def _names(self, nexus):
        """The port names by which the target lists a nexus: all paths lead to one target port."""
        nexus = "D1" if nexus == TWIN else nexus
        group = self.character.group(nexus)
        initiator = nexus if group is None else self.character.sessions[group][0]
        number = "".join(f"{each:02x}" for each in nexus.encode())
        isid = f"00023d00{number}" if self.set.near else f"0002{number}0000"
        return f"iqn.{initiator},i,0x{isid}", 1

    def _listed_as(self, nexus):
        """What a reading calls a nexus that is not of its own host."""
        return ",".join(map(str, self._names(nexus)))

    def _local(self, nexus, name):
        port, relative = self._names(nexus)
        return LocalNexus(name, "unit", initiator_port=port, relative_target_port=relative)

    def _listed(self, target, nexus, key):
        port, relative = self._names(nexus)
        holds = target.type is not None and (target.shared or target.holder == nexus)
        return FullStatus(
            initiator_port=port,
            relative_target_port=relative,
            key=key,
            holder=holds,
            type=target.type if holds else None,
        )

    def _put(self, state, number, side, name, place, position, *, durable=True):
        """The state with a process's position; its lines are on disk before it goes on."""
        target, guest, key, fenced, flags, hosts, budgets, peer, todo = state
        host = list(hosts[number])
        host[4] = (name, place)
        if durable and not name.startswith("old"):
            lines = position.lines
            if not self.journal:
                lines = replace(lines, nexuses=tuple(
                    (nexus, machine.Worth.VERIFIED) for nexus, _ in lines.nexuses
                ))  # fmt: skip
            host[side] = self.lines.put(lines)
        return (target, guest, key, fenced, flags, _with_host(hosts, number, tuple(host)),
                budgets, peer, todo)  # fmt: skip

    def _announce(self, state, number, name, position):
        """The end is told; what the orchestrator concludes from it is in the flags."""
        target, guest, key, fenced, flags, hosts, budgets, peer, todo = state
        _, plan = self.plans[name]
        side = 0 if plan.verb.on_source else 1
        word = position.request.word
        host = list(hosts[number])
        host[4] = None
        if not (name.startswith("old") or plan.settles):
            host[2 + side] = (plan.verb, word if plan.verb.on_source else None)
            flags = self._concluded(flags, name, word, guest)
        label = f"{NAMES[number]}: {name} says: {word.value}"
        after = (target, guest, key, fenced, flags, _with_host(hosts, number, tuple(host)),
                 budgets, peer, todo)  # fmt: skip
        yield label, after

    def _concluded(self, flags, name, word, guest):
        match name.removesuffix(REST):
            case "prepare" if word is Word.PREPARED:
                flags |= PREPARED
            case "prepare E" if word is Word.PREPARED:
                flags |= PREPARED_E
            case "commit" | "commit untold" if word is Word.COMMITTED:
                flags |= TOLD_D
                if self.set.flow == "give up" and not flags & ABORTED:
                    flags |= FINISHABLE
            case "commit E" if word is Word.COMMITTED:
                flags |= TOLD_E
            case "late":
                if word is Word.DONE:
                    flags = (flags | LATE_DONE | FINISHABLE) & ~SUSPENDED
                elif word is Word.ALARM:
                    flags |= ALARMED
            case "release" if word is Word.RELEASED:
                flags |= RELEASED
            case "finish" if word is Word.DONE:
                flags |= FINISHED
            case "evict" if word is Word.DONE:
                flags &= ~EVICTING
            case "reclaim" | "reclaim off":
                if word.may_run:
                    flags |= TOLD_S
        return flags

    def _orchestrator(self, state):
        target, guest, key, fenced, flags, hosts, budgets, peer, todo = state

        def then(label, **changed):
            values = {"guest": guest, "flags": flags, "hosts": hosts} | changed
            return label, (target, values["guest"], key, fenced, values["flags"],
                           values["hosts"], budgets, peer, todo)  # fmt: skip

        if guest == "S" and not flags & (ABORTED | TOLD_S):
            yield then("the guest is paused", guest="P")
        prepared = flags & PREPARED and guest == "P" and not flags & ABORTED
        if prepared and not flags & MAY_COMMIT and self.set.flow != "late":
            yield then("commit is asked for", flags=flags | MAY_COMMIT)
        if guest == "P" and not flags & (ABORTED | TOLD_S):
            if self.set.flow == "late":
                if flags & PREPARED or self.set.careless:
                    suspended = SUSPENDED if self.set.paths > 1 and self.set.suspends else 0
                    yield then("the guest goes on on D", guest="D", flags=flags | suspended)
            elif flags & TOLD_D and not flags & EVICTING:
                yield then("the guest goes on on D", guest="D", flags=flags | FINISHABLE)
            elif flags & TOLD_E:
                yield then("the guest goes on on E", guest="E")
        if (
            guest in "SP"
            and not flags & ABORTED
            and not flags & (TOLD_S | FINISHED | FINISHABLE | EVICTING)
        ):
            yield then("an abort is asked for", flags=flags | ABORTED)
        if guest == "P" and flags & TOLD_S:
            yield then("the guest goes on on S", guest="S")
        if self.set.vanishes and not flags & VANISHED:
            yield then(f"{self.gone} goes away", flags=flags | VANISHED)
        if self.set.off and flags & ABORTED and not flags & D_OFF:
            off = _with_host(hosts, D, (*hosts[D][:4], None))
            yield then("D's host is fenced by its power switch", flags=flags | D_OFF, hosts=off)

    def _peers(self, state):
        target, guest, key, fenced, flags, hosts, budgets, peer, todo = state

        def then(label, target, fenced, *, flags=flags, peer=peer, used=None):
            left = todo if used is None else (_without(todo[0], used), todo[1])
            return label, (target, guest, key, fenced, flags, hosts, budgets, peer, left)

        left = self.set.left
        # An older move ends as superseded where this one has begun.
        begun = any(
            host[3] is not None for place, host in enumerate(hosts) if left in self.own[place]
        )
        if left and not flags & LATE_FINISH and not begun:
            after, outcome = send(self.character, target, left, Action.REGISTER, K, 0)
            if outcome is Outcome.DONE:
                yield then(
                    f"{left}: the finish of the earlier move comes late",
                    after,
                    fenced,
                    flags=flags | LATE_FINISH,
                )
        kind = target.type or WERO
        if peer:
            after, outcome = send(self.character, target, P, Action.PREEMPT, PEER, key, kind)
            if outcome is Outcome.DONE:
                yield then("the peer fences: PREEMPT done", after, True, peer=0)
            elif target.having(key):
                yield then("the peer's PREEMPT is refused", after, fenced, peer=0)
            else:
                yield then("the peer finds the key gone: off", after, True, peer=0)
        for what in dict.fromkeys(todo[0]):
            # Somebody else on D's host, while nobody moves anything there.
            begun = hosts[D][4] is not None or flags & TOLD_D or guest == "D"
            known = what == "here, the key" and self.lines.values[hosts[D][1]].listed
            if what.startswith("here") and (begun or known):
                continue
            match what:
                case "preempt":
                    after, outcome = send(
                        self.character, target, P, Action.PREEMPT, PEER, key or K, kind
                    )
                    done = fenced or outcome is Outcome.DONE
                    yield then(f"the peer PREEMPTs: {outcome.value}", after, done, used=what)
                case "clear":
                    if target.key(P):
                        after, _ = send(self.character, target, P, Action.CLEAR, PEER)
                        yield then("the peer CLEARs", after, True, flags=flags | TYPE_FREE,
                                   used=what)  # fmt: skip
                case "read first":
                    if target.having(key):
                        yield then("the peer reads: the key is there", target, fenced, peer=1,
                                   used=what)  # fmt: skip
                    else:
                        yield then("the peer reads: already off", target, True, used=what)
                case "register":
                    after, _ = send(self.character, target, T, Action.REGISTER, 0, 0x77)
                    yield then("a third node registers", after, fenced, used=what)
                case "here, another key":
                    after, outcome = send(self.character, target, "D1", Action.REGISTER, 0, 0x55)
                    if outcome is Outcome.DONE:
                        yield then("somebody registers another key on D", after, fenced, used=what)
                case "here, the key":
                    after, outcome = send(self.character, target, "D1", Action.REGISTER, 0, K)
                    if outcome is Outcome.DONE:
                        yield then("somebody registers the key on D", after, fenced, used=what)
                case "here, takes":
                    after, outcome = send(
                        self.character, target, "D1", Action.PREEMPT, K, K, target.type
                    )
                    if target.type is not None and outcome is Outcome.DONE:
                        yield then("somebody takes the reservation for D", after, fenced,
                                   flags=flags | TYPE_FREE | ALARMED, used=what)  # fmt: skip
                case "there, the key":
                    after, outcome = send(self.character, target, "S1", Action.REGISTER, 0, K)
                    # It does so for a path that returns, where another nexus has the key still.
                    there = target.having(K) and outcome is Outcome.DONE and hosts[S][4] is None
                    if there and (flags & TOLD_D or guest == "D"):
                        yield then("multipathd registers the key on S again", after, fenced,
                                   used=what)  # fmt: skip
                case "twin":
                    after, _ = send(self.character, target, TWIN, Action.REGISTER, 0, 0x66)
                    yield then("another session of D's host registers, listed as D1", after,
                               fenced, used=what)  # fmt: skip
                case "twin leaves" if target.key(TWIN) is not None:
                    after, _ = send(self.character, target, TWIN, Action.REGISTER, 0x66)
                    yield then("the other session of D's host gives its key up", after, fenced,
                               used=what)  # fmt: skip
                case "retype" if target.holder == P and not fenced:
                    free, _ = send(self.character, target, P, Action.RELEASE, PEER)
                    after, _ = send(
                        self.character, free, P, Action.RESERVE, PEER, 0, ReservationType.EARO
                    )
                    yield then("the peer reserves with another type", after, fenced,
                               flags=flags | TYPE_FREE, used=what)  # fmt: skip
                case "neighbour" if not fenced:
                    after, _ = send(
                        self.character, target, NEIGHBOUR, Action.REGISTER, 0, NEIGHBOURS_KEY
                    )
                    yield then("another guest registers over a session of its own", after,
                               fenced, used=what)  # fmt: skip
                case "neighbour leaves":
                    after, _ = send(
                        self.character, target, NEIGHBOUR, Action.REGISTER, NEIGHBOURS_KEY
                    )
                    yield then("the other guest gives its key up", after, fenced, used=what)
                case "same key":
                    after, _ = send(self.character, target, T, Action.REGISTER, 0, K)
                    yield then("a third node registers the same key", after, fenced, used=what)
                case "reserve":
                    if target.type is None and target.key(P):
                        after, _ = send(self.character, target, P, Action.RESERVE, PEER, 0, WERO)
                        yield then("the peer reserves in the gap", after, fenced,
                                   flags=flags | TYPE_FREE, used=what)  # fmt: skip

    def _guest(self, state):
        target, guest, key, fenced, flags, hosts, budgets, peer, todo = state
        own = self.own[S if guest == "S" else D]
        held = self.set.flow == "late" and self.set.holds_back
        if held and guest == "D" and not flags & LATE_DONE:
            return  # the proxy holds the guest's PR OUT back
        mine = target.key(own[0])
        for what in dict.fromkeys(todo[1]):
            after, now, more = target, key, 0
            match what:
                case "rekey":
                    if mine is None:
                        continue
                    for nexus in own:
                        after, _ = send(
                            self.character,
                            after,
                            nexus,
                            Action.REGISTER,
                            after.key(nexus) or 0,
                            K2,
                        )
                    now = K2
                case "leave":
                    for nexus in own:
                        after, _ = send(
                            self.character, after, nexus, Action.REGISTER, after.key(nexus) or 0, 0
                        )
                    now, more = 0, LEFT | TYPE_FREE
                case "release":
                    after, _ = send(self.character, target, own[0], Action.RELEASE, mine or 0)
                    more = TYPE_FREE
                case "reserve":
                    after, _ = send(
                        self.character, target, own[0], Action.RESERVE, mine or 0, 0, WERO
                    )
                    more = TYPE_FREE
                case "preempt itself":
                    after, _ = send(
                        self.character, target, own[0], Action.PREEMPT, mine or 0, key,
                        target.type or WERO,
                    )  # fmt: skip
                    if not any(after.key(nexus) for nexus in own):
                        now, more = 0, LEFT | TYPE_FREE
            left = (todo[0], _without(todo[1], what))
            if self.set.flow == "late" and self.set.holds_back and guest == "S":
                more |= ABORTED  # the proxy aborts the job before it answers the guest
            yield (
                f"the guest on {guest}: {what}",
                (after, guest, now, fenced, flags | more, hosts, budgets, peer, left),
            )

    # ---- the invariants

    def check(self, state):
        target, guest, key, fenced, flags, hosts, _budgets, _peer, _todo = state
        ours = dict(target.keys)
        left = flags & LEFT
        pending = self.set.careless and not flags & LATE_DONE
        if fenced and not pending:
            if guest in "SDE" and not flags & SUSPENDED:
                host = NAMES.index(guest)
                if any(nexus in ours for nexus in self.own[host]):
                    raise BrokenError("a", "the guest was fenced, and may write")
                self._check_sessions(target, self.own[host])
        elif not fenced and not left:
            sides = [nexus for host in range(len(hosts)) for nexus in self.own[host]]
            if not any(ours.get(nexus) == key for nexus in sides):
                raise BrokenError("b", "the guest's key is on no nexus, and nobody fenced it")
        self._check_others(state)
        if guest in "SD" and not fenced and not left and not pending:
            self._check_guest(state)
        self._check_ways(state)

    def _check_sessions(self, target, own):
        mixed = (each for each in own if self.character.group(each) is not None)
        if target.type is None:
            return
        for nexus in mixed:
            if lets_in(self.character, target, nexus):
                raise BrokenError("a", f"the guest was fenced, and {nexus} is let in again")

    def _check_others(self, state):
        target, _guest, _key, fenced, flags, _hosts, _budgets, _peer, _todo = state
        there = self.neighbour_may and not fenced and target.key(NEIGHBOUR) is not None
        if there and not lets_in(self.character, target, NEIGHBOUR):
            raise BrokenError("f", "another guest is registered, and may not write any more")
        if flags & TYPE_FREE:
            return
        if dict(target.keys).get(P) != PEER:
            raise BrokenError("f", "the peer's registration is gone")
        gap = self.set.flow == "release" and self.set.holder == "S" and target.type is None
        if target.type is not self.set.kind and not fenced and not gap:
            raise BrokenError("f", f"the reservation is {target.type!r}")
        single = self.set.kind is not None and not self.shared
        if single and self.set.holder == "P" and target.holder != P:
            raise BrokenError("f", "the peer does not hold its reservation any more")

    def _check_guest(self, state):
        target, guest, key, _fenced, flags, _hosts, _budgets, _peer, _todo = state
        own = self.own[NAMES.index(guest)]
        if flags & (SUSPENDED | ALARMED):
            return
        there = own[:-1] if flags & VANISHED and guest == self.set.vanishes else own
        lacking = [nexus for nexus in there if target.key(nexus) != key]
        # A path whose answers were lost too often is left out, and named.
        left_out = self.set.lost >= machine.TRIES
        if lacking and not self._rekeyed(state) and not left_out:
            raise BrokenError("g", f"{lacking[0]} of the running guest has not its key")
        held = self.set.holder == "S" and self.set.kind is not None and not self.shared
        pending = self.set.flow == "late" and not flags & LATE_DONE and guest == "D"
        if held and not flags & TYPE_FREE and not pending and target.holder not in own:
            raise BrokenError("g", "the running guest does not hold its reservation any more")
        follows = self.set.holder == "P" and self.set.kind is not None
        refused = follows and self.set.kind.single_nexus
        free = flags & TYPE_FREE or pending or refused or lacking
        let = free or any(lets_in(self.character, target, nexus) for nexus in there)
        if self.set.alike and not let:
            raise BrokenError("g", "the running guest has its key, and may not write")

    def _rekeyed(self, state):
        return state[2] != K

    def _check_ways(self, state):
        """Left alone, every verb ends, and the paused guest can go on."""
        target, guest, key, fenced, flags, hosts, _budgets, _peer, _todo = state
        quiet = True
        for number, host in enumerate(hosts):
            if host[4] is not None:
                quiet = False
                self._alone(number, *host[4], target)
        ended = LEFT | TYPE_FREE | FINISHABLE | TOLD_E | VANISHED
        lost = fenced or flags & ended or key != K
        # What else has the key, or whether D1 has it, only somebody outside can tell.
        others = {"same key", "here, the key", "here, takes"}
        shared = others & {*self.set.peers} or self.set.two or self.set.left
        if not quiet or guest != "P" or lost or shared or target.key(TWIN) is not None:
            return
        there, here = hosts[D][1], hosts[S][0]
        asked = flags & MAY_COMMIT and "commit" in self.plans and not flags & ABORTED
        if "neighbour" in self.set.peers:
            asked = False  # what registers then makes the target mix sessions, and commit refuses
        if asked and not self.plans["commit"][1].reserve and target.holder in self.own[D]:
            _, word, _ = self._run(D, "commit", there, target)
            if word is not Word.COMMITTED:
                raise BrokenError("e", f"D holds, and commit says {word.value} for ever")
        if flags & D_OFF:
            if not self.hands_over and target.holder in self.own[D]:
                return  # nothing takes the reservation from there
            target, word, here = self._run(S, "reclaim off", here, target)
        for _ in range(0 if flags & D_OFF else 2):  # D that is told "the source first" is second
            target, _, there = self._run(D, "withdraw", there, target)
            target, word, here = self._run(S, "reclaim", here, target)
        if not word.may_run:
            raise BrokenError("e", f"the paused guest is stuck: rollback says {word.value}")

    def _run(self, number, name, lines, target):
        known = ("run", name, lines, target)
        result = self.memo_alone.get(known)
        if result is None:
            place = self.positions.put(start(self.lines.values[lines]))
            result = self.memo_alone[known] = self._to_end(number, name, place, target)
        return result

    def _alone(self, number, name, place, target):
        known = (name, place, target)
        if known not in self.memo_alone:
            self.memo_alone[known] = self._to_end(number, name, place, target)

    def _to_end(self, number, name, place, target):
        plan = self.plans[name][1]
        position = self.positions.values[place]
        for _ in range(40):
            request = position.request
            if isinstance(request, End):
                return target, request.word, self.lines.put(position.lines)
            if isinstance(request, Look):
                position = looked(plan, position, self.reading(number, name, target))
                continue
            target, outcome = send(
                self.character, target, request.nexus, request.action, request.key,
                request.sa_key, request.type,
            )  # fmt: skip
            position = answered(plan, position, outcome)
        raise BrokenError("e", f"{name} does not come to an end")

    def _check_claim(self, state, number, plan, position, label):
        """What a good end says of the key and the reservation is what the look shows."""
        target, _guest, key, fenced, flags, *_ = state
        word, remains = position.request.word, position.request.remains
        own = self.own[number]
        lacking = [each for each in own if target.key(each) != K]
        # A path that has gone, or whose answers were lost twice, is left out, and named.
        if self.set.lost or flags & VANISHED:
            lacking = [each for each in lacking if each not in remains]
        claims = {
            Verb.PREPARE: (Word.PREPARED,),
            Verb.COMMIT: (Word.COMMITTED,),
            Verb.LATE_COMMIT: (Word.DONE,),
            Verb.RECLAIM: (Word.RESTORED, Word.RESTORED_BESIDE),
            Verb.EVICT: (Word.DONE,),
        }
        if K not in [target.key(each) for each in own]:
            lacking = own
        if plan.verb is Verb.EVICT and fenced:
            lacking = []  # nothing is left of the source either
        if word in claims.get(plan.verb, ()) and lacking and key == K:
            raise BrokenError("d", f"{word.value}, and {lacking[0]} has not the key", label)
        if word is Word.PREPARED:
            there = target.having(K)
            if not any(each in there for each in self.own[S]):
                raise BrokenError("d", "prepared, and the source has not the key", label)
            known = {each for host in (S, number) for each in self.own[host]} | {self.set.left}
            if set(there) - known:
                raise BrokenError("d", "prepared, and another nexus has the key", label)
            changed = target.type is not self.set.kind
            if changed and not fenced:
                raise BrokenError("d", "prepared, and the reservation is another one", label)
        goes_on = word is Word.COMMITTED or (word is Word.DONE and plan.verb is Verb.LATE_COMMIT)
        if goes_on and key != K and any(target.key(each) == K for each in own):
            raise BrokenError("a", f"{word.value}, and the guest's key is another one", label)
        # Of a path that is gone a blind target does not tell.
        served = [each for each in remains if target.key(each) == K and each not in plan.unasked]
        if word in claims.get(plan.verb, ()) and served:
            raise BrokenError(
                "d", f"{word.value}, and {served[0]} is named, which has the key", label
            )
        if word not in claims.get(plan.verb, ()) and word is not Word.IN_DOUBT and remains:
            raise BrokenError("d", f"{word.value} leaves nothing, and names {remains[0]}", label)
        in_question = position.lines.in_question
        if word in claims.get(plan.verb, ()) and in_question and key == K:
            raise BrokenError("d", f"{word.value}, and {in_question[0]} is in question", label)
        held = self.set.holder == "S" and self.set.kind is not None and not self.shared
        if word in claims.get(plan.verb, ()) and word is not Word.PREPARED and held:
            theirs = self.set.guest or "here, takes" in self.set.peers
            free = flags & LEFT or (flags & TYPE_FREE and theirs) or fenced or key != K
            if not free and target.holder not in own:
                raise BrokenError("g", f"{word.value}, and the reservation is not here", label)
        if word is Word.RELEASED and held and target.type is not None:
            raise BrokenError("d", "released, and somebody holds", label)
        if word is Word.RELEASED and position.lines.released is None:
            raise BrokenError("d", "released, and no RELEASE was sent", label)
        if word is Word.NOTHING:
            listed = position.lines.listed
            if any(target.key(each) == K for each in own if each in listed):
                raise BrokenError("d", "nothing of the move is here, and its key is", label)

    def _check_end(self, state, number, name, position, label):
        """What an end claims must be so at the look that it is made of."""
        target, guest, key, fenced, flags, _hosts, _budgets, _peer, _todo = state
        word, remains = position.request.word, position.request.remains
        _, plan = self.plans[name]
        self.found.ends.setdefault(plan.verb.value, set()).add(word.value)
        if self.stop == (name, word):
            raise BrokenError("-", "asked for", label)
        own = self.own[number]
        if plan.settles and position.lines.in_question and not remains:
            raise BrokenError("d", "settled, and something is in question still", label)
        if word.may_run and fenced:
            raise BrokenError("a", "an end says that the fenced guest may run", label)
        registered = any(target.key(nexus) for nexus in own)
        gone = [nexus for nexus in own if target.key(nexus) == K]
        if word.may_run and gone and all(nexus in plan.unasked for nexus in gone):
            raise BrokenError("g", f"{word.value}, and only {gone[0]} has the key", label)
        if word is Word.DONE and plan.verb is Verb.LATE_COMMIT and fenced and registered:
            raise BrokenError("a", "late commit ends well for a fenced guest", label)
        if word is Word.COMMITTED and (flags & TOLD_S or guest == "S"):
            raise BrokenError("c", "both sides are told that the guest may run", label)
        if word is Word.COMMITTED and number == D and flags & TOLD_E:
            raise BrokenError("c", "two destinations are told that the guest may run", label)
        if word is Word.COMMITTED and number == E and flags & TOLD_D:
            raise BrokenError("c", "two destinations are told that the guest may run", label)
        if word.may_run and number == S and guest == "D":
            raise BrokenError("c", "the source is told to run while the destination runs", label)
        if (
            word in (Word.RESTORED, Word.RESTORED_CHANGED)
            and self.set.flow == "counted"
            and flags & TOLD_D
            and target.having(K)
            and any(nexus in self.own[D] for nexus in target.having(K))
        ):
            raise BrokenError("c", "both sides are told that the guest may run", label)
        if word is Word.COMMITTED and key != K and not flags & LEFT and guest == "P":
            raise BrokenError(
                "a", "the destination goes on with a key that is not the guest's", label
            )
        self._check_claim(state, number, plan, position, label)
        clean = word is Word.WITHDRAWN or (
            plan.verb is Verb.PREPARE and not word.good and word is not Word.IN_DOUBT
        )
        clean = (
            clean and word not in (Word.SUPERSEDED, Word.KEY_HERE) and not name.startswith("old")
        )
        evicted = word is Word.DONE and plan.verb is Verb.EVICT
        if evicted and any(target.key(each) == K for each in self.own[S]):
            raise BrokenError("d", "done, and the source has the key", label)
        here = any(nexus in own for nexus in target.having(K))
        # Only an end that says less may leave a nexus to be named.
        finished = word is Word.DONE and plan.verb is Verb.FINISH
        if here and (finished or (clean and not remains)):
            raise BrokenError("d", f"{word.value}, and the key is left here", label)


ASKED = {
    "prepare": 0, "commit": MAY_COMMIT, "commit untold": MAY_COMMIT, "commit E": PREPARED_E,
    "release": MAY_COMMIT, "finish": FINISHABLE, "withdraw": ABORTED, "evict": 0,
    "withdraw E": ABORTED,
    "reclaim": TOLD_S, "reclaim off": TOLD_S, "late": LATE_DONE,
}  # fmt: skip


def _uncounted(position):
    """Without the limit of commands, which cycles in the graph stand for, and without the row."""
    return replace(position, sent=0, restarts=0)


def _with_host(hosts, number, host):
    return (*hosts[:number], host, *hosts[number + 1 :])


def _minus(starts, place):
    return (*starts[:place], starts[place] - 1, *starts[place + 1 :])


def _plus(starts, names, name):
    place = names.index(name)
    return (*starts[:place], starts[place] + 1, *starts[place + 1 :])


def _without(todo, what):
    place = todo.index(what)
    return (*todo[:place], *todo[place + 1 :])
