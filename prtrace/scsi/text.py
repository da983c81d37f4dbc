"""Bytes that a device sent, as text that is safe to print, store and compare."""

from __future__ import annotations


def escape(raw: bytes, *, also: bytes = b"") -> str:
    r"""Printable ASCII as it is; blanks, backslashes, everything else and also as \xNN.

    The result has no blanks, control or non-ASCII characters, and different bytes give
    different text.
    """
    return "".join(
        chr(byte)
        if 0x21 <= byte <= 0x7E and byte != 0x5C and byte not in also
        else f"\\x{byte:02x}"
        for byte in raw
    )
