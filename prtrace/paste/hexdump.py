r"""Bytes written as text: words of hex digits, or a dump with offsets and characters.

Dumps of xxd, hexdump -C, od -t x1, tshark -x and the sg3_utils (-H, -HH, sg_raw -r).  Words of
hex digits between blanks, commas, colons, dashes, braces or brackets, each with 0x, \x or
nothing before it; # starts a comment that ends with the line.

Two columns of a dump are not data, and both prove themselves.  The character column shows the
bytes of its own line.  The offset column counts the bytes of the lines above it; one line alone
shows an offset by a colon, or by a gap that is wider than the gaps between the bytes.

A word of more than two digits may have its bytes in the machine's order.  Such words are read
where the characters beside one of them show the order, or where either order gives the same bytes.

Numbers of one and two decimal digits may be decimal, as od -t u1 prints them.  They are read where
a digit in front that decimal numbers lack, or the characters beside them, show that they are hex.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

from prtrace.errors import MalformedError

LARGEST: Final = 1 << 20
"""Bytes that a dump may have; a line of * stands for any number of repeated lines."""

_LONGEST: Final = 1024
"""Characters of a dump's line: in longer ones no columns are looked for."""
_WHAT: Final = "hex text"
_DIGITS: Final = frozenset("0123456789abcdefABCDEF")
_SEPARATORS: Final = str.maketrans(dict.fromkeys(",;:-{}[]()\"'", " "))
_OFFSET: Final = re.compile(
    r"\s*(?P<digits>[0-9A-Fa-f]{2,16})(?P<gap>:(?=\s|$)\s*|\s+|$)(?P<rest>.*)"
)
_COLON_BETWEEN: Final = re.compile(r"[0-9A-Fa-f]{1,2}:\s")
"""Bytes between colons and blanks, as in "5f: 01: 05"."""
_DELIMITED: Final = re.compile(r"(?P<hex>.*?)\s+(?:\|(?P<bar>.*)\||>(?P<angle>.*)<)\s*")
_COMMENT: Final = re.compile(r"(?<!\S)#")
_GAP: Final = re.compile(r"\s{2,}")
_REPEATED: Final = "*"
_STRIDES: Final = (8, 16, 32)
"""Bytes that dumps have in a line."""
_EITHER_BASE: Final = 7
"""Digits of od's offsets, which are octal or, with -A d, decimal."""
_NARROW: Final = 2
_SG_OFFSET: Final = 3
"""Digits that the offsets of the sg3_utils have at most; other programs' have more."""
_SG_STRIDES: Final = (8, 16)
"""Bytes behind the offset in the only line of a short reply that the sg3_utils dump."""
_WORD: Final = 4
"""Digits of the words that hexdump and od -x print, the lower byte first on most machines."""
_WIDE_GAP: Final = 3
_MACHINE_WORDS: Final = (8, 16)
"""Digits of the words of xxd -e, od -t x4 and od -t x8."""
_PYTHON: Final = re.compile(r"\bb['\"]")
_ESCAPES: Final = re.compile(
    r"\s*[({\[]*(?P<quote>[\"']?)(?:\\x[0-9A-Fa-f]{2})+(?P=quote)[)}\]]*[;,]?\s*"
)
r"""One row of \x.. and what a program has around it."""
_BINARY: Final = re.compile(r"(?<!\S)0[bB][01]{3,}(?!\w)")
_ADDRESS: Final = re.compile(r"(?<!\S)0x[0-9A-Fa-f]{3,16}:(?=\s)")
"""What debuggers print before the bytes."""
_RULER: Final = re.compile(r"\s*0?0(?:\s+[01]?[0-9a-f])+\s*", re.IGNORECASE)
"""A line that numbers the columns of a dump, as PowerShell's Format-Hex prints it."""
_SIGNED: Final = re.compile(r"(?<![0-9A-Za-z])-\d+")
_PLAIN_HINT: Final = "bytes as two hex digits each, or a dump of xxd, hexdump -C, od -A x -t x1"


