"""The handover, explored: every interleaving keeps the invariants, and every guard is needed.

The settings of CI are complete for their bounds; the slow run has larger bounds.  Run this file
with -s to see how many states and transitions each has.
"""

from dataclasses import replace

import pytest
from explorer import Explorer, Setting
from mutants import mutants

from prtrace.model import ReservationType
from prtrace.move import machine
from prtrace.move.machine import Row
from prtrace.move.sight import Held
from prtrace.move.table import Cell, Do, Verb
from prtrace.move.word import Word

R = ReservationType
HELD = [Setting(kind=kind) for kind in R]
FOLLOWS = [Setting(kind=kind, holder="P", paths=2) for kind in (R.WE, R.EA, R.WERO, R.EARO)]
PLAIN = Setting()
FOLLOWER = Setting(holder="P")
TWO = Setting(paths=2)

SETTINGS = [
    *HELD,
    *FOLLOWS,
    Setting(kind=None),
    Setting(kind=None, paths=2, character="SCST"),
    Setting(kind=R.WEAR, paths=2),
    TWO,
    *(Setting(character=name) for name in ("SCST", "3PAR-like", "SPDK", "hostile")),
    *(Setting(character=name, holder="P") for name in ("SPDK", "hostile")),
    *(Setting(character=name, kind=R.EAAR, paths=2) for name in ("SPDK", "hostile")),
    Setting(character="SPDK", flow="release"),
    Setting(character="hostile", flow="release", paths=2),
    Setting(character="SPDK", flow="release", peers=("reserve",)),
    Setting(character="SPDK", flow="release", forgets=True, extra=0),
    # Peers.
    Setting(peers=("read first",)),
    Setting(peers=("clear",)),
    Setting(peers=("register",), crashes=2),
    Setting(peers=("same key", "preempt"), extra=0),
    Setting(peers=("read first", "preempt"), holder="P"),
    Setting(peers=("read first",), character="SPDK", holder="P", paths=2),
    Setting(peers=("retype",), holder="P", crashes=0),
    # The guest's own commands while it runs.
    *(Setting(guest=(what,), holder=holder)
      for what in ("rekey", "leave", "preempt itself") for holder in "SP"),
    Setting(guest=("rekey",), character="SPDK", crashes=0, extra=0),
    Setting(guest=("release",), peers=("reserve",)),
    Setting(guest=("reserve",), kind=None),
    Setting(paths=2, peers=("preempt", "there, the key"), extra=0, crashes=2),
    # More faults.
    Setting(crashes=2, extra=0),
    Setting(crashes=2, holder="P", paths=2),
    Setting(lost=1, extra=0),
    Setting(lost=1, paths=2, crashes=0, extra=0),
    Setting(lost=2, holder="P"),
    *(Setting(lost=2, paths=2, flow=flow, crashes=0, extra=0, peers=())
      for flow in ("plain", "late")),
    Setting(settles=True, extra=0),
    Setting(settles=True, extra=0, flow="counted", holder="P"),
    # Other orders.
    *(Setting(flow="late", kind=kind) for kind in (R.WERO, R.EARO)),
    Setting(flow="late", paths=2),
    Setting(flow="late", paths=2, holder="P"),
    Setting(flow="late", kind=None),
    Setting(flow="late", guest=("rekey", "release")),
    Setting(flow="counted"),
    Setting(flow="counted", paths=2, extra=0),
    Setting(flow="counted", holder="P", paths=2),
    Setting(flow="counted", kind=None, character="SCST"),
    Setting(flow="give up"),
    Setting(flow="give up", holder="P", paths=2),
    Setting(off=True, extra=0),
    Setting(off=True, holder="P", paths=2),
    Setting(off=True, holder="P", character="SPDK", crashes=0, extra=0),
    Setting(two=True, holder="P", crashes=0, extra=0, peers=()),
    Setting(two=True, crashes=0, extra=0, peers=()),
    Setting(old=True, peers=()),
    Setting(running=True, guest=("release",)),
    # The destination takes away what the source left.
    Setting(evicts=True, peers=("there, the key",), extra=0),
    Setting(evicts=True, peers=("there, the key", "there, the key", "preempt"),
            paths=2, extra=0),
    Setting(evicts=True, peers=("there, the key", "same key"), kind=R.WE, character="SCST",
            crashes=0, extra=0),
    Setting(evicts=True, peers=("there, the key",), guest=("leave",), extra=0),
    Setting(evicts=True, peers=("there, the key",), holder="P", extra=0),
    Setting(evicts=True, peers=("there, the key",), flow="late", extra=0),
    Setting(evicts=True, peers=("there, the key",), character="SPDK", flow="release", extra=0),
    # What nobody should do.
    Setting(early=True),
    Setting(early=True, flow="late"),
    Setting(flow="late", careless=True),
    Setting(flow="late", careless=True, holder="P", guest=("rekey",)),
    Setting(flow="release", extra=0),
    Setting(flow="release", early=True, extra=0),
    Setting(flow="release", character="SPDK", early=True, apart=True),
    Setting(flow="release", character="hostile", early=True, apart=True, paths=2, extra=0),
    Setting(flow="release", character="SPDK", early=True, apart=True, crashes=2, extra=0),
    Setting(flow="release", character="SPDK", early=True, apart=True, peers=("reserve",), extra=0),
    Setting(flow="release", guest=("release", "rekey"), extra=0),
    Setting(flow="release", character="SPDK", guest=("release",), crashes=0, peers=()),
    Setting(flow="release", peers=("here, takes",), extra=0),
    Setting(flow="late", character="SPDK", extra=0),
    Setting(flow="late", careless=True, paths=2, holder="P"),
    Setting(flow="late", careless=True, guest=("rekey",), holds_back=False, peers=(),
            extra=0),
    Setting(flow="late", paths=2, peers=("preempt", "there, the key"), extra=0),
    Setting(flow="release", character="SPDK", off=True, extra=0),
    Setting(peers=("here, another key",), holder="P"),
    Setting(peers=("here, another key",), flow="counted", extra=0),
    Setting(peers=("here, the key", "preempt"), holder="P", extra=0),
    Setting(peers=("here, takes",), extra=0),
    Setting(peers=("here, another key",), flow="late", careless=True),
    Setting(peers=("here, the key",), flow="late", careless=True),
    # An earlier move left the key, and its finish comes late.
    *(Setting(left=left, holder=holder, peers=("preempt",), extra=0)
      for left in ("D1", "L1") for holder in "SP"),
    Setting(left="L1", kind=None, paths=2, extra=0),
    Setting(left="L1", guest=("leave",), extra=0),
    Setting(left="L1", flow="counted", holder="P", extra=0),
    Setting(left="L1", character="SPDK", flow="release", extra=0),
    Setting(left="E1", two=True, holder="P", crashes=0, extra=0, peers=()),
    Setting(left="D1", flow="counted", holder="P", crashes=0, extra=0),
    Setting(left="D1", flow="late", careless=True, crashes=0, extra=0, peers=()),
    Setting(blind=True, left="L1", flow="late", holder="P", crashes=0, extra=0),
    # A path of one side goes away for ever.
    Setting(vanishes="S", paths=2, extra=0),
    Setting(vanishes="S", paths=2, holder="P"),
    Setting(vanishes="S", paths=2, kind=R.WEAR, peers=()),
    Setting(vanishes="S", paths=2, character="SPDK", flow="release", extra=0),
    Setting(vanishes="S", paths=2, holder="P", flow="give up", extra=0),
    Setting(vanishes="D", paths=2, holder="P", crashes=0, extra=0),
    Setting(vanishes="D", paths=2, holder="P", lost=4, crashes=0, extra=0, peers=()),
    Setting(vanishes="D", paths=2, flow="late", crashes=0, extra=0, peers=()),
    # The target lists two nexuses by one name.
    *(Setting(peers=("twin", "preempt"), holder=holder, extra=0) for holder in "SP"),
    Setting(peers=("twin", "twin leaves"), holder="P", crashes=0, extra=0),
    Setting(peers=("twin",), character="SPDK", flow="release", extra=0),
    Setting(peers=("twin",), flow="late", extra=0),
    Setting(peers=("twin", "there, the key"), evicts=True, crashes=0, extra=0),
    # Sessions of one initiator at one target port, which LIO mixes.
    *(Setting(alike=(("S1", "D1"),), holder=holder) for holder in "SP"),
    Setting(alike=(("S1", "D1"),), kind=R.WEAR),
    Setting(alike=(("S1", "D1"),), near=True),
    Setting(alike=(("S1", "D1"),), flow="counted", holder="P"),
    Setting(alike=(("S1", "X1"),), holder="P", extra=0),
    Setting(alike=(("S1", "X1"),), peers=("preempt", "neighbour leaves"), extra=0),
    *(Setting(alike=(("D1", "X1"),), holder=holder, peers=("preempt", "neighbour leaves"),
              extra=0)
      for holder in "SP"),
    *(Setting(alike=((side, "X1"),), holder=holder, peers=("preempt", "neighbour"), extra=0)
      for side in ("S1", "D1") for holder in "SP"),
    Setting(alike=(("D1", "X1"),), peers=("preempt", "neighbour"), near=True, extra=0),
    *(Setting(alike=(("S1", "S2"), ("D1", "D2")), paths=2, holder=holder, extra=0)
      for holder in "SP"),
    Setting(alike=(("S1", "S2"), ("D1", "D2")), paths=2, kind=R.WEAR, extra=0),
    # Targets without READ FULL STATUS.
    Setting(blind=True, extra=0),
    Setting(blind=True, holder="P"),
    Setting(blind=True, lost=1, crashes=0, extra=0),
    Setting(blind=True, flow="counted", crashes=0, extra=0),
    Setting(blind=True, evicts=True, peers=("there, the key",), crashes=0, extra=0),
    Setting(blind=True, kind=R.WEAR, paths=2, extra=0),
    Setting(blind=True, kind=None, character="SCST"),
    Setting(blind=True, flow="late", extra=0),
    Setting(blind=True, character="SPDK", flow="release", extra=0),
    Setting(blind=True, left="L1", holder="P", guest=("leave",), extra=0),
    Setting(blind=True, left="L1", extra=0),
    *(Setting(blind=True, vanishes=side, paths=2, holder="P", crashes=0, extra=0)
      for side in "SD"),
]  # fmt: skip

