"""A name that somebody else chose leads to a node below /dev, and nowhere else."""

import os
import resource
import stat
import subprocess
from itertools import islice

import pytest

from prtrace.errors import NoSuchDeviceError
from prtrace.linux.devnode import stat_below_dev


def test_a_node_and_a_link_to_one():
    assert stat.S_ISCHR(stat_below_dev("/dev/null").st_mode)
    assert stat_below_dev("/dev//null").st_rdev == os.stat("/dev/null").st_rdev


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "/dev/../etc/passwd",
        "/dev/fd/0",
        "/dev/stdin",
        "/dev/nothing",
        "/devnull",
        "dev/null",
        "",
        "/dev/nu\0ll",
        "/dev/\ud800",
        "/dev/" + "x" * 5000,
        "/dev/" + "./" * 30_000 + "nothing",
    ],
)
def test_nothing_else(name):
    with pytest.raises(NoSuchDeviceError, match="no node below /dev"):
        stat_below_dev(name)


@pytest.fixture
def room_for():
    """Gives a function: this process can then open as many more descriptors as it was told."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def limit(more):
        taken = {int(fd) for fd in os.listdir("/proc/self/fd")}
        free = (fd for fd in range(soft) if fd not in taken)
        resource.setrlimit(resource.RLIMIT_NOFILE, (list(islice(free, more))[-1] + 1, hard))

    yield limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_folders_that_were_left_hold_no_descriptors(tmp_path, room_for):
    """The name visits as many folders as a name may; descriptors suffice for its depth alone."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "sda").touch()
    name = f"{tmp_path}/" + "disk/../" * 31 + "sda"
    room_for(4)
    assert stat_below_dev(name, str(tmp_path)).st_ino == (tmp_path / "sda").stat().st_ino
    with pytest.raises(NoSuchDeviceError):
        stat_below_dev(f"{tmp_path}/" + "disk/../" * 32 + "sda", str(tmp_path))


def test_a_lookup_leaves_no_descriptor_open(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/sda").touch()
    (tmp_path / "loop").symlink_to("loop")
    before = os.listdir("/proc/self/fd")
    stat_below_dev(f"{tmp_path}/a/b/sda", str(tmp_path))
    for name in ("a/b/nothing", "a/b/sda/x", "a/../../x", "loop", "a/b/" * 70):
        with pytest.raises(NoSuchDeviceError):
            stat_below_dev(f"{tmp_path}/{name}", str(tmp_path))
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount")
def test_links_out_and_mounts_below_are_not_followed(tmp_path):
    """The test has a mount namespace of its own, and makes links as anybody can in /dev/shm."""
    script = f"""
set -e
mount -t tmpfs none {tmp_path}
mkdir {tmp_path}/disk {tmp_path}/shm
mount -t tmpfs none {tmp_path}/shm
mknod {tmp_path}/sda b 8 0
mknod {tmp_path}/shm/sda b 8 0
ln -s ../sda {tmp_path}/disk/good
ln -s /etc/passwd {tmp_path}/out
ln -s {tmp_path}/sda {tmp_path}/absolute
ln -s loop {tmp_path}/loop
ln -s ../../etc/passwd {tmp_path}/disk/up
exec python3 -c '
import sys, os
from prtrace.linux.devnode import stat_below_dev
from prtrace.errors import NoSuchDeviceError
dev = "{tmp_path}"
assert stat_below_dev(dev + "/disk/good", dev).st_rdev == os.makedev(8, 0)
for name in ("out", "absolute", "loop", "disk/up", "shm/sda", "sda/x", "disk/../../etc/passwd"):
    try:
        stat_below_dev(dev + "/" + name, dev)
    except NoSuchDeviceError:
        continue
    sys.exit(name)
'
"""
    subprocess.run(["unshare", "-m", "sh", "-c", script], check=True)
