"""Forms of fixed size: construct declares them, struct reads and builds them.

A declaration names every field, in the order and in the words of the standard.  Form walks the
declaration once and derives a struct.Struct from it: construct's own parser takes thirty times
as long for the same bytes.  What varies in length is read by loops over such forms, in the
module of what they describe.  construct's GreedyRange is not used: it ends at the first bytes
that do not fit, and says nothing.

The construct classes that a declaration may use:
    Int8ub, Int16ub, … Int64ul    a number, in one byte order throughout the form
    Bytes(n)                      bytes
    Padding(n)                    reserved bytes: not read, written as zero
    BitStruct(…)                  1, 2, 4 or 8 bytes, read as one number; fields of bits in it
                                  (Flag, Bit, Nibble, BitsInteger(n), Padding(n)) have a mask
    Array(n, number)              n numbers, read as a tuple
    Struct(…)                     another form's fields, read as bytes (see Form.construct)
"""

from __future__ import annotations

import struct
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import construct as cs

from prtrace.errors import MalformedError

_named_tuple: Any = namedtuple
"""mypy accepts namedtuple only with names that are spelt out."""

_CODES: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}
"""struct's codes of unsigned numbers, by size in bytes."""


class Bits(NamedTuple):
    """A field of bits inside a field of bytes."""

    name: str
    mask: int
    """Its bits in the number that the bytes make."""

    @property
    def shift(self) -> int:
        """How far the masked number is shifted right to be the field's value."""
        return (self.mask & -self.mask).bit_length() - 1

    def of(self, number: int) -> int:
        """The field's value in the number that the bytes make."""
        return (number & self.mask) >> self.shift


@dataclass(frozen=True, slots=True)
class Declared:
    """A field of bytes as it was declared."""

    name: str
    offset: int
    """In bytes from the form's start."""
    size: int
    """In bytes."""
    bits: tuple[Bits, ...] = ()
    """The fields inside it, the most significant first; () where it is one field itself."""
    count: int = 1
    """How many numbers an Array has."""


class Form:
    """A form of fixed size.

    what names it in errors.  fields are construct's declarations, each `"name" / subcon` or
    Padding(n).  TypeError at import time for a construct class that has no place in a form.
    """

    __slots__ = ("_counts", "_fields", "_made", "_struct", "construct", "declared", "size", "what")

    def __init__(self, what: str, *fields: Any) -> None:
        self.what = what
        self.construct: Any = cs.Struct(*fields)
        """The declaration: for a form inside another one, and for tests, which parse by it."""
        order, code, declared = _derive(what, fields)
        self.declared = declared
        self._struct = struct.Struct(order + code)
        self.size = self._struct.size
        counts = [each.count for each in declared]
        self._counts = counts if any(count > 1 for count in counts) else None
        self._fields: Any = None
        self._made: Any = self._first

    @property
    def format(self) -> str:
        """The derived format, as the module struct has it."""
        return self._struct.format

    def parse(self, raw: bytes, offset: int = 0) -> Any:
        """The fields of the self.size bytes at offset, as attributes.

        MalformedError when fewer bytes are there.
        """
        try:
            return self._made(self._struct.unpack_from(raw, offset))
        except struct.error:
            left = max(len(raw) - offset, 0)
            raise MalformedError(self.what, f"needs {self.size} bytes, has {left}") from None

    def build(self, **fields: Any) -> bytes:
        """The bytes; a field that is not given is zero.

        MalformedError when a value does not fit its field; TypeError for a name that was not
        declared.
        """
        if self._fields is None:
            self._prepare()
        values: Any = self._fields(**fields)
        if self._counts:
            values = _flat(values)
        try:
            return self._struct.pack(*values)
        except struct.error as error:
            raise MalformedError(self.what, str(error)) from error

    def field(self, name: str) -> Declared:
        """The field of bytes of that name; KeyError where there is none."""
        for each in self.declared:
            if each.name == name:
                return each
        raise KeyError(name)

    def offset(self, name: str) -> int:
        """Where the field of bytes of that name begins; KeyError where there is none."""
        return self.field(name).offset

    def bits(self, name: str) -> Bits:
        """The field of bits of that name; KeyError where there is none."""
        for each in self.declared:
            for bits in each.bits:
                if bits.name == name:
                    return bits
        raise KeyError(name)

    def mask(self, name: str) -> int:
        """The mask of the field of bits of that name; KeyError where there is none."""
        return self.bits(name).mask

    def shift(self, name: str) -> int:
        """How far the field of bits of that name lies from bit 0; KeyError as mask()."""
        return self.bits(name).shift

    def _first(self, values: tuple[Any, ...]) -> Any:
        """Stands in for the maker of named tuples until the first parse needs it.

        Making the class takes longer than the rest of a declaration, and most programs read
        few of the forms.
        """
        self._prepare()
        return self._made(values)

    def _prepare(self) -> None:
        zeros = self._struct.unpack(bytes(self.size))
        counts = self._counts
        defaults = zeros if counts is None else tuple(_grouped(zeros, counts))
        made = _named_tuple("Fields", [each.name for each in self.declared], defaults=defaults)
        self._fields = made
        self._made = made._make
        if counts is not None:
            self._made = lambda values: made(*_grouped(values, counts))


