"""Which descriptor of READ FULL STATUS belongs to which local nexus."""

from __future__ import annotations

from reference_target import LU
from test_effects import REGISTER, A, B, C, send, start

from prtrace.model import FullStatus, LocalNexus
from prtrace.state.binding import Bound, bind
from prtrace.state.unit import Registration, Source

IQN1, IQN2 = "iqn.2020-01.a:x,i,0x00023D000001", "iqn.2020-01.a:x,i,0x00023d000002"


def descriptor(port: str, key: int, rtpi: int = 1, **more) -> FullStatus:
    return FullStatus(
        **{"initiator_port": port, "relative_target_port": rtpi, "key": key, "holder": False}
        | more
    )


def path(nexus: str, port: str | None = None, rtpi: int | None = 1) -> LocalNexus:
    return LocalNexus(nexus, LU, initiator_port=port, relative_target_port=rtpi)


def bind_all(descriptors, paths, observed=None, *, former=None, each=True) -> Bound:
    return bind(descriptors, paths, observed or {}, former=former or {}, each_port_listed=each)


def bound(descriptors, paths, observed=None, *, former=None, each=True) -> list[str]:
    return list(bind_all(descriptors, paths, observed, former=former, each=each).by_nexus)


def test_names_match_without_regard_to_case() -> None:
    assert bound([descriptor(IQN1, 1)], [path(A, IQN1.lower())]) == [A]


def test_another_target_port_or_isid_is_another_nexus() -> None:
    assert bound([descriptor(IQN1, 1, 2)], [path(A, IQN1)]) == [f"{IQN1},2"]
    assert bound([descriptor(IQN1, 1)], [path(A, IQN2)]) == [f"{IQN1},1"]


def test_relative_target_port_zero_is_a_port_like_any_other() -> None:
    every = {"all_target_ports": True}
    assert bound([descriptor(IQN1, 1, 0)], [path(A, IQN1, 0)]) == [A]
    known = {A: registered(A, 1)}
    assert bound([descriptor(IQN1, 1, 0, **every)], [path(A, IQN1, 0)], former=known) == [A]
    # Two nexuses of the same names: it may be either.
    result = bind_all([descriptor(IQN1, 1, 0)], [path(A, IQN1, 0), path(B, IQN1, 0)])
    assert result.maybe_local == {f"{IQN1},0"}


BARE = "iqn.2020-01.a:x"


def test_a_missing_isid_is_no_name() -> None:
    """The one session that fits may be new, and the registration that of the one before it."""
    result = bind_all([descriptor(BARE, 1)], [path(A, IQN1)])
    assert list(result.by_nexus) == [f"{BARE},1"]
    assert result.maybe_local == {f"{BARE},1"}
    # What this host saw register on that session with that key is that session's.
    observed = send(start({}), A, REGISTER, 0, 1).state.registrations
    assert bound([descriptor(BARE, 1)], [path(A, IQN1)], observed) == [A]
    assert bound([descriptor(BARE, 2)], [path(A, IQN1)], observed) == [f"{BARE},1"]
    every = descriptor(BARE, 1, 0, all_target_ports=True)
    result = bind_all([every], [path(A, IQN1)])
    assert (result.by_nexus, result.unplaced) == ({}, [every])


def test_a_session_without_isid_is_no_name() -> None:
    result = bind_all([descriptor(IQN1, 1)], [path(A, BARE)])
    assert list(result.by_nexus) == [f"{IQN1},1"]
    assert result.maybe_local == {f"{IQN1},1"}


def test_a_missing_isid_that_fits_two_sessions_may_be_either() -> None:
    both = [path(A, IQN1), path(B, IQN2)]
    result = bind_all([descriptor(BARE, 1)], both)
    assert result.maybe_local == {f"{BARE},1"}
    assert not bind_all([descriptor(BARE, 1, 2)], both).maybe_local
    # One of them has a descriptor of its own: the other one may be the bare one's.
    result = bind_all([descriptor(IQN1, 1), descriptor(BARE, 2)], both)
    assert list(result.by_nexus) == [A, f"{BARE},1"]
    assert result.maybe_local == {f"{BARE},1"}


def test_unnamed_paths_are_bound_by_the_observed_key_only() -> None:
    observed = send(start({}), A, REGISTER, 0, 7).state.registrations
    both = [descriptor("naa.1", 7), descriptor("naa.2", 8)]
    assert bound(both, [path(A, None)], observed) == [A, "naa.2,1"]
    assert bound(both, [path(A, None)]) == ["naa.1,1", "naa.2,1"]
    twice = [descriptor("naa.1", 7), descriptor("naa.2", 7)]
    result = bind_all(twice, [path(A, None)], observed)
    assert list(result.by_nexus) == ["naa.1,1", "naa.2,1"]
    assert result.maybe_local == {"naa.1,1", "naa.2,1"}


def registered(nexus: str, key: int) -> Registration:
    return Registration(nexus, key, local=True, source=Source.READ, at=1)


EVERY_PORT = descriptor("naa.1", 7, 0, all_target_ports=True)
TWO_PORTS = [path(A, "naa.1"), path(B, "naa.1", 2), path(C, "naa.2")]


def test_one_descriptor_is_for_all_target_ports_those_elsewhere_included() -> None:
    assert bound([EVERY_PORT], TWO_PORTS, each=False) == [A, B, "naa.1,*"]
    assert bound([EVERY_PORT], [], each=False) == ["naa.1,*"]
    result = bind_all([EVERY_PORT], TWO_PORTS, each=False)
    assert not result.maybe_local
    # A path whose port names are not known may be one of that initiator port's.
    result = bind_all([EVERY_PORT], [*TWO_PORTS, path("9:0:0:0")], each=False)
    assert result.maybe_local == {"naa.1,*"}


def test_whoever_lists_a_port_twice_lists_each_target_port() -> None:
    """A target that is not known, with the habit of those that are."""
    third = path("9:0:0:0", "naa.1", 3)
    result = bind_all([EVERY_PORT] * 2, [*TWO_PORTS, third], each=False)
    assert (result.by_nexus, result.unplaced) == ({}, [EVERY_PORT] * 2)
    assert bind_all([EVERY_PORT] * 2, TWO_PORTS, each=False).maybe_local == {"naa.1,*"}


def test_a_descriptor_for_each_target_port_does_not_tell_which_ports_are_left() -> None:
    both = {A: registered(A, 7), B: registered(B, 7)}
    assert bound([EVERY_PORT] * 2, TWO_PORTS, former=both) == [A, B]
    assert bound([EVERY_PORT] * 3, TWO_PORTS, former=both) == [A, B, "naa.1,*"]
    assert bound([EVERY_PORT], []) == ["naa.1,*"]
    for known in ({}, {A: registered(A, 8)}, {C: registered(C, 7)}):
        result = bind_all([EVERY_PORT] * 2, TWO_PORTS, former=known)
        assert list(result.by_nexus) == ["naa.1,*"]
        assert result.maybe_local == {"naa.1,*"}
    result = bind_all([EVERY_PORT] * 2, TWO_PORTS, former={A: registered(A, 7)})
    assert list(result.by_nexus) == [A, "naa.1,*"]
    assert result.maybe_local == {"naa.1,*"}
    # One has gone, and nobody knows which.
    result = bind_all([EVERY_PORT], TWO_PORTS, former=both)
    assert (result.by_nexus, result.unplaced) == ({}, [EVERY_PORT])
