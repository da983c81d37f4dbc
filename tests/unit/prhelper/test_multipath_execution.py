"""A guest's commands on a map of two paths, explored: a peer's fence and a fault at every place.

Device is what SPC says of the commands that are sent here; its answers are those of a path that
works, of one that does not, and of one on which the answer is lost.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count, product

import pytest

from prtrace.linux.reader import ReportedRegistration
from prtrace.linux.sgio import Reply
from prtrace.prhelper import multipath_execution
from prtrace.prhelper.descriptor import Node
from prtrace.prhelper.guard import Effect, outcome_of
from prtrace.prhelper.multipath_execution import MapExecution, Whose, _Path, whose
from prtrace.prhelper.protocol import Request
from prtrace.scsi.codes import OutCode
from prtrace.scsi.transportid import FcPort, IscsiPort

PATHS = ("1:0:0:0", "2:0:0:0")


class UnknownToSysfs(Node):
    """The map of an exploration, which would ask sysfs for it a hundred thousand times."""

    lu = ""


NODE = UnknownToSysfs("253:0", True, True, PATHS, ("a key",))
PEER, KEY, NEW = 0xB, 0xA, 0xC
GOOD, CONFLICT = Reply(0, 0, 0, b"", b"", 0), Reply(0x18, 0, 0, b"", b"", 0)
ATTENTION = Reply(2, 0, 0, bytes.fromhex("700006000000000a000000002a0500000000"), b"", 0)
NOT_SENT, LOST = Reply(0, 1, 0, b"", b"", 0), Reply(0, 3, 0, b"", b"", 0)
READ = Request(bytes((0x5E, 0, 0, 0, 0, 0, 0, 32, 0)) + bytes(7), b"", 8192)


def out(action: int, key: int, sa_key: int = 0) -> Request:
    cdb = bytes((0x5F, action, 0, 0, 0, 0, 0, 0, 24)) + bytes(7)
    return Request(cdb, key.to_bytes(8, "big") + sa_key.to_bytes(8, "big") + bytes(8))


@dataclass
class Device:
    """The unit.  happens: what befalls the n-th PERSISTENT RESERVE OUT: "fence", or a fault."""

    happens: dict[int, str] = field(default_factory=dict)
    dead: frozenset[str] = frozenset()
    silent: frozenset[str] = frozenset()
    """Paths that take commands, and nobody hears what became of them."""
    registered: dict[str, int] = field(default_factory=lambda: {"peer": PEER})
    holder: str = ""
    sent: int = 0
    changed: bool = False
    fenced: bool = False
    overwritten: list[int] = field(default_factory=list)
    attentions: set[str] = field(default_factory=set)

    @property
    def guest(self) -> dict[str, int]:
        return {path: key for path, key in self.registered.items() if path != "peer"}

    def fence(self) -> None:
        self.fenced = bool(self.guest)
        for path in self.guest:
            del self.registered[path]
            self.attentions.add(path)
        self.holder = ""

    def send(self, path: str, request: Request) -> Reply:
        if path in self.dead:
            return NOT_SENT
        if path in self.silent:
            return LOST
        if request.cdb[0] == 0x5E:
            return Reply(0, 0, 0, b"", bytes(8), 0)
        self.sent += 1
        what = self.happens.get(self.sent, "")
        if what == "fence":
            self.fence()
        if what == "not sent":
            return NOT_SENT
        if path in self.attentions:
            self.attentions.discard(path)
            return ATTENTION
        if what == "lost before":
            return LOST
        before = dict(self.registered), self.holder
        accepted = self.carry_out(path, request)
        self.changed = self.changed or (dict(self.registered), self.holder) != before
        return LOST if what == "lost after" else GOOD if accepted else CONFLICT

    def carry_out(self, path: str, request: Request) -> bool:
        action = request.cdb[1] & 0x1F
        key = int.from_bytes(request.parameter[:8], "big")
        sa_key = int.from_bytes(request.parameter[8:16], "big")
        there = self.registered.get(path, 0)
        registering = action in (OutCode.REGISTER, OutCode.REGISTER_AND_IGNORE)
        if action != OutCode.REGISTER_AND_IGNORE and there != key:
            return False
        if not registering and not there:
            return False
        if registering:
            if there and there not in (KEY, NEW):
                self.overwritten.append(there)
            self.registered[path] = sa_key
            if not sa_key:
                del self.registered[path]
                self.holder = "" if self.holder == path else self.holder
        elif action == OutCode.RESERVE:
            if self.holder not in ("", path):
                return False
            self.holder = path
        elif action == OutCode.RELEASE:
            self.holder = "" if self.holder == path else self.holder
        elif action == OutCode.CLEAR:
            self.registered, self.holder = {}, ""
        else:
            kept = {path: there}
            others = {n: k for n, k in self.registered.items() if n != path and k != sa_key}
            self.registered = kept | (others if sa_key else {})
        return True


def execution(device: Device) -> MapExecution:
    names: dict[int, str] = {}

    def opened(node: Node) -> Iterator[_Path]:
        for nexus in node.nexuses:
            fd = os.open("/dev/null", os.O_RDONLY)
            names[fd] = nexus
            yield _Path(nexus, fd)

    made = MapExecution(lambda fd, request: device.send(names.get(fd, PATHS[0]), request), opened)
    # What READ FULL STATUS says takes a host's ports: see tests/proxy/test_failed_paths.
    made._whose = lambda *_: Whose.NOT_OURS  # type: ignore[method-assign]
    return made


REQUESTS = {
    "register": out(OutCode.REGISTER, 0, KEY),
    "new key": out(OutCode.REGISTER, KEY, NEW),
    "ignore": out(OutCode.REGISTER_AND_IGNORE, 0, KEY),
    "unregister": out(OutCode.REGISTER, KEY, 0),
    "reserve": out(OutCode.RESERVE, KEY),
    "release": out(OutCode.RELEASE, KEY),
    "preempt itself": out(OutCode.PREEMPT, KEY, KEY),
    "preempt the peer": out(OutCode.PREEMPT, KEY, PEER),
    "clear": out(OutCode.CLEAR, KEY),
}
REGISTERING = ("register", "new key", "ignore")
FAULTS = ("not sent", "lost before", "lost after")
DEAD = (frozenset[str](), frozenset(PATHS[:1]), frozenset(PATHS[1:]))


def explored(*befalls: str) -> int:
    """A registration, with a path dead or not, then any two commands; how many ways it went.

    befalls: what happens at one place after the other, the next one from there on.
    """
    ways = 0
    for dead, words in product(DEAD, product(REQUESTS, repeat=2)):
        place = 0
        while True:
            place += 1
            happens = {place + number: what for number, what in enumerate(befalls)}
            device = Device(dead=dead, happens=happens)
            told(device, ("register", *words))
            if device.sent < place:
                break
            ways += 1
    return ways


def explored_together(fault: str, words: int) -> int:
    """As explored(), with a fence at one place and a fault at any other, before it or behind."""
    ways = 0
    for dead, said in product(DEAD, product(REQUESTS, repeat=words)):
        for fence in count(1):
            for place in count(1):
                if place == fence:
                    continue
                device = Device(dead=dead, happens={place: fault, fence: "fence"})
                told(device, ("register", *said), faulty=True)
                ways += 1
                if device.sent < place:
                    break
            if device.sent < fence:
                break
    return ways


def told(device: Device, words: tuple[str, ...], *, faulty: bool = False) -> None:
    """Have a guest say these words, and look at each answer and at what it leaves.

    A registration that the guest itself has under way when it is fenced may come after the fence,
    as on one path.  faulty: on one path only, or with an answer that says that nobody knows.
    """
    guest = execution(device)
    fenced = False
    for word in words:
        fenced = fenced and word not in REGISTERING
        device.changed = device.fenced = False
        answer = guest.execute(REQUESTS[word], -1, NODE)
        effect = outcome_of(answer)
        if effect is Effect.NOTHING:
            assert not device.changed, "a guest that is told so relies on it"
        assert device.overwritten == []
        if device.fenced and word in REGISTERING and effect is Effect.DONE:
            assert faulty or len(device.guest) == len(PATHS)
        elif not (device.fenced and word in REGISTERING and faulty and effect is Effect.UNKNOWN):
            fenced = fenced or device.fenced
        if fenced:
            assert device.guest == {}, "what a peer has fenced is registered"
        device.dead = frozenset()


def test_a_fenced_guest_stays_fenced() -> None:
    assert explored("fence") > 1000


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_never_told_as_nothing(fault: str) -> None:
    assert explored(fault) > 1000


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fence_and_a_fault_together(fault: str) -> None:
    assert explored_together(fault, 1) > 500


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fence_and_a_fault_together_and_one_more_command(fault: str) -> None:
    assert explored_together(fault, 2) > 10_000


def test_the_exploration_of_both_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multipath_execution, "_TRIES", 1)
    with pytest.raises(AssertionError, match="is registered"):
        explored_together("lost before", 1)


@pytest.mark.parametrize(
    ("befalls", "method", "instead"),
    [
        ("fence", "_proves", lambda *_: True),
        ("fence", "_take_back", lambda *_: None),
        ("lost after", "_told", lambda _, response: response),
    ],
)
def test_the_exploration_can_fail(
    befalls: str, method: str, instead: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MapExecution, method, instead)
    with pytest.raises(AssertionError):
        explored(befalls)


def test_without_a_fault_every_path_has_what_the_guest_was_told() -> None:
    for words in product(REQUESTS, repeat=2):
        device = Device()
        guest = execution(device)
        for word in ("register", *words):
            answer = guest.execute(REQUESTS[word], -1, NODE)
            if word in REGISTERING and answer.status == 0:
                key = NEW if word == "new key" else KEY
                assert device.guest == dict.fromkeys(PATHS, key)


def test_reading_sends_nothing_else() -> None:
    """Not even where a path is owed something, and whoever reads has come since."""
    device = Device(dead=frozenset(PATHS[1:]))
    guest, newcomer = execution(device), execution(device)
    guest.execute(REQUESTS["register"], -1, NODE)
    device.dead, sent = frozenset(), device.sent
    device.registered = dict.fromkeys(PATHS, NEW)
    for each in (guest, newcomer):
        each.execute(READ, -1, NODE)
    assert device.sent == sent
    guest.execute(REQUESTS["reserve"], -1, NODE)
    assert device.guest == dict.fromkeys(PATHS, NEW), "another's registration was overwritten"


def test_what_is_owed_comes_with_a_command_that_proves_the_guest_registered() -> None:
    device = Device(dead=frozenset(PATHS[1:]))
    guest = execution(device)
    guest.execute(REQUESTS["register"], -1, NODE)
    assert device.guest == {PATHS[0]: KEY}
    device.dead = frozenset()
    assert guest.execute(REQUESTS["reserve"], -1, NODE).status == 0
    assert device.guest == dict.fromkeys(PATHS, KEY)


def test_a_path_without_the_registration_says_nothing_of_a_fence() -> None:
    device = Device(dead=frozenset(PATHS[1:]))
    guest = execution(device)
    guest.execute(REQUESTS["register"], -1, NODE)
    device.dead = frozenset(PATHS[:1])
    answer = guest.execute(REQUESTS["reserve"], -1, NODE)
    assert (answer.status, answer.sense[2]) == (2, 0xB)


def test_what_could_not_be_taken_back_is_taken_back_later() -> None:
    """The fence, and then a path that does not answer while it is to be unregistered."""
    device = Device(dead=frozenset(PATHS[1:]))
    guest = execution(device)
    guest.execute(REQUESTS["register"], -1, NODE)
    device.dead = frozenset()
    # RESERVE, proof, REGISTER on the other path, the attention, proof, three times taken back.
    device.happens = {device.sent + 3: "fence"} | {
        device.sent + number: "lost before" for number in (6, 7, 8)
    }
    guest.execute(REQUESTS["reserve"], -1, NODE)
    assert device.guest == {PATHS[1]: KEY}
    guest.execute(REQUESTS["reserve"], -1, NODE)
    assert device.guest == {}


def test_a_fenced_guest_hears_of_the_fence_and_not_of_a_path_that_failed_before() -> None:
    device = Device(silent=frozenset(PATHS[:1]))
    guest = execution(device)
    assert guest.execute(REQUESTS["register"], -1, NODE).status == 0
    assert device.guest == {PATHS[1]: KEY}
    device.fence()
    device.attentions.clear()
    for request in (out(OutCode.REGISTER, KEY, NEW), REQUESTS["release"], REQUESTS["reserve"]):
        answer = guest.execute(request, -1, NODE)
        assert (answer.status, outcome_of(answer)) == (0x18, Effect.NOTHING)


def test_a_unit_attention_is_the_guests_though_another_path_lost_the_command() -> None:
    """It may tell of a fence, and the device tells it once."""
    device = Device(silent=frozenset(PATHS[:1]), attentions=set(PATHS[1:]))
    guest = execution(device)
    answer = guest.execute(REQUESTS["ignore"], -1, NODE)
    assert (answer.status, answer.sense[2] & 0xF, answer.unsure) == (2, 6, True)
    assert guest.execute(REQUESTS["ignore"], -1, NODE).status == 0


def test_a_path_that_failed_before_and_is_well_is_asked() -> None:
    """The one that has the registration, and the other one says that it has none."""
    device = Device()
    guest = execution(device)
    guest.execute(REQUESTS["register"], -1, NODE)
    device.silent = frozenset(PATHS)
    guest.execute(REQUESTS["reserve"], -1, NODE)
    device.silent = frozenset()
    del device.registered[PATHS[0]]
    for word in ("reserve", "release", "new key"):
        assert guest.execute(REQUESTS[word], -1, NODE).status == 0
    assert device.guest == dict.fromkeys(PATHS, NEW)


def test_a_client_with_many_keys_makes_few_commands() -> None:
    device = Device(silent=frozenset(PATHS[1:]))
    guest = execution(device)
    for number in range(100):
        key = KEY if number % 2 else NEW
        assert guest.execute(out(OutCode.REGISTER_AND_IGNORE, 0, key + (number << 8)), -1, NODE)
    device.silent, sent = frozenset(), device.sent
    device.registered[PATHS[1]] = KEY
    answer = guest.execute(out(OutCode.REGISTER, device.registered[PATHS[0]], KEY), -1, NODE)
    assert (answer.status, device.sent - sent < 20) == (0, True)
    assert device.guest == dict.fromkeys(PATHS, KEY)


@pytest.mark.parametrize("word", ["ignore", "new key"])
@pytest.mark.parametrize("newcomer", [False, True])
def test_a_path_that_dies_before_the_proof_takes_no_reservation_along(
    word: str, newcomer: bool
) -> None:
    """The other path holds it; a client that has connected anew knows nothing of that."""
    device = Device()
    guest = execution(device)
    guest.execute(REQUESTS["register"], -1, NODE)
    device.holder = PATHS[1]
    guest = execution(device) if newcomer else guest
    device.happens = {device.sent + 3: "not sent"}
    answer = guest.execute(REQUESTS[word], -1, NODE)
    assert outcome_of(answer) is Effect.UNKNOWN
    assert device.holder == PATHS[1]
    assert guest.execute(REQUESTS["ignore"], -1, NODE).status == 0
    assert (device.holder, device.guest) == (PATHS[1], dict.fromkeys(PATHS, KEY))


LATER = {
    "another address": Node("253:0", True, True, (PATHS[0], "5:0:0:0"), ("a key",)),
    "another device at the address": replace(NODE, keys=(f"{PATHS[0]}#1", f"{PATHS[1]}#3")),
}
BEFORE = replace(NODE, keys=(f"{PATHS[0]}#1", f"{PATHS[1]}#2"))
"""Each scsi_device's directory in sysfs has an inode of its own."""


