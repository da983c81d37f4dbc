from __future__ import annotations

import pytest

from prtrace.linux.ports import InitiatorPort, InitiatorPorts
from prtrace.scsi.transportid import FcPort, IscsiPort, SasPort, SrpPort

from .conftest import Tree


def _port(tree: Tree, hctl: str, via: str = "") -> InitiatorPort:
    return InitiatorPorts(tree.sys).of(hctl, tree.device(hctl, via=via))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("0x2100001B32aabbcc\n", FcPort(0x2100001B32AABBCC).text),
        ("0x0\n", None),
        ("0x0000000000000000", None),
        ("nonsense", None),
    ],
)
def test_fibre_channel(tree: Tree, name: str, text: str | None) -> None:
    tree.write("class/fc_host/host3/port_name", name)
    assert _port(tree, "3:0:1:0", "rport-3:0-1/") == InitiatorPort("fc", text)


def test_iscsi_driver_that_shows_its_isid(tree: Tree) -> None:
    tree.write("class/iscsi_session/session7/initiatorname", "iqn.2026-11.org:Host\n")
    tree.write("class/iscsi_session/session7/isid", "00023d0000FF\n")
    wanted = IscsiPort(b"iqn.2026-11.org:host", 0x00023D0000FF).text
    assert _port(tree, "3:0:0:0", "session7/") == InitiatorPort("iscsi", wanted)


@pytest.mark.parametrize(
    ("session", "isid"),
    [(1, 0x00023D000001), (0x1234, 0x00023D001234), (0x2000003, 0x00023D000003)],
)
def test_iscsi_software_initiator(tree: Tree, session: int, isid: int) -> None:
    tree.write(f"class/iscsi_session/session{session}/initiatorname", "iqn.2026-11.org:Host\n")
    tree.write("class/scsi_host/host3/proc_name", "iscsi_tcp\n")
    wanted = IscsiPort(b"iqn.2026-11.org:host", isid).text
    assert _port(tree, "3:0:0:0", f"session{session}/") == InitiatorPort("iscsi", wanted)


def test_iscsi_offload_without_isid_is_unknown(tree: Tree) -> None:
    tree.write("class/iscsi_session/session1/initiatorname", "iqn.2026-11.org:host\n")
    tree.write("class/scsi_host/host3/proc_name", "be2iscsi\n")
    assert _port(tree, "3:0:0:0", "session1/") == InitiatorPort("iscsi", None)


def test_iscsi_session_that_vanished_is_unknown(tree: Tree) -> None:
    tree.write("class/scsi_host/host3/proc_name", "iscsi_tcp\n")
    assert _port(tree, "3:0:0:0", "session1/") == InitiatorPort("iscsi", None)


def test_sas_phys_of_the_port_that_leads_there(tree: Tree) -> None:
    device = tree.device("0:0:5:0", via="port-0:0/end_device-0:0/")
    for phy, port in ((0, 0), (1, 0), (2, 1)):
        base = f"devices/adapter0/host0/phy-0:{phy}"
        tree.write(f"{base}/sas_phy/phy-0:{phy}/sas_address", f"0x500605b00000000{port}\n")
        tree.link(f"devices/adapter0/host0/port-0:{port}/phy-0:{phy}", tree.sys / base)
    wanted = InitiatorPort("sas", SasPort(0x500605B000000000).text)
    assert InitiatorPorts(tree.sys).of("0:0:5:0", device) == wanted


def test_sas_host_address(tree: Tree) -> None:
    tree.write("class/scsi_host/host0/host_sas_address", "0x500605b000000001\n")
    assert _port(tree, "0:0:5:0") == InitiatorPort("sas", SasPort(0x500605B000000001).text)


def test_srp(tree: Tree) -> None:
    tree.write("class/scsi_host/host0/sgid", "fe80:0000:0000:0000:0002:c903:0000:1234\n")
    tree.write("class/scsi_host/host0/initiator_ext", "00000000000000ab\n")
    wanted = SrpPort(0xAB_0002C90300001234).text
    assert _port(tree, "0:0:0:0") == InitiatorPort("srp", wanted)


@pytest.mark.parametrize(
    ("nexus", "text"),
    [
        ("naa.60014050000000A1", SasPort(0x60014050000000A1).text),
        ("21:00:00:1b:32:AA:bb:cd", FcPort(0x2100001B32AABBCD).text),
        ("iqn.2026-11.org:Host", IscsiPort(b"iqn.2026-11.org:host").text),
        ("naa.123", None),
        ("", None),
    ],
)
def test_loopback(tree: Tree, nexus: str, text: str | None) -> None:
    tpg = "kernel/config/target/loopback/naa.6001405000000001/tpgt_1"
    tree.write(f"{tpg}/address", "6:0:1\n")
    tree.write(f"{tpg}/nexus", f"{nexus}\n")
    tree.write("kernel/config/target/loopback/naa.6001405000000002/tpgt_1/address", "7:0:1\n")
    for host in (6, 7):
        tree.write(f"class/scsi_host/host{host}/proc_name", "tcm_loopback\n")
    assert _port(tree, "6:0:1:3") == InitiatorPort("loop", text)
    assert _port(tree, "7:0:1:3") == InitiatorPort("loop", None)


def test_others_are_unknown(tree: Tree) -> None:
    tree.write("class/scsi_host/host2/proc_name", "ahci\n")
    assert _port(tree, "2:0:0:0") == InitiatorPort("", None)


def test_a_port_is_looked_up_once(tree: Tree) -> None:
    name = tree.write("class/fc_host/host3/port_name", "0x2100001b32aabbcc")
    ports = InitiatorPorts(tree.sys)
    first = ports.of("3:0:1:0", tree.device("3:0:1:0"))
    name.unlink()
    assert ports.of("3:0:1:9", tree.device("3:0:1:9")) is first
