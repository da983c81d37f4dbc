"""VPD page 83h, Device Identification (SPC-4 7.8.6): the names of a logical unit and its port.

Page: 1 PAGE CODE 83h; 2-3 PAGE LENGTH; then designation descriptors: 0 PROTOCOL IDENTIFIER
bits 4-7, CODE SET bits 0-3; 1 ASSOCIATION bits 4-5, DESIGNATOR TYPE bits 0-3; 3 DESIGNATOR
LENGTH; 4-n DESIGNATOR.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

from prtrace.errors import MalformedError
from prtrace.scsi.text import escape
from prtrace.scsi.wire import Layout

PAGE_CODE = 0x83
_WHAT = "VPD page 0x83"
_PAGE = Layout(_WHAT, "xBH", "code length")
_HEADER = Layout("designation descriptor", "BBxB", "code_set kind length")
_BINARY = 1


class Association(enum.IntEnum):
    """What a designator names."""

    LOGICAL_UNIT = 0
    TARGET_PORT = 1
    TARGET_DEVICE = 2
    RESERVED = 3


class Kind(enum.IntEnum):
    """Designator types that prtrace knows how to write as text."""

    VENDOR = 0
    T10 = 1
    EUI64 = 2
    NAA = 3
    RELATIVE_TARGET_PORT = 4
    TARGET_PORT_GROUP = 5
    LOGICAL_UNIT_GROUP = 6
    MD5 = 7
    NAME_STRING = 8
    PROTOCOL_SPECIFIC = 9
    UUID = 10


@dataclass(frozen=True, slots=True)
class Designator:
    """One designation descriptor; kind and code_set are the fields' numbers."""

    association: Association
    kind: int
    code_set: int
    value: bytes
    protocol: int = 0

    @property
    def text(self) -> str | None:
        """The name, None where the designator is none or its bytes are not in order.

        "naa.<hex>", "eui.<hex>", "name.<string>", "uuid.<uuid>", "t10.<string>",
        "vendor.<string>"; blanks and unprintable bytes in a string are escaped.
        """
        value = self.value
        match self.kind:
            case Kind.NAA if self._naa_in_order():
                return f"naa.{value.hex()}"
            case Kind.EUI64 if self.code_set == _BINARY and len(value) in (8, 12, 16):
                return f"eui.{value.hex()}"
            case Kind.UUID if len(value) == 18 and value[0] >> 4 == 1:
                digits = value[2:].hex()
                parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
                return "uuid." + "-".join(parts)
            case Kind.NAME_STRING | Kind.T10 | Kind.VENDOR:
                string = value.rstrip(b"\0 ")
                prefix = {Kind.NAME_STRING: "name", Kind.T10: "t10"}.get(Kind(self.kind), "vendor")
                return f"{prefix}.{escape(string)}" if string else None
            case _:
                return None

    def build(self) -> bytes:
        """4 bytes and the value."""
        return (
            _HEADER.build(
                code_set=self.protocol << 4 | self.code_set,
                kind=self.association << 4 | self.kind,
                length=len(self.value),
            )
            + self.value
        )

    def _naa_in_order(self) -> bool:
        naa = self.value[0] >> 4 if self.value else 0
        return self.code_set == _BINARY and len(self.value) == (16 if naa == 6 else 8)

    @property
    def rank(self) -> int:
        """How good a name of the logical unit it is; 0 is the best, 9 is none."""
        if self.association is not Association.LOGICAL_UNIT or self.text is None:
            return _NONE
        if self.kind == Kind.NAA:
            return _NAA_RANKS.get(self.value[0] >> 4, _NONE)
        return _RANKS.get(self.kind, _NONE)


_NAA_RANKS = {6: 0, 5: 1, 3: 2, 2: 3}
_RANKS: dict[int, int] = {
    Kind.EUI64: 4,
    Kind.NAME_STRING: 5,
    Kind.UUID: 6,
    Kind.T10: 7,
    Kind.VENDOR: 8,
}
_NONE = 9


@dataclass(frozen=True, slots=True)
class IdentificationPage:
    """The page; designators are those that arrived whole.

    truncated: PAGE LENGTH claims more than arrived.  problem: why the designators end before
    the page does, or "".
    """

    designators: tuple[Designator, ...]
    truncated: bool = False
    problem: str = ""

    @classmethod
    def parse(cls, page: bytes) -> Self:
        """Decode what arrived; MalformedError when it is not this page."""
        c = _PAGE.parse(page)
        if c.code != PAGE_CODE:
            raise MalformedError(_WHAT, f"the page code is {c.code:#04x}")
        left = page[_PAGE.size : _PAGE.size + c.length]
        truncated = len(left) < c.length
        designators: list[Designator] = []
        while len(left) >= _HEADER.size:
            c = _HEADER.parse(left)
            after = _HEADER.size + c.length
            if after > len(left):
                break
            designators.append(
                Designator(
                    Association(c.kind >> 4 & 3),
                    c.kind & 0x0F,
                    c.code_set & 0x0F,
                    left[_HEADER.size : after],
                    c.code_set >> 4,
                )
            )
            left = left[after:]
        problem = f"descriptor {len(designators)} runs past the end" if left else ""
        return cls(tuple(designators), truncated, problem)

    def build(self) -> bytes:
        """The page, for a disk (peripheral device type 0)."""
        body = b"".join(each.build() for each in self.designators)
        return _PAGE.build(code=PAGE_CODE, length=len(body)) + body


@lru_cache(maxsize=512)
def _parsed(page: bytes) -> IdentificationPage:
    """The page, decoded once: whoever looks for devices asks three things of each path's."""
    return IdentificationPage.parse(page)


def lu_name(page: bytes) -> str:
    """The logical unit's name: its best designator, as text.

    NAA (6, 5, 3, 2) before EUI-64, SCSI name string, UUID, T10 vendor id, vendor specific;
    the first of equals.  MalformedError when page is damaged, names no logical unit, or ends
    where a better name could follow.
    """
    name = lu_name_partial(page)
    if name is None:
        cut = _parsed(page).truncated
        raise MalformedError(
            _WHAT,
            "is cut off before the best name is certain" if cut else "names no logical unit",
        )
    return name


def lu_name_partial(page: bytes) -> str | None:
    """As lu_name, from a page that may be cut off.

    None when nothing names the logical unit or a better name could lie beyond what arrived;
    only an NAA 6 name is beyond improvement.  MalformedError when it is not this page.
    """
    parsed = _parsed(page)
    best = min(parsed.designators, key=lambda each: each.rank, default=None)
    if best is None or best.rank == _NONE or (parsed.truncated and best.rank > 0):
        return None
    return best.text


def relative_target_port(page: bytes) -> int | None:
    """The relative port identifier of the port that answered, None where it is not told."""
    for each in _parsed(page).designators:
        if (
            each.association is Association.TARGET_PORT
            and each.kind == Kind.RELATIVE_TARGET_PORT
            and len(each.value) == 4
        ):
            return int.from_bytes(each.value[2:], "big")
    return None


def target_port(page: bytes) -> str | None:
    """The name of the port that answered: "naa.<hex>", or its SCSI name string escaped.

    None where it is not told.  iSCSI's name string is "iqn.…,t,0x<portal group tag>".
    """
    names = [
        each
        for each in _parsed(page).designators
        if each.association is Association.TARGET_PORT
        and each.kind in (Kind.NAA, Kind.NAME_STRING)
        and each.text is not None
    ]
    best = min(names, key=lambda each: each.kind, default=None)
    if best is None or best.text is None:
        return None
    return best.text.removeprefix("name.")
