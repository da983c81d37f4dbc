"""What the helper sends, and what it makes of requests that no agent would send."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from labkit import pace
from labkit.waiting import await_that

from prtrace.agent import helper
from prtrace.agent.helper import Helper, NoPlaceError, is_reading
from prtrace.agent.schedule import ReadingLimits
from prtrace.errors import DeviceError, NoSuchDeviceError, UnavailableError
from prtrace.linux.units import scan
from prtrace.linux.users import Nodes, Use
from prtrace.prhelper.attribution_log import NAME
from prtrace.scsi.cdb import PrInCdb
from prtrace.scsi.codes import InAction
from tests.unit.linux.conftest import Tree


@pytest.fixture
def link() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    serving = threading.Thread(target=helper.serve, args=(theirs,))
    serving.start()
    with ours:
        yield ours
    serving.join(20)
    assert not serving.is_alive()
    theirs.close()


@given(st.sampled_from(InAction), st.integers(0, 0xFFFF))
def test_what_reads_is_sent(action: InAction, room: int) -> None:
    cdb = PrInCdb(action, room).build()
    assert is_reading(cdb, room)
    assert not is_reading(cdb, room ^ 1)
    assert not is_reading(cdb[:9], room)
    assert not is_reading(cdb + b"\0", room)


def test_page_83_is_asked_for() -> None:
    assert is_reading(struct.pack(">BBBHB", 0x12, 1, 0x83, 1020, 0), 1020)
    assert not is_reading(struct.pack(">BBBHB", 0x12, 1, 0x80, 1020, 0), 1020)


def test_of_all_commands_only_those_that_read_are_sent() -> None:
    """Every operation code, byte 1 and length, with the page code of INQUIRY or 0 in byte 2."""
    sent = {
        (length, code, one, two)
        for length in (6, 10, 12, 16)
        for code in range(256)
        for one in range(256)
        for two in (0, 0x83)
        if is_reading(bytes((code, one, two, *[0] * (length - 3))), 0)
    }
    readings = {(10, 0x5E, action.value, two) for action in InAction for two in (0, 0x83)}
    assert sent == readings | {(6, 0x12, 1, 0x83)}


def test_what_is_no_scsi_device_is_not_opened(link: socket.socket) -> None:
    with pytest.raises(NoSuchDeviceError), Helper(link).open("/dev/null"):
        pass
    with pytest.raises(NoSuchDeviceError), Helper(link).open("/dev/no such node"):
        pass


@given(st.binary(min_size=1, max_size=64))
def test_strange_requests_end_nothing(request: bytes) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    serving = threading.Thread(target=helper.serve, args=(theirs,))
    serving.start()
    with ours, theirs:
        helping = Helper(ours)
        with contextlib.suppress(OSError):
            helping._asked(request).close()
        with pytest.raises(NoSuchDeviceError), helping.open("/dev/null"):
            pass
        ours.shutdown(socket.SHUT_RDWR)
        serving.join(20)
        assert not serving.is_alive()


def test_no_descriptor_is_taken_whatever_it_is(link: socket.socket) -> None:
    """What is no socket must not end the helper, and no socket of the agent's is written to."""
    request = helper._REQUEST.pack(helper._NODES, False, 0, 0)
    mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mine.settimeout(pace.limit(20))
    null = os.open("/dev/null", os.O_RDWR)
    with mine:
        for descriptor in (null, its.fileno()):
            socket.send_fds(link, [request], [descriptor] * 3)
            _, given, _, _ = socket.recv_fds(link, 1, 1)
            with socket.socket(fileno=given[0]) as connection:
                assert len(connection.recv(helper._LONGEST)) >= helper._COUNT.size
        its.close()
        assert mine.recv(1) == b"", "the helper has kept the other end"
    os.close(null)


