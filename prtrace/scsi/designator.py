"""VPD page 83h, Device Identification (SPC-4 7.8.6): the names of a logical unit and its port."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, NamedTuple, Self

from prtrace.errors import MalformedError
from prtrace.scsi import forms
from prtrace.scsi.text import escape

PAGE_CODE: Final = 0x83
_WHAT: Final = forms.IDENTIFICATION_PAGE.what
_BINARY: Final = 1
"""CODE SET: the designator is binary."""


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


class Designator(NamedTuple):
    """One designation descriptor."""

    association: Association
    kind: int
    """DESIGNATOR TYPE; Kind names those that can be written as text."""
    code_set: int
    value: bytes
    """DESIGNATOR."""
    protocol: int = 0
    """PROTOCOL IDENTIFIER."""

    @property
    def text(self) -> str | None:
        """The name; None where the type has none, or the bytes are not as the type demands.

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
        fixed = forms.DESIGNATION_DESCRIPTOR.build(
            byte_0=self.protocol << forms.DESIGNATOR_PROTOCOL_SHIFT | self.code_set,
            byte_1=self.association << forms.ASSOCIATION_SHIFT | self.kind,
            designator_length=len(self.value),
        )
        return fixed + self.value

    def _naa_in_order(self) -> bool:
        naa = self.value[0] >> 4 if self.value else 0
        return self.code_set == _BINARY and len(self.value) == (16 if naa == 6 else 8)

    @property
    def rank(self) -> int:
        """How good a name of the logical unit it is: 0 is the best, 9 means no name at all."""
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


class IdentificationPage(NamedTuple):
    """VPD page 83h."""

    designators: tuple[Designator, ...]
    """Those that arrived whole."""
    truncated: bool = False
    """Whether PAGE LENGTH claims more than arrived."""
    problem: str = ""
    """Why the designators end before the page does, or ""."""

    @classmethod
    def parse(cls, page: bytes) -> Self:
        """Decode what arrived; MalformedError when it is not this page."""
        form = forms.IDENTIFICATION_PAGE
        c = form.parse(page)
        if c.page_code != PAGE_CODE:
            raise MalformedError(_WHAT, f"the page code is {c.page_code:#04x}")
        end = form.size
        designators: list[Designator] = []
        for _, end, designator in designation_descriptors(page):  # noqa: B007
            designators.append(designator)
        claimed = form.size + c.page_length
        arrived = min(len(page), claimed)
        problem = f"descriptor {len(designators)} runs past the end" if end < arrived else ""
        return cls(tuple(designators), arrived < claimed, problem)

    def build(self) -> bytes:
        """The page, for a disk (peripheral device type 0)."""
        body = b"".join(each.build() for each in self.designators)
        return forms.IDENTIFICATION_PAGE.build(page_code=PAGE_CODE, page_length=len(body)) + body


def designation_descriptors(page: bytes) -> Iterator[tuple[int, int, Designator]]:
    """Each whole designation descriptor, and its offset and end in page.

    Ends where a descriptor runs past the page or past what arrived of it.
    """
    header, form = forms.IDENTIFICATION_PAGE, forms.DESIGNATION_DESCRIPTOR
    offset = header.size
    end = min(len(page), offset + header.parse(page).page_length)
    while end - offset >= form.size:
        c = form.parse(page, offset)
        after = offset + form.size + c.designator_length
        if after > end:
            return
        yield (
            offset,
            after,
            Designator(
                Association((c.byte_1 & forms.ASSOCIATION) >> forms.ASSOCIATION_SHIFT),
                c.byte_1 & forms.DESIGNATOR_TYPE,
                c.byte_0 & forms.CODE_SET,
                page[offset + form.size : after],
                c.byte_0 >> forms.DESIGNATOR_PROTOCOL_SHIFT,
            ),
        )
        offset = after


@lru_cache(maxsize=512)
def _parsed(page: bytes) -> IdentificationPage:
    """The page, decoded once: a scan of the devices asks for three names of each path's page."""
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


class PageNames(NamedTuple):
    """The names in a page; None for what it does not tell for certain."""

    lu: str | None = None
    """As lu_name."""
    target_port: str | None = None
    relative_target_port: int | None = None


def page_names(page: bytes) -> PageNames:
    """The names in a page, whatever bytes it has."""
    try:
        lu: str | None = lu_name(page)
    except MalformedError:
        lu = None
    try:
        return PageNames(lu, target_port(page), relative_target_port(page))
    except MalformedError:
        return PageNames(lu)


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
