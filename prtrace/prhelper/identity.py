"""Which guest a client is, by what the kernel or the administrator vouches for (pure).

A process chooses its own command line and name, so neither says which guest it is.  What it
cannot choose, in the order in which it is believed here:

socket  the guest has a listening socket of its own (--guest-socket, FileDescriptorName=), and
        the administrator let nobody else connect to it.
machine the outermost systemd unit of its cgroup: only root's service manager makes units there.
        systemd-machined names the scope "machine-qemu\\x2d3\\x2dvm.scope", libvirt without it
        makes a group "qemu-3-vm.libvirt-qemu", Proxmox VE a scope "100.scope" below qemu.slice,
        and a container runtime a scope for each container (KubeVirt has one guest in each).
label   SO_PEERSEC: SELinux gives each guest of libvirt two categories of its own
        (svirt_t:s0:c1,c2), AppArmor a profile "libvirt-UUID".
process none of these: the process itself.  Two processes of one other unit, a login session say,
        may be two guests.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_ESCAPED: Final = re.compile(r"\\x([0-9a-f]{2})")
_NUMBERED: Final = re.compile(r"(?:qemu|lxc)-\d+-(.+)", re.DOTALL)
_CONTAINER: Final = re.compile(
    r"(?:cri-containerd|crio|docker|libpod|nerdctl)-[0-9a-f]{12,64}\.scope"
)
_PROXMOX: Final = re.compile(r"(\d+)\.scope")
_LIBVIRT: Final = ".libvirt-qemu"
_SVIRT: Final = re.compile(r"[^:]*:[^:]*:svirt[^:]*:s\d+(?:-s\d+)?:(c\d+,c\d+)")
_APPARMOR: Final = re.compile(
    r"libvirt-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?: \(\w+\))?"
)


@dataclass(frozen=True, slots=True)
class Vouched:
    """What a client is known to be."""

    identity: str
    """Two clients with one identity are one guest."""
    by: str
    """"socket", "machine", "label" or "process"."""
    names: tuple[str, ...] = ()
    """The guest's name as the socket, the machine's scope and the label have it; may be none."""

    @property
    def name(self) -> str:
        """The guest's name, "" where only the process is known."""
        return self.names[0] if self.names else ""


def vouched(socket: str, cgroup: str, unit: str, label: str, process: str) -> Vouched:
    """Which guest a client is.

    socket: the name of the listening socket that it came by, "" for the one that all share.
    cgroup: /proc/PID/cgroup.  unit: the outermost systemd unit in it, "" for none.  label: what
    SO_PEERSEC says.  process: names the process and no other one.
    """
    machine, machine_name = _machine(cgroup, unit)
    security, uuid = _security(label)
    names = tuple(dict.fromkeys(name for name in (socket, machine_name, uuid) if name))
    if socket:
        return Vouched(f"socket:{socket}", "socket", names)
    if machine:
        return Vouched(f"machine:{machine}", "machine", names)
    if security:
        return Vouched(f"label:{security}", "label", names)
    return Vouched(f"process:{process}", "process", names)


def _machine(cgroup: str, unit: str) -> tuple[str, str]:
    """The group that holds one guest only, and the guest's name in it; "" for neither."""
    if unit.startswith("machine-") and unit.endswith(".scope"):
        name = _unescaped(unit.removeprefix("machine-").removesuffix(".scope"))
        numbered = _NUMBERED.fullmatch(name)
        return unit, numbered[1] if numbered else name
    if _CONTAINER.fullmatch(unit):
        return unit, ""
    for line in cgroup.splitlines():
        parts = line.rpartition(":")[2].split("/")
        if unit and unit in parts:
            place = parts.index(unit)
            proxmox = _PROXMOX.fullmatch(unit)
            if proxmox and parts[:place] == ["", "qemu.slice"]:
                return unit, proxmox[1]
            parts = parts[:place]
        for part in parts:
            if part.endswith(_LIBVIRT):
                name = part.removesuffix(_LIBVIRT)
                numbered = _NUMBERED.fullmatch(name)
                return part, numbered[1] if numbered else name
    return "", ""


def _security(label: str) -> tuple[str, str]:
    """The part of the label that one guest alone has, and its UUID in it; "" for neither."""
    if selinux := _SVIRT.fullmatch(label):
        return selinux[1], ""
    if apparmor := _APPARMOR.fullmatch(label):
        return apparmor[1], apparmor[1]
    return "", ""


def _unescaped(name: str) -> str:
    """The name that systemd-escape made of it; what is not valid UTF-8 stays as it is."""
    try:
        raw = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), name).encode("latin-1")
        return raw.decode()
    except UnicodeError:
        return name
