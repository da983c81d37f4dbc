import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scsi_forms import parses_or_refuses
from shipped import valid

from prtrace.errors import MalformedError, UsageError
from prtrace.paste.hexdump import parse_hex
from prtrace.scsi.describe import describe
from prtrace.scsi.recognise import CHOICES, DecodeAs, recognise
from prtrace.scsi.sense import Sense

FIXTURES = sorted((Path(__file__).parents[2] / "fixtures").glob("*.hex"))


def capture(name):
    """The bytes of a fixture, and the form its name tells."""
    path = next(each for each in FIXTURES if each.name == name)
    return parse_hex(path.read_text()), name.split(".")[-2]


def fields(name):
    raw, kind = capture(name)
    described = describe(raw, kind).as_json()
    assert described["kind"] == kind
    return values(described)


def values(group):
    """{name: value} of a document's or a group's fields, without their places."""
    return {each["name"]: each.get("value", each.get("items")) for each in group["fields"]}


def places(group):
    """{name: (offset, size, mask)} of the fields that have a place."""
    return {
        each["name"]: (each["offset"], each["size"], each.get("mask"))
        for each in group["fields"]
        if "offset" in each
    }


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.name)
def test_every_fixture_is_what_its_name_says(path):
    raw, kind = capture(path.name)
    described = describe(raw, kind)
    json.dumps(described.as_json())
    assert described.lines()[0] == described.title
    assert all(line.isprintable() for line in described.lines())
    assert "problem:" not in " ".join(described.lines())
    if DecodeAs(kind) in (DecodeAs.CDB, DecodeAs.SENSE, DecodeAs.VPD83):
        assert recognise(raw) is DecodeAs(kind)
        assert describe(raw) == described
    else:
        with pytest.raises(UsageError):
            describe(raw)


def test_every_form_has_a_fixture():
    assert {path.name.split(".")[-2] for path in FIXTURES} == set(CHOICES)


def test_cdb():
    raw, _ = capture("pr-out-preempt.cdb.hex")
    assert describe(raw).lines() == [
        "PERSISTENT RESERVE OUT",
        "  service action: PREEMPT",
        "  scope: LU",
        "  type: 5 (Write Exclusive, Registrants Only)",
        "  parameter list length: 24",
        "  control: 0x00",
        "  meaning: takes the registrations with one key away from other nexuses, and",
        "    their reservation",
    ]
    assert describe(capture("reserve-6.cdb.hex")[0]).title == "RESERVE(6)"
    read_keys = values(describe(capture("pr-in-read-keys.cdb.hex")[0]).as_json())
    assert read_keys["service action"] == "READ KEYS"
    assert read_keys["allocation length"] == "8192"
    assert describe(bytes.fromhex("120083002400"), "cdb").title == "INQUIRY"


def test_cdb_with_reserved_codes():
    described = describe(bytes.fromhex("5f 1f f9 0000 00000018 00"), "cdb")
    assert described.lines()[1:4] == [
        "  service action: reserved PR OUT service action 0x1f",
        "  scope: reserved 0xf",
        "  type: reserved TYPE 0x9",
    ]
    assert describe(bytes.fromhex("2a00 00000050 0000 0800"), "cdb").lines() == [
        "WRITE(10)",
        "  logical block address: 80",
        "  bytes: 2a 00 00 00 00 50 00 00 08 00",
    ]
    assert describe(b"\xc1" + bytes(9), "cdb").title == "command 0xc1"


def test_parameter_lists():
    assert fields("register.out.hex") == {
        "reservation key": "0x0000000000000000",
        "service action reservation key": "0x0000000000123abc",
        "spec_i_pt": "0",
        "all_tg_pt": "0",
        "aptpl": "1",
    }
    listed = fields("register-spec-i-pt.out.hex")["transportids"]
    assert [values(each) for each in listed] == [
        {"transportid": "naa.5001405aabbccdde"},
        {"transportid": "iqn.1993-08.org.debian:01:1,i,0x00023d000001"},
    ]
    assert [places(each) for each in listed] == [
        {"transportid": (28, 24, None)},
        {"transportid": (52, 52, None)},
    ]
    move = fields("register-and-move.out-move.hex")
    assert (move["unreg"], move["relative target port identifier"]) == ("1", "2")
    assert move["transportid"] == "naa.5001405aabbccdde"
    whole = describe(*capture("register-and-move.out-move.hex")).as_json()
    assert places(whole)["transportid"] == (24, 24, None)