def test_nodes_in_use_are_told(link: socket.socket, tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    null = os.stat("/dev/null").st_rdev
    tree.device("2:0:0:0", disk="sda", block="8:0", sg="sg0", char="21:0")
    directory = scan(tree.sys, tree.dev).directory
    assert Helper(link).users(directory).of("2:0:0:0") is not Use.OPENED
    found = {("char", f"{os.major(null)}:{os.minor(null)}"), ("block", "8:0")}
    packed = helper._packed(Nodes(frozenset(found), "a thing"))
    assert len(packed) == helper._COUNT.size + 2 * helper._NODE.size + len("a thing")
    many = Nodes(frozenset(("char", f"1:{minor}") for minor in range(helper._MOST_NODES + 1)))
    assert b"more nodes" in helper._packed(many)
    assert len(helper._packed(many)) < helper._LONGEST


def test_records_are_opened_where_the_helper_was_told(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    serving = threading.Thread(target=helper.serve, args=(theirs, [tmp_path / "no", tmp_path]))
    serving.start()
    (tmp_path / NAME).write_text("a record\n")
    with ours:
        helping = Helper(ours, [tmp_path / "no", tmp_path])
        place, fd = helping.records(tmp_path, NAME)
        assert os.fstat(place).st_ino == tmp_path.stat().st_ino
        assert os.read(fd, 100) == b"a record\n"
        os.close(place)
        os.close(fd)
        for directory, name in ((tmp_path, f"{NAME}.1"), (tmp_path / "no", NAME)):
            with pytest.raises(FileNotFoundError):
                helping.records(directory, name)
        os.link(tmp_path / NAME, tmp_path / "other")
        with pytest.raises(PermissionError):
            helping.records(tmp_path, NAME)
        (tmp_path / NAME).unlink()
        (tmp_path / NAME).symlink_to(tmp_path / "other")
        with pytest.raises(OSError, match="symbolic"):
            helping.records(tmp_path, NAME)
    serving.join(20)
    theirs.close()
    assert not serving.is_alive()


def test_a_helper_that_hangs_is_waited_for_once() -> None:
    """Its late answer is no other request's, and then it is asked again."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    kept, given = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, kept:
        theirs.settimeout(20)
        kept.settimeout(20)
        helping = Helper(ours, patience=0.05)
        with pytest.raises(OSError, match="does not answer"):
            helping._asked(b"first")
        # Nobody waits for it now, and nothing more is asked: any patience would do.
        helping._patience = 1000
        for _ in range(3):
            with (
                pytest.raises(UnavailableError, match="does not answer"),
                helping.open("/dev/null"),
            ):
                pass
        assert theirs.recv(100) == b"first"
        with given:
            socket.send_fds(theirs, [b"+"], [given.fileno()])
        serving = threading.Thread(target=helper.serve, args=(theirs,))
        serving.start()
        with pytest.raises(NoSuchDeviceError), helping.open("/dev/null"):
            pass
        assert kept.recv(1) == b"", "the late connection was kept"
        ours.shutdown(socket.SHUT_RDWR)
        serving.join(20)
        assert not serving.is_alive()


def test_a_device_that_hangs_is_given_up_for_good() -> None:
    """Its answer, should it come, is not taken for that to the next command."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    cdb = PrInCdb(InAction.READ_KEYS, 8).build()
    with ours, theirs:
        held = helper.HeldDevice("/dev/sdx", ours)
        ours.send(b"")
        with pytest.raises(UnavailableError, match="no answer from the device after 0 s"):
            helper._reply("/dev/sdx", ours, 0.01)
        with pytest.raises(OSError, match="Bad file"):
            held.send(cdb, b"", 8, 1000)


def test_a_helper_that_is_gone_is_told() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.close()
    with ours, pytest.raises(UnavailableError), Helper(ours).open("/dev/null"):
        pass


def test_a_node_is_named_as_the_kernel_does_and_has_its_target_port(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    device = tree.device("2:0:1:3", disk="sdc", block="8:32")
    below = device.relative_to(tree.sys)
    tree.link(f"{below}/subsystem", tree.sys / "bus/scsi")
    tree.link(f"{below}/block/sdc/device", device)
    tree.write(f"{below}/block/sdc/uevent", "MAJOR=8\nMINOR=32\nDEVNAME=sdc\n")
    assert helper._node(block=True, major=8, minor=32, sys=tree.sys) == ("/dev/sdc", "2:0:1")
    with pytest.raises(NoSuchDeviceError):
        helper._node(block=False, major=8, minor=32, sys=tree.sys)


HUNG, WELL = "/dev/null", "/dev/zero"


class Device:
    """Opened after a while that the test determines, or at once; then it says who it is."""

    goes_on = threading.Event()

    def __init__(self, path: str) -> None:
        if path == HUNG:
            self.goes_on.wait(pace.limit(60))
        raise DeviceError(f"{path} was opened")


def test_a_target_port_that_hangs_keeps_nobody_from_the_rest(
    monkeypatch: pytest.MonkeyPatch, link: socket.socket, tmp_path: Path
) -> None:
    hung = os.stat(HUNG).st_rdev
    nodes = {os.minor(hung): (HUNG, "1:0:0"), os.minor(os.stat(WELL).st_rdev): (WELL, "2:0:0")}
    monkeypatch.setattr(Device, "goes_on", threading.Event())
    monkeypatch.setattr(helper, "SgDevice", Device)
    monkeypatch.setattr(helper, "_node", lambda *, block, major, minor: nodes[minor])
    request = helper._REQUEST.pack(helper._DEVICE, False, os.major(hung), os.minor(hung))
    helping = Helper(link)
    most = ReadingLimits().under_way
    with contextlib.ExitStack() as stack:
        stack.callback(Device.goes_on.set)
        asked = [stack.enter_context(helping._asked(request)) for _ in range(most)]

        def refused() -> list[socket.socket]:
            return select.select(asked, (), (), 0)[0]

        await_that("half of them are refused", lambda: len(refused()) >= most // 2)
        assert b"has not answered too many commands" in refused()[0].recv(helper._LONGEST)

        def opened() -> bool:
            try:
                with helping.open(WELL):
                    return False
            except NoPlaceError:
                return False  # those who were refused have yet to leave their places
            except DeviceError as error:
                return error.message == f"{WELL} was opened"

        await_that("a device of another target port is opened", opened)
        Tree(tmp_path)
        helping.users(scan(tmp_path / "sys", tmp_path / "dev").directory)
        assert len(refused()) == most // 2, "the others hang"


def test_that_there_is_no_place_says_nothing_of_the_device() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.send(b"-")
    with ours, theirs, pytest.raises(NoPlaceError), Helper(ours).open("/dev/null"):
        pass
