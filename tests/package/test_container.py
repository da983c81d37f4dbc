"""The container image: others' tools take it, and its agent runs with the DaemonSet's mounts."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from labkit import roots
from labkit.machine import Machine
from labkit.qemu import Shape
from labkit.target import TargetSpec

TOP = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("container")
    build = [sys.executable, TOP / "tools" / "container", "--out", out]
    subprocess.run(build, check=True, timeout=1800)
    return out / "prtrace.oci.tar"


def test_skopeo_takes_it(image: Path) -> None:
    root = roots.root("bookworm", ("skopeo",))
    script = "skopeo inspect --config oci-archive:/out/prtrace.oci.tar > /out/config"
    roots.run(root, script, image.parent)
    config = json.loads((image.parent / "config").read_text())["config"]
    assert config["Entrypoint"] == ["/usr/bin/prtrace"]
    assert config["Cmd"] == ["agent"]


def test_podman_loads_it(image: Path) -> None:
    root = roots.root("bookworm", ("podman",))
    # podman looks for control groups below /sys.  An overlay on the root's own overlay is refused.
    script = """
        mount -t sysfs none /sys
        cd /out
        vfs() { podman --storage-driver vfs "$@"; }
        vfs load -i prtrace.oci.tar > loaded
        vfs image inspect --format '{{.Config.Entrypoint}} {{.Config.Cmd}}' \
            "$(sed 's/^Loaded image: //' loaded)" > inspected
    """
    roots.run(root, script, image.parent)
    assert (image.parent / "inspected").read_text() == "[/usr/bin/prtrace] [agent]\n"


# What a DaemonSet's container has: the host's processes and network, /dev, the bpf file system,
# the run and the state folder; the rest is its own.
CONTAINED = """
set -e
mount -t tmpfs none /mnt
tar -C /mnt -xf /run/lab/out/layer.tar.gz
mkdir -p /run/prtrace /var/lib/prtrace /mnt/run/prtrace /mnt/var/lib/prtrace
mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf
unshare --mount sh -ec '
    mount --rbind /dev /mnt/dev
    mount -t proc proc /mnt/proc
    mount -t sysfs sysfs /mnt/sys
    mount --bind /sys/fs/bpf /mnt/sys/fs/bpf
    mount --bind /run/prtrace /mnt/run/prtrace
    mount --bind /var/lib/prtrace /mnt/var/lib/prtrace
    exec chroot /mnt /usr/bin/prtrace agent
' > /tmp/agent.log 2>&1 &
agent=$!
inside() { chroot /mnt /usr/bin/prtrace "$@"; }
mount --bind /run/prtrace /mnt/run/prtrace
for n in $(seq 60); do inside status && break; sleep 1; done
disk=$(ls /dev/sd? | head -1)
sg_persist --out --register-ignore --param-sark=a1 $disk
inside show $disk | grep 0x00000000000000a1
inside events | grep sg_persist
kill $agent
wait $agent
cat /tmp/agent.log
! grep Traceback /tmp/agent.log
"""


def test_the_agent_runs_contained(image: Path, tmp_path: Path) -> None:
    with tarfile.open(image) as archive:
        layer = max(archive.getmembers(), key=lambda member: member.size)
        with (tmp_path / "layer.tar.gz").open("wb") as file:
            file.write(archive.extractfile(layer).read())
    shape = Shape(memory="3G")
    with Machine("6.1", TargetSpec(luns=1, nexuses=1), shape=shape, out=tmp_path) as machine:
        done = machine.run(f"sh -c {shlex.quote(CONTAINED)}", timeout=600)
        print(done.output)
        assert done.status == 0, done.output[-4000:]


def test_the_daemonset_is_what_the_image_needs() -> None:
    yaml = (TOP / "tools/packaging/daemonset.yaml").read_text()
    for path in ("/dev", "/sys/fs/bpf", "/run/prtrace", "/var/lib/prtrace"):
        assert f"mountPath: {path}" in yaml
        assert f"path: {path}" in yaml
    assert "hostPID: true" in yaml
