"""Which process is at the other end of a socket, as the kernel says."""

from __future__ import annotations

import os
import socket

import pytest
from labkit.processes import fork

from prtrace.linux.peer import Peer

NOBODY = 0xFFFF_FFFE
"""The largest user id there is: as a signed number it is negative."""


def test_the_kernel_tells_who_it_is() -> None:
    one, other = socket.socketpair()
    with one, other:
        peer = Peer.of(one)
    assert (peer.pid, peer.uid, peer.gid) == (os.getpid(), os.geteuid(), os.getegid())
    assert peer.groups == frozenset(os.getgroups())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to have many groups")
def test_more_groups_than_can_be_asked_for_are_none() -> None:
    def work() -> None:
        os.setgroups(range(1, 300))
        one, _other = socket.socketpair()
        assert Peer.of(one).groups == frozenset()

    assert os.waitstatus_to_exitcode(os.waitpid(fork(work), 0)[1]) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_user_and_group_ids_are_unsigned() -> None:
    def work() -> None:
        os.setgroups([NOBODY])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        one, _other = socket.socketpair()
        assert Peer.of(one) == Peer(os.getpid(), NOBODY, NOBODY, frozenset({NOBODY}))

    assert os.waitstatus_to_exitcode(os.waitpid(fork(work), 0)[1]) == 0