@pytest.mark.parametrize("later", LATER.values(), ids=LATER)
def test_a_path_that_comes_after_the_registration_gets_it_with_the_next_command(
    later: Node,
) -> None:
    """A session that logs in anew; I/O over it would conflict, which no multipath tries again."""
    device = Device()
    guest = execution(device)
    guest.execute(REQUESTS["register"], -1, BEFORE)
    del device.registered[PATHS[1]]
    for _ in range(2):
        assert guest.execute(REQUESTS["reserve"], -1, later).status == 0
        assert device.guest == dict.fromkeys(later.nexuses, KEY)
    sent = device.sent
    guest.execute(REQUESTS["reserve"], -1, later)
    assert device.sent == sent + 1, "what is paid is not paid again"


@pytest.mark.parametrize("later", LATER.values(), ids=LATER)
@pytest.mark.parametrize("word", REQUESTS)
def test_a_guest_that_is_fenced_while_a_path_comes_stays_fenced(later: Node, word: str) -> None:
    for place in count(1):
        device = Device()
        guest = execution(device)
        guest.execute(REQUESTS["register"], -1, BEFORE)
        del device.registered[PATHS[1]]
        device.happens = {device.sent + place: "fence"}
        sent = device.sent + place
        answer = guest.execute(REQUESTS[word], -1, later)
        if device.sent < sent:
            break
        assert device.overwritten == []
        if word not in REGISTERING or answer.status:
            assert device.guest == {}, place
    assert place > 1


