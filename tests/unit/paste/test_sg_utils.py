"""Transcripts of sg_persist and sg_raw 1.46 and 1.48, as these printed them.

Registered are 0x666e0001 and 0x4150475230303031 (READ KEYS), 0x666e0001 holds WERO; READ FULL
STATUS has the two registrations of two-nexuses.full-status.hex.
"""

import ctypes
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paste.test_hexdump import sg_persist
from prtrace.errors import MalformedError, PrtraceError, UsageError
from prtrace.model import Action
from prtrace.paste import sg_utils
from prtrace.paste.reader import read_text
from prtrace.paste.seen import SenseTriple
from prtrace.paste.shown import shown
from prtrace.scsi.codes import InAction
from prtrace.scsi.describe import describe
from prtrace.scsi.transportid import FcPort, IscsiPort, SasPort, SrpPort

FIXTURES = Path(__file__).parents[2] / "fixtures"
VERSIONS = ("1.46", "1.48")
KEYS = bytes.fromhex("00000002 00000010 00000000666e0001 4150475230303031")
HELD = bytes.fromhex("00000002 00000010 00000000666e0001 00000000 0005 0000")
CAPABILITIES = bytes.fromhex("00081d91ea010000")
FULL = bytes.fromhex(
    "".join(
        line.partition("#")[0]
        for line in (FIXTURES / "two-nexuses.full-status.hex").read_text().splitlines()
    ).replace("0x", "")
)
REPLIES = {"k": KEYS, "r": HELD, "c": CAPABILITIES, "s": FULL}
KINDS = {"k": "keys", "r": "reservation", "c": "capabilities", "s": "full-status"}


def transcripts(version):
    text = (FIXTURES / "paste" / f"sg3_utils-{version}.txt").read_text()
    parts = text.split("=== ")[1:]
    return {name: body for name, _, body in (part.partition("\n") for part in parts)}


def only(text):
    (seen,) = read_text(text)
    return seen


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("what", "krcs")
@pytest.mark.parametrize("silent", ["", "n"])
def test_replies_in_hex(version, what, silent):
    printed = transcripts(version)
    name = silent + what
    if what == "c":
        # It has no PRGENERATION, so -H is as -HH; behind a name and a type it is no dump alone.
        wanted = [f"{name}-HHH"] if silent else []
    else:
        assert only(printed[f"{name}-H"]).reply == REPLIES[what]
        wanted = [f"{name}-HH", f"{name}-HHH"] if silent else []
    for each in wanted:
        if each.endswith("-HHH") and what != "c":
            assert read_text(printed[each]) == REPLIES[what]
        else:
            seen = only(printed[each])
            assert (seen.raw, seen.header) == (REPLIES[what], None)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("what", "krcs")
@pytest.mark.parametrize("silent", ["", "n"])
def test_the_command_tells_what_a_reply_is(version, what, silent):
    seen = only(transcripts(version)[f"{silent}{what}-vvv"])
    assert seen.cdb[0] == 0x5E
    assert (seen.reply_kind, seen.reply) == (KINDS[what], REPLIES[what])
    kinds = [each.kind for each in shown(seen, None)]
    assert KINDS[what] in kinds


@pytest.mark.parametrize("version", VERSIONS)
def test_a_reply_of_no_known_kind_has_to_be_named(version):
    seen = only(transcripts(version)["nk-H"])
    with pytest.raises(UsageError) as caught:
        list(shown(seen, None))
    assert "--as" in caught.value.hint
    assert [each.kind for each in shown(seen, "keys")] == ["keys"]


@pytest.mark.parametrize(
    "typed",
    [
        "sg_persist -n -k -H /dev/sda",
        "# sg_persist --in --read-keys -Hd x",
        "root@a:~# /usr/bin/sg_persist -nkH /dev/sda",
    ],
)
def test_the_command_line_tells_what_a_reply_is(typed):
    seen = only(f"{typed}\n{transcripts('1.46')['nk-H']}")
    assert (seen.reply_kind, seen.reply) == ("keys", KEYS)


HEADED = [("keys", KEYS), ("reservation", HELD), ("full-status", FULL)]
"""Kinds whose header -H leaves out."""


def described(text, kind, header=None):
    (one,) = shown(only(text), kind, header=header)
    return one


