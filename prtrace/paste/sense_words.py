"""Sense data in words and numbers: how logs write a sense key, ASC and ASCQ."""

from __future__ import annotations

import re
from typing import Final

from prtrace.paste.seen import SenseTriple
from prtrace.scsi.sense import CODES, KEYS

_KEYS: Final = {name.replace(" ", ""): key for key, name in enumerate(KEYS)}
_NUMBERS: Final = re.compile(
    r"(?:(?:valid |possible )?sense(?: data| key)?\s*[:=]?\s*)?"
    r"(?:0x)?(?P<key>[0-9a-f]{1,2})h?\s*[/, ]\s*(?:0x)?(?P<asc>[0-9a-f]{1,2})h?\s*[/, ]\s*"
    r"(?:0x)?(?P<ascq>[0-9a-f]{1,2})h?\.?",
    re.IGNORECASE,
)
_HEX: Final = re.compile(r"0x|\b\d?[a-f]|[0-9a-f]h\b|\b0\d", re.IGNORECASE)
"""What a number that is hex may show: a mark, a letter, or a digit that decimal ones lack."""
_DECIMAL: Final = re.compile(r"\b[1-9]\d\b")
"""A number that is another one in decimal than in hex."""
_LTFS: Final = re.compile(
    r"\bsense = (?P<key>0[0-9a-f])(?P<asc>[0-9a-f]{2})(?P<ascq>[0-9a-f]{2})\b"
)
_LIBISCSI: Final = re.compile(
    r"(?P<word>[A-Z][A-Z_ ]+)\((?P<key>\d{1,2})\)\s+ASCQ:\S*?\((?P<code>0x[0-9a-f]{1,4})\)"
)
_KEY: Final = re.compile(r"sense key\s*:\s*(?P<name>[a-z ]+?)\s*(?:\[|$|;)", re.IGNORECASE)
_ADDITIONAL: Final = re.compile(r"add(?:itional|\.) sense:\s*(?P<name>.+?)\s*$", re.IGNORECASE)
_ASC: Final = re.compile(r"ASC=(?P<asc>0x[0-9a-f]+)\s+ASCQ=(?P<ascq>0x[0-9a-f]+)", re.IGNORECASE)


def sense_triple(text: str) -> SenseTriple | None:
    """Sense numbers as a text of their own: "06/2a/03", "0x5 0x20 0x0", "5/26/00".

    The standard writes them in hex and with a slash.  None for numbers between blanks or commas
    that may be decimal.
    """
    found = _NUMBERS.fullmatch(text.strip())
    if found is None or int(found["key"], 16) > 0xF:
        return None
    if "/" not in text and not _HEX.search(text) and _DECIMAL.search(text):
        return None
    return SenseTriple(*(int(found[name], 16) for name in ("key", "asc", "ascq")))


def sense_in(text: str) -> SenseTriple | None:
    """Sense numbers inside a line of LTFS or libiscsi, None where there are none."""
    if (found := _LTFS.search(text)) is not None:
        return SenseTriple(*(int(found[name], 16) for name in ("key", "asc", "ascq")))
    if (found := _LIBISCSI.search(text)) is not None and int(found["key"]) <= 0xF:
        code = int(found["code"], 16)
        return SenseTriple(int(found["key"]), code >> 8, code & 0xFF)
    return None


def sense_key(text: str) -> int | None:
    """The sense key that a line names: "Sense Key : Unit Attention [current]"."""
    found = _KEY.search(text)
    return None if found is None else _KEYS.get(found["name"].upper().replace(" ", ""))


def additional_sense(text: str) -> tuple[int, int] | None:
    """ASC and ASCQ that a line names: "Add. Sense: Registrations preempted"."""
    found = _ADDITIONAL.search(text)
    if found is None:
        return None
    if (numbers := _ASC.search(found["name"])) is not None:
        return int(numbers["asc"], 16), int(numbers["ascq"], 16)
    return _CODES.get(_bare(found["name"]))


def _bare(name: str) -> str:
    return re.sub(r"[^A-Z0-9]", "", name.upper())


_CODES: Final = {_bare(name): code for code, name in CODES.items()}
