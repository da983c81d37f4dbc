"""Paths that come, go and change, as the fold takes them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prtrace.model import (
    Action,
    Attention,
    AttentionSeen,
    FullStatus,
    FullStatusRead,
    KeysRead,
    LocalNexus,
    NotWatched,
    Outcome,
    PathsSeen,
    PrOut,
    ReservationType,
    UnreadablePrOut,
)
from prtrace.state.apply import apply, new_state
from prtrace.state.codec import from_json, to_json
from prtrace.state.quirks import profile_of
from prtrace.state.unit import Fact, LuState

LU = "naa.6001405"
TARGET = "SCST_FIO/disk/320"
"""A target that keeps registrations whoever logs out."""
FORGETFUL = ("LIO-ORG/disk/4.0", "DELL/X/1")
HOST1 = "iqn.2003-01.org.x:host1,i,0x00023d000001"
HOST2 = "iqn.2003-01.org.x:host2,i,0x00023d000003"


class Fold:
    """A unit's state and a clock."""

    def __init__(self, lu: str = LU, target: str = TARGET) -> None:
        self.lu = lu
        self.target = target
        self.state: LuState = new_state(lu, target, 1)
        self.now = 1000
        self.effect = ""

    def see(self, kind, nexus: str = "", **fields) -> LuState:
        self.now += 10
        span = {"start_ns": self.now - 5, "done_ns": self.now, "time": self.now, **fields}
        change = apply(self.state, kind(lu=self.lu, nexus=nexus, target=self.target, **span))
        self.state, self.effect = change.state, change.effect
        assert from_json(to_json(self.state)) == self.state
        return self.state

    def paths(self, *paths: LocalNexus) -> LuState:
        return self.see(PathsSeen, paths=tuple(replace(each, lu=self.lu) for each in paths))

    def send(self, nexus: str, action: Action, key: int, sa_key: int = 0, **fields) -> LuState:
        kind = ReservationType.WERO if action in (Action.RESERVE, Action.PREEMPT) else None
        fields.setdefault("outcome", Outcome.DONE)
        return self.see(PrOut, nexus, action=action, key=key, sa_key=sa_key, type=kind, **fields)

    def read(self, nexus: str, generation: int, *listed: FullStatus, **fields) -> LuState:
        told = {"generation": generation, "truncated": False}
        if profile_of(self.target).turns_full_status is not False:
            keys = tuple(each.key for each in listed)
            self.see(KeysRead, nexus, **told, keys=keys, **fields)
        return self.see(FullStatusRead, nexus, **told, registrations=listed, **fields)


def path(nexus: str, port: str | None, relative: int | None = 1, life: int = 0, **more):
    return LocalNexus(
        nexus, LU, f"/dev/sd{nexus[0]}", initiator_port=port, relative_target_port=relative,
        life=life, **more,
    )  # fmt: skip


def status(port: str, key: int, relative: int = 1, *, holder: bool = False) -> FullStatus:
    kind = ReservationType.WERO if holder else None
    return FullStatus(
        initiator_port=port, relative_target_port=relative, key=key, holder=holder, type=kind
    )


def held_by_host1(target: str = TARGET) -> Fold:
    """host1 over 1:0:0:0 registered 0xa1 and holds WERO; host2 is 2:0:0:0, not registered."""
    fold = Fold(target=target)
    fold.paths(path("1:0:0:0", HOST1, life=11), path("2:0:0:0", HOST2, life=12))
    fold.read("1:0:0:0", 0)
    fold.send("1:0:0:0", Action.REGISTER, 0, 0xA1)
    fold.send("1:0:0:0", Action.RESERVE, 0xA1)
    assert fold.state.holders == ("1:0:0:0",)
    return fold


def test_an_address_that_is_reused_is_another_nexus() -> None:
    """After logout and login the kernel gives 1:0:0:0 to the other session."""
    fold = held_by_host1()
    state = fold.paths(path("1:0:0:0", HOST2, life=21), path("2:0:0:0", HOST1, life=22))
    assert set(state.registrations) == {"2:0:0:0"}
    assert state.holders == ("2:0:0:0",)
    assert not state.doubts
    assert "vanished" in fold.effect
    assert "appeared" in fold.effect


