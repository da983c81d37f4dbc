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
    assert [dict(each.facts).get("not read") is not None for each in found] == [False, True]


def test_data_that_do_not_follow_each_other_are_told():
    reply = bytearray(FRAMES[7])
    at = 14 + 20 + 20 + 40
    reply[at : at + 4] = (8).to_bytes(4, "big")
    (seen,) = iscsi.read([Run(1, FRAMES[6]), Run(2, bytes(reply))])
    assert seen.reply == b""
    assert "data at offset 8" in dict(seen.facts)["not read"]


HOST, DISK = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
REGISTER = bytes.fromhex("5f000000000000001800").ljust(16, b"\0")
LISTED = (0xAA).to_bytes(16, "big") + bytes(8)


class Wire:
    """One TCP connection, as frames that a capture has of it."""

    def __init__(self, port):
        self.port = port
        self.sequences = {True: 1, False: 1}

    def frame(self, payload, *, answer=False):
        ports = (3260, self.port) if answer else (self.port, 3260)
        ends = (DISK, HOST) if answer else (HOST, DISK)
        sequence = self.sequences[answer]
        self.sequences[answer] += len(payload)
        tcp = b"".join(
            (*(port.to_bytes(2, "big") for port in ports), sequence.to_bytes(4, "big"),
             bytes(4), bytes((0x50, 0x18)), bytes(6), payload)
        )  # fmt: skip
        size = (20 + len(tcp)).to_bytes(2, "big")
        ip = b"".join((b"\x45\0", size, bytes(5), b"\x06", bytes(2), *ends))
        return bytes(12) + b"\x08\0" + ip + tcp

    def command(self, tag, cdb, data=b""):
        return self.frame(command(tag, cdb, data))

    def answer(self, tag, status):
        head = bytes((0x21, 0x80, 0, status)) + bytes(12) + tag.to_bytes(4, "big")
        return self.frame(head.ljust(48, b"\0"), answer=True)


def command(tag, cdb, data=b""):
    head = bytes((1, 0xA1, 0, 0, 0)) + len(data).to_bytes(3, "big") + bytes(8)
    head += tag.to_bytes(4, "big") + len(data).to_bytes(4, "big") + bytes(8)
    return head + cdb.ljust(16, b"\0") + data


def told(*frames):
    """The operation code and the status of all that frames tell, where they are read."""
    found = iscsi.read([Run(number, raw) for number, raw in enumerate(frames)])
    return [
        (each.cdb[:1].hex(), each.status) for each in found if "not read" not in dict(each.facts)
    ]


def test_sessions_between_the_same_addresses_have_tags_of_their_own():
    one, two = Wire(40001), Wire(40002)
    begun = one.command(16, REGISTER, LISTED)
    assert told(begun, two.answer(16, 0)) == [("5f", None), ("", 0)]
    assert told(
        begun, two.command(16, bytes(6)), two.answer(16, 0), one.answer(16, 0x18)
    ) == [("5f", 0x18), ("00", 0)]  # fmt: skip


def test_a_status_ends_the_command():
    wire = Wire(40001)
    frames = [wire.command(16, REGISTER, LISTED), wire.answer(16, 0), wire.answer(16, 0x18)]
    assert told(*frames) == [("5f", 0), ("", 0x18)]


@pytest.mark.parametrize("captured", [True, False])
def test_a_tag_may_have_been_used_again_where_segments_are_not_read(captured):
    """REGISTER's answer and a WRITE with its tag are in parts of PDUs, or not in the capture."""
    wire = Wire(40001)
    begun = [wire.answer(14, 0), wire.command(16, REGISTER, LISTED)]
    lost = [wire.frame(bytes(40), answer=True), wire.frame(command(16, bytes((0x2A,)))[:40])]
    later = [wire.answer(15, 0), wire.command(17, bytes(6)), wire.answer(16, 0x18)]
    assert told(*begun, *(lost if captured else ()), *later) == [
        ("", 0), ("5f", None), ("", 0), ("00", None), ("", 0x18)
    ]  # fmt: skip


def test_a_frame_that_goes_on_with_a_pdu_begins_no_other_command():
    wire = Wire(40001)
    frames = [wire.command(16, REGISTER, LISTED), wire.frame(bytes(40)), wire.answer(16, 0x18)]
    assert told(*frames) == [("5f", 0x18)]


def test_a_segment_that_was_sent_again_is_one():
    wire = Wire(40001)
    begun = wire.command(16, REGISTER, LISTED)
    assert told(begun, begun, wire.answer(16, 0)) == [("5f", 0)]


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
