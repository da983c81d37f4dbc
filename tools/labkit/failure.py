"""What the lab reports instead of a traceback."""

from __future__ import annotations


class LabError(Exception):
    """The lab cannot do what was asked; hint says what to do about it."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class LostMachineError(LabError):
    """The machine ended, or no longer answers: nothing is known about the command's outcome."""


class DeadlineError(LabError):
    """The command was still running at its deadline and was ended."""