LARGER = [
    Setting(crashes=2, extra=2),
    Setting(crashes=2, paths=2),
    Setting(crashes=1, lost=1, paths=2),
    Setting(peers=("same key", "preempt", "read first")),
    Setting(peers=("preempt", "clear"), paths=2, holder="P", crashes=2),
    Setting(flow="late", paths=2, crashes=2, lost=1),
    Setting(flow="counted", paths=2, crashes=2),
    Setting(off=True, paths=2),
    Setting(two=True, holder="P", crashes=1, extra=0, peers=("preempt",)),
    Setting(old=True, extra=2, crashes=1),
    Setting(blind=True, character="SCST", paths=2),
    Setting(blind=True, flow="late", paths=2),
    Setting(character="SPDK", flow="release", paths=2, crashes=2),
    Setting(guest=("rekey", "leave"), paths=2),
]


def explored(setting):
    found = Explorer(setting).explore()
    print(found)
    assert found.story is None, str(found)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_every_interleaving_keeps_the_invariants(setting):
    explored(setting)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("setting", LARGER, ids=str)
def test_larger_bounds(setting):
    explored(setting)


class Patch:
    """Changes of the machine for one test."""

    def __init__(self, monkeypatch):
        self.monkeypatch = monkeypatch

    def cell(self, row, verb, cell):
        """Another cell; None takes it away."""
        table = {each: dict(cells) for each, cells in machine.TABLE.items()}
        if cell is None:
            del table[row][verb]
        else:
            table[row][verb] = cell
        self.monkeypatch.setattr(machine, "TABLE", table)

    def condition(self, row, fits):
        for name in ("_DESTINATION", "_SOURCE"):
            rows = tuple(
                (each, fits if each is row else known) for each, known in getattr(machine, name)
            )
            self.monkeypatch.setattr(machine, name, rows)

    def sight(self, seen):
        """Another reading than the device's, made from it by seen(view, reading)."""
        real = machine.sight_of
        self.monkeypatch.setattr(
            machine, "sight_of", lambda view, reading: real(view, seen(view, reading))
        )