@dataclass(frozen=True, slots=True)
class _Line:
    """One line, read without and, where its first word can be an offset, with an offset."""

    number: int
    text: str
    data: bytes | MalformedError
    words: str = ""
    """The part of the line that spells data."""
    shown: str = ""
    """The characters that stand beside data."""
    offset: str = ""
    """The digits of the first word, "" where it cannot be an offset."""
    behind: bytes | MalformedError = b""
    """The bytes behind the offset."""
    words_behind: str = ""
    """The part of the line that spells the bytes behind the offset."""
    shown_behind: str = ""
    """The characters that stand beside the bytes behind the offset."""
    colon: bool = False
    gap: int = 0
    """Blanks behind the first word."""
    inner_gap: int = 0
    """The widest gap between later words."""
    widths: frozenset[int] = frozenset()
    """How many digits the first word behind the offset has."""
    swapped: bytes = b""
    """The bytes behind the offset, were each word in the machine's order."""
    ordered: bool = False
    """Whether the line's characters show that its words are in the order of the bytes."""

    @property
    def whole(self) -> bool:
        """Whether what is behind the offset can be read."""
        return isinstance(self.behind, bytes)


class Run(NamedTuple):
    """Bytes that stand together."""

    line: int
    """The number of their first line, from 1."""
    raw: bytes
    by_sg_utils: bool = False
    """Whether it is a dump without characters in the layout that only the sg3_utils have."""


def parse_hex(text: str) -> bytes:
    """The bytes that text spells.

    MalformedError names the line, what it looks like and what to do instead.
    """
    return _one_run(_read_lines(text)).raw


def parse_runs(text: str) -> tuple[Run, ...]:
    """The bytes that text spells, a run for each dump.

    Offsets that begin at 0 again begin another dump.  MalformedError as parse_hex.
    """
    lines = _read_lines(text)
    starts = [at for at, line in enumerate(lines) if line.offset and not line.offset.strip("0")]
    if len(starts) < 2 or starts[0] != 0 or not _has_offsets(lines):
        return (_one_run(lines),)
    dumps = [lines[start:end] for start, end in pairwise((*starts, len(lines)))]
    return tuple(Run(each[0].number, _dump(each), _is_of_sg_utils(each)) for each in dumps)


def _one_run(lines: list[_Line]) -> Run:
    dumped = _has_offsets(lines)
    raw = _dump(lines) if dumped else _plain(lines)
    if not raw:
        raise MalformedError(_WHAT, "holds no bytes", hint=_PLAIN_HINT)
    return Run(lines[0].number, raw, dumped and _is_of_sg_utils(lines))


def _is_of_sg_utils(lines: list[_Line]) -> bool:
    """Whether lines that have offsets are laid out as the sg3_utils dump without characters."""
    return all(len(line.offset) <= _SG_OFFSET and not line.shown_behind for line in lines)


def _read_lines(text: str) -> list[_Line]:
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        below = (lines[at] for at in range(number, len(lines)))
        if _RULER.fullmatch(line[:_LONGEST]) and _is_ruler(line, below):
            raise MalformedError(
                _WHAT, f"line {number} numbers the columns of a dump", hint="leave that line out"
            )
    return [
        each for number, line in enumerate(lines, 1) if (each := _read(number, line)) is not None
    ]


def _is_ruler(line: str, below: Iterable[str]) -> bool:
    """Whether a line has all numbers of the columns of the dump below it, and stands over them."""
    words = next((each.split(maxsplit=1) for each in below if each.strip()), None)
    if words is None or not (line[0].isspace() or len(words[0]) > _NARROW):
        return False
    columns = [int(each, 16) for each in line.split()]
    return len(columns) in _STRIDES and columns == list(range(len(columns)))


def _read(number: int, text: str) -> _Line | None:
    """A line's readings; None for a blank line or one that is all comment.

    A character column may hold a #, so a comment is looked for where the line as it is cannot
    be read.
    """
    first: _Line | None = None
    for candidate in _without_comment(text):
        if not candidate.strip():
            return first if first is not None and not _is_comment(text) else None
        line = _line(number, candidate)
        if first is None:
            first = line
        if isinstance(line.data, bytes) or (isinstance(line.behind, bytes) and line.offset):
            return line
    return first


def _without_comment(text: str) -> Iterator[str]:
    """The line as it is, then cut off before each # that begins a word, from the right."""
    yield text
    if len(text) > _LONGEST:
        yield text.partition("#")[0]
        return
    for comment in reversed(list(_COMMENT.finditer(text))):
        yield text[: comment.start()]


def _is_comment(text: str) -> bool:
    return text.lstrip().startswith("#")


