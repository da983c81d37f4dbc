"""A CDB says what the bytes behind it are, unless they could be something else as well."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prtrace.model import Action, ReservationType
from prtrace.paste.joined import joined
from prtrace.paste.reader import read_text
from prtrace.paste.seen import Seen
from prtrace.scsi.cdb import PrInCdb, PrOutCdb
from prtrace.scsi.codes import InAction
from prtrace.scsi.parameter import BasicList, MoveList
from prtrace.scsi.reply import ReadKeys, ReadReservation, ReportCapabilities
from prtrace.scsi.sense import Sense
from prtrace.scsi.transportid import SasPort

PREEMPT = PrOutCdb(Action.PREEMPT, type=ReservationType.WERO).build()
LIST = BasicList(2, 1).build()
SENSE = Sense(0x70, 6, 0x2A, 5).build()


def runs(*raws):
    return [Seen(source="", line=line, raw=raw) for line, raw in enumerate(raws, 1)]


def test_a_parameter_list():
    (one,) = joined(runs(PREEMPT, LIST))
    assert (one.cdb, one.parameter_list, one.raw) == (PREEMPT, LIST, b"")
    move = MoveList(1, 2, 3, SasPort(1)).build()
    (one,) = joined(runs(PrOutCdb(Action.REGISTER_AND_MOVE, parameter_length=48).build(), move))
    assert one.parameter_list == move


@pytest.mark.parametrize(
    ("action", "reply", "kind"),
    [
        (InAction.READ_KEYS, ReadKeys.of(2, 1).build(), "keys"),
        (InAction.READ_RESERVATION, ReadReservation(2, None).build(), "reservation"),
        (InAction.REPORT_CAPABILITIES, ReportCapabilities().build(), "capabilities"),
        (InAction.READ_FULL_STATUS, bytes.fromhex("0000000200000000"), "full-status"),
    ],
)
def test_a_reply(action, reply, kind):
    (one,) = joined(runs(PrInCdb(action, 8192).build(), reply))
    assert (one.reply, one.reply_kind) == (reply, kind)


@pytest.mark.parametrize(
    "raws",
    [
        (LIST, PREEMPT),
        (PREEMPT, LIST + bytes(8)),
        (PREEMPT, PREEMPT),
        (PREEMPT, SENSE, LIST),
        (PREEMPT, SENSE),
        (PrInCdb(InAction.READ_KEYS, 8).build(), ReadKeys.of(2, 1).build()),
        (PrInCdb(InAction.READ_KEYS, 8192).build(), bytes(7)),
        (bytes.fromhex("120083002400"), LIST),
    ],
)
def test_bytes_that_the_command_cannot_have_stay_alone(raws):
    found = list(joined(runs(*raws)))
    assert len(found) == len(raws)
    assert not any(each.parameter_list or each.reply for each in found)


def test_bytes_that_could_be_sense_data_as_well_stay_alone():
    raw = Sense(0x72, 6, 0x2A, 3).build()[:7] + b"\x10" + bytes(4) + bytes.fromhex("12345678")
    raw += bytes(8)
    _, alone = joined(runs(PREEMPT, raw))
    assert alone.raw == raw


def test_each_list_belongs_to_the_command_right_before_it():
    found = list(joined(runs(PREEMPT, LIST, LIST)))
    assert [bool(each.parameter_list) for each in found] == [True, False]


@given(st.lists(st.sampled_from([PREEMPT, LIST, SENSE, bytes(8), b"\x01"]), max_size=6))
def test_nothing_is_lost(raws):
    found = list(joined(runs(*raws)))
    kept = [
        raw
        for each in found
        for raw in (each.cdb, each.parameter_list, each.reply, each.sense, each.raw)
        if raw
    ]
    assert kept == raws


def dump(raw, offsets="{:04x}  "):
    return "".join(
        f"{offsets.format(at)}{raw[at : at + 16].hex(' ')}\n" for at in range(0, len(raw), 16)
    )


@pytest.mark.parametrize("offsets", ["{:04x}  ", "{:08x}: ", "{:07o} "])
@pytest.mark.parametrize("between", ["", "\n", "# the data\n"])
def test_dumps_one_below_the_other(offsets, between):
    text = dump(PREEMPT, offsets) + between + dump(LIST, offsets)
    (one,) = read_text(text)
    assert (one.line, one.cdb, one.parameter_list) == (1, PREEMPT, LIST)
