"""May the reservation state of a device move now (pure)?

The verdict on one side is made of facts only; each reason carries the fact behind it.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from prtrace.linux.process import same_start
from prtrace.linux.qemu import is_qemu
from prtrace.model import Nexus, ReservationType
from prtrace.move.facts import Facts, Registered, Sender
from prtrace.move.guest import HELPER
from prtrace.move.side import Side
from prtrace.state.binding import is_other_session
from prtrace.state.event import key_text
from prtrace.state.quirks import profile_of

SCHEMA: Final = "prtrace.check/2"


class Verdict(enum.Enum):
    """The answer; exit_code is that of `prtrace check`."""

    CLEAR = "clear"
    MOVABLE = "movable"
    BLOCKED = "blocked"
    IN_DOUBT = "in doubt"

    @property
    def exit_code(self) -> int:
        """0 may move, with or without something to move; 11 blocked; 12 in doubt."""
        return _EXIT_CODES[self]


_EXIT_CODES = {
    Verdict.CLEAR: 0,
    Verdict.MOVABLE: 0,
    Verdict.BLOCKED: 11,
    Verdict.IN_DOUBT: 12,
}


class Obstacle(enum.Enum):
    """What stands in the way; the value is its name in JSON."""

    IN_DOUBT = "state in doubt"
    SHARED_KEY = "key on other nexuses"
    OTHER_USER = "nexus used by others"
    LEGACY_RESERVE = "legacy reservation"
    BEYOND_PATHS = "registered beyond our paths"
    OTHER_SESSION = "another session of the initiator is registered"
    DIFFERENT_KEYS = "paths with different keys"
    FOREIGN_SCOPE = "scope is not the logical unit"
    QEMU_MOVES_IT = "QEMU moves it itself"
    ARRIVAL = "prepare would not go well here"


@dataclass(frozen=True, slots=True)
class Reason:
    """An obstacle and the fact behind it."""

    obstacle: Obstacle
    fact: str


@dataclass(frozen=True, slots=True)
class UnitVerdict:
    """The verdict on one side.

    key: the guest's key, None where nothing is registered.  held: the reservation is this
    side's (for the all-registrants types: it is a registrant).  would: what the verbs would do.
    notes: what does not stand in the way, and is good to know.  leftovers: nexuses that an
    earlier move left with the key.
    """

    side: Side
    verdict: Verdict
    key: int | None = None
    type: ReservationType | None = None
    held: bool = False
    reasons: tuple[Reason, ...] = ()
    would: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    leftovers: tuple[Nexus, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """One element of "units" of prtrace.check/2."""
        return {
            "lu": self.side.lu,
            "device": self.side.name,
            "nexuses": [path.nexus.nexus for path in self.side.paths],
            "verdict": self.verdict.value,
            "key": key_text(self.key),
            "type": None if self.type is None else self.type.name,
            "held": self.held,
            "reasons": [
                {"obstacle": reason.obstacle.value, "fact": reason.fact} for reason in self.reasons
            ],
            "would": list(self.would),
            "notes": list(self.notes),
        }


def overall(verdicts: Iterable[UnitVerdict]) -> Verdict:
    """The verdict on all of them together: the gravest counts."""
    found = {each.verdict for each in verdicts}
    for verdict in (Verdict.BLOCKED, Verdict.IN_DOUBT, Verdict.MOVABLE):
        if verdict in found:
            return verdict
    return Verdict.CLEAR


def check_view(verdicts: Iterable[UnitVerdict], host: str) -> dict[str, Any]:
    """The prtrace.check/2 object."""
    verdicts = tuple(verdicts)
    return {
        "schema": SCHEMA,
        "host": host,
        "verdict": overall(verdicts).value,
        "units": [each.to_json() for each in verdicts],
    }


def own_registrations(side: Side, facts: Facts) -> dict[Nexus, Registered]:
    """The registrations of the side's own nexuses."""
    mine = {path.nexus.nexus for path in side.paths}
    return {each.nexus: each for each in facts.registrations if each.nexus in mine}


def holds(side: Side, facts: Facts) -> bool:
    """Whether a nexus of the side holds the reservation."""
    return facts.type is not None and any(path.nexus.nexus in facts.holders for path in side.paths)


