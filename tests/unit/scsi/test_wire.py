import pytest

from prtrace.errors import MalformedError
from prtrace.scsi.wire import Layout, integers

PAIR = Layout("pair", "BH", "a b")


def test_parse_at_an_offset():
    fields = PAIR.parse(b"\xff\x01\x02\x03\xff", 1)
    assert (fields.a, fields.b) == (1, 0x0203)


@pytest.mark.parametrize("offset", [2, 3, 9])
def test_too_short(offset):
    with pytest.raises(MalformedError, match=r"pair: needs 3 bytes, has [01]"):
        PAIR.parse(bytes(3), offset)


def test_build():
    assert PAIR.build(a=1, b=2) == b"\x01\x00\x02"


@pytest.mark.parametrize("fields", [{"a": 256, "b": 0}, {"a": -1, "b": 0}])
def test_what_does_not_fit_is_refused_in_one_line(fields):
    with pytest.raises(MalformedError) as caught:
        PAIR.build(**fields)
    assert "\n" not in caught.value.message


def test_integers():
    assert integers("keys", bytes([9, *range(16)]), 1, 2) == (
        0x0001020304050607,
        0x08090A0B0C0D0E0F,
    )
    with pytest.raises(MalformedError, match="keys"):
        integers("keys", bytes(15), 0, 2)