@pytest.mark.parametrize(("kind", "reply"), HEADED)
@pytest.mark.parametrize("part", [0, 8], ids=["HH", "H"])
def test_a_dump_alone_does_not_tell_whether_its_header_is_there(kind, reply, part):
    with pytest.raises(UsageError, match="header") as caught:
        described(sg_persist(reply[part:]), kind)
    assert "--no-header" in caught.value.hint


@pytest.mark.parametrize(("kind", "reply"), HEADED)
def test_a_dump_with_its_header_says_what_one_without_it_says(kind, reply):
    whole = described(sg_persist(reply), kind, header=True)
    behind = described(sg_persist(reply[8:]), kind, header=False)
    names = [each.name for each in whole.fields]
    assert names[:2] == ["prgeneration", "additional length"]
    assert [(each.name, each.offset) for each in behind.fields] == [
        (each.name, None if each.offset is None else each.offset - 8) for each in whole.fields[2:]
    ]
    assert whole.reservation_keys() == behind.reservation_keys()
    assert whole.explanations == behind.explanations
    assert not behind.truncated


@given(
    keys=st.lists(
        st.integers(1, 0xFFFF_FFFF_FFFF_FFFF)
        | st.builds(lambda high, low: high << 32 | low, st.integers(0, 9), st.integers(0, 32)),
        min_size=1,
        max_size=5,
    ),
    dress=st.sampled_from([str, str.upper, str.strip, str.lstrip]),
)
def test_keys_of_sg_persist_h_are_never_a_header(keys, dress):
    """Not one whose halves could be PRGENERATION and ADDITIONAL LENGTH either."""
    text = dress(sg_persist(b"".join(key.to_bytes(8, "big") for key in keys)))
    with pytest.raises(PrtraceError) as caught:
        described(text, "keys")
    assert caught.value.hint
    found = described(text, "keys", header=False)
    assert found.reservation_keys() == tuple(each for each in dict.fromkeys(keys) if each)
    if len(keys) <= 2:  # a chat keeps one blank
        with pytest.raises(PrtraceError):
            described(" ".join(text.split()), "keys")


@pytest.mark.parametrize(
    ("typed", "header"), [("-n -k -H", False), ("-nk -HH", True), ("-nkHHH", True), ("-k", None)]
)
def test_the_command_line_tells_whether_the_header_is_there(typed, header):
    """Of a dump whose line with the header's fields was not copied; another command's is there."""
    refused = "PR in (Read keys): Reservation conflict"
    for cdb in ("", "    Persistent reservation in cdb: [5e 00 00 00 00 00 00 20 00 00]\n"):
        text = f"{refused}\n# sg_persist {typed} /dev/sda\n{cdb}{sg_persist(KEYS[8:])}"
        _, seen = read_text(text)
        assert (seen.reply_kind, seen.reply, seen.header) == ("keys", KEYS[8:], header)
        if header is None:
            with pytest.raises(UsageError, match="header"):
                list(shown(seen, None))


def test_only_what_sg_persist_prints_without_its_header_may_lack_it():
    for kind in ("cdb", "out", "sense", "capabilities"):
        with pytest.raises(UsageError, match="no header"):
            describe(bytes(24), kind, header=False)
    for kind, size in (("keys", 12), ("reservation", 8), ("reservation", 32)):
        with pytest.raises(MalformedError, match=f"{size} bytes"):
            describe(bytes(size), kind, header=False)


@pytest.mark.parametrize(
    ("kind", "reply"), [*HEADED, ("keys", bytes(8)), ("reservation", bytes(8))]
)
def test_more_than_the_reply_is_no_reply(kind, reply):
    """Bytes behind it that are not 0: an offset column, or no header."""
    assert describe(reply + bytes(8), kind).title
    with pytest.raises(MalformedError, match="ADDITIONAL LENGTH is") as caught:
        describe(reply + bytes(7) + b"\x08", kind)
    assert "offset column" in caught.value.hint


