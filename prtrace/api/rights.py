"""What a peer may do, by who the kernel says it is."""

from __future__ import annotations

import enum
from typing import assert_never

from prtrace.linux.peer import Peer


class Right(enum.Enum):
    """What a method needs."""

    READ = "read"
    """Any peer that could connect: the socket's mode decides."""
    CHANGE = "change"
    """uid 0 or a member of the configured group."""


def may(peer: Peer, right: Right, admin_gid: int | None) -> bool:
    """Whether the peer has right, where members of admin_gid may change things."""
    match right:
        case Right.READ:
            return True
        case Right.CHANGE:
            return peer.uid == 0 or admin_gid in {peer.gid, *peer.groups}
    assert_never(right)
