import struct

import construct as cs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prtrace.errors import MalformedError
from prtrace.scsi.form import Bits, Declared, Form, integers

PAIR = Form("pair", "a" / cs.Int8ub, "b" / cs.Int16ub)
INNER = Form("inner", "x" / cs.Int16ul)
MIXED = Form(
    "mixed",
    "flags" / cs.BitStruct(cs.Padding(1), "three" / cs.BitsInteger(3), "end" / cs.Nibble),
    cs.Padding(3),
    "many" / cs.Int32ul[2],
    "name" / cs.Bytes(4),
    "inner" / INNER.construct,
)


def test_parse_at_an_offset():
    fields = PAIR.parse(b"\xff\x01\x02\x03\xff", 1)
    assert (fields.a, fields.b) == (1, 0x0203)


@pytest.mark.parametrize("offset", [2, 3, 9])
def test_too_short(offset):
    with pytest.raises(MalformedError, match=r"pair: needs 3 bytes, has [01]"):
        PAIR.parse(bytes(3), offset)


def test_build():
    assert PAIR.build(a=1, b=2) == b"\x01\x00\x02"
    assert PAIR.build(b=2) == b"\x00\x00\x02", "what is not given is zero"


@pytest.mark.parametrize("fields", [{"a": 256, "b": 0}, {"a": -1, "b": 0}])
def test_what_does_not_fit_is_refused_in_one_line(fields):
    with pytest.raises(MalformedError) as caught:
        PAIR.build(**fields)
    assert "\n" not in caught.value.message


def test_a_name_that_was_not_declared_is_refused():
    with pytest.raises(TypeError, match="c"):
        PAIR.build(c=1)


def test_what_is_declared_can_be_read_off():
    assert MIXED.declared == (
        Declared("flags", 0, 1, (Bits("three", 0x70), Bits("end", 0x0F))),
        Declared("many", 4, 8, count=2),
        Declared("name", 12, 4),
        Declared("inner", 16, 2),
    )
    assert (MIXED.size, MIXED.format) == (18, "<B3x2L4s2s")
    assert (MIXED.offset("name"), MIXED.mask("three"), MIXED.shift("three")) == (12, 0x70, 4)
    assert MIXED.bits("three").of(0xFF) == 7
    for read in (MIXED.field, MIXED.offset, MIXED.mask, MIXED.shift):
        with pytest.raises(KeyError):
            read("nothing")


def test_arrays_bytes_and_inner_forms():
    raw = struct.pack("<B3xII4sH", 0x5A, 1, 2, b"abcd", 0x0102)
    fields = MIXED.parse(raw)
    assert tuple(fields) == (0x5A, (1, 2), b"abcd", b"\x02\x01")
    assert INNER.parse(fields.inner).x == 0x0102
    assert MIXED.build(**fields._asdict()) == raw
    assert MIXED.build() == bytes(18)


@pytest.mark.parametrize(
    "fields",
    [
        ("a" / cs.Int16ub, "b" / cs.Int16ul),
        ("a" / cs.GreedyBytes,),
        ("a" / cs.GreedyRange(cs.Int8ub),),
        (cs.Int8ub,),
        ("a" / cs.BitStruct("x" / cs.Octet, "y" / cs.Nibble, "z" / cs.Nibble), "b" / cs.Int16ul),
    ],
    ids=["both byte orders", "greedy", "range", "no name", "bits and little endian"],
)
def test_what_struct_cannot_read_is_refused_when_it_is_declared(fields):
    with pytest.raises((TypeError, cs.SizeofError)):
        Form("wrong", *fields)


@given(st.binary(min_size=18, max_size=18))
def test_construct_reads_the_same(raw):
    ours, theirs = MIXED.parse(raw), MIXED.construct.parse(raw)
    assert ours.many == tuple(theirs.many)
    assert ours.name == theirs.name
    assert MIXED.bits("three").of(ours.flags) == theirs.flags.three
    assert INNER.parse(ours.inner).x == theirs.inner.x


def test_integers():
    assert integers("keys", bytes([9, *range(16)]), 1, 2) == (
        0x0001020304050607,
        0x08090A0B0C0D0E0F,
    )
    with pytest.raises(MalformedError, match="keys"):
        integers("keys", bytes(15), 0, 2)