def test_the_registration_of_somebody_else_on_a_path_that_comes_is_left_alone() -> None:
    device = Device()
    guest = execution(device)
    guest.execute(REQUESTS["register"], -1, BEFORE)
    device.registered["5:0:0:0"] = PEER
    assert guest.execute(REQUESTS["reserve"], -1, LATER["another address"]).status == 0
    assert (device.registered["5:0:0:0"], device.overwritten) == (PEER, [])


@pytest.mark.parametrize(
    ("said", "release", "reserve"),
    [
        # Of a path that does not answer nobody knows whether it holds.
        (Whose.NOT_TOLD, Effect.UNKNOWN, Effect.UNKNOWN),
        (Whose.OURS, Effect.UNKNOWN, Effect.DONE),
        (Whose.NOT_OURS, Effect.DONE, Effect.NOTHING),
    ],
)
def test_a_reservation_that_a_path_without_answer_may_hold(
    said: Whose, release: Effect, reserve: Effect
) -> None:
    for word, effect in (("release", release), ("reserve", reserve)):
        device = Device(dead=frozenset(PATHS[1:]), holder=PATHS[1])
        device.registered |= dict.fromkeys(PATHS, KEY)
        guest = execution(device)
        guest._whose = lambda *_: said  # type: ignore[method-assign]
        assert outcome_of(guest.execute(REQUESTS[word], -1, NODE)) is effect