@pytest.mark.parametrize("version", VERSIONS)
def test_replies_in_words(version):
    printed = transcripts(version)
    assert (only(printed["k"]).reply, only(printed["k"]).reply_kind) == (KEYS, "keys")
    assert (only(printed["r"]).reply, only(printed["r"]).reply_kind) == (HELD, "reservation")
    full = only(printed["s"]).facts
    assert [value for name, value in full if name == "reservation key"] == [
        "0x0000000000123abc",
        "0x0000000000456def",
    ]
    assert [value for name, value in full if name == "transportid"] == [
        "0x5001405aabbccdde",
        "iqn.2004-10.com.x:host,i,0x00023d000001",
    ]
    assert [value for name, value in full if name == "r_holder"] == ["1", "0"]
    assert ("compatible reservation handling", "1") in only(printed["c"]).facts


def printed_by_sg_utils(port):
    """A TransportID as the library of sg3_utils that is on this machine prints it."""
    (file,) = Path("/usr/lib").glob("*/libsgutils2*.so.?")
    library = ctypes.CDLL(str(file))
    room = ctypes.create_string_buffer(4096)
    raw = port.build()
    call = library.sg_decode_transportid_str
    call.restype = ctypes.c_char_p
    return call(b"      ", raw, len(raw), True, len(room), room).decode()


@pytest.mark.parametrize(
    ("port", "named"),
    [
        (FcPort(0x2100000000000AAA), "naa.2100000000000aaa"),
        (SasPort(0x5001405AABBCCDDE), "0x5001405aabbccdde"),
        (IscsiPort(b"iqn.2004-10.com.x:host"), "iqn.2004-10.com.x:host"),
        (
            IscsiPort(b"iqn.2004-10.com.x:host", 0x23D000001),
            "iqn.2004-10.com.x:host,i,0x00023d000001",
        ),
        (SrpPort(0x000102030405060708090A0B0C0D0E0F), "srp.000102030405060708090a0b0c0d0e0f"),
    ],
)
@pytest.mark.parametrize("blank", ["", "\n"])
def test_the_port_of_every_protocol(port, named, blank):
    registration = (
        "    Key={}\n      All target ports bit clear\n      Relative port address: 0x1\n"
        "      not reservation holder\n"
    )
    text = "  PR generation=0x7\n" + "".join(
        registration.format(key) + printed_by_sg_utils(port) + blank for key in ("0x1", "0x2")
    )
    facts = only(text).facts
    assert [value for name, value in facts if name == "transportid"] == [named] * 2
    assert [value for name, value in facts if name == "reservation key"] == [
        "0x0000000000000001",
        "0x0000000000000002",
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_parameter_lists(version):
    printed = transcripts(version)
    register = only(printed["reg-vv"])
    assert register.cdb == bytes.fromhex("5f000000000000001800")
    assert register.parameter_list == bytes.fromhex(
        "0000000000000000 00000000666e0001 0000000000000000"
    )
    assert register.status == 0
    move = only(printed["move-vv"])
    assert len(move.parameter_list) == 72
    assert [each.kind for each in shown(move, None)] == ["cdb", "out-move", "status"]
    ports = only(printed["spec-vv"])
    assert [each.kind for each in shown(ports, None)] == ["cdb", "out", "status"]
    assert len(ports.parameter_list) == 52


@pytest.mark.parametrize("version", VERSIONS)
def test_statuses_and_sense(version):
    printed = transcripts(version)
    for name in ("conflict-v", "conflict", "rawconflict"):
        assert only(printed[name]).status == 0x18, name
    assert only(printed["ua-v"]).triple == SenseTriple(6, 0x2A, 5)
    assert only(printed["rawua"]).triple == SenseTriple(6, 0x2A, 5)
    assert only(printed["ua-vv"]).sense == bytes.fromhex("700006000000000a000000002a0500000000")
    bad = only(printed["ill-vv"])
    assert (bad.triple, bad.sense[:3]) == (SenseTriple(5, 0x26, 0), b"\x72\x05\x26")


@pytest.mark.parametrize("version", VERSIONS)
def test_sg_raw(version):
    printed = transcripts(version)
    assert only(printed["raw"]).reply == KEYS
    assert (only(printed["raw-v"]).reply_kind, only(printed["raw-v"]).reply) == ("keys", KEYS)


@pytest.mark.parametrize("version", VERSIONS)
def test_several_commands_in_one_transcript(version):
    printed = transcripts(version)
    names = ["reg-vv", "ua-vv", "k-vvv", "rsv-v", "conflict-v"]
    found = read_text("".join(printed[name] for name in names))
    assert [each.status for each in found] == [0, 2, None, 0, 0x18]
    assert [each.cdb[0] for each in found] == [0x5F, 0x5E, 0x5E, 0x5F, 0x5F]


def test_nothing_registered_nothing_reserved():
    assert only("  PR generation=0x7, there are NO registered reservation keys\n").reply == (
        bytes.fromhex("0000000700000000")
    )
    assert only("  PR generation=0x7, there is NO reservation held\n").reply == (
        bytes.fromhex("0000000700000000")
    )


def test_a_reply_that_was_cut_off_is_told():
    text = "  PR generation=0x2, 2 registered reservation keys follow:\n    0x666e0001\n"
    (described,) = shown(only(text), None)
    assert described.truncated


def test_more_bytes_than_the_header_says_are_refused():
    text = "  PR generation=0x2, Additional length=8\n 00     00 00 00 00 66 6e 00 01  41\n"
    with pytest.raises(MalformedError, match="ADDITIONAL LENGTH is 8, 9 bytes follow"):
        read_text(text)


def test_a_dump_inside_a_transcript_that_is_not_whole_is_refused_with_its_line():
    lines = transcripts("1.46")["move-vv"].splitlines()
    del lines[4]
    with pytest.raises(MalformedError, match=r"line 5: .* offset 0x20"):
        read_text("\n".join(lines))


def test_an_unknown_reservation_is_refused():
    text = (
        "PR generation=0x2, Reservation follows:\n    Key=0x1\n    scope: LU_SCOPE,  type: Odd\n"
    )
    with pytest.raises(MalformedError, match="unknown"):
        list(sg_utils.read(text.splitlines()))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_status_without_a_cdb_names_its_service_action(version):
    assert only(transcripts(version)["conflict"]).asks is InAction.READ_KEYS
    assert only("PR out: command (Register) successful").asks is Action.REGISTER


def test_the_command_line_names_the_device():
    keys = transcripts("1.46")["nk-H"]
    assert only(f"# sg_persist -nkH /dev/sdd\n{keys}").device == "sdd"
    assert only(f"# sg_persist -nkH sdd\n{keys}").device == "", "a word may be a file's name"


TWICE = [
    ("s", "facts", 2),
    ("c", "facts", 2),
    ("k", "reply", 2),
    ("r", "reply", 2),
    ("raw", "reply", 2),
    ("conflict", "status", 2),
    ("rawconflict", "status", 2),
    ("rawua", "triple", 2),
]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("name", "what", "count"), TWICE)
def test_answers_one_after_the_other_are_each_there(version, name, what, count):
    """As a loop over disks prints them."""
    printed = transcripts(version)[name]
    found = read_text(printed * count)
    assert len(found) == count
    assert len({getattr(each, what) for each in found}) == 1
    assert all(getattr(each, what) for each in found)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("first", ["conflict", "rawconflict", "rawua", "k", "s", "raw"])
