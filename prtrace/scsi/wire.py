"""The border between construct's untyped containers and our typed values.

Every fixed-size structure is one Layout.  Nothing else in the package calls construct's
parse or build, so an Any lives no longer than the line that copies its fields.
"""

from __future__ import annotations

from typing import Any

import construct as cs

from prtrace.errors import MalformedError


class Layout:
    """A named structure of fixed size, made of flat big-endian integers."""

    __slots__ = ("_struct", "size", "what")

    def __init__(self, what: str, *fields: Any) -> None:
        self.what = what
        self._struct: Any = cs.Struct(*fields)
        self.size: int = self._struct.sizeof()

    def parse(self, raw: bytes, offset: int = 0) -> Any:
        """Decode self.size bytes at offset; MalformedError when fewer are there."""
        if len(raw) - offset < self.size:
            raise MalformedError(
                self.what, f"needs {self.size} bytes, has {max(len(raw) - offset, 0)}"
            )
        try:
            return self._struct.parse(raw[offset : offset + self.size])
        except cs.ConstructError as error:
            raise MalformedError(self.what, _one_line(error)) from error

    def build(self, **fields: int) -> bytes:
        """Encode the fields; MalformedError when a value does not fit its field."""
        try:
            return bytes(self._struct.build(fields))
        except cs.ConstructError as error:
            raise MalformedError(self.what, _one_line(error)) from error


def integers(what: str, raw: bytes, offset: int, count: int) -> tuple[int, ...]:
    """Decode count 64-bit integers at offset; MalformedError when they are not all there."""
    try:
        return tuple(cs.Array(count, cs.Int64ub).parse(raw[offset : offset + 8 * count]))
    except cs.ConstructError as error:
        raise MalformedError(what, _one_line(error)) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