def _line(number: int, text: str) -> _Line:
    if text.strip() == _REPEATED:
        return _Line(
            number,
            text,
            MalformedError(
                _WHAT,
                f"line {number}: * stands for lines that are not there",
                hint="dump every line: hexdump -Cv, od -v -A x -t x1",
            ),
        )
    if len(text) > _LONGEST:
        return _Line(number, text, _words(number, text), text)
    data, words, beside = _bytes(number, text)
    found = _OFFSET.fullmatch(text)
    if found is None:
        return _Line(number, text, data, words, beside)
    rest, gap = found["rest"], found["gap"]
    if gap.startswith(":") and _COLON_BETWEEN.match(rest):
        return _Line(number, text, data, words, beside)
    behind, part, shown = _bytes(number, rest, ordered=gap.startswith(":"))
    swapped = _swapped(part) if isinstance(behind, bytes) else b""
    return _Line(
        number,
        text,
        data,
        words,
        beside,
        found["digits"],
        behind if rest.strip() else b"",
        part,
        shown,
        gap.startswith(":"),
        len(gap),
        max((len(each) for each in re.findall(r"(?<=\S)\s+(?=\S)", part)), default=0),
        frozenset(len(word) for word in rest.split()[:1]),
        swapped,
        bool(shown) and not _shows(swapped, shown),
    )


def _bytes(
    number: int, text: str, *, ordered: bool = False
) -> tuple[bytes | MalformedError, str, str]:
    """The bytes of a line without offset, the part of the line that spells them, the characters.

    The character column is held against the bytes.  ordered: words of four digits have the
    order of the bytes, as xxd writes them.
    """
    delimited = _DELIMITED.fullmatch(text)
    if delimited is not None:
        shown = delimited["bar"] if delimited["bar"] is not None else delimited["angle"]
        data = _words(number, delimited["hex"], ordered=ordered)
        if isinstance(data, bytes) and _shows(data, shown, framed=True):
            return data, delimited["hex"], shown
    for gap in _GAP.finditer(text):
        part = text[: gap.start()]
        if not part.strip():
            continue
        data = _words(number, part, ordered=ordered)
        if isinstance(data, bytes) and _shows(data, text[gap.end() :]):
            return data, part, text[gap.end() :]
    return _words(number, text, ordered=ordered), text.rstrip(), ""


def _split(text: str) -> list[str]:
    r"""The words of a text; \x before digits is 0x."""
    return text.replace("\\x", " 0x").translate(_SEPARATORS).split()


def _swapped(text: str) -> bytes:
    """The bytes of words that could be read, each word from its end."""
    digits = (word[2:] if word[:2] in ("0x", "0X") else word for word in _split(text))
    return b"".join(
        bytes.fromhex(each if len(each) % 2 == 0 else f"0{each}")[::-1] for each in digits
    )


def _shows(data: bytes, shown: str, *, framed: bool = False) -> bool:
    """Whether shown is data as characters, with a dot for what cannot be printed.

    Blanks at the ends of a line are lost when it is copied.  framed: it stands between bars, which
    may have nothing but blanks between them.
    """
    drawn = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in data)
    return (framed or bool(shown.strip())) and shown.strip() == drawn.strip()


def _words(number: int, text: str, *, ordered: bool = False) -> bytes | MalformedError:
    r"""Words of hex digits; where every word has at most two digits, one digit is a byte too."""
    if (error := _other_notation(number, text)) is not None:
        return error
    words = _split(text)
    digits = [word[2:] if word[:2] in ("0x", "0X") else word for word in words]
    short = len(digits) > 1 and all(len(each) <= 2 for each in digits)
    if short and {len(each) for each in words} == {1, 2} and all(map(str.isdecimal, words)):
        return _decimal(number, "words of one digit and of two may be decimal numbers")
    if sum(len(each) in _MACHINE_WORDS for each in digits) > 1:
        return _machine_order(number, "words of eight or sixteen digits")
    if not ordered and len(digits) > 1 and all(len(each) == _WORD for each in digits):
        return _machine_order(number, "words of four digits")
    found = bytearray()
    for word, each in zip(words, digits, strict=True):
        if not each or not _DIGITS.issuperset(each):
            return _not_hex(number, word)
        if len(each) % 2 and not (short or (len(each) == 1 and len(word) > 1)):
            return MalformedError(
                _WHAT,
                f"line {number}: {word[:40]!r} has an odd number of digits",
                hint=_PLAIN_HINT,
            )
        found += bytes.fromhex(each if len(each) % 2 == 0 else f"0{each}")
    return bytes(found)