def test_cut_list_tells_its_problem():
    raw, kind = capture("register-spec-i-pt.out.hex")
    described = values(describe(raw[:60], kind).as_json())
    assert [values(each)["transportid"] for each in described["transportids"]] == [
        "naa.5001405aabbccdde"
    ]
    assert described["problem"] == "the SPEC_I_PT list has 76 bytes, 32 arrived"


def test_replies():
    assert fields("two-nexuses.keys.hex")["keys"] == ["0x0000000000123abc"] * 2
    cut = fields("truncated.keys.hex")
    assert cut["keys"] == ["0x0000000000123abc"]
    assert cut["truncated"] == "more exists than arrived"
    assert fields("none.reservation.hex") == {
        "prgeneration": "7",
        "additional length": "0",
        "reservation": "none",
    }
    assert fields("held.reservation.hex") == {
        "prgeneration": "7",
        "additional length": "16",
        "reservation key": "0x0000000000abcdef",
        "scope": "LU",
        "type": "5 (Write Exclusive, Registrants Only)",
    }
    assert fields("lio.capabilities.hex") == {
        "length": "8", "rlr_c": "0", "crh": "1", "sip_c": "1", "atp_c": "1", "ptpl_c": "1",
        "tmv": "1", "allow commands": "1", "ptpl_a": "1",
        "wr_ex_ar": "1", "ex_ac_ro": "1", "wr_ex_ro": "1", "ex_ac": "1", "wr_ex": "1",
        "ex_ac_ar": "1",
    }  # fmt: skip


def test_places_are_those_of_the_standard():
    raw, kind = capture("held.reservation.hex")
    assert places(describe(raw, kind).as_json()) == {
        "prgeneration": (0, 4, None),
        "additional length": (4, 4, None),
        "reservation key": (8, 8, None),
        "scope": (21, 1, 0xF0),
        "type": (21, 1, 0x0F),
    }
    raw, kind = capture("two-nexuses.full-status.hex")
    (registrations,) = (
        each["items"]
        for each in describe(raw, kind).as_json()["fields"]
        if each["name"] == "registrations"
    )
    assert places(registrations[1])["reservation key"] == (56, 8, None)
    assert places(registrations[1])["transportid"] == (80, 48, None)
    raw, _ = capture("preempted-descriptor.sense.hex")
    assert places(describe(raw).as_json())["sense key"] == (1, 1, 0x0F)


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.name)
def test_json_fits_its_schema(path):
    raw, kind = capture(path.name)
    found = {
        "file": None,
        "source": None,
        "line": None,
        "device": None,
        **describe(raw, kind).as_json(),
    }
    valid({"schema": "prtrace.decode/1", "found": [found]}, "decode.1")


def test_a_length_that_no_reply_has_is_refused():
    """The offset column of sg_persist -HH is taken for data here."""
    raw = bytes.fromhex("00 00000001 00000008 00000000666e0001")
    with pytest.raises(MalformedError, match="16777216"):
        describe(raw, "keys")
    longest = bytes.fromhex("00000001 0000fff8")
    with pytest.raises(MalformedError, match="more than any reply has"):
        describe(bytes.fromhex("00000001 0000fff8") + bytes(8), "keys")
    assert describe(longest[:4] + bytes.fromhex("0000fff0"), "keys").truncated


