"""Which host an initiator port belongs to."""

import pytest

from prtrace.errors import MalformedError
from prtrace.explain.ports import Ports, host_of

IQN = "iqn.2003-01.org.example:node1"
KNOWN = [
    Ports("node1", frozenset({f"{IQN},i,0x00023d000001", "naa.21000024ff000001"})),
    Ports("node2", frozenset({"naa.21000024ff000002"})),
]


def test_a_port_has_a_host():
    assert str(host_of("naa.21000024ff000002", KNOWN)) == "node2"
    assert str(host_of("naa.5", KNOWN)) == "a host that is not known"


def test_an_earlier_session_of_the_same_initiator_is_told_as_one():
    told = str(host_of(f"{IQN},i,0x00023d000009", KNOWN))
    assert told == "node1, in an iSCSI session that it does not have now"


def test_a_name_that_two_hosts_have_is_neither_hosts():
    """A cloned disk has the other one's initiator name in it; a port's list may be old."""
    twice = [
        *KNOWN,
        Ports("node3", frozenset({f"{IQN},i,0x00023d000002", "naa.21000024ff000002"})),
    ]
    for port in (f"{IQN},i,0x00023d000009", "naa.21000024ff000002"):
        owner = host_of(port, twice)
        assert owner.name == ""
        assert "node3 (each is said to have this name)" in str(owner)
    assert host_of(f"{IQN},i,0x00023d000001", twice).name == "node1"


def test_json_and_back():
    assert Ports.from_json(KNOWN[0].to_json(), "x") == KNOWN[0]


@pytest.mark.parametrize(
    "wrong", [[], {}, {"schema": "prtrace.ports/1", "host": 1, "ports": []},
              {"schema": "prtrace.ports/1", "host": "a", "ports": [1]}],
)  # fmt: skip
def test_what_is_no_ports_file_is_refused_by_name(wrong):
    with pytest.raises(MalformedError, match=r"x\.json"):
        Ports.from_json(wrong, "x.json")
