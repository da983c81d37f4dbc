"""The control group that holds one guest's processes and nobody else's (pure).

Only root puts processes there, so that a process cannot choose it, as it chooses its name and its
command line.  systemd-machined names the scope "machine-qemu\\x2d3\\x2dvm.scope", libvirt without
it makes a group "qemu-3-vm.libvirt-qemu", Proxmox VE a scope "100.scope" below qemu.slice, and a
container runtime a scope for each container (KubeVirt has one guest in each).
"""

from __future__ import annotations

import re
from typing import Final

from prtrace.linux.process import unit_of_cgroup

_ESCAPED: Final = re.compile(r"\\x([0-9a-f]{2})")
_NUMBERED: Final = re.compile(r"(?:qemu|lxc)-\d+-(.+)", re.DOTALL)
_CONTAINER: Final = re.compile(
    r"(?:cri-containerd|crio|docker|libpod|nerdctl)-[0-9a-f]{12,64}\.scope"
)
_PROXMOX: Final = re.compile(r"(\d+)\.scope")
_LIBVIRT: Final = ".libvirt-qemu"


def guest_group_path(cgroup: str) -> str:
    """The path of the group, "" where the process is in none.  cgroup: /proc/PID/cgroup."""
    group, _ = guest_group(cgroup, unit_of_cgroup(cgroup))
    for line in cgroup.splitlines() if group else ():
        parts = line.split(":", 2)[-1].split("/")
        if group in parts:
            return "/".join(parts[: parts.index(group) + 1])
    return ""


def guest_group(cgroup: str, unit: str) -> tuple[str, str]:
    """The group's name, and the guest's name in it; "" for neither.

    cgroup: /proc/PID/cgroup.  unit: the outermost systemd unit in it, "" for none.
    """
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


def _unescaped(name: str) -> str:
    """The name that systemd-escape made of it; what is not valid UTF-8 stays as it is."""
    try:
        raw = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), name).encode("latin-1")
        return raw.decode()
    except UnicodeError:
        return name