def judge(
    side: Side,
    facts: Facts,
    *,
    asked: Sender | None = None,
    users: Iterable[Sender] = (),
    moves_itself: str = "",
    leftovers: Mapping[Nexus, str] = MappingProxyType({}),
    hands_over: bool = True,
) -> UnitVerdict:
    """Return the verdict on side.

    asked: the guest or process whose reservation is to move, None for whoever registered.
    users: who else is known to have changed reservations through the side's nexuses.
    moves_itself: why QEMU will move it without us, "" where it will not.  leftovers: nexuses that
    the guest was moved away from, with the move; the key there is what that move left.
    hands_over: the target is known to hand a single holder's reservation over by PREEMPT.
    """
    own = own_registrations(side, facts)
    keys = sorted({each.key for each in own.values()})
    reasons = [
        Reason(Obstacle.IN_DOUBT, f"{what}: {why}")
        for what, why in (*facts.doubts, *facts.unknowable)
    ]
    if facts.legacy_holder is not None:
        reasons.append(
            Reason(Obstacle.LEGACY_RESERVE, f"{facts.legacy_holder} has an SPC-2 RESERVE active")
        )
    if not keys:
        reasons += _perhaps_ours(facts, own)
        if reasons:
            return UnitVerdict(side, _of(reasons), reasons=tuple(reasons))
        return UnitVerdict(side, Verdict.CLEAR, type=facts.type)
    left = tuple(
        each.nexus
        for each in facts.registrations
        if each.nexus in leftovers and each.nexus not in own and [each.key] == keys
    )
    reasons += _key_reasons(side, facts, own, keys, left)
    reasons += _session_reasons(side, facts, own)
    reasons += _user_reasons(own, asked, users)
    if facts.type is not None and facts.scope != "LU":
        reasons.append(Reason(Obstacle.FOREIGN_SCOPE, f"the reservation's scope is {facts.scope}"))
    if moves_itself:
        reasons.append(Reason(Obstacle.QEMU_MOVES_IT, moves_itself))
    held = holds(side, facts)
    verdict = _of(reasons) if reasons else Verdict.MOVABLE
    single = held and facts.type is not None and not facts.type.all_registrants
    would = () if reasons else _would(keys[0], facts.type if single else None, hands_over)
    notes = _notes(side, facts, own, single=single, hands_over=hands_over)
    notes += tuple(
        f"{nexus} kept the key when the guest left it: prtrace finish {leftovers[nexus]} there, "
        "or with --from-destination here"
        for nexus in left
    )
    return UnitVerdict(
        side, verdict, keys[0], facts.type, held, tuple(reasons), would, notes, left
    )


def _of(reasons: Iterable[Reason]) -> Verdict:
    only_doubt = all(reason.obstacle is Obstacle.IN_DOUBT for reason in reasons)
    return Verdict.IN_DOUBT if only_doubt else Verdict.BLOCKED


def _key_reasons(
    side: Side,
    facts: Facts,
    own: dict[Nexus, Registered],
    keys: list[int],
    left: tuple[Nexus, ...],
) -> list[Reason]:
    reasons = []
    if len(keys) > 1:
        listed = ", ".join(f"{each.nexus} {each.key:#x}" for each in own.values())
        reasons.append(Reason(Obstacle.DIFFERENT_KEYS, listed))
    ports = {(path.nexus.initiator_port or "").casefold() for path in side.paths} - {""}
    for each in facts.registrations:
        if each.nexus in (*own, *left) or each.key not in keys or each.maybe_local:
            continue
        if (each.initiator_port or "").casefold() in ports:
            # Only ALL_TG_PT, SPEC_I_PT or a path that is gone registers there.
            text = f"{each.nexus} has key {each.key:#x}, registered from our port {side.name}"
            reasons.append(Reason(Obstacle.BEYOND_PATHS, text))
        else:
            text = f"{each.nexus} has key {each.key:#x} too"
            reasons.append(Reason(Obstacle.SHARED_KEY, text))
    reasons += _perhaps_ours(facts, own)
    reasons += [
        Reason(Obstacle.SHARED_KEY, f"key {key:#x} is on one more nexus, which is not known")
        for key in facts.unplaced
        if key in keys
    ]
    return reasons


def _session_reasons(side: Side, facts: Facts, own: dict[Nexus, Registered]) -> list[Reason]:
    """Registered sessions that the target may take for ours: every destination refuses then."""
    if profile_of(facts.target).mixes_sessions is False:
        return []
    return [
        Reason(
            Obstacle.OTHER_SESSION,
            f"{each.nexus} has key {each.key:#x}, and this target may take the session for "
            f"{path.nexus.nexus}, which is another one of that initiator",
        )
        for each in facts.registrations
        for path in side.paths
        if each.nexus not in own
        and not each.maybe_local
        and is_other_session(each.initiator_port, each.relative_target_port, path.nexus)
    ]