@pytest.mark.parametrize("target", [TARGET, *FORGETFUL])
@pytest.mark.parametrize(
    ("isid", "relative", "concerned"),
    [("000001", 1, True), ("000007", 1, True), ("000001", 2, False)],
    ids=["same session", "another session", "another target port"],
)
def test_what_a_target_may_forget_at_a_log_out_is_in_doubt_until_it_is_read(
    target: str, isid: str, relative: int, *, concerned: bool
) -> None:
    """LIO frees an initiator's registrations with its last session; PRGENERATION stays."""
    fold = held_by_host1(target)
    doubted = target in FORGETFUL
    stays = path("2:0:0:0", HOST2, life=12)
    for paths in ((stays,), (stays, path("3:0:0:0", HOST1, life=31))):
        state = fold.paths(*paths)
        assert {each.what for each in state.doubts} == (set(Fact) if doubted else set())
        # Nor does a reply of before tell what is there now.
        fold.read("2:0:0:0", 1, status(HOST1, 0xA1, holder=True), start_ns=fold.now - 5)
        assert bool(fold.state.doubts) is doubted
        fold.read("2:0:0:0", 1, status(HOST1, 0xA1, holder=True))
        assert not fold.state.doubts
    fold.paths(stays)
    fold.read("2:0:0:0", 1, status(HOST1, 0xA1, holder=True))
    other = HOST1.replace("000001", isid)
    state = fold.paths(stays, path("3:0:0:0", other, relative, life=32))
    assert bool(state.doubts) is (doubted and concerned)
    assert ("forgotten" in fold.effect) is (doubted and concerned)
    fold.read("2:0:0:0", 1 if doubted else 2)
    assert fold.state.reservation is None
    assert not fold.paths(stays).doubts, "there is nothing to be forgotten"


def test_what_has_no_name_may_be_forgotten_with_any_session() -> None:
    fold = Fold(target=FORGETFUL[0])
    fold.paths(path("1:0:0:0", HOST1, life=11), path("2:0:0:0", None, None, life=12))
    fold.read("1:0:0:0", 1, status(HOST2, 0xB2))
    assert fold.paths(path("1:0:0:0", HOST1, life=11)).doubts
    fold.read("1:0:0:0", 1, status(HOST2, 0xB2))
    assert not fold.paths(path("1:0:0:0", HOST1, life=13)).doubts, "of another initiator"


def test_a_new_session_is_not_the_old_one() -> None:
    """A re-login with another ISID: no path of this host has the old session's registration."""
    fold = held_by_host1()
    other = HOST1.replace("000001", "000007")
    state = fold.paths(path("1:0:0:0", other, life=21), path("2:0:0:0", HOST2, life=12))
    (only,) = state.registrations.values()
    assert (only.nexus, only.local) == (f"{HOST1},1", False)
    assert state.holders == (f"{HOST1},1",)


def test_a_session_that_comes_may_be_the_one_listed_without_its_isid() -> None:
    fold = Fold()
    fold.paths(path("1:0:0:0", HOST1, life=11))
    fold.read("1:0:0:0", 2, status(HOST2.partition(",i,")[0], 0xB2, holder=True))
    assert not any(each.maybe_local for each in fold.state.registrations.values())
    state = fold.paths(path("1:0:0:0", HOST1, life=11), path("2:0:0:0", HOST2, life=12))
    assert [each.maybe_local for each in state.registrations.values()] == [True]
    state = fold.paths(path("1:0:0:0", HOST1, life=11))
    assert [each.maybe_local for each in state.registrations.values()] == [False]


def test_another_lun_number_is_the_same_nexus() -> None:
    """The unit is mapped to another LUN of the same target: the ports stay, so the nexus does."""
    fold = held_by_host1()
    state = fold.paths(path("1:0:0:9", HOST1, life=31), path("2:0:0:0", HOST2, life=12))
    assert state.holders == ("1:0:0:9",)
    assert state.registrations["1:0:0:9"].local
    assert not state.doubts


def test_a_path_that_returns_has_its_registration() -> None:
    """The registration was listed as one of elsewhere while the path was down."""
    fold = Fold()
    fold.paths(path("1:0:0:0", HOST1, life=11))
    fold.read("1:0:0:0", 2, status(HOST1, 0xB1), status(HOST2, 0xB2, holder=True))
    assert fold.state.holders == (f"{HOST2},1",)
    fold.paths(path("1:0:0:0", HOST1, life=11), path("2:0:0:0", HOST2.upper(), life=12))
    assert fold.state.holders == ("2:0:0:0",)
    state = fold.send("2:0:0:0", Action.REGISTER_AND_IGNORE, 0, 0)
    assert set(state.registrations) == {"1:0:0:0"}
    assert state.reservation is None