def _other_notation(number: int, text: str) -> MalformedError | None:
    """Why text is no words of hex although its digits may look so; None where it may be."""
    if _PYTHON.search(text) is not None:
        return MalformedError(
            _WHAT,
            f"line {number}: b'...' is Python's way to write bytes, with letters among them",
            hint="print them with .hex()",
        )
    if "\\x" in text and _ESCAPES.fullmatch(text) is None:
        return MalformedError(
            _WHAT,
            f"line {number}: what stands between two \\x.. may be bytes, too",
            hint=_PLAIN_HINT,
        )
    if (signed := _SIGNED.search(text)) is not None:
        return _decimal(number, f"{signed[0][:40]} has a sign, as decimal numbers have")
    if (binary := _BINARY.search(text)) is not None:
        return MalformedError(
            _WHAT, f"line {number}: {binary[0][:40]!r} may be a binary number", hint=_PLAIN_HINT
        )
    if (address := _ADDRESS.search(text)) is not None:
        return MalformedError(
            _WHAT, f"line {number}: {address[0]!r} is an address", hint="leave the addresses out"
        )
    return None


def _refuse_decimal(lines: Iterable[tuple[int, str, str]]) -> None:
    """MalformedError where nothing shows that the numbers of all lines are hex.

    lines: of each its number, the words of it, and the characters beside them.
    """
    first, words, told = 0, list[str](), False
    for number, part, shown in lines:
        first = first or number
        here = _split(part)
        words += here
        if shown and not told and all(each.isdecimal() and len(each) <= 2 for each in here):
            told = not _shows(bytes(map(int, here)), shown, framed=True)
    widths = {len(each) for each in words}
    padded = widths == {2} and any(each.startswith("0") for each in words)
    decimal = len(words) > 1 and 2 in widths <= {1, 2} and all(map(str.isdecimal, words))
    if decimal and not told and not padded:
        raise _decimal(first, "bytes with decimal digits alone may be decimal numbers")


def _decimal(number: int, what: str) -> MalformedError:
    return MalformedError(
        _WHAT,
        f"line {number}: {what}",
        hint="write bytes as two hex digits each, with 0x in front: od -t u1 prints decimal",
    )


def _machine_order(number: int, what: str) -> MalformedError:
    return MalformedError(
        _WHAT,
        f"line {number}: {what} may be in the machine's byte order",
        hint="write bytes of two digits: hexdump -C, xxd -g1, or od -A x -t x1",
    )


def _not_hex(number: int, word: str) -> MalformedError:
    return MalformedError(
        _WHAT, f"line {number}: {word.strip()[:40]!r} is not hex", hint=_PLAIN_HINT
    )


def _has_offsets(lines: list[_Line]) -> bool:
    """Whether the first column is one of offsets, right or wrong.

    MalformedError where one line can be read both ways.
    """
    dumped = [line for line in lines if line.text.strip() != _REPEATED]
    if not all(line.offset for line in dumped) or not any(line.behind for line in dumped):
        return False
    if _marked(dumped) or _counts(dumped):
        return True
    first = dumped[0]
    if len(dumped) < len(lines) and len(first.offset) > _NARROW:
        return True
    if len(first.offset) > _NARROW and first.widths <= {1, 2} and _number(first.offset, 16) == 0:
        raise MalformedError(
            _WHAT,
            f"line {first.number}: {first.offset!r} may be an offset or bytes",
            hint="leave it out if it is an offset; write it as bytes of two digits if it is data",
        )
    if len(lines) == 1 and _is_of_either(first):
        raise MalformedError(
            _WHAT,
            f"line {first.number}: {first.offset!r} may be an offset or a byte",
            hint="leave it out if it is an offset; write the bytes as one word if it is one",
        )
    return False


def _is_of_either(line: _Line) -> bool:
    """Whether a lone line may be one of the sg3_utils whose blanks were lost, or bytes."""
    behind = line.behind
    if len(line.offset) > _NARROW or not isinstance(behind, bytes) or line.shown_behind:
        return False
    return len(behind) in _SG_STRIDES and (_number(line.offset, 16) or 0) % _SG_STRIDES[-1] == 0


def _marked(lines: list[_Line]) -> bool:
    """Whether something beside the numbers themselves shows that the first column is apart."""
    if any(isinstance(line.data, MalformedError) and line.behind and line.whole for line in lines):
        return True  # the characters are those of the bytes behind it
    if all(line.colon for line in lines) or all(len(line.offset) % 2 for line in lines):
        return True
    apart = [line for line in lines if line.behind]
    if all(line.widths == {_WORD} != {len(line.offset)} for line in apart):
        return True  # hexdump or od -x; the words are refused
    if all(len(line.offset) > _NARROW for line in lines):
        return all(line.gap >= 2 and line.widths <= {1, 2} for line in apart)
    return all(line.gap >= _WIDE_GAP and line.gap > line.inner_gap for line in apart)


