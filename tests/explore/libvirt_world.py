"""Two hosts, libvirt and a guest, as far as prtrace.libvirt.machine can tell them apart.

Each host's machine is the real one.  libvirt takes a guest from S to D the way that it does (two
hooks, a transfer, a pause, perhaps the plugin's questions, a confirmation, two hooks on S and an
event), and may fail at any point and be tried again.  The agents' calls do to the device what
prtrace.move's tables say.  Everything that can happen next is a move of the world; the Explorer
tries them all.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from prtrace.libvirt.machine import (
    Acquires,
    Act,
    AgentSaid,
    Announced,
    Answer,
    Ask,
    Ended,
    Given,
    GuestRecord,
    Input,
    MoveCall,
    MovePolicy,
    Output,
    Permission,
    Phase,
    Runs,
    Started,
    Stepped,
    Waits,
    step,
)

Stepper = Callable[[GuestRecord, Input, MovePolicy], Stepped]


class Guest(enum.Enum):
    """A guest's QEMU on one host."""

    NONE = "none"
    INCOMING = "incoming"
    RUNS = "runs"
    PAUSED = "paused"


class Libvirt(enum.Enum):
    """How far libvirt is."""

    IDLE = "idle"
    ANNOUNCE = "migrate begin"
    START = "started begin"
    TRANSFER = "transfer"
    PAUSE = "pause"
    ACQUIRE = "acquire on D"
    CONFIRM = "confirm"
    UNDO = "undo"
    """The migration failed, and the guest is paused on S."""
    REACQUIRE = "acquire on S"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Setting:
    """What does not change."""

    plugin: bool
    """The lock-manager plugin is loaded."""
    suspend: bool
    """virsh migrate --suspend."""
    paused: bool
    """The guest was paused before."""
    holds: bool
    """The guest alone holds the reservation; else it is a follower."""

    @property
    def policy(self) -> MovePolicy:
        return MovePolicy(late=True)


@dataclass(frozen=True, slots=True)
class World:
    """Everything that can differ."""

    source: GuestRecord = field(default_factory=GuestRecord)
    """The record of S's machine."""
    destination: GuestRecord = field(default_factory=GuestRecord)
    """The record of D's machine."""
    s: Guest = Guest.RUNS
    """The guest's QEMU on S."""
    d: Guest = Guest.NONE
    """The guest's QEMU on D."""
    libvirt: Libvirt = Libvirt.IDLE
    ks: bool = True
    """S's nexus is registered."""
    kd: bool = False
    """D's nexus is registered."""
    holder: str = ""
    """"S", "D" or "": neither of them."""
    said_s: Answer | None = None
    """What S's agent will answer to a call that it has carried out."""
    said_d: Answer | None = None
    """What D's agent will answer to a call that it has carried out."""
    zombie: MoveCall | None = None
    """A call of D's service before its restart, which the agent may yet carry out."""
    event_s: bool = False
    """libvirt has something to tell S's service."""
    event_d: bool = False
    """libvirt has something to tell D's service."""
    migrated: bool = False
    """The guest left S."""
    proved: bool = False
    """S's service heard that the guest left."""
    ran: bool = False
    """The guest has run on D."""
    allowed: bool = False
    """The plugin let the guest go on on D."""
    committed: bool = False
    """The agent said that the guest may go on on D."""
    reclaimed: bool = False
    """The agent said that the guest may go on on S."""
    passed: bool = False
    """The guest may have gone on on D, and has not gone on on S since."""
    undone: bool = False
    """The guest went on on S although it may have gone on on D."""
    suspended: bool = False
    """The guest arrives paused."""
    passes: bool = False
    """libvirt has yet to tell that the memory is being sent."""
    marked: bool = False
    """The plugin asks before the guest goes on on S."""
    unheard: bool = False
    """No service was there to mark the guest."""
    hooks: int = 0
    """How many hooks libvirt has yet to call on S."""
    file: bool = True
    """S's service has a file."""
    spent: bool = False
    """The agent takes a finish with S's file for one that is late."""
    fenced: bool = False
    """The guest's registration was taken away by a peer."""
    split: bool = False
    """S was told that the migration failed while the guest went on on D."""
    tries: int = 0
    """How many more migrations may be begun."""
    faults: int = 2
    """How many more faults may happen."""


