"""The agent's side of the process that looks after the programs."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator

import pytest

from prtrace.agent.keeper import Keeper, KeeperGoneError
from prtrace.probe.misses import Skipped


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.settimeout(20)
    with ours, theirs:
        yield ours, theirs


def test_what_was_skipped_is_one_question(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    asked: list[bytes] = []

    def answer() -> None:
        asked.append(theirs.recv(100))
        theirs.send(json.dumps({"ends": [[1, 5], [2, 0]], "signs": [[1, 7]]}).encode())

    answering = threading.Thread(target=answer)
    answering.start()
    assert Keeper(ours).skipped() == Skipped({1: 5, 2: 0}, {1: 7})
    answering.join(20)
    assert asked == [b"misses"]
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(100)


def test_one_that_does_not_answer_is_told_and_not_asked_again(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    """Its late answer would be taken for the answer to the next question."""
    ours, theirs = ends
    keeper = Keeper(ours, patience=0.05)
    with pytest.raises(KeeperGoneError, match="does not answer"):
        keeper.claim("0123456789abcdef")
    with pytest.raises(KeeperGoneError):
        keeper.skipped()
    assert theirs.recv(100) == b"claim 0123456789abcdef"
    assert theirs.recv(100) == b"", "it does not hear that it may end"
