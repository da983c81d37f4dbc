"""Structures of fixed size on the wire, between struct's tuples and our typed values.

Every fixed-size structure is one Layout.  Nothing else in prtrace.scsi calls struct, so an
Any lives no longer than the line that copies its fields.
"""

from __future__ import annotations

import struct
from collections import namedtuple
from typing import Any

from prtrace.errors import MalformedError

_named_tuple: Any = namedtuple
"""mypy knows the function only with names that are spelt out."""


class Layout:
    """A named structure of fixed size, made of flat big-endian fields.

    form: as the module struct has it; reserved bytes are x.  fields: the others' names.
    """

    __slots__ = ("_fields", "_struct", "size", "what")

    def __init__(self, what: str, form: str, fields: str) -> None:
        self.what = what
        self._struct = struct.Struct(f">{form}")
        self._fields = _named_tuple("Fields", fields)
        self.size = self._struct.size

    def parse(self, raw: bytes, offset: int = 0) -> Any:
        """Decode self.size bytes at offset; MalformedError when fewer are there."""
        if len(raw) - offset < self.size:
            raise MalformedError(
                self.what, f"needs {self.size} bytes, has {max(len(raw) - offset, 0)}"
            )
        return self._fields._make(self._struct.unpack_from(raw, offset))

    def build(self, **fields: int | bytes) -> bytes:
        """Encode the fields; MalformedError when a value does not fit its field."""
        try:
            return self._struct.pack(*self._fields(**fields))
        except struct.error as error:
            raise MalformedError(self.what, str(error)) from error


def integers(what: str, raw: bytes, offset: int, count: int) -> tuple[int, ...]:
    """Decode count 64-bit integers at offset; MalformedError when they are not all there."""
    try:
        return struct.unpack_from(f">{count}Q", raw, offset)
    except struct.error as error:
        raise MalformedError(what, str(error)) from error