def test_a_conflict_that_every_path_tells_is_a_conflict() -> None:
    """One that holds it would have accepted the same RESERVE."""
    device = Device(holder="peer")
    device.registered |= dict.fromkeys(PATHS, KEY)
    guest = execution(device)
    guest._whose = lambda *_: Whose.NOT_TOLD  # type: ignore[method-assign]
    assert guest.execute(REQUESTS["reserve"], -1, NODE).status == 0x18


ISCSI = b"iqn.2026-01.example:A"


@pytest.mark.parametrize(
    ("port", "relative", "mine", "here", "expected"),
    [
        (IscsiPort(ISCSI, 1), 1, "iqn.2026-01.example:a,i,0x000000000001", 1, Whose.OURS),
        (IscsiPort(ISCSI, 1), 1, "iqn.2026-01.example:a,i,0x000000000001", 2, Whose.NOT_OURS),
        (IscsiPort(ISCSI, 1), 1, "iqn.2026-01.example:a,i,0x000000000002", 1, Whose.NOT_OURS),
        (IscsiPort(ISCSI, 1), 1, "iqn.2026-01.example:b,i,0x000000000001", 1, Whose.NOT_OURS),
        (IscsiPort(ISCSI), 1, "iqn.2026-01.example:a,i,0x000000000001", 1, Whose.NOT_TOLD),
        (IscsiPort(ISCSI), 1, "iqn.2026-01.example:a", 1, Whose.NOT_TOLD),
        (IscsiPort(ISCSI, 1), 1, "iqn.2026-01.example:a", 1, Whose.NOT_TOLD),
        (IscsiPort(ISCSI), 1, "iqn.2026-01.example:ab,i,0x000000000001", 1, Whose.NOT_OURS),
        (FcPort(0x10), 1, "naa.0000000000000010", 1, Whose.OURS),
        (FcPort(0x10), None, "naa.0000000000000010", 1, Whose.NOT_TOLD),
        (FcPort(0x10), 1, "naa.0000000000000010", None, Whose.NOT_TOLD),
        (FcPort(0x10), 1, "naa.0000000000000011", 1, Whose.NOT_OURS),
        (FcPort(0x10), 1, None, 1, Whose.NOT_TOLD),
        (FcPort(0x10), 1, None, 2, Whose.NOT_OURS),
        (None, None, "naa.0000000000000010", 1, Whose.NOT_TOLD),
    ],
)
def test_whose_a_reservation_is(
    port: IscsiPort | FcPort | None,
    relative: int | None,
    mine: str | None,
    here: int | None,
    expected: Whose,
) -> None:
    holder = ReportedRegistration(KEY, port, relative, holder=True)
    assert whose([holder], [(mine, here)]) is expected
    if port is not None:
        assert whose([holder], [("naa.99", 1), (mine, here)]) is expected


def test_a_path_that_sysfs_does_not_describe_any_more_may_hold() -> None:
    assert whose([ReportedRegistration(KEY, FcPort(1), 1)], [None]) is Whose.NOT_TOLD