def test_commands_of_a_former_life_are_not_joined_to_the_present_one() -> None:
    fold = held_by_host1()
    fold.paths(path("1:0:0:0", HOST2, life=21), path("2:0:0:0", HOST1, life=22))
    fold.send("1:0:0:0", Action.REGISTER, 0, 0xEE, life=11)
    assert "1:0:0:0" not in fold.state.registrations
    assert fold.state.doubted(Fact.REGISTRATIONS)


@pytest.mark.parametrize(
    ("life", "ends"), [(4711, True), (11, False), (0, False)], ids=["another", "same", "not known"]
)
@pytest.mark.parametrize("readable", [True, False])
def test_a_command_of_the_kernel_before_a_reset_is_over(
    life: int, *, ends: bool, readable: bool
) -> None:
    """The host was reset after a PREEMPT timed out; the address is another scsi_device's now."""
    fold = held_by_host1()
    end = {"outcome": Outcome.UNKNOWN, "timed_out": True, "problem": "TIMEOUT", "life": 11}
    if readable:
        fold.send("1:0:0:0", Action.PREEMPT, 0xA1, 0xB1, **end)
    else:
        fold.see(UnreadablePrOut, "1:0:0:0", **end)
    fold.see(NotWatched)
    assert fold.state.under_way[0].unwatched
    fold.paths(path("1:0:0:0", HOST1, life=life))
    state = fold.read("1:0:0:0", 9, status(HOST1, 0xA1, holder=True))
    assert (not state.under_way) is (not state.doubts) is ends


def test_without_a_life_the_time_decides() -> None:
    """A record that ended before the new device was found may be the old one's."""
    fold = held_by_host1()
    before = fold.now
    fold.now += 1000
    fold.paths(path("1:0:0:0", HOST2, life=21), path("2:0:0:0", HOST1, life=22))
    late = fold.send(
        "1:0:0:0", Action.REGISTER, 0, 0xEE, start_ns=before + 20, done_ns=before + 30
    )
    assert late.doubted(Fact.REGISTRATIONS)
    assert "1:0:0:0" not in late.registrations


def test_an_address_that_nobody_told_is_no_nexus_of_ours() -> None:
    fold = held_by_host1()
    state = fold.send("7:0:0:0", Action.REGISTER, 0, 0xEE)
    assert "7:0:0:0" not in state.registrations
    assert state.doubted(Fact.REGISTRATIONS)


def test_an_attention_expected_by_a_former_session_is_not_that_of_the_next() -> None:
    fold = held_by_host1()
    fold.send("2:0:0:0", Action.REGISTER, 0, 0xA2)
    fold.send("2:0:0:0", Action.PREEMPT, 0xA2, 0xA1)
    assert fold.state.expected
    fold.paths(
        path("1:0:0:0", HOST1.replace("01", "09"), life=21), path("2:0:0:0", HOST2, life=12)
    )
    assert not fold.state.expected
    fold.see(AttentionSeen, "1:0:0:0", attention=Attention.REGISTRATIONS_PREEMPTED)
    assert fold.state.doubts


def test_a_nameless_path_that_goes_takes_nothing_along() -> None:
    fold = Fold()
    fold.paths(path("1:0:0:0", None, None, life=11))
    fold.read("1:0:0:0", 0)
    fold.send("1:0:0:0", Action.REGISTER, 0, 0xA1)
    fold.send("1:0:0:0", Action.RESERVE, 0xA1)
    fold.paths(path("1:0:0:0", None, None, life=12))
    (only,) = fold.state.registrations.values()
    assert only.nexus.startswith("1:0:0:0@")
    assert not only.local
    assert fold.state.doubted(Fact.REGISTRATIONS)
    assert fold.state.doubted(Fact.RESERVATION)
    fold.read("1:0:0:0", 1, status(HOST1, 0xA1, holder=True))
    (only,) = fold.state.registrations.values()
    assert only.maybe_local, "the ports of 1:0:0:0 are not known: it may be here"