def _counts(lines: list[_Line]) -> bool:
    """Whether the first column counts the bytes of the lines above, in one base."""
    narrow = all(len(line.offset) == _NARROW for line in lines)
    first = lines[0].behind
    if len(lines) < 2 or not isinstance(first, bytes) or (narrow and len(first) not in _STRIDES):
        return False
    for base in (16, 8, 10):
        total = 0
        for line in lines:
            if not isinstance(line.behind, bytes) or _number(line.offset, base) != total:
                break
            total += len(line.behind)
        else:
            return total > 0
    return False


def _number(digits: str, base: int) -> int | None:
    try:
        return int(digits, base)
    except ValueError:
        return None


def _plain(lines: list[_Line]) -> bytes:
    """The bytes of lines without offsets."""
    found = b"".join(map(_data, lines))
    _refuse_decimal((line.number, line.words, line.shown) for line in lines)
    words = [word for line in lines for word in line.text.translate(_SEPARATORS).split()]
    # od -A n, hexdump -e and debuggers print numbers so, one a line.
    wide = (_WORD, *_MACHINE_WORDS) if len(words) > 1 else _MACHINE_WORDS
    numbers = len(words) == len(lines) and all(
        len(word.lower().removeprefix("0x")) in wide for word in words
    )
    if numbers and found != _swapped(" ".join(words)):
        raise _machine_order(lines[0].number, "a word that stands alone in its line")
    return found


def _data(line: _Line) -> bytes:
    if isinstance(line.data, MalformedError):
        raise line.data
    return line.data


def _dump(lines: list[_Line]) -> bytes:
    """The bytes behind the offsets, each of which has to be right."""
    for line in lines:
        if line.text.strip() != _REPEATED and isinstance(line.behind, MalformedError):
            raise line.behind
        if line.behind and not line.colon and not line.widths <= {1, 2}:
            raise MalformedError(
                _WHAT,
                f"line {line.number} looks like a dump of words in the machine's byte order",
                hint="dump bytes: hexdump -C, xxd, or od -A x -t x1",
            )
    _refuse_decimal((line.number, line.words_behind, line.shown_behind) for line in lines)
    if all(line.behind == line.swapped or not line.ordered for line in lines):
        for line in lines:
            if line.behind != line.swapped:
                raise _machine_order(line.number, "words whose characters do not show it")
    squeezed = any(line.text.strip() == _REPEATED for line in lines)
    digits = {len(line.offset) for line in lines if line.offset}
    bases = (8, 10) if digits == {_EITHER_BASE} else (16,) if squeezed else (16, 8, 10)
    read: set[bytes] = set()
    failures: list[MalformedError] = []
    for base in bases:
        try:
            read.add(_counted(lines, base))
        except MalformedError as error:
            failures.append(error)
    if len(read) > 1:
        raise MalformedError(
            _WHAT,
            "the offsets can be octal or decimal, and * stands for another number of lines",
            hint="dump every line: od -v -A x -t x1",
        )
    if not read:
        raise failures[0]
    return read.pop()


def _counted(lines: list[_Line], base: int) -> bytes:
    found = bytearray()
    last = b""
    repeated = False
    for line in lines:
        if line.text.strip() == _REPEATED:
            repeated = True
            continue
        offset = _number(line.offset, base)
        if offset is None:
            raise MalformedError(_WHAT, f"line {line.number}: offset {line.offset} in octal?")
        if repeated and last:
            missing = offset - len(found)
            if missing < 0 or missing % len(last) or offset > LARGEST:
                raise MalformedError(_WHAT, f"line {line.number}: a * cannot end at {offset:#x}")
            found += last * (missing // len(last))
        repeated = False
        if offset != len(found):
            raise MalformedError(
                _WHAT,
                f"line {line.number}: its first column looks like the offset {offset:#x}, "
                f"but {len(found):#x} bytes are above it",
                hint="copy the dump whole, or leave the first column out",
            )
        last = line.behind if isinstance(line.behind, bytes) else b""
        found += last
    if repeated:
        raise MalformedError(_WHAT, "ends with a *: how often the line repeats is not there")
    return bytes(found)
