"""Which guest a client is; what a process can choose itself is never in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prtrace.linux.process import unit_of_cgroup
from prtrace.prhelper.identity import Vouched, vouched

ME = "10@1"
UUID = "5c6f9c4e-0d1f-4c52-8b5b-0c4a5f7d9f11"
QEMU_SCOPE = "machine-qemu\\x2d3\\x2dwal\\x20di.scope"


def of(cgroup: str = "", *, socket: str = "", label: str = "") -> Vouched:
    text = f"0::{cgroup}\n" if cgroup else ""
    return vouched(socket, text, unit_of_cgroup(text), label, ME)


@pytest.mark.parametrize(
    ("cgroup", "identity", "names"),
    [
        (f"/machine.slice/{QEMU_SCOPE}/libvirt/emulator", f"machine:{QEMU_SCOPE}", ("wal di",)),
        ("/machine.slice/machine-web.scope", "machine:machine-web.scope", ("web",)),
        ("/machine/qemu-12-vm.libvirt-qemu/vcpu0", "machine:qemu-12-vm.libvirt-qemu", ("vm",)),
        ("/qemu.slice/100.scope", "machine:100.scope", ("100",)),
        (
            "/kubepods.slice/pod1.slice/cri-containerd-0123456789ab.scope",
            "machine:cri-containerd-0123456789ab.scope",
            (),
        ),
    ],
)
def test_a_guests_own_group(cgroup: str, identity: str, names: tuple[str, ...]) -> None:
    assert of(cgroup) == Vouched(identity, "machine", names)


@pytest.mark.parametrize(
    "cgroup",
    [
        "",
        "/",
        "/system.slice/libvirtd.service",
        "/user.slice/user-0.slice/session-3.scope",
        # Anybody can make these below their own session.
        f"/user.slice/user-1000.slice/user@1000.service/app.slice/{QEMU_SCOPE}",
        "/user.slice/user@1000.service/qemu-3-vm.libvirt-qemu",
        "/user.slice/user-0.slice/session-3.scope/qemu-3-vm.libvirt-qemu",
        "/other.slice/100.scope",
        "/system.slice/docker-0123456789ab.service",
    ],
)
def test_everything_else_is_a_process(cgroup: str) -> None:
    assert of(cgroup) == Vouched(f"process:{ME}", "process")


def test_a_guest_is_known_in_version_1_of_cgroups() -> None:
    text = f"9:memory:/machine.slice\n1:name=systemd:/machine.slice/{QEMU_SCOPE}\n0::/\n"
    assert vouched("", text, unit_of_cgroup(text), "", ME).name == "wal di"


def test_a_label_of_one_guest_vouches_and_a_label_of_many_does_not() -> None:
    guest = of(label="system_u:system_r:svirt_t:s0:c107,c434")
    assert guest == Vouched("label:c107,c434", "label")
    assert of(label=f"libvirt-{UUID} (enforce)") == Vouched(f"label:{UUID}", "label", (UUID,))
    for label in (
        "unconfined",
        "unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023",
        "system_u:system_r:svirt_t:s0",
        f"libvirt-{UUID}x",
        "libvirt-waldi",
    ):
        assert of(label=label).by == "process"


def test_the_socket_is_believed_before_the_group_and_the_label() -> None:
    guest = of(f"/machine.slice/{QEMU_SCOPE}", socket="vm1", label=f"libvirt-{UUID} (enforce)")
    assert guest == Vouched("socket:vm1", "socket", ("vm1", "wal di", UUID))
    assert guest.name == "vm1"


@given(st.text(), st.text(), st.text())
def test_any_text_is_somebody(cgroup: str, unit: str, label: str) -> None:
    assert vouched("", cgroup, unit, label, ME).identity
