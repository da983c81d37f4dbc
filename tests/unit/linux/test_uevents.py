from __future__ import annotations

import os
import select
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prtrace.linux.uevents import Uevent, Uevents, UeventSocket, parse_uevent

ADD = (
    b"add@/devices/a/host0/target0:0:0/0:0:0:0/block/sda\0ACTION=add\0"
    b"DEVPATH=/devices/a/host0/target0:0:0/0:0:0:0/block/sda\0SUBSYSTEM=block\0"
    b"MAJOR=8\0MINOR=0\0DEVNAME=sda\0DEVTYPE=disk\0SEQNUM=1234\0"
)


def test_a_disk_appears() -> None:
    assert parse_uevent(ADD) == Uevent(
        action="add",
        devpath="/devices/a/host0/target0:0:0/0:0:0:0/block/sda",
        subsystem="block",
        device_type="disk",
        name="sda",
        number="8:0",
    )


@pytest.mark.parametrize(
    ("subsystem", "device_type", "concerns"),
    [
        (b"block", b"disk", True),
        (b"block", b"partition", False),
        (b"scsi", b"scsi_device", True),
        (b"scsi_generic", b"", True),
        (b"net", b"", False),
        (b"", b"", False),
    ],
)
def test_what_concerns_units(subsystem: bytes, device_type: bytes, concerns: bool) -> None:
    event = parse_uevent(b"add@/x\0SUBSYSTEM=%b\0DEVTYPE=%b\0" % (subsystem, device_type))
    assert event is not None
    assert event.concerns_units is concerns
    assert Uevents((event,)).rescan is concerns
    assert Uevents((event,), overflow=True).rescan


@pytest.mark.parametrize("message", [b"", b"\0", b"libudev\0\xfe\xed\xca\xfe", b"add", b"add@x"])
def test_what_is_no_event(message: bytes) -> None:
    assert parse_uevent(message) is None


def test_hostile_text_is_cleaned() -> None:
    event = parse_uevent(b"add@/\x1b[2J\0SUBSYSTEM=bl\nock\0DEVNAME=\xff\0=x\0MAJOR=1\0")
    assert event is not None
    assert (event.devpath, event.subsystem, event.name) == (r"/\x1b[2J", r"bl\x0aock", r"\udcff")
    assert event.number == ""


@given(st.binary(max_size=200))
def test_any_bytes(message: bytes) -> None:
    event = parse_uevent(b"change@/" + message)
    assert event is not None
    assert event.devpath.isprintable()


def test_another_process_is_not_heard() -> None:
    """A message that comes from a process, which root can send, is no event of the kernel."""
    with UeventSocket() as events, socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 15) as liar:
        port = _port(events)
        try:
            liar.sendto(ADD, (port, 0))
        except PermissionError:
            assert os.geteuid() != 0
        else:
            assert select.select([events], [], [], 5)[0] == [events]
        assert events.read() == Uevents()


def test_reading_never_waits() -> None:
    with UeventSocket() as events:
        assert events.read() == Uevents()
        assert not os.get_inheritable(events.fileno())
    events.close()


def _port(events: UeventSocket) -> int:
    twin = socket.socket(fileno=os.dup(events.fileno()))
    with twin:
        return int(twin.getsockname()[0])


_DEVICE = "/devices/platform/host2/session1/target2:0:0/2:0:0:1"


@pytest.mark.parametrize(
    ("devpath", "subsystem", "addresses", "maps"),
    [
        (f"{_DEVICE}", "scsi", {"2:0:0:1"}, False),
        (f"{_DEVICE}/block/sdb", "block", {"2:0:0:1"}, False),
        (f"{_DEVICE}/scsi_generic/sg1", "scsi_generic", {"2:0:0:1"}, False),
        ("/devices/platform/host2/target2:0:0", "scsi", set(), False),
        ("/devices/virtual/block/dm-3", "block", set(), True),
        ("/devices/platform/host2/session1/iscsi_session/session1", "iscsi_session", None, False),
        ("/devices/pci/net/eth0", "net", set(), False),
    ],
)
def test_what_an_event_is_about(
    devpath: str, subsystem: str, addresses: set[str] | None, maps: bool
) -> None:
    one = Uevents((Uevent("change", devpath, subsystem),))
    assert one.addresses == addresses
    assert one.maps is maps


def test_several_events_are_about_all_of_theirs() -> None:
    other = _DEVICE.replace("2:0:0:1", "2:0:0:7")
    both = tuple(Uevent("change", path, "scsi") for path in (_DEVICE, other))
    assert Uevents(both).addresses == {"2:0:0:1", "2:0:0:7"}
    assert Uevents(both, overflow=True).addresses is None