def _end(word):
    return Cell(Do.END, word)


# What the first forms of this protocol did, by the number that the counterexample has in
# docs/migration.md, and a setting in which the explorer finds it.
def p1(patch):
    """The abort registers a follower's source again."""
    patch.cell(Row.S_GONE, Verb.RECLAIM, Cell(Do.REGISTER_ONE))
    patch.condition(Row.QUESTION_BESIDE, lambda _seen: False)


def p3(patch):
    """Commit does not look whether the source still has the key."""
    patch.cell(Row.REKEYED, Verb.COMMIT, _end(Word.COMMITTED))


def p4(patch):
    """A load that was not prepared registers whatever PRGENERATION is."""
    patch.condition(Row.FRESH_COUNTED, lambda s: s.sight.there and not s.here)
    patch.condition(Row.COUNT_WRONG, lambda _seen: False)


def p7(patch):
    """The abort sends commands from the source while the guest runs there."""
    patch.condition(Row.RUNS, lambda _seen: False)


def p11(patch):
    """The role is the file's, not the look's."""
    patch.condition(Row.S_HOLDS, lambda s: s.both and s.plan.held)


def p12(patch):
    """The abort lets a follower run although the destination has the key, too."""
    patch.cell(Row.BESIDE, Verb.RECLAIM, _end(Word.RESTORED))


def p13(patch):
    """On a blind target commit takes the holder's key, when both sides have it, for its own."""
    patch.condition(
        Row.D_HOLDS,
        lambda s: (
            s.verified
            and (s.sight.held is Held.HERE or (s.sight.blind and s.plan.verb is Verb.COMMIT))
        ),
    )