def test_paths_with_one_name_are_not_told_apart_by_it() -> None:
    """tcm_loop of newer kernels has relative target port 0 on all its targets."""
    fold = Fold()
    twins = (path("1:0:0:0", HOST1, 0, life=11), path("2:0:0:0", HOST1, 0, life=12))
    fold.paths(*twins)
    fold.read("1:0:0:0", 0)
    fold.send("1:0:0:0", Action.REGISTER, 0, 0xA1)
    fold.paths(twins[1])
    assert set(fold.state.registrations) == {f"1:0:0:0@{fold.now}"}
    assert fold.state.doubted(Fact.REGISTRATIONS)


def test_a_unit_without_a_designator_ends_with_its_device() -> None:
    """The name was made of the address, and the next device there may be another unit."""
    fold = Fold("hctl.1:0:0:0")
    fold.paths(path("1:0:0:0", None, None, life=11))
    fold.read("1:0:0:0", 0)
    fold.send("1:0:0:0", Action.REGISTER, 0, 0xA1)
    fold.paths(path("1:0:0:0", None, None, life=12))
    assert not fold.state.registrations
    assert fold.state.as_of is None
    assert all(fold.state.doubted(fact) for fact in Fact)


def test_a_registration_for_all_target_ports_may_cover_a_path_that_comes() -> None:
    fold = Fold()
    fold.paths(path("2:0:0:0", HOST2, life=12))
    everywhere = replace(status(HOST1, 0xA1), all_target_ports=True)
    fold.read("2:0:0:0", 1, everywhere)
    assert not fold.state.doubts
    fold.paths(path("1:0:0:0", HOST1, life=11), path("2:0:0:0", HOST2, life=12))
    assert fold.state.doubted(Fact.REGISTRATIONS)


def test_after_a_time_that_nobody_watched_names_are_bound_anew() -> None:
    fold = held_by_host1()
    fold.see(NotWatched)
    assert fold.state.holders == (f"{HOST1},1",)
    fold.paths(path("5:0:0:0", HOST1, life=11))
    assert fold.state.holders == ("5:0:0:0",)
    assert fold.state.doubts


def test_what_only_its_state_changes_is_told_and_binds_nothing() -> None:
    fold = held_by_host1()
    before = fold.state
    first, second = (path.local for path in before.paths.values())
    after = fold.paths(replace(first, state="offline"), second)
    assert after.registrations == before.registrations
    assert fold.effect == f"changed: 1:0:0:0 (/dev/sd1, {HOST1}, offline)"


def test_names_that_become_known_join_what_was_two() -> None:
    fold = Fold()
    fold.paths(path("1:0:0:0", None, None, life=11))
    fold.read("1:0:0:0", 1, status(HOST1, 0xA1, holder=True))
    assert fold.state.registrations[f"{HOST1},1"].maybe_local
    fold.paths(path("1:0:0:0", HOST1, 1, life=11))
    assert fold.state.holders == ("1:0:0:0",)
    assert fold.state.registrations["1:0:0:0"].local


@pytest.mark.parametrize("known", [True, False])
def test_the_age_of_what_is_known(known) -> None:
    fold = held_by_host1() if known else Fold()
    read_at = 1015
    assert fold.state.as_of == (read_at if known else None)
    if known:
        by = {fact: each.by for fact, each in fold.state.confirmed.items()}
        assert by == dict.fromkeys(Fact, "READ FULL STATUS")
        fold.send("1:0:0:0", Action.CLEAR, 0xA1)
        assert fold.state.confirmed[Fact.REGISTRATIONS].at == fold.now - 5
        assert fold.state.as_of == read_at, "CLEAR does not tell PRGENERATION"


@pytest.mark.parametrize("target", [TARGET, FORGETFUL[0]])
def test_who_is_not_registered_any_more_is_named_where_its_path_is_away(target: str) -> None:
    """It held nothing, and another host took its registration away meanwhile."""
    fold = held_by_host1(target)
    fold.read("1:0:0:0", 2, status(HOST1, 0xA1, holder=True), status(HOST2, 0xB2))
    fold.paths(path("1:0:0:0", HOST1, life=11))
    fold.read("1:0:0:0", 3, status(HOST1, 0xA1, holder=True))
    assert f"not registered any more: {HOST2},1" in fold.effect
    fold.read("1:0:0:0", 3, status(HOST1, 0xA1, holder=True))
    assert "not registered" not in fold.effect
    # Under another name it is there still.
    fold.paths(path("4:0:0:0", HOST1, life=41))
    fold.read("4:0:0:0", 3, status(HOST1, 0xA1, holder=True))
    assert fold.state.registrations.keys() == {"4:0:0:0"}
    assert "not registered" not in fold.effect
