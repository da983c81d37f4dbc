"""Frames as tshark 4.0.17 printed them (-P -x) of a capture that text2pcap made of iSCSI PDUs.

10.20.0.31 registers, preempts, is refused a CLEAR, reads the keys, meets a unit attention with a
WRITE, and reads the reservation.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paste.lines import fixture
from prtrace.errors import MalformedError
from prtrace.paste import iscsi
from prtrace.paste.hexdump import Run, parse_runs
from prtrace.paste.reader import read_text
from prtrace.paste.shown import shown_in_order

PRINTED = fixture("tshark-4.0-P-x.txt")
DUMPS = "\n".join("" if "iSCSI" in line else line for line in PRINTED.splitlines())
FRAMES = [run.raw for run in parse_runs(DUMPS)]


def test_every_command_with_its_data_and_its_answer():
    found = read_text(PRINTED)
    assert [each.cdb[:2].hex() for each in found] == [
        "5f06", "5f05", "5f03", "5e00", "2a00", "5e01",
    ]  # fmt: skip
    assert [each.status for each in found] == [0, 0, 0x18, 0, 2, 0]
    register, preempt, clear, keys, write, reservation = found
    assert register.parameter_list.hex() == "0" * 24 + "36830002" + "0" * 16
    assert preempt.parameter_list.hex() == "0" * 8 + "36830002" + "0" * 8 + "36830001" + "0" * 16
    assert len(clear.parameter_list) == 24
    assert (keys.reply_kind, keys.reply.hex()) == (
        "keys",
        "0000000200000008" + "0" * 8 + "36830002",
    )
    assert write.sense.hex() == "700006000000000a000000002a0500000000"
    assert write.parameter_list == b"", "what an ordinary command writes is nobody's business"
    assert reservation.reply_kind == "reservation"
    for each in found:
        assert dict(each.facts) == {
            "initiator": "10.20.0.31",
            "target": "10.20.0.9",
            "logical unit number": "2",
        }
    assert list(shown_in_order(found, None))


def test_columns_above_the_dumps_make_no_difference():
    assert [each.cdb for each in read_text(DUMPS)] == [each.cdb for each in read_text(PRINTED)]


def test_an_answer_without_its_command_says_whose_it_was():
    answer = FRAMES[9]
    (seen,) = iscsi.read([Run(1, answer)])
    assert dict(seen.facts) == {"initiator": "10.20.0.31", "target": "10.20.0.9"}
    assert (seen.status, seen.sense[:3].hex()) == (2, "700006")


def tagged(raw):
    """The frame with a VLAN tag."""
    return raw[:12] + bytes.fromhex("8100 0007") + raw[12:]


def six(raw):
    """The frame with IPv6 addresses, fd00::1 to fd00::2."""
    tcp = raw[34:]
    header = bytes.fromhex("60000000") + len(tcp).to_bytes(2, "big") + bytes([6, 64])
    ports = [bytes.fromhex("fd00") + bytes(13) + bytes([last]) for last in (1, 2)]
    return raw[:12] + b"\x86\xdd" + header + ports[0] + ports[1] + tcp


@pytest.mark.parametrize("change", [tagged, six, lambda raw: raw + bytes(6)])
def test_other_headers(change):
    (plain,) = iscsi.read([Run(1, FRAMES[2])])
    (seen,) = iscsi.read([Run(1, change(FRAMES[2]))])
    assert (seen.cdb, seen.parameter_list) == (plain.cdb, plain.parameter_list)


def test_a_pdu_that_goes_on_in_the_next_segment_is_told():
    whole = FRAMES[2]
    cut = whole[:16] + (len(whole) - 14 - 8).to_bytes(2, "big") + whole[18:-8]
    assert not iscsi.is_frame(cut)
    found = list(iscsi.read([Run(1, FRAMES[0]), Run(9, cut)]))
    assert [dict(each.facts).get("not read") is not None for each in found] == [True, False]


def test_data_that_do_not_follow_each_other_are_told():
    reply = bytearray(FRAMES[7])
    at = 14 + 20 + 20 + 40
    reply[at : at + 4] = (8).to_bytes(4, "big")
    (seen,) = iscsi.read([Run(1, FRAMES[6]), Run(2, bytes(reply))])
    assert seen.reply == b""
    assert "data at offset 8" in dict(seen.facts)["not read"]


@given(st.sampled_from(FRAMES), st.integers(0, 200), st.binary(max_size=60))
def test_any_bytes_are_read_or_told(frame, at, other):
    raw = frame[:at] + other + frame[at + len(other) :]
    for seen in iscsi.read([Run(1, raw)]):
        assert seen.source == iscsi.SOURCE


@pytest.mark.parametrize(
    "text",
    [
        " 1214  38.114021  10.20.0.31 \N{RIGHTWARDS ARROW} 10.20.0.9    iSCSI 150 SCSI: x LUN: 2",
        "1 0.0 10.0.0.1 -> 10.0.0.2 iSCSI 150 SCSI: Persistent Reserve Out LUN: 0x02",
        "Frame 1: 126 bytes on wire (1008 bits), 126 bytes captured\n    Frame Number: 1",
        "SCSI CDB Persistent Reserve Out\n    Opcode: Persistent Reserve Out (0x5f)",
        "1 0.0 a -> b TCP 60 x\n\n0000  00 01 02 03 04 05 06 07",
    ],
)
def test_what_has_no_bytes_of_commands_is_refused_with_what_to_do(text):
    with pytest.raises(MalformedError) as caught:
        read_text(text)
    assert caught.value.what.startswith("tshark")
    assert "-x" in caught.value.hint