def p14(patch):
    """After the PREEMPT commit takes the source's key for proof: an abort may have made it."""
    patch.condition(Row.NO_PROOF, lambda _seen: False)


def p15(patch):
    """A load that was not told of the release lets the guest run without its reservation."""
    patch.condition(Row.UNRELEASED, lambda _seen: False)


def p16(patch):
    """After a killed abort only what it registered itself is in question on the source."""
    gone = "code machine._decide: without if killed or lines.absent"
    (mutant,) = [each for each in mutants() if each.name == gone]
    for change in mutant.changes:
        patch.monkeypatch.setattr(*change)


def p17(patch):
    """The source takes a key where an earlier move left one for what that move left."""
    patch.sight(lambda view, reading: replace(reading, others=tuple(
        each for each in reading.others if not view.source or each.nexus not in view.leftovers
    )))  # fmt: skip
    patch.condition(Row.LEFT_HERE, lambda _seen: False)


def p18(patch):
    """Where an earlier move left the key may be a destination of this one."""
    patch.condition(Row.LEFT_HERE, lambda _seen: False)


def p20(patch):
    """Of two registrations that are listed by one name the first counts."""
    patch.sight(lambda _view, reading: replace(reading, repeated=()))


def p22(patch):
    """Nobody asks whether the target takes sessions of one initiator for one another."""
    patch.sight(lambda _view, reading: replace(reading, mixed=()))


def nothing(_patch):
    """The machine is as it is; the setting does what is wrong."""


COUNTEREXAMPLES = {
    "P1": (p1, replace(FOLLOWER, off=False), {}),
    "P2": (nothing, Setting(paths=2, crashes=1), {"journal": False}),
    "P3": (p3, Setting(guest=("rekey",), holder="P"), {}),
    "P3, late": (
        nothing,
        Setting(flow="late", guest=("rekey",), holds_back=False, holder="P"),
        {},
    ),
    "P4": (p4, Setting(flow="counted"), {}),
    "P5": (nothing, Setting(flow="late", paths=2, suspends=False), {}),
    "P6": (nothing, Setting(flow="late", guest=("release",), holds_back=False, peers=()), {}),
    "P7": (p7, Setting(running=True, guest=("release", "rekey")), {}),
    "P8": (nothing, Setting(character="SPDK", peers=()), {"hands_over": True}),
    "P9": (nothing, Setting(old=True, peers=()), {"admit": lambda *_: None}),
    "P11": (p11, Setting(guest=("release",), peers=()), {}),
    "P12": (p12, Setting(flow="give up", holder="P", peers=()), {}),
    "P13": (p13, Setting(blind=True, peers=()), {}),
    "P14": (p14, TWO, {}),
    "P15": (p15, Setting(character="SPDK", flow="release", forgets=True, peers=()), {}),
    "P16": (
        p16,
        Setting(paths=2, peers=("preempt", "there, the key"), extra=0, crashes=2),
        {},
    ),
    "P17": (p17, Setting(left="D1", peers=(), extra=0), {}),
    "P18": (p18, Setting(left="E1", two=True, holder="P", crashes=0, extra=0, peers=()), {}),
    "P19": (
        nothing,
        Setting(vanishes="S", paths=2, holder="P", peers=(), extra=0),
        {"knows_gone": False},
    ),
    "P20": (p20, Setting(peers=("twin",), extra=0), {}),
    "P21": (nothing, Setting(character="SPDK", flow="release", early=True, extra=0), {}),
    "P22": (p22, Setting(alike=(("S1", "D1"),), holder="P", extra=0), {}),
    "P22, finish": (p22, Setting(alike=(("S1", "D1"),), holder="P", peers=(), extra=0), {}),
    "P22, rollback": (
        p22,
        Setting(alike=(("S1", "X1"),), peers=("neighbour leaves",), extra=0),
        {},
    ),
    "P22, another guest": (p22, Setting(alike=(("D1", "X1"),), peers=(), extra=0), {}),
}


@pytest.mark.parametrize("name", COUNTEREXAMPLES)
def test_counterexample_is_found(name, monkeypatch):
    change, setting, given = COUNTEREXAMPLES[name]
    change(Patch(monkeypatch))
    found = Explorer(setting, **given).explore()
    print(name, change.__doc__, found, sep="\n")
    assert found.story is not None


@pytest.mark.parametrize("holder", ["S", "P"])
def test_the_source_by_itself_sees_through_a_key_that_was_left(holder, monkeypatch):
    """Where the destination is of a form that does not refuse, as in P18."""
    Patch(monkeypatch).condition(Row.LEFT_HERE, lambda _seen: False)
    explored(Setting(left="D1", holder=holder, extra=0))
