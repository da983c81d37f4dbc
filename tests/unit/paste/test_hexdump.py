"""Dumps as the real programs write them, and what a person does to them before pasting."""

import contextlib
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prtrace.errors import MalformedError
from prtrace.paste.hexdump import parse_hex, parse_runs

REPLY = bytes.fromhex("00000001 00000008 00000000666e0001")
CDB = bytes.fromhex("5f010500000000001800")


LOOKALIKES = st.lists(
    st.sampled_from([b"0", b"1", b"a", b"F", b"x", b" ", b".", b"#", b"|", b">", b"<", b":", b"-",
                     b"*", b"\0", b"\x08", b"\x10"]),
    min_size=1,
    max_size=70,
).map(b"".join)  # fmt: skip
"""Data whose character column looks like hex, a comment, or a column of its own."""


def characters(data):
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in data)


def halves(line):
    """Bytes in two groups of eight, as hexdump and the sg3_utils have them."""
    return "  ".join(part.hex(" ") for part in (line[:8], line[8:]) if part)


def rows(data, size=16):
    return [(at, data[at : at + size]) for at in range(0, len(data), size)]


def xxd(data):
    return "".join(
        f"{at:08x}: {line.hex(' ', -2):<39}  {characters(line)}\n" for at, line in rows(data)
    )


def xxd_e(data):
    """xxd -e -g2: words in the machine's order."""
    rows_of_words = (
        (at, " ".join(word[::-1].hex() for word in pairs(line)), characters(line))
        for at, line in rows(data)
    )
    return "".join(f"{at:08x}: {words:<39}  {shown}\n" for at, words, shown in rows_of_words)


def pairs(line):
    return [line[at : at + 2] for at in range(0, len(line), 2)]


def shows_its_order(data):
    """Whether the characters tell words of two bytes from the same ones swapped."""
    swapped = b"".join(pair[::-1] for pair in pairs(data))
    # Blanks at the ends of a line are lost.
    return swapped == data or any(
        characters(one).strip() != characters(other).strip()
        for (_, one), (_, other) in zip(rows(data), rows(swapped), strict=True)
    )


def may_be_decimal(data, *, shown=True):
    """Whether two hex digits for each byte are decimal numbers, too, with the same characters."""
    words = [f"{byte:02x}" for byte in data]
    if len(words) < 2 or not all(word.isdecimal() and word[0] != "0" for word in words):
        return False
    other = bytes(map(int, words))
    return not shown or all(
        characters(one).strip() == characters(two).strip()
        for (_, one), (_, two) in zip(rows(data), rows(other), strict=True)
    )


def hexdump(data):
    body = "".join(
        f"{at:08x}  {halves(line):<48}  |{characters(line)}|\n" for at, line in rows(data)
    )
    return f"{body}{len(data):08x}\n"


def tshark(data):
    return "".join(
        f"{at:04x}  {line.hex(' '):<47}   {characters(line)}\n" for at, line in rows(data)
    )


def sg_raw(data):
    return "".join(
        f" {at:02x}     {halves(line):<51} {characters(line)}\n" for at, line in rows(data)
    )


def sg_persist(data):
    return "".join(f" {at:02x}     {halves(line)}\n" for at, line in rows(data))


def od(data, *options):
    done = subprocess.run(["od", *options], input=data, stdout=subprocess.PIPE, check=True)
    return done.stdout.decode()


WRITERS = [xxd, hexdump, tshark, sg_raw, sg_persist]
SPELLINGS = {
    "blanks": lambda data: data.hex(" "),
    "one word": lambda data: data.hex(),
    "0x": lambda data: " ".join(f"0x{byte:02x}" for byte in data),
    "short 0x": lambda data: " ".join(f"{byte:#x}" for byte in data),
    "short": lambda data: " ".join(f"{byte:x}" for byte in data),
    "C": lambda data: "{" + ", ".join(f"0x{byte:02x}" for byte in data) + "};",
    "commas": lambda data: ",".join(f"{byte:02x}" for byte in data),
    "dashes": lambda data: data.hex("-"),
    "colons": lambda data: data.hex(":"),
    "escapes": lambda data: '"' + "".join(f"\\x{byte:02x}" for byte in data) + '"',
    "brackets": lambda data: f"[{data.hex(' ')}]",
    "a byte a line": lambda data: "\n".join(f"{byte:02x}" for byte in data),
}


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS)
@pytest.mark.parametrize("data", [CDB, REPLY], ids=["cdb", "reply"])
def test_spellings(spell, data):
    assert parse_hex(spell(data)) == data
    assert parse_hex(spell(data) + "   # seen at 12:03\n") == data


