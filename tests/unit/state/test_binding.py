"""Which descriptor of READ FULL STATUS belongs to which local nexus."""

from __future__ import annotations

from reference_target import LU
from test_effects import REGISTER, A, B, C, send, start

from prtrace.model import FullStatus, LocalNexus
from prtrace.state.binding import bind

IQN1, IQN2 = "iqn.2020-01.a:x,i,0x00023D000001", "iqn.2020-01.a:x,i,0x00023d000002"


def descriptor(port: str, key: int, rtpi: int = 1, **more) -> FullStatus:
    return FullStatus(
        **{"initiator_port": port, "relative_target_port": rtpi, "key": key, "holder": False}
        | more
    )


def path(nexus: str, port: str | None = None, rtpi: int | None = 1) -> LocalNexus:
    return LocalNexus(nexus, LU, initiator_port=port, relative_target_port=rtpi)


def bound(descriptors, paths, observed=None, *, each=True) -> list[str]:
    return list(bind(descriptors, paths, observed or {}, each_port_listed=each).by_nexus)


def test_names_match_without_regard_to_case() -> None:
    assert bound([descriptor(IQN1, 1)], [path(A, IQN1.lower())]) == [A]


def test_another_target_port_or_isid_is_another_nexus() -> None:
    assert bound([descriptor(IQN1, 1, 2)], [path(A, IQN1)]) == [f"{IQN1},2"]
    assert bound([descriptor(IQN1, 1)], [path(A, IQN2)]) == [f"{IQN1},1"]


def test_relative_target_port_zero_is_a_port_like_any_other() -> None:
    every = {"all_target_ports": True}
    assert bound([descriptor(IQN1, 1, 0)], [path(A, IQN1, 0)]) == [A]
    assert bound([descriptor(IQN1, 1, 0, **every)], [path(A, IQN1, 0)]) == [A]
    # Two nexuses of the same names: it may be either.
    result = bind(
        [descriptor(IQN1, 1, 0)], [path(A, IQN1, 0), path(B, IQN1, 0)], {}, each_port_listed=True
    )
    assert result.maybe_local == {f"{IQN1},0"}


BARE = "iqn.2020-01.a:x"


def test_a_missing_isid_is_no_name() -> None:
    """The one session that fits may be new, and the registration that of the one before it."""
    result = bind([descriptor(BARE, 1)], [path(A, IQN1)], {}, each_port_listed=True)
    assert list(result.by_nexus) == [f"{BARE},1"]
    assert result.maybe_local == {f"{BARE},1"}
    # What this host saw register on that session with that key is that session's.
    observed = send(start({}), A, REGISTER, 0, 1).state.registrations
    assert bound([descriptor(BARE, 1)], [path(A, IQN1)], observed) == [A]
    assert bound([descriptor(BARE, 2)], [path(A, IQN1)], observed) == [f"{BARE},1"]
    every = descriptor(BARE, 1, 0, all_target_ports=True)
    result = bind([every], [path(A, IQN1)], {}, each_port_listed=True)
    assert (result.by_nexus, result.unplaced) == ({}, [every])


def test_a_session_without_isid_is_no_name() -> None:
    result = bind([descriptor(IQN1, 1)], [path(A, BARE)], {}, each_port_listed=True)
    assert list(result.by_nexus) == [f"{IQN1},1"]
    assert result.maybe_local == {f"{IQN1},1"}


def test_a_missing_isid_that_fits_two_sessions_may_be_either() -> None:
    both = [path(A, IQN1), path(B, IQN2)]
    result = bind([descriptor(BARE, 1)], both, {}, each_port_listed=True)
    assert result.maybe_local == {f"{BARE},1"}
    assert not bind([descriptor(BARE, 1, 2)], both, {}, each_port_listed=True).maybe_local
    # One of them has a descriptor of its own: the other one may be the bare one's.
    result = bind([descriptor(IQN1, 1), descriptor(BARE, 2)], both, {}, each_port_listed=True)
    assert list(result.by_nexus) == [A, f"{BARE},1"]
    assert result.maybe_local == {f"{BARE},1"}


def test_unnamed_paths_are_bound_by_the_observed_key_only() -> None:
    observed = send(start({}), A, REGISTER, 0, 7).state.registrations
    both = [descriptor("naa.1", 7), descriptor("naa.2", 8)]
    assert bound(both, [path(A, None)], observed) == [A, "naa.2,1"]
    assert bound(both, [path(A, None)]) == ["naa.1,1", "naa.2,1"]
    twice = [descriptor("naa.1", 7), descriptor("naa.2", 7)]
    result = bind(twice, [path(A, None)], observed, each_port_listed=True)
    assert list(result.by_nexus) == ["naa.1,1", "naa.2,1"]
    assert result.maybe_local == {"naa.1,1", "naa.2,1"}


def test_all_target_ports() -> None:
    one = descriptor("naa.1", 7, 0, all_target_ports=True)
    paths = [path(A, "naa.1"), path(B, "naa.1", 2), path(C, "naa.2")]
    assert bound([one, one], paths) == [A, B]
    assert bound([one, one, one], paths) == [A, B, "naa.1,*"]
    assert bound([one], paths, each=False) == [A, B]
    assert bound([one], []) == ["naa.1,*"]
    result = bind([one], paths, {}, each_port_listed=True)
    assert (result.by_nexus, result.unplaced) == ({}, [one])
