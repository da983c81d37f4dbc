"""Every exception prtrace raises, sorted by what the caller can do about it.

PrtraceError            1  failed
 +-- UsageError         2  the request makes no sense: change the request
 +-- NoSuchDeviceError  3  no such logical unit or node here
 +-- InDoubtError       4  answered, but the answer is in doubt
 +-- AgentUnreachableError  5  start the agent, or name its socket
 +-- ConflictError     24  RESERVATION CONFLICT (the number sg_persist uses)
 +-- MalformedError     1  bytes that are not what they should be
 +-- UnavailableError   1  the host lacks something: the hint says what to install or change
 +-- DeviceError        1  the device or its driver failed
 +-- StoreError         1  the state directory cannot be used

A SCSI status is an answer, not an exception: RESERVATION CONFLICT comes back in a reply,
and only a caller that needed the command to succeed turns it into a ConflictError.
Only prtrace.cli.main exits the process.
"""

from __future__ import annotations

from typing import ClassVar


class PrtraceError(Exception):
    """Something prtrace was asked to do did not work.

    message is one sentence for people; hint, where there is one, says what to do next.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(PrtraceError):
    """The request makes no sense."""

    exit_code = 2


class NoSuchDeviceError(PrtraceError):
    """The name belongs to no logical unit or device node of this host."""

    exit_code = 3


class InDoubtError(PrtraceError):
    """The question was answered, but part of the answer is in doubt."""

    exit_code = 4


class AgentUnreachableError(PrtraceError):
    """Nobody listens on the agent's socket."""

    exit_code = 5


class ConflictError(PrtraceError):
    """The device answered RESERVATION CONFLICT to a command that had to succeed."""

    exit_code = 24


class MalformedError(PrtraceError):
    """Bytes are too short or contradict themselves; what names the structure."""

    def __init__(self, what: str, problem: str, *, hint: str = "") -> None:
        super().__init__(f"{what}: {problem}", hint=hint)
        self.what = what
        self.problem = problem


class UnavailableError(PrtraceError):
    """The host lacks a package, a kernel feature or a privilege."""


class DeviceError(PrtraceError):
    """A command could not be sent, or its transport failed; the outcome is unknown."""


class StoreError(PrtraceError):
    """The store cannot be opened, is newer than this program, or is damaged."""