def test_full_status():
    raw, kind = capture("two-nexuses.full-status.hex")
    assert describe(raw, kind).lines() == [
        "READ FULL STATUS reply",
        "  prgeneration: 7",
        "  additional length: 120",
        "  registrations:",
        "    - reservation key: 0x0000000000123abc",
        "      all_tg_pt: 0",
        "      r_holder: 1",
        "      scope: LU",
        "      type: 5 (Write Exclusive, Registrants Only)",
        "      relative target port identifier: 1",
        "      additional descriptor length: 24",
        "      transportid: naa.5001405aabbccdde",
        "    - reservation key: 0x0000000000456def",
        "      all_tg_pt: 0",
        "      r_holder: 0",
        "      relative target port identifier: 2",
        "      additional descriptor length: 48",
        "      transportid: iqn.2004-10.com.x:host,i,0x00023d000001",
    ]


def test_sense():
    assert fields("preempted-fixed.sense.hex") == {
        "response code": "0x70",
        "sense key": "6",
        "sense": "UNIT ATTENTION 2A/05 REGISTRATIONS PREEMPTED",
        "deferred": "0",
        "reservation news": "registrations preempted",
    }


def test_vpd83():
    page = fields("lio.vpd83.hex")
    assert page["logical unit name"] == "naa.6001405abbccddee0011223344556677"
    designators = [values(each) for each in page["designators"]]
    assert [each["designator type"] for each in designators] == [
        "naa",
        "t10",
        "naa",
        "relative target port",
        "target port group",
        "name string",
    ]
    assert designators[1]["designator"] == r"t10.LIO-ORG\x20disk0:abcde"


def explained(raw, kind):
    return [(each.kind, each.text) for each in describe(raw, kind).explanations]


def test_a_type_and_a_key_that_is_not_the_holders():
    (meaning,) = explained(*capture("held.reservation.hex"))
    assert meaning == (
        "meaning",
        "WERO: everybody may read, only registered nexuses may write",
    )
    shared = bytes.fromhex("0000001c 00000010 1000000000000007 00000000 0007 0000")
    assert [kind for kind, _ in explained(shared, "reservation")] == ["meaning", "remark"]
    assert len(explained(shared[:8] + bytes(8) + shared[16:], "reservation")) == 1
    assert explained(*capture("none.reservation.hex")) == []


def test_keys_that_are_there_twice():
    ((kind, text),) = explained(*capture("two-nexuses.keys.hex"))
    assert (kind, text[:39]) == ("remark", "0x0000000000123abc is there 2 times: so")


def test_a_unit_attention_says_who_gets_it_and_what_became_of_the_command():
    ((_, text),) = explained(*capture("preempted-fixed.sense.hex"))
    assert "PREEMPT" in text
    assert "never for the sender" in text
    assert "not carried out" in text
    lost = Sense(0x70, 4, 0x44, 1).build()
    ((_, text),) = explained(lost, "sense")
    assert "not carried out" not in text, "44/01 comes with every command"
    assert explained(Sense(0x70, 5, 0x24, 0).build(), "sense") == []


def test_reservation_keys():
    assert describe(*capture("two-nexuses.full-status.hex")).reservation_keys() == (
        0x123ABC,
        0x456DEF,
    )
    assert describe(*capture("two-nexuses.keys.hex")).reservation_keys() == (0x123ABC,)
    assert describe(*capture("register.out.hex")).reservation_keys() == (0x123ABC,)
    assert describe(bytes(24), "out").reservation_keys() == ()


def test_unknown_kind():
    with pytest.raises(UsageError, match="'nonsense' is no form") as caught:
        describe(bytes(8), "nonsense")
    assert "vpd83" in caught.value.hint


def test_what_is_not_of_the_kind_is_malformed():
    with pytest.raises(MalformedError, match="needs 24 bytes"):
        describe(bytes(8), "out")


@given(st.sampled_from(CHOICES), st.binary(max_size=200))
def test_any_bytes(kind, raw):
    described = parses_or_refuses(lambda raw: describe(raw, kind), raw)
    if described is not None:
        json.dumps(described.as_json())
        assert all(line.isprintable() and line.isascii() for line in described.lines())
