import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prtrace.errors import UsageError
from prtrace.model import Action
from prtrace.scsi.cdb import LegacyCdb, PrInCdb, PrOutCdb
from prtrace.scsi.codes import InAction
from prtrace.scsi.parameter import BasicList, MoveList
from prtrace.scsi.recognise import DecodeAs, plausible_forms, recognise
from prtrace.scsi.reply import ReadKeys
from prtrace.scsi.sense import Sense
from prtrace.scsi.transportid import SasPort

SENSE = Sense(0x70, 6, 0x2A, 3).build()


@pytest.mark.parametrize(
    "raw",
    [
        PrOutCdb(Action.REGISTER).build(),
        PrOutCdb(Action.PREEMPT).build() + bytes(6),
        PrInCdb(InAction.READ_KEYS, 8192).build() + bytes(22),
        LegacyCdb(release=False, length=6).build(),
        LegacyCdb(release=True, length=6).build() + bytes(10),
        LegacyCdb(release=True, length=10).build(),
    ],
)
def test_cdb(raw):
    assert recognise(raw) is DecodeAs.CDB


@pytest.mark.parametrize(
    "raw",
    [SENSE, SENSE + bytes(78), b"\xf0" + SENSE[1:], Sense(0x72, 6, 0x29, 0).build()],
)
def test_sense(raw):
    assert recognise(raw) is DecodeAs.SENSE


def test_vpd83():
    assert recognise(bytes.fromhex("0083000c 01030008 5000c50012345678")) is DecodeAs.VPD83


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (bytes(8), "8 bytes could be keys or reservation or full-status: "),
        (BasicList(0, 5).build(), "24 bytes could be out: "),
        (BasicList(0x10, 5).build(), "24 bytes could be out or keys"),
        (MoveList(1, 2, 3, SasPort(1)).build(), "48 bytes could be out-move: "),
        (ReadKeys.of(3, 1).build(), "16 bytes could be keys: "),
        (bytes.fromhex("0008 1d 91 ea01 0000"), "8 bytes could be capabilities: "),
        (b"\x70\0\x06", "3 bytes carry no mark"),
        (b"\x5f" + bytes(8), "9 bytes carry no mark"),
        (b"\x28" + bytes(9), "10 bytes carry no mark"),
        (b"", "0 bytes carry no mark"),
        (SENSE + b"\x01", "19 bytes carry no mark"),
    ],
)
def test_bytes_without_a_mark_have_to_be_named(raw, words):
    with pytest.raises(UsageError, match=words) as caught:
        recognise(raw)
    forms = plausible_forms(raw)
    named = caught.value.hint.partition("--as")[2]
    assert [each.value for each in DecodeAs if re.search(rf"[ ,]{each.value}(,|$)", named)] == [
        each.value for each in forms or DecodeAs
    ]


def test_a_mark_that_could_be_chance_is_not_enough():
    raw = Sense(0x72, 6, 0x2A, 3).build()[:7] + b"\x10" + bytes(4) + bytes.fromhex("12345678")
    raw += bytes(8)
    assert plausible_forms(raw) == (DecodeAs.OUT, DecodeAs.SENSE)
    with pytest.raises(UsageError, match="out or sense"):
        recognise(raw)


@given(st.binary(max_size=80))
def test_any_bytes(raw):
    try:
        form = recognise(raw)
    except UsageError:
        return
    assert plausible_forms(raw) == (form,)
