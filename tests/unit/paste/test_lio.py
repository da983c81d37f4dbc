"""LIO's attributes in configfs, and its aptpl files."""
# ruff: noqa: E501  # log lines are as long as they are

from paste.lines import fixture, only
from prtrace.paste.reader import read_text


def test_lio():
    text = (
        "SPC-3 PR Registrations:\n"
        "iSCSI Node: iqn.1993-08.org.debian:01:a,i,0x00023d000001 Key: 0x000000000000cc02 "
        "PRgen: 0x00000001\n"
        "SPC-3 Reservation: iSCSI Initiator: iqn.1993-08.org.debian:01:a,i,0x00023d000001\n"
        "SPC-3 Reservation Type: Write Exclusive Access, Registrants Only\n"
        "APTPL Bit Status: Disabled\n"
    )
    registered, holder, kind, aptpl = (dict(each.facts) for each in read_text(text))
    assert registered["reservation key"] == "0x000000000000cc02"
    assert registered["prgeneration"] == "1"
    assert holder["holder of the reservation"].startswith("iqn.")
    assert kind == {"reservation type": "Write Exclusive Access, Registrants Only"}
    assert aptpl == {"aptpl": "disabled"}
    assert dict(only("No SPC-3 Reservation holder\n").facts) == {"reservation": "none"}
    assert "holder of the SPC-2 RESERVE" in dict(
        only("SPC-2 Reservation: LOOPBACK Initiator: naa.1").facts
    )


def test_aptpl_files():
    seen = only(
        "PR_REG_START: 0\ninitiator_fabric=iSCSI\ninitiator_node=iqn.x\ninitiator_sid=00023d000001\n"
        "sa_res_key=52226\nres_holder=1\nres_type=05\nres_scope=00\nres_all_tg_pt=0\nmapped_lun=0\n"
        "target_fabric=iSCSI\ntarget_node=iqn.t\ntpgt=1\nport_rtpi=1\ntarget_lun=0\nPR_REG_END: 0\n"
    )
    facts = dict(seen.facts)
    assert facts["registered"] == "iqn.x,i,0x00023d000001"
    assert facts["reservation key"] == "0x000000000000cc02"
    assert facts["reservation type"] == "5 (Write Exclusive, Registrants Only)"


def test_a_real_target_s_attributes():
    facts = [dict(each.facts) for each in read_text(fixture("lio-6.12-configfs.txt"))]
    registered = [each for each in facts if "registered" in each]
    assert [each["reservation key"] for each in registered] == [
        "0x00000000666e0001",
        "0x4150475230303031",
    ]
    assert {"holder of the reservation": "naa.60014050a0000001", "transport": "loopback"} in facts


def test_a_real_target_s_aptpl_file():
    holder, other = (
        dict(each.facts) for each in read_text(fixture("lio-6.12-aptpl").rstrip("\0"))
    )
    assert holder["reservation key"] == "0x00000000666e0003"
    assert holder["reservation type"] == "5 (Write Exclusive, Registrants Only)"
    assert (other["reservation key"], other["holds the reservation"]) == (
        "0x4150475230303031",
        "no",
    )
