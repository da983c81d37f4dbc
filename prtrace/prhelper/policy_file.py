"""The policy's file: read only where nobody but root and the proxy's own user could write it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from prtrace.errors import UsageError
from prtrace.prhelper.policy import Policy

_MOST: Final = 1 << 20


def read_policy(path: Path) -> Policy:
    """The policy that the file states.

    Raises UsageError for a file that cannot be read, is no regular file, belongs to or can be
    written by somebody else, is longer than 1 MiB, or states something else than a policy.
    """
    # Without O_NONBLOCK, opening a FIFO waits until somebody writes to it.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        with open(os.open(path, flags), "rb") as file:
            status = os.fstat(file.fileno())
            _check(path, status)
            raw = file.read(_MOST + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    if len(raw) > _MOST:
        raise UsageError(f"{path} is longer than {_MOST >> 20} MiB: this is no policy")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8: {error}") from error
    try:
        return Policy.parse(text)
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}", hint=error.hint) from error


def _check(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{path} is not a regular file")
    if status.st_uid not in (0, os.geteuid()):
        raise UsageError(
            f"{path} belongs to uid {status.st_uid}, who could let any guest do anything",
            hint=f"chown root {path}",
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UsageError(
            f"{path} can be written by others, who could let any guest do anything",
            hint=f"chmod go-w {path}",
        )