def integers(what: str, raw: bytes, offset: int, count: int) -> tuple[int, ...]:
    """Decode count big-endian 64-bit numbers at offset; MalformedError where bytes lack."""
    try:
        return struct.unpack_from(f">{count}Q", raw, offset)
    except struct.error as error:
        raise MalformedError(what, str(error)) from error


def _derive(what: str, fields: tuple[Any, ...]) -> tuple[str, str, tuple[Declared, ...]]:
    """struct's byte order and codes for the fields, and the fields as they lie."""
    orders: set[str] = set()
    codes: list[str] = []
    declared: list[Declared] = []
    offset = 0
    for field in fields:
        size = field.sizeof()
        name: str | None = field.name
        if name is None:
            if not isinstance(field, cs.Padded):
                raise TypeError(f"{what}: only Padding has no name")
            codes.append(f"{size}x")
        else:
            code, bits, count = _code(what, field.subcon, orders)
            codes.append(code)
            declared.append(Declared(name, offset, size, bits, count))
        offset += size
    if len(orders) > 1:
        raise TypeError(f"{what}: numbers of both byte orders")
    return orders.pop() if orders else ">", "".join(codes), tuple(declared)


def _code(what: str, subcon: Any, orders: set[str]) -> tuple[str, tuple[Bits, ...], int]:
    """struct's code for a named field, the fields of bits in it, and how many numbers it is."""
    if isinstance(subcon, cs.FormatField):
        order, code = subcon.fmtstr
        if subcon.length > 1:
            orders.add(order)
        return code, (), 1
    if isinstance(subcon, cs.Bytes | cs.Struct):
        return f"{subcon.sizeof()}s", (), 1
    if isinstance(subcon, cs.Array):
        code, _, _ = _code(what, subcon.subcon, orders)
        return f"{subcon.count}{code}", (), subcon.count
    if isinstance(subcon, cs.Transformed):
        size = subcon.sizeof()
        if size > 1:
            orders.add(">")
        return _CODES[size], tuple(_bits(subcon.subcon.subcons, 8 * size)), 1
    raise TypeError(f"{what}: {type(subcon).__name__} has no place in a form")


def _bits(subcons: list[Any], left: int) -> Iterator[Bits]:
    """The named ones of a BitStruct's fields, of which the first is the most significant."""
    for each in subcons:
        width = each.sizeof()
        left -= width
        if each.name is not None:
            yield Bits(each.name, (1 << width) - 1 << left)


def _grouped(values: tuple[Any, ...], counts: list[int]) -> Iterator[Any]:
    """struct's flat values with those of each Array put together."""
    at = 0
    for count in counts:
        yield values[at] if count == 1 else values[at : at + count]
        at += count


def _flat(values: tuple[Any, ...]) -> Iterator[Any]:
    for each in values:
        if isinstance(each, tuple):
            yield from each
        else:
            yield each
