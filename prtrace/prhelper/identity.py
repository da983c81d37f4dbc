"""Which guest a client is, by what the kernel or the administrator vouches for (pure).

A process chooses its own command line and name, so neither says which guest it is.  What it
cannot choose, in the order in which it is believed here:

socket  the guest has a listening socket of its own (--guest-socket, FileDescriptorName=), and
        the administrator let nobody else connect to it.
machine its control group (prtrace.linux.guestgroup).
label   SO_PEERSEC: SELinux gives each guest of libvirt two categories of its own
        (svirt_t:s0:c1,c2), AppArmor a profile "libvirt-UUID".
process none of these: the process itself.  Two processes of one other unit, a login session say,
        may be two guests.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from prtrace.linux.guestgroup import guest_group

_SVIRT: Final = re.compile(r"[^:]*:[^:]*:svirt[^:]*:s\d+(?:-s\d+)?:(c\d+,c\d+)")
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_APPARMOR: Final = re.compile(rf"libvirt-({_UUID.pattern})(?: \(\w+\))?")


@dataclass(frozen=True, slots=True)
class Vouched:
    """What a client is known to be."""

    identity: str
    """Two clients with one identity are one guest."""
    by: str
    """"socket", "machine", "label" or "process"."""
    names: tuple[str, ...] = ()
    """The guest's name as the socket, the machine's scope and the label have it; may be none."""
    uuid: str = field(default="", compare=False)
    """The guest's, where its label says it; any guest can have another one's for a name."""

    @property
    def name(self) -> str:
        """The guest's name, "" where only the process is known."""
        return self.names[0] if self.names else ""

    def is_called(self, name: str) -> bool:
        """Whether it is the guest that name means: a UUID of no name, a name to the letter."""
        if _UUID.fullmatch(name.lower()):
            return name.lower() == self.uuid
        return name in self.names


def vouched(socket: str, cgroup: str, unit: str, label: str, process: str) -> Vouched:
    """Which guest a client is.

    socket: the name of the listening socket that it came by, "" for the one that all share.
    cgroup: /proc/PID/cgroup.  unit: the outermost systemd unit in it, "" for none.  label: what
    SO_PEERSEC says.  process: names the process and no other one.
    """
    machine, machine_name = guest_group(cgroup, unit)
    security, uuid = _security(label)
    names = tuple(dict.fromkeys(name for name in (socket, machine_name, uuid) if name))
    if socket:
        return Vouched(f"socket:{socket}", "socket", names, uuid)
    if machine:
        return Vouched(f"machine:{machine}", "machine", names, uuid)
    if security:
        return Vouched(f"label:{security}", "label", names, uuid)
    return Vouched(f"process:{process}", "process", names)


def _security(label: str) -> tuple[str, str]:
    """The part of the label that one guest alone has, and its UUID in it; "" for neither."""
    if selinux := _SVIRT.fullmatch(label):
        return selinux[1], ""
    if apparmor := _APPARMOR.fullmatch(label):
        return apparmor[1], apparmor[1]
    return "", ""
