"""As whom the agent runs, and what in its state directory is whose."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from prtrace.agent.confinement import AgentUser, needed, prepare
from prtrace.errors import StoreError, UnavailableError, UsageError
from prtrace.linux.capabilities import Capability
from prtrace.store.database import FILE


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that another user can get to: pytest's own are root's alone."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give something away")


def test_old_kernels_take_a_capability_for_maps() -> None:
    for release in ("5.10.0-32-amd64", "5.18.19", "4.19.0"):
        assert needed(release) == (Capability.BPF,)
    for release in ("5.19.0", "6.1.0-56-amd64", "7.3.4+deb13-cloud-amd64", "10.0"):
        assert needed(release) == ()


def test_root_is_nobody_to_become() -> None:
    with pytest.raises(UsageError):
        AgentUser.named("root")
    with pytest.raises(UnavailableError, match="there is no user") as error:
        AgentUser.named("no-such-user")
    assert "useradd" in error.value.hint


@as_root
def test_the_history_is_the_users_and_the_journals_are_roots(place: Path) -> None:
    user = AgentUser.named("nobody")
    (place / FILE).write_bytes(b"")
    prepare(place, user)
    assert (place / FILE).stat().st_uid == user.uid
    here, moves = place.stat(), (place / "move").stat()
    assert (here.st_uid, here.st_gid) == (0, user.gid)
    assert here.st_mode & 0o7772 == stat.S_ISVTX | 0o770
    assert (moves.st_uid, stat.S_IMODE(moves.st_mode)) == (0, 0o700)
    prepare(place, user)
    with user.acting():
        (place / "own").write_text("x")
    assert (place / "own").stat().st_uid == user.uid
    assert (os.geteuid(), os.getegid()) == (0, 0)


@as_root
def test_nothing_that_was_planted_is_given_away(place: Path) -> None:
    user = AgentUser.named("nobody")
    (place / "secret").write_text("root's")
    os.link(place / "secret", place / FILE)
    with pytest.raises(StoreError, match="no file of its own"):
        prepare(place, user)
    (place / FILE).unlink()
    (place / FILE).symlink_to(place / "secret")
    with pytest.raises(StoreError):
        prepare(place, user)
    (place / FILE).unlink()
    os.chown(place / "move", user.uid, user.gid)
    with pytest.raises(StoreError, match="not root's own folder"):
        prepare(place, user)
    assert (place / "secret").stat().st_uid == 0
