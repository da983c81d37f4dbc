"""Where a guest's control group begins, by what /proc/PID/cgroup says."""

import pytest

from prtrace.linux.guestgroup import guest_group_path

MACHINE = "machine-qemu\\x2d1\\x2dg.scope"
CONTAINER = f"cri-containerd-{'ab' * 32}.scope"


@pytest.mark.parametrize(
    ("cgroup", "path"),
    [
        (f"0::/machine.slice/{MACHINE}/libvirt/emulator\n", f"/machine.slice/{MACHINE}"),
        (f"0::/machine.slice/{MACHINE}/libvirt\n", f"/machine.slice/{MACHINE}"),
        ("0::/machine/qemu-1-g.libvirt-qemu/emulator\n", "/machine/qemu-1-g.libvirt-qemu"),
        ("0::/machine/qemu-1-g.libvirt-qemu\n", "/machine/qemu-1-g.libvirt-qemu"),
        (
            "4:memory:/machine/qemu-1-g.libvirt-qemu/emulator\n0::/x\n",
            "/machine/qemu-1-g.libvirt-qemu",
        ),
        ("0::/qemu.slice/100.scope\n", "/qemu.slice/100.scope"),
        (
            f"0::/kubepods.slice/pod7.slice/{CONTAINER}\n",
            f"/kubepods.slice/pod7.slice/{CONTAINER}",
        ),
        # Nobody's, or several guests'.
        ("0::/system.slice/qemu-pr-helper.service\n", ""),
        ("0::/user.slice/user-0.slice/session-1.scope\n", ""),
        ("0::/system.slice/libvirtd.service\n", ""),
        ("0::/other.slice/100.scope\n", ""),
        # Below a unit anybody may have a group of any name.
        ("0::/user.slice/user@7.service/qemu-1-g.libvirt-qemu\n", ""),
        ("0::/\n", ""),
        ("", ""),
    ],
)
def test_the_group(cgroup: str, path: str) -> None:
    assert guest_group_path(cgroup) == path
