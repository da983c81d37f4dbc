"""A policy is read from a file that nobody else can write, and in no other case."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from labkit import pace

from prtrace.errors import UsageError
from prtrace.prhelper.policy import Guard
from prtrace.prhelper.policy_file import read_policy


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text('guard = "refuse"\n')
    path.chmod(0o644)
    return path


def test_a_policy_is_read(path: Path) -> None:
    assert read_policy(path).default.guard is Guard.REFUSE


def test_a_link_to_a_policy_is_followed(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    assert read_policy(link).default.guard is Guard.REFUSE


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_could_write_is_refused(path: Path, mode: int) -> None:
    path.chmod(mode)
    with pytest.raises(UsageError, match="can be written by others") as found:
        read_policy(path)
    assert found.value.hint == f"chmod go-w {path}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_somebody_else_is_refused(path: Path) -> None:
    os.chown(path, 65534, -1)
    with pytest.raises(UsageError, match="belongs to uid 65534"):
        read_policy(path)


def test_a_fifo_does_not_wait_for_a_writer(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(UsageError, match="is not a regular file"):
        read_policy(path)


@pytest.mark.parametrize("place", ["/", "/dev/null", "/no/such/file"])
def test_what_is_no_file_is_refused(place: str) -> None:
    with pytest.raises(UsageError):
        read_policy(Path(place))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff", "is not UTF-8"),
        (b"x = " + b"[" * 3000 + b"]" * 3000, "nested too deeply"),
        (b"#" * (1 << 20) + b"\n", "is longer than 1 MiB"),
        (b"guard = 1", "guard must be one of"),
        (b"= 1", "is not TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_its_name(
    path: Path, content: bytes, words: str
) -> None:
    path.write_bytes(content)
    with pytest.raises(UsageError, match=words) as found:
        read_policy(path)
    assert str(path) in found.value.message


def test_the_command_says_what_is_wrong_with_its_policy(path: Path) -> None:
    """No traceback, and the exit status of a request that makes no sense."""
    path.write_bytes(b"x = " + b"[" * 3000 + b"]" * 3000)
    command = [sys.executable, "-m", "prtrace", "proxy", "--listen", str(path.with_name("s")),
               "--policy", str(path)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=pace.limit(50))
    assert (done.returncode, "nested too deeply" in done.stderr) == (2, True)
    assert "Traceback" not in done.stderr