@pytest.mark.parametrize("writer", WRITERS)
@given(data=st.binary(min_size=1, max_size=80), change=st.data())
def test_any_dump_in_any_dress(writer, data, change):
    """In either case, with other line ends, indented, without blanks at the ends of its lines."""
    if change.draw(st.booleans()):
        # The characters would be upper case too then, which no dump has: leave them out.
        lines = sg_persist(data).upper().splitlines()
        shown = False
    else:
        lines = writer(data).splitlines()
        shown = writer is not sg_persist
    indent = change.draw(st.sampled_from(["", "  ", "\t", "    "]))
    end = change.draw(st.sampled_from(["\n", "\r\n", "  \n"]))
    if change.draw(st.booleans()):
        lines = [line.rstrip() for line in lines]
    text = "".join(f"{indent}{line}{end}" for line in lines)
    try:
        assert parse_hex(text) == data
    except MalformedError as error:
        if "decimal" in error.message:
            assert may_be_decimal(data, shown=shown), text
        else:
            assert writer is xxd, text
            assert not shows_its_order(data), text


@given(st.binary(min_size=1, max_size=40) | LOOKALIKES, st.booleans())
def test_xxd_words_in_the_machines_order_are_never_read_as_they_stand(data, shown):
    """With the characters beside them, and without."""
    text = xxd_e(data)
    if not shown:
        text = "\n".join(line[:50] for line in text.splitlines())
    with contextlib.suppress(MalformedError):
        assert parse_hex(text) == data


@pytest.mark.parametrize("writer", WRITERS)
@given(data=LOOKALIKES, strip=st.sampled_from([str, str.rstrip, str.strip]))
def test_characters_that_look_like_something_else(writer, data, strip):
    """Read rightly, or refused: never read wrongly."""
    text = "\n".join(strip(line) for line in writer(data).splitlines())
    try:
        found = parse_hex(text)
    except MalformedError:
        return
    assert found == data


@pytest.mark.parametrize(
    "options",
    [("-A", "x", "-t", "x1"), ("-t", "x1"), ("-t", "x1z"), ("-A", "d", "-t", "x1"),
     ("-v", "-t", "x1"), ("-A", "n", "-v", "-t", "x1")],
    ids=" ".join,
)  # fmt: skip
@pytest.mark.parametrize("data", [CDB, REPLY, REPLY * 5, bytes(99), REPLY + CDB], ids=len)
def test_bytes_by_od_are_read_or_refused(options, data):
    text = od(data, *options)
    try:
        assert parse_hex(text) == data
    except MalformedError:
        assert "*" in text, text


def od_of(data, *, sign, width):
    """od -A n -t u1 or d1, without running it."""
    numbers = [byte - 256 if sign and byte > 127 else byte for byte in data]
    cells = [f"{number:{5 if sign else 4}}" for number in numbers]
    return "\n".join("".join(cells[at : at + width]) for at in range(0, len(cells), width))


@pytest.mark.parametrize("sign", [False, True], ids=["u1", "d1"])
@pytest.mark.parametrize("data", [CDB, REPLY, bytes(range(10, 90))], ids=len)
def test_od_of_the_tests_is_od(data, sign):
    printed = od(data, "-v", "-A", "n", "-w16", "-t", "d1" if sign else "u1")
    assert printed.rstrip("\n") == od_of(data, sign=sign, width=16)