@pytest.mark.parametrize("second", ["k", "r", "s", "c", "raw", "conflict", "rawua"])
def test_an_outcome_and_a_reply_of_another_command_are_not_joined(version, first, second):
    printed = transcripts(version)
    alone = [replace(only(printed[name]), line=0) for name in (first, second)]
    found = [replace(each, line=0) for each in read_text(printed[first] + printed[second])]
    assert found == alone


def test_lines_of_a_log_inside_a_transcript_are_the_logs():
    text = (
        "# sg_persist -v --out --register --param-sark=0xabc /dev/sdb\n"
        "    Persistent reservation out cdb: [5f 00 00 00 00 00 00 00 18 00]\n"
        "[    5.100000] sd 3:0:0:0: [sdq] tag#7 Sense Key : Unit Attention [current]\n"
        "[    5.100000] sd 3:0:0:0: [sdq] tag#7 Add. Sense: Registrations preempted\n"
        "PR out (Register): command successful\n"
        "[    6.000000] sd 3:0:0:0: reservation conflict\n"
    )
    mine, news, conflict = read_text(text)
    assert (mine.device, mine.status, mine.triple) == ("sdb", 0, None)
    assert (news.device, news.triple) == ("sdq", SenseTriple(6, 0x2A, 5))
    assert (conflict.nexus, conflict.status) == ("3:0:0:0", 0x18)