class BrokenError(Exception):
    """An invariant does not hold."""


def settings() -> Iterator[Setting]:
    for plugin in (False, True):
        # A guest that was paused arrives paused; only the plugin can tell it from --suspend.
        ways = ((False, False), (True, False), (False, True))
        for suspend, paused in ways if plugin else ways[:2]:
            for holds in (False, True):
                yield Setting(plugin, suspend, paused, holds)


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise BrokenError(what)


class Explorer:
    """Breadth first over all that can happen; a broken invariant comes with its story."""

    def __init__(self, setting: Setting, stepper: Stepper = step) -> None:
        self.setting = setting
        self.step = stepper
        self.states = 0
        self.transitions = 0
        self.ends: set[tuple[Phase, Phase, Guest, Guest]] = set()

    def run(self, *, tries: int = 0, faults: int = 2) -> None:
        """Raises BrokenError with the shortest way to it.  tries: beside the first."""
        s = Guest.PAUSED if self.setting.paused else Guest.RUNS
        holder = "S" if self.setting.holds else ""
        first = World(s=s, holder=holder, tries=tries, faults=faults)
        seen: dict[World, tuple[World | None, str]] = {first: (None, "begin")}
        queue = deque([first])
        while queue:
            world = queue.popleft()
            self.states += 1
            quiet = True
            for name, make in self.moves(world):
                self.transitions += 1
                try:
                    after = make()
                    after = replace(after, ran=after.ran or after.d is Guest.RUNS)
                    self.check(after)
                except BrokenError as error:
                    raise BrokenError(f"{error}\n" + story(seen, world, name)) from error
                if after != world and not name.startswith("fault"):
                    quiet = False
                if after not in seen:
                    seen[after] = (world, name)
                    queue.append(after)
            if quiet:
                try:
                    self.check_end(world)
                except BrokenError as error:
                    raise BrokenError(f"{error}\n" + story(seen, world, "end")) from error

    def check(self, world: World) -> None:
        for record in (world.source, world.destination):
            _require(record.asked is not None or record.caller is None, "a caller is forgotten")
        both = world.s is Guest.RUNS and world.d is Guest.RUNS
        _require(not both or world.split, "the guest runs on both hosts")
        if self.setting.plugin and world.d is Guest.RUNS:
            _require(world.committed, "the guest goes on on D without the agent's word")
        if self.setting.plugin and world.undone and not world.unheard:
            _require(world.reclaimed, "the guest goes on on S without the agent's word")
        if world.d is Guest.RUNS and world.destination.phase is Phase.HELD:
            _require(world.event_d, "a guest that is not known to be allowed to goes on")

    def check_end(self, world: World) -> None:
        """Nothing more will happen: everything left behind is named, and the guest may run."""
        self.ends.add((world.source.phase, world.destination.phase, world.s, world.d))
        if world.kd and world.d is Guest.NONE and not world.ran:
            _require(world.destination.phase is not Phase.HOME, "D's key is left and not named")
        if world.ks and world.proved and world.s is Guest.NONE:
            _require(world.source.phase is not Phase.HOME, "S's key is left and not named")
        if world.d is Guest.RUNS and not world.split:
            _require(
                world.destination.phase is Phase.HOME, "the guest runs on D without a good answer"
            )

    def moves(self, world: World) -> Iterator[tuple[str, Callable[[], World]]]:
        yield from self._libvirt(world)
        yield from self._agents(world)
        yield from self._events(world)
        if world.faults:
            yield from self._faults(world)

    # What libvirt does

    def _libvirt(self, world: World) -> Iterator[tuple[str, Callable[[], World]]]:
        setting, idle_d = self.setting, world.destination.asked is None
        if world.hooks and world.source.asked is None:
            yield from self._hooks(world)
        match world.libvirt:
            case Libvirt.IDLE if idle_d:
                yield "migrate begin", lambda: self._begins(world)
            case Libvirt.FAILED | Libvirt.UNDO if (
                # A call ends before its caller gives up, or soon after: sooner than libvirt can
                # migrate a guest.
                world.tries and world.d is Guest.NONE and idle_d and world.source.asked is None
            ):
                again = replace(
                    world,
                    tries=world.tries - 1,
                    committed=False,
                    allowed=False,
                    reclaimed=False,
                    undone=False,
                )
                yield "migrate begin, once more", lambda: self._begins(again)
            case _:
                pass
        match world.libvirt:
            case Libvirt.TRANSFER:
                if not world.passes:
                    yield (
                        "the guest is paused on S",
                        lambda: replace(world, s=Guest.PAUSED, passed=True, libvirt=Libvirt.PAUSE),
                    )
                yield "cancelled", lambda: self._d_ends(world, _failed(world))
            case Libvirt.PAUSE if setting.plugin and not world.suspended:
                if idle_d:
                    asking = replace(world, libvirt=Libvirt.ACQUIRE)
                    yield "acquire on D", lambda: self.give_d(asking, Acquires())
                yield "fails in the pause", lambda: self._d_ends(world, Libvirt.UNDO)
            case Libvirt.PAUSE:
                there = Guest.PAUSED if world.suspended else Guest.RUNS
                yield (
                    f"the guest {there.value} on D",
                    lambda: replace(world, d=there, event_d=True, libvirt=Libvirt.CONFIRM),
                )
                yield "fails in the pause", lambda: self._d_ends(world, Libvirt.UNDO)
            case Libvirt.CONFIRM:
                yield (
                    "confirmed: S's QEMU ends",
                    lambda: replace(
                        world,
                        s=Guest.NONE,
                        migrated=True,
                        event_s=True,
                        hooks=2,
                        libvirt=Libvirt.DONE,
                    ),
                )
            case Libvirt.UNDO:
                if not (setting.plugin and world.marked):
                    yield "goes on on S", lambda: self._goes_on_on_s(world)
                elif world.source.asked is None:
                    asking = replace(world, libvirt=Libvirt.REACQUIRE)
                    yield "acquire on S", lambda: self.give_s(asking, Acquires(outgoing=True))
            case Libvirt.DONE:
                if world.d is Guest.PAUSED and world.suspended and not world.allowed:
                    if not setting.plugin:
                        yield "resumed on D", lambda: replace(world, d=Guest.RUNS, event_d=True)
                    elif idle_d:
                        asking = replace(world, libvirt=Libvirt.ACQUIRE)
                        yield "acquire on D", lambda: self.give_d(asking, Acquires())
                if world.d is not Guest.NONE:
                    yield "D's QEMU ends", lambda: self._d_ends(world, Libvirt.DONE)
            case _:
                pass

    def _begins(self, world: World) -> World:
        """libvirt's Begin: it asks the plugin unless the guest is paused."""
        runs = world.s is Guest.RUNS
        going = replace(
            world,
            libvirt=Libvirt.ANNOUNCE,
            suspended=self.setting.suspend or not runs,
            marked=world.marked or (self.setting.plugin and runs),
        )
        return self.give_d(going, Announced(Given.FILE))

    def _hooks(self, world: World) -> Iterator[tuple[str, Callable[[], World]]]:
        """One after the other, and before the event; a release of 9.0 has no reason."""
        called = replace(world, hooks=world.hooks - 1)
        if world.hooks == 2:
            yield "stopped end - on S", lambda: self.give_s(called, Ended())
        else:
            yield "release end - on S", lambda: self.give_s(called, Ended())
            proved = replace(called, proved=True)
            yield (
                "release end migrated on S",
                lambda: self.give_s(proved, Ended(migrated=world.file)),
            )

    def _goes_on_on_s(self, world: World) -> World:
        return replace(
            world,
            s=Guest.RUNS,
            event_s=True,
            undone=world.passed,
            passed=False,
            marked=False,
            libvirt=Libvirt.FAILED,
        )

    def _d_ends(self, world: World, libvirt: Libvirt) -> World:
        return replace(world, d=Guest.NONE, event_d=True, libvirt=libvirt)

    def replied(self, world: World, reply: Permission) -> World:
        match world.libvirt:
            case Libvirt.ANNOUNCE if not reply.allow:
                return replace(world, libvirt=_failed(world))
            case Libvirt.ANNOUNCE:
                started = Started(
                    Given.FILE,
                    incoming=True,
                    suspended=world.suspended,
                    asks=self.setting.plugin,
                    holds=self.setting.holds,
                )
                going = replace(world, d=Guest.INCOMING, libvirt=Libvirt.START)
                return self.give_d(going, started)
            case Libvirt.START if reply.allow:
                passes = self.setting.plugin and world.s is Guest.PAUSED and not world.marked
                return replace(world, passes=passes, libvirt=Libvirt.TRANSFER)
            case Libvirt.START:
                return self._d_ends(world, _failed(world))
            case Libvirt.ACQUIRE if world.s is Guest.NONE:
                # After --suspend: a refusal leaves it paused, and it can be asked again.
                there = Guest.RUNS if reply.allow else Guest.PAUSED
                return replace(
                    world, d=there, event_d=True, allowed=reply.allow, libvirt=Libvirt.DONE
                )
            case Libvirt.ACQUIRE if reply.allow:
                return replace(
                    world, d=Guest.RUNS, event_d=True, allowed=True, libvirt=Libvirt.CONFIRM
                )
            case Libvirt.ACQUIRE:
                return self._d_ends(world, Libvirt.UNDO)
            case Libvirt.REACQUIRE if reply.allow:
                return self._goes_on_on_s(world)
            case Libvirt.REACQUIRE:
                return replace(world, libvirt=Libvirt.UNDO)
            case _:
                return world

    # The machines

    def give_d(self, world: World, given: Input) -> World:
        record, outputs = self.step(world.destination, given, self.setting.policy)
        return self._outputs(replace(world, destination=record), outputs, source=False)

    def give_s(self, world: World, given: Input) -> World:
        record, outputs = self.step(world.source, given, self.setting.policy)
        return self._outputs(replace(world, source=record), outputs, source=True)

    def _outputs(self, world: World, outputs: tuple[Output, ...], *, source: bool) -> World:
        for output in outputs:
            match output:
                case Permission() if source is (world.libvirt is Libvirt.REACQUIRE):
                    world = self.replied(world, output)
                case Act.PAUSE if not source and world.d is Guest.RUNS:
                    world = replace(world, d=Guest.PAUSED, event_d=True)
                case Act.RESUME if not source and world.d is Guest.PAUSED:
                    world = replace(world, d=Guest.RUNS, event_d=True)
                case Act.FORGET if source:
                    world = replace(world, file=False)
                case Act.RENEW if source:
                    world = replace(world, spent=False)
                case Ask() | Act() | Permission():
                    # A reply that nobody waits for any more reaches nobody.
                    pass
        return world

    # The agents

    def _agents(self, world: World) -> Iterator[tuple[str, Callable[[], World]]]:
        if world.zombie is not None:
            yield (
                f"late {world.zombie.value}",
                lambda: replace(self.execute(world, world.zombie)[0], zombie=None),
            )
            yield f"{world.zombie.value} never came", lambda: replace(world, zombie=None)
        elif (call := world.destination.asked) is not None:
            if world.said_d is None:
                yield f"D executes {call.value}", lambda: _said_d(*self.execute(world, call))
            else:
                told = AgentSaid(call, world.said_d)
                yield (
                    f"D is told: {told.answer.value}",
                    lambda: self.give_d(replace(world, said_d=None), told),
                )
        if (call := world.source.asked) is not None:
            if world.said_s is None:
                yield f"S executes {call.value}", lambda: _said_s(*self.execute(world, call))
            else:
                told_s = AgentSaid(call, world.said_s)
                yield (
                    f"S is told: {told_s.answer.value}",
                    lambda: self.give_s(replace(world, said_s=None), told_s),
                )

    def execute(self, world: World, call: MoveCall) -> tuple[World, Answer]:
        """Do to the device what the tables of prtrace.move say."""
        ks, kd, holder = world.ks, world.kd, world.holder
        held_s, held_d = holder == "S", holder == "D"
        match call:
            case MoveCall.LOOK:
                return world, Answer.GOOD if ks and not kd else Answer.REFUSED
            case MoveCall.PREPARE:
                # What an earlier move's call would do now comes too late.
                world = replace(world, zombie=None)
                if not ks:
                    return replace(world, kd=False), Answer.SPENT
                return replace(world, kd=True), Answer.GOOD
            case MoveCall.COMMIT | MoveCall.LATE_COMMIT:
                late = call is MoveCall.LATE_COMMIT
                if not kd:
                    return world, Answer.DOUBT if ks else Answer.SPENT
                if held_s:
                    runs = world.s is Guest.RUNS and not world.split
                    _require(not runs, "the reservation is taken from a running source")
                    return replace(world, ks=False, holder="D", committed=True), Answer.GOOD
                if held_d or ks or late:
                    return replace(world, committed=True), Answer.GOOD
                return replace(world, kd=False), Answer.SPENT
            case MoveCall.WITHDRAW:
                _require(world.d is not Guest.RUNS, "the running guest's key is withdrawn")
                if held_d:
                    return world, Answer.LATER
                return replace(world, kd=False), Answer.GOOD
            case MoveCall.FINISH:
                _require(world.migrated and world.s is Guest.NONE, "S is deprived without proof")
                if world.spent:
                    return world, Answer.SPENT
                if held_s:
                    return world, Answer.LATER
                return replace(world, ks=False), Answer.GOOD
            case MoveCall.RECLAIM:
                _require(world.s is Guest.PAUSED, "S's part of an abort beside a running guest")
                world = replace(world, spent=True)
                if held_s or held_d:
                    return replace(
                        world, ks=True, kd=False, holder="S", reclaimed=True
                    ), Answer.GOOD
                if ks and kd:
                    return world, Answer.DOUBT
                return replace(world, reclaimed=ks), Answer.GOOD if ks else Answer.SPENT

    # Events, time and faults

    def _events(self, world: World) -> Iterator[tuple[str, Callable[[], World]]]:
        """An event makes the service ask libvirt how the guest is now; so does time."""
        if world.destination.asked is None and world.zombie is None:
            heard = replace(world, event_d=False)
            yield "event on D", lambda: self._look_d(heard)
        if world.passes:
            yield "S hears that the memory is being sent", lambda: self.marks(world)
        if world.source.asked is None and not world.hooks:
            if world.s is Guest.NONE:
                ended = Ended(migrated=world.event_s and world.file)
                proved = world.proved or world.event_s
                yield (
                    "event on S",
                    lambda: self.give_s(replace(world, event_s=False, proved=proved), ended),
                )
            elif world.s is Guest.RUNS:
                yield "event on S", lambda: self.give_s(replace(world, event_s=False), Runs())
                if world.source.phase is Phase.HOME and world.libvirt is Libvirt.FAILED:
                    yield "a new note on S", lambda: replace(world, file=True, spent=False)

    def marks(self, world: World) -> World:
        """S's service has the plugin ask, as libvirt did not."""
        return replace(world, passes=False, marked=world.file)

    def _look_d(self, world: World) -> World:
        match world.d:
            case Guest.NONE if world.libvirt is not Libvirt.ANNOUNCE:
                return self.give_d(world, Ended())
            case Guest.RUNS:
                return self.give_d(world, Runs())
            case Guest.PAUSED:
                return self.give_d(world, Waits())
            case _:
                return world

    def _faults(self, world: World) -> Iterator[tuple[str, Callable[[], World]]]:
        less = replace(world, faults=world.faults - 1)
        if not world.fenced:
            yield (
                "fault: a peer fences",
                lambda: replace(less, ks=False, kd=False, holder="", fenced=True),
            )
        if world.destination.asked is not None:
            call, reply = world.destination.asked, world.said_d
            for answer in (Answer.SILENT, Answer.DOUBT):
                yield (
                    f"fault: D's {call.value} ends {answer.value}",
                    lambda answer=answer: replace(less, said_d=answer),
                )
            zombie = call if reply is None and less.zombie is None else less.zombie
            restarted = replace(
                less, destination=world.destination.restarted, said_d=None, zombie=zombie
            )
            yield "fault: D's service restarts", lambda: self._hung_up(restarted)
        if world.libvirt in (Libvirt.START, Libvirt.ACQUIRE, Libvirt.REACQUIRE):
            # The caller's deadline: libvirt takes it for a refusal.
            yield "fault: the caller gives up", lambda: self.replied(less, Permission(False))
        if world.source.asked is not None:
            source = world.source.restarted
            yield (
                "fault: S's service restarts",
                lambda: self._hung_up_s(replace(less, source=source, said_s=None)),
            )
            yield "fault: S's call is in doubt", lambda: replace(less, said_s=Answer.DOUBT)
        if world.event_s and world.s is Guest.NONE:
            yield "fault: S's event is lost", lambda: replace(less, event_s=False, migrated=True)
        if world.hooks:
            yield "fault: S's hooks reach nobody", lambda: replace(less, hooks=0)
        if world.passes:
            yield (
                "fault: nobody hears that the memory is being sent",
                lambda: replace(less, passes=False, unheard=True),
            )
        if world.hooks == 2 and world.file and not world.spent:
            yield "fault: somebody saves on S by hand", lambda: replace(less, spent=True)
        if world.libvirt is Libvirt.CONFIRM:
            yield (
                "fault: S never hears that D goes on",
                lambda: replace(less, split=True, libvirt=Libvirt.UNDO),
            )

    def _hung_up(self, world: World) -> World:
        if world.libvirt in (Libvirt.ANNOUNCE, Libvirt.START, Libvirt.ACQUIRE):
            return self.replied(world, Permission(False))
        return world

    def _hung_up_s(self, world: World) -> World:
        if world.libvirt is Libvirt.REACQUIRE:
            return self.replied(world, Permission(False))
        return world


def _failed(world: World) -> Libvirt:
    return Libvirt.UNDO if world.s is Guest.PAUSED else Libvirt.FAILED


def _said_d(world: World, answer: Answer) -> World:
    return replace(world, said_d=answer)


def _said_s(world: World, answer: Answer) -> World:
    return replace(world, said_s=answer)


def story(seen: dict[World, tuple[World | None, str]], world: World, last: str) -> str:
    """What led to world, a line each, and then last."""
    lines = [last]
    at: World | None = world
    while at is not None:
        before, name = seen[at]
        lines.append(
            f"{name:40} S {at.s.value}/{at.source.phase.value} D {at.d.value}/"
            f"{at.destination.phase.value} K {'s' * at.ks}{'d' * at.kd} h={at.holder or '-'}"
        )
        at = before
    return "\n".join(reversed(lines))
