"""Confinement by others: the AppArmor profile is enforced, the SELinux module compiles."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from labkit import roots
from labkit.machine import Machine
from labkit.qemu import Shape
from labkit.target import TargetSpec

LIBRARIES = ("python3-click", "python3-psutil", "python3-construct", "libbpf1")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

PARSED = """
apparmor_parser --skip-kernel-load --skip-cache prtrace/apparmor/prtrace-proxy
mkdir -p /etc/apparmor.d/local/abstractions
cp prtrace/apparmor/libvirt-qemu /etc/apparmor.d/local/abstractions/
printf '%s\\n' 'include <tunables/global>' 'profile guest {' \\
    'include <abstractions/libvirt-qemu>' 'include <local/abstractions/libvirt-qemu>' '}' > /guest
apparmor_parser --skip-kernel-load --skip-cache /guest
"""


@pytest.mark.parametrize("release", roots.RELEASES)
def test_the_profiles_are_understood(release: str, tmp_path: Path) -> None:
    root = roots.root(release, ("apparmor", "libvirt-daemon-system"))
    roots.run(root, PARSED, tmp_path)


COMPILED = """
cp prtrace/selinux/* .
make -f /usr/share/selinux/devel/Makefile prtrace_proxy.pp
cp prtrace_proxy.pp /out/
"""


def test_the_selinux_module_compiles(tmp_path: Path) -> None:
    root = roots.root("bookworm", ("selinux-policy-dev", "make", "m4", "policycoreutils"))
    roots.run(root, COMPILED, tmp_path)
    assert (tmp_path / "prtrace_proxy.pp").stat().st_size > 10_000


ENFORCED = """
set -e
export PYTHONPATH=/lab/checkout PYTHONDONTWRITEBYTECODE=1
cat > /usr/bin/prtrace <<'.'
#!/usr/bin/python3
from prtrace.cli.main import run
run()
.
chmod 755 /usr/bin/prtrace
cp -a /lab/checkout/prtrace /usr/lib/python3/dist-packages/
unset PYTHONPATH
apparmor_parser --replace /lab/checkout/prtrace/apparmor/prtrace-proxy
cp /lab/checkout/prtrace/systemd/prtrace-proxy* /etc/systemd/system/
cp /lab/checkout/prtrace/systemd/prtrace-proxy.sysusers.conf /usr/lib/sysusers.d/
systemd-sysusers
systemctl daemon-reload
systemctl start prtrace-proxy.socket
python3 /lab/checkout/tests/package/proxy_client.py /run/prtrace-proxy.sock /dev/sda || {
    journalctl -u prtrace-proxy.service --no-pager
    dmesg | grep apparmor=
    exit 1
}
pid=$(systemctl show -P MainPID prtrace-proxy.service)
cat /proc/$pid/attr/current
grep -q '^prtrace-proxy (enforce)' /proc/$pid/attr/current
# It can do no more than its profile says, although its user could.
cat > /usr/lib/python3/dist-packages/prtrace/try_it.py <<'.'
import subprocess
for path in ("/etc/shadow", "/etc/hostname"):
    try:
        open(path).close()
        print("opened", path)
    except PermissionError:
        print("refused", path)
try:
    subprocess.run(["/bin/true"])
    print("executed")
except PermissionError:
    print("did not execute")
.
aa-exec -p prtrace-proxy -- /usr/bin/python3 /usr/lib/python3/dist-packages/prtrace/try_it.py
! journalctl -u prtrace-proxy.service --no-pager | grep -i traceback
! dmesg | grep 'apparmor="DENIED"' | grep -v try_it | grep 'comm="prtrace"'
"""


def test_the_profile_is_enforced(tmp_path: Path) -> None:
    root = roots.root("bookworm", (*roots.SYSTEM, *LIBRARIES, "apparmor", "apparmor-utils"))
    with Machine(
        "6.1", TargetSpec(luns=1, nexuses=1), shape=Shape(root=root), boot_seconds=600
    ) as machine:
        done = machine.run(f"sh -c {shlex.quote(ENFORCED)}", timeout=600)
        print(done.output)
        assert done.status == 0, done.output[-4000:]
        assert "did not execute" in done.output
        assert "refused /etc/hostname" in done.output