@given(
    st.lists(
        st.integers(0, 255) | st.integers(0, 20) | st.integers(10, 99), min_size=2, max_size=40
    )
    | st.lists(st.integers(0, 9) | st.integers(247, 255), min_size=2, max_size=20),
    st.data(),
)
def test_decimal_numbers_are_never_read_as_hex(numbers, dress):
    """With a sign or without, with offsets, characters and separators, in lines of any width."""
    data = bytes(numbers)
    sign = dress.draw(st.booleans())
    width = dress.draw(st.sampled_from([4, 8, 16, 32]))
    lines = od_of(data, sign=sign, width=width).splitlines()
    if dress.draw(st.booleans()):
        parts = [data[at : at + width] for at in range(0, len(data), width)]
        lines = [f"{line}  >{characters(part)}<" for line, part in zip(lines, parts, strict=True)]
    offset = dress.draw(st.sampled_from([None, "{:07o} ", "{:07} ", "{:08x}: "]))
    if offset is not None:
        lines = [offset.format(at * width) + line for at, line in enumerate(lines)]
    elif dress.draw(st.booleans()):
        lines = [f"[{', '.join(line.split())}]" for line in lines]
    with contextlib.suppress(MalformedError):
        assert parse_hex("\n".join(lines)) == data


@pytest.mark.parametrize(
    "text",
    ["94 16 24 32", "10 20\n30 40", "[94, 16]", "-1 -2 -3", "94 -1", "0000000  94  16  24",
     "  16  17  >..<", "6 29 0"],
)  # fmt: skip
def test_what_may_be_decimal_is_refused_with_what_to_do(text):
    with pytest.raises(MalformedError, match="decimal") as caught:
        parse_hex(text)
    assert "0x" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    ["94 16 00", "0x94 0x16", "94:16:05", "94 1a", "31 32 33  123", "0x1 0x10", "9416", "94"],
)
def test_what_shows_that_it_is_hex_is_read(text):
    assert parse_hex(text)


def test_the_layout_that_only_the_sg3_utils_have_is_told():
    for size in (8, 16, 24, 300):
        data = bytes(range(256)) + bytes(size)
        for writer in WRITERS:
            (run,) = parse_runs(writer(data))
            assert run.by_sg_utils == (writer is sg_persist), writer
    assert not parse_runs(REPLY.hex(" "))[0].by_sg_utils


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0x7ffe1000:\t0x5f\t0x01\t0x05", "address"),
        ("0x00000000: 5f 01 05", "address"),
        ("0b01011111 0b00000001", "binary"),
        (r"\x00AB\x01", "may be bytes"),
        (r"'\x00,\x01'", "may be bytes"),
        (r'"\x00 \x01"', "may be bytes"),
        (r"\x00-", "may be bytes"),
        ("     00 01 02 03 04 05 06 07\n00 5f 01 05", "columns"),
        (
            f"  {bytes(range(16)).hex(' ').upper()}\n\n00000000   5F 01 05 00 00 00 00 00 18 00",
            "columns",
        ),
        (f"{bytes(range(16)).hex(' ')}\n00000000  5f 01 05 00 00 00 00 00 18 00", "columns"),
    ],
)
def test_what_debuggers_and_programs_print_is_refused_with_what_it_looks_like(text, words):
    with pytest.raises(MalformedError, match=words) as caught:
        parse_hex(text)
    assert caught.value.hint


def test_bytes_that_count_up_are_read():
    data = bytes(range(32))
    assert parse_hex(f"{data[:16].hex(' ')}\n{data[16:].hex(' ')}") == data


@pytest.mark.parametrize("size", [8, 16])
@pytest.mark.parametrize("offset", ["00", "10", "f0"])
def test_an_offset_whose_gap_was_lost_is_no_byte(size, offset):
    """As a web page or a chat leaves it."""
    with pytest.raises(MalformedError, match="may be an offset or a byte") as caught:
        parse_hex(f"{offset} {bytes(range(0x20, 0x20 + size)).hex(' ')}")
    assert caught.value.hint


@pytest.mark.parametrize(
    "options", [(), ("-x",), ("-A", "x", "-x"), ("-A", "n", "-x"), ("-t", "x4")], ids=" ".join
)
@pytest.mark.parametrize("data", [CDB, REPLY, REPLY * 5, REPLY + CDB], ids=len)
def test_words_in_the_machines_order_are_refused(options, data):
    with pytest.raises(MalformedError, match="line") as caught:
        parse_hex(od(data, *options))
    assert caught.value.hint


@pytest.mark.parametrize("writer", WRITERS)
@given(data=st.binary(min_size=40, max_size=100), cut=st.integers(1, 2))
def test_a_dump_without_its_first_lines_is_refused(writer, data, cut):
    text = "".join(writer(data).splitlines(keepends=True)[cut:])
    with pytest.raises(MalformedError):
        parse_hex(text)