def _perhaps_ours(facts: Facts, own: dict[Nexus, Registered]) -> list[Reason]:
    """Registrations of which nobody can say that they are not this side's."""
    reasons = [
        Reason(Obstacle.IN_DOUBT, f"{each.nexus} has key {each.key:#x}, and may be one of ours")
        for each in facts.registrations
        if each.maybe_local and each.nexus not in own
    ]
    ours = {each.key for each in own.values()}
    reasons += [
        Reason(Obstacle.IN_DOUBT, f"key {key:#x} is on a nexus that is not known")
        for key in facts.unplaced
        if key not in ours
    ]
    return reasons


def _user_reasons(
    own: dict[Nexus, Registered], asked: Sender | None, users: Iterable[Sender]
) -> list[Reason]:
    registrants = {each.by for each in own.values() if each.by is not None}
    main = asked or next(iter(sorted(registrants, key=lambda user: user.pid)), None)
    if main is None:
        return []
    others = {
        user.text if user.text != main.text else f"another {user.text} [{user.pid}]": user
        for user in (*registrants, *users)
        if not _same(user, main)
    }
    return [
        Reason(
            Obstacle.OTHER_USER,
            f"{text} changed reservations on the same nexus, which is to move with {main.text}"
            + (_WHOSE if others[text].comm == HELPER else ""),
        )
        for text in sorted(others)
    ]


_WHOSE: Final = (
    "; for whom it acts is known only of a helper in its guest's control group (libvirt's "
    "managed='yes'): name the helper with --pid to move what it did"
)


def _same(one: Sender, other: Sender) -> bool:
    """Guests are told apart by UUID and name; programs of the host run once for each command.

    A QEMU without either stays for its guest's life, and is told apart by its process.  A
    qemu-pr-helper is neither: it stays, and acts for the guests that ask it.
    """
    if one.pid and (_same_process(one, other) or one.pid in other.helpers):
        return True
    if HELPER in (one.comm, other.comm):
        return False
    if one.uuid and other.uuid:
        return one.uuid == other.uuid
    if one.guest or other.guest:
        return one.guest == other.guest
    return one.comm == other.comm and not is_qemu(one.comm)


def _same_process(one: Sender, other: Sender) -> bool:
    """The kernel gives a number again."""
    known = one.start_ns and other.start_ns
    return one.pid == other.pid and (not known or same_start(one.start_ns, other.start_ns))


def _notes(
    side: Side,
    facts: Facts,
    own: dict[Nexus, Registered],
    *,
    single: bool,
    hands_over: bool,
) -> tuple[str, ...]:
    notes = [
        f"{path.nexus.nexus} ({path.node}) "
        + ("takes no commands" if not path.usable else "is not registered")
        for path in side.paths
        if path.nexus.nexus not in own
    ]
    observed = any(each.source == "observed" for each in own.values())
    if facts.aptpl is None and not facts.capable and observed:
        notes.append(
            "the target has not said whether registrations outlive a power loss (REPORT "
            "CAPABILITIES), and the agent has not seen it: save with --aptpl yes or no, or "
            "prepare may be in doubt"
        )
    if single and not hands_over:
        notes.append(
            "this target is not known to hand a reservation over by PREEMPT: the source releases "
            "it in the pause (prtrace release), and the destination reserves (load --released)"
        )
    if single and facts.type is not None and facts.type.single_nexus and len(side.paths) > 1:
        notes.append(
            f"{facts.type.title}: only the path that holds the reservation can write, "
            "registered or not"
        )
    if facts.type is not None and profile_of(facts.target).mixes_sessions is not False:
        notes += [
            f"{one.nexus} and {two.nexus} are sessions of one initiator at one target port, which "
            "this target may take for one another: it may refuse what one of them writes"
            for one, two in itertools.combinations((path.nexus for path in side.paths), 2)
            if is_other_session(one.initiator_port, one.relative_target_port, two)
        ]
    return tuple(notes)


def _would(key: int, kind: ReservationType | None, hands_over: bool) -> tuple[str, ...]:
    steps = [f"prepare: register key {key:#x} on the destination's paths, beside the source"]
    if kind is None:
        steps.append("load: look, and send nothing")
    elif hands_over:
        steps.append(f"load: take the {kind.title} reservation over by PREEMPT")
    else:
        steps += [
            f"release: release the {kind.title} reservation on the source",
            "load: reserve on the destination",
        ]
    return (*steps, f"finish: take key {key:#x} away from the source's paths")
