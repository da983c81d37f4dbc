"""Text that others chose, made safe to store and to print."""

from __future__ import annotations


def clean(text: str, limit: int) -> str:
    r"""Return text with nothing but printable characters, at most limit of them (limit > 0).

    Process names, command lines and INQUIRY strings are chosen by whoever starts the process
    or makes the device.  Control characters, bidirectional overrides and bytes that are no
    UTF-8 (surrogates, in Python) become backslash escapes; what is cut ends with an ellipsis.
    """
    short = text[: limit + 1]
    if not short.isprintable():
        short = "".join(
            c
            if c.isprintable()
            else c.encode("ascii", "backslashreplace").decode()
            if ord(c) > 0x7F
            else f"\\x{ord(c):02x}"
            for c in short
        )
    return short if len(short) <= limit else short[: limit - 1] + "…"
