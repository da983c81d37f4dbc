"""Captures as commented hex text: `5e 00 0x12 345678   # comment`."""

from __future__ import annotations

from prtrace.errors import MalformedError

_WHAT = "hex text"
_DIGITS = frozenset("0123456789abcdefABCDEF")


def parse_hex(text: str) -> bytes:
    """The bytes that text spells.

    Words of an even number of hex digits, each with an optional 0x, between blanks; a # starts
    a comment that ends with the line.  MalformedError names the line of any other word, and
    tells when there are no bytes at all.
    """
    found = bytearray()
    for number, line in enumerate(text.splitlines(), 1):
        for word in line.partition("#")[0].split():
            digits = word[2:] if word[:2] in ("0x", "0X") else word
            if not digits or not _DIGITS.issuperset(digits):
                raise MalformedError(_WHAT, f"line {number}: {word[:40]!r} is not hex")
            if len(digits) % 2:
                raise MalformedError(
                    _WHAT, f"line {number}: {word[:40]!r} has an odd number of digits"
                )
            found += bytes.fromhex(digits)
    if not found:
        raise MalformedError(_WHAT, "holds no bytes")
    return bytes(found)