@pytest.mark.parametrize(
    ("text", "data"),
    [
        (" 00     00 00 00 01 00 00 00 08  00 00 00 00 66 6e 00 01", REPLY),
        ("0000   00 00 00 01 00 00 00 08 00 00 00 00 66 6e 00 01", REPLY),
        ("000000 00 00 00 01 00 00 00 08 00 00 00 00 66 6e 00 01\n000010\n", REPLY),
        ("00000000  5f 01 05 00 00 00 00 00  18 00    |_.........|", CDB),
        ("00000000: 5f01 0500 0000 0000 1800   _.........", CDB),
        ("00000000  5f 01 05 00 00 00 00 00  18 00", CDB),
        ("00 11 22 33\n03 44 55 66", bytes.fromhex("0011223303445566")),
        ("62 63 20 20            bc", b"bc  "),
    ],
)
def test_an_offset_column_is_never_data(text, data):
    assert parse_hex(text) == data


@pytest.mark.parametrize("between", [" ", "  ", " | ", " # "])
def test_a_long_line_takes_no_longer(between):
    """Looking for columns at each gap of a line takes the square of its length."""
    text = between.join(["00"] * 100_000)
    try:
        assert parse_hex(text) in (bytes(100_000), bytes(1))
    except MalformedError as error:
        assert "'|'" in error.message  # noqa: PT017


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no bytes"),
        ("# 5e\n", "holds no bytes"),
        ("5e0\n", "has an odd number"),
        ("5e zz", "'zz' is not hex"),
        ("0000 00 00 00 01", "may be an offset or bytes"),
        (" 10     00 00 00 01 00 00 00 08", "offset 0x10"),
        ("5f01 0500 0000 0000 1800", "byte order"),
        ("00 01\n*\n", "lines that are not there"),
        ("00000000: 5f01 0500   xx..", "is not hex"),
        ("\N{ARABIC-INDIC DIGIT ONE}\N{ARABIC-INDIC DIGIT ONE}", "is not hex"),
        ("x" * 1000, "line 1: '" + "x" * 40 + "' is not hex"),
    ],
)
def test_refused(text, words):
    with pytest.raises(MalformedError, match=words):
        parse_hex(text)


@given(st.text(max_size=100) | st.text("0123456789abcdefxX#:|>*. \n", max_size=200))
def test_any_text(text):
    problem = ""
    try:
        parse_hex(text)
    except MalformedError as error:
        problem = error.message
    assert "\n" not in problem


@pytest.mark.parametrize("count", [1, 2, 16])
def test_bytes_that_are_blanks_are_no_empty_column(count):
    assert parse_hex(hexdump(b" " * count)) == b" " * count


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (r"b'\x00\x12A'", "Python"),
        (r'b"\x00\x12"', "Python"),
        ("00000000: 00000000 01000000 00000000 02000000  ................", "byte order"),
        (" 00000000 01000000\n 00000000 00000001", "byte order"),
        ("00000000: 0100000000000000 0200000000000000", "byte order"),
        ("000000 0100000000000000 0200000000000000\n000010 0000000100000000", "byte order"),
        ("00000000: 0000 0100 0000 0800  ........", "byte order"),
        ("00000000: 000000000005065f     0018", "byte order"),
        ("0000000000000001", "byte order"),
        ("0x00000001", "byte order"),
        ("00000001\n00000008\n00000000\n00000001", "byte order"),
        ("0x0000000100000000\n0x0000000000000001", "byte order"),
        ("0001\n0800", "byte order"),
        ("[0, 0, 0, 18, 0, 0, 1, 0]", "decimal"),
        ("   0   0   0  18   0   0", "decimal"),
        ("0 1 2 3\n10 11 12 13", "decimal"),
    ],
)
def test_what_may_mean_other_bytes_is_refused(text, words):
    with pytest.raises(MalformedError, match=words) as caught:
        parse_hex(text)
    assert caught.value.hint


@pytest.mark.parametrize(
    "text",
    ["5f 1 5 0", "0x1 0x10", "00 01 10", "5f0605000000 001800", "0" * 16, "1 2 3"],
)
def test_what_can_mean_one_thing_only_is_read(text):
    assert parse_hex(text)
