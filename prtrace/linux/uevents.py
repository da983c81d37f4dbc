"""Device events from the kernel, by netlink (lib/kobject_uevent.c).

A message is "ACTION@DEVPATH", NUL, and NUL terminated KEY=VALUE strings.  Any process may
send to the group, so only messages from netlink port 0, the kernel, count.  An overflow of
the socket's buffer loses events: the reader then looks at everything again.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import Final, NamedTuple

from prtrace.errors import UnavailableError
from prtrace.linux.closing import Closing
from prtrace.linux.directory import ADDRESS
from prtrace.linux.text import clean

_NETLINK_KOBJECT_UEVENT: Final = 15
_KERNEL_GROUP: Final = 1  # group 2 is udev's
_SO_RCVBUFFORCE: Final = 33
_BUFFER: Final = 8 << 20  # hot plug of some thousand disks, each with about ten events
_MESSAGE: Final = 1 << 14  # the kernel's own limit is 2,048 bytes and the device path
_BATCH: Final = 256
_TEXT_LIMIT: Final = 4096

_SUBSYSTEMS: Final = frozenset(
    {
        "block",
        "bsg",
        "fc_remote_ports",
        "iscsi_session",
        "scsi",
        "scsi_device",
        "scsi_disk",
        "scsi_generic",
        "scsi_host",
        "scsi_tape",
    }
)

_OF_MANY: Final = frozenset({"fc_remote_ports", "iscsi_session"})


class Uevent(NamedTuple):
    """One device event of the kernel; a text is "" where the event has none."""

    action: str
    """ "add", "remove", "change", "move", "bind", …."""
    devpath: str
    """The device's path below /sys."""
    subsystem: str
    device_type: str = ""
    """DEVTYPE: "disk", "partition", "scsi_device", …."""
    name: str = ""
    """DEVNAME: "sda"."""
    number: str = ""
    """ "MAJOR:MINOR"."""

    @property
    def address(self) -> str:
        """The "H:C:T:L" of the scsi_device that it is about, "" where it is about none."""
        parts = [part for part in self.devpath.split("/") if ADDRESS.fullmatch(part)]
        return parts[-1] if parts else ""

    @property
    def concerns_maps(self) -> bool:
        """Whether a device-mapper node may have changed."""
        return self.subsystem == "block" and "/virtual/block/dm-" in self.devpath

    @property
    def concerns_units(self) -> bool:
        """Whether the inventory of logical units may have changed."""
        return self.subsystem in _SUBSYSTEMS and self.device_type != "partition"


class Uevents(NamedTuple):
    """What one read gave.  overflow: events were lost, scan everything again."""

    events: tuple[Uevent, ...] = ()
    overflow: bool = False

    @property
    def rescan(self) -> bool:
        """Whether the inventory is out of date."""
        return self.overflow or any(event.concerns_units for event in self.events)

    @property
    def maps(self) -> bool:
        """Whether device-mapper nodes may have changed."""
        return any(event.concerns_maps for event in self.events)

    @property
    def addresses(self) -> frozenset[str] | None:
        """The "H:C:T:L" of the devices that may have changed; None: any may have.

        A new session or remote port gives names to devices that have no event of their own.
        """
        concerned = [event for event in self.events if event.concerns_units]
        if self.overflow or any(event.subsystem in _OF_MANY for event in concerned):
            return None
        return frozenset(event.address for event in concerned) - {""}


def parse_uevent(message: bytes) -> Uevent | None:
    """Decode one message of the kernel; None where it is no such message."""
    header, _, rest = message.partition(b"\0")
    action, at, devpath = header.partition(b"@")
    if not at or not devpath.startswith(b"/"):
        return None
    settings = dict(part.split(b"=", 1) for part in rest.split(b"\0") if b"=" in part)

    def text(key: bytes) -> str:
        raw = settings.get(key, b"")
        return clean(raw.decode("utf-8", "surrogateescape"), _TEXT_LIMIT)

    major, minor = text(b"MAJOR"), text(b"MINOR")
    return Uevent(
        action=clean(action.decode("utf-8", "surrogateescape"), _TEXT_LIMIT),
        devpath=clean(devpath.decode("utf-8", "surrogateescape"), _TEXT_LIMIT),
        subsystem=text(b"SUBSYSTEM"),
        device_type=text(b"DEVTYPE"),
        name=text(b"DEVNAME"),
        number=f"{major}:{minor}" if major and minor else "",
    )


class UeventSocket(Closing):
    """The kernel's device events; non-blocking, a context manager that closes it.

    Events are those of the process's network namespace: a container needs the host's.
    """

    __slots__ = ("_socket",)

    def __init__(self, buffer_size: int = _BUFFER) -> None:
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK,
                socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
                _NETLINK_KOBJECT_UEVENT,
            )
        except OSError as error:
            raise UnavailableError(f"no device events: {error.strerror}") from error
        try:
            self._socket.bind((0, _KERNEL_GROUP))
            self._size_buffer(buffer_size)
        except OSError as error:
            self._socket.close()
            raise UnavailableError(f"no device events: {error.strerror}") from error

    def close(self) -> None:
        """Close the socket; a second call does nothing."""
        self._socket.close()

    def fileno(self) -> int:
        """To wait for readability; it stays this object's."""
        return self._socket.fileno()

    def read(self) -> Uevents:
        """What has arrived, at most 256 messages; nothing where nothing has.

        Raises UnavailableError when the socket fails for good.
        """
        events: list[Uevent] = []
        overflow = False
        for _ in range(_BATCH):
            try:
                message, _, flags, sender = self._socket.recvmsg(_MESSAGE)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise UnavailableError(f"no device events: {error.strerror}") from error
                overflow = True
                continue
            if sender[0] != 0:
                continue
            event = parse_uevent(message)
            if event is not None:
                events.append(event)
            if event is None or flags & socket.MSG_TRUNC:
                overflow = True
        return Uevents(tuple(events), overflow)

    def _size_buffer(self, size: int) -> None:
        """Beyond net.core.rmem_max where CAP_NET_ADMIN permits it, else as far as that goes."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        with contextlib.suppress(PermissionError):
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
