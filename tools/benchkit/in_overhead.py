"""In the machine: what requests cost that are no PR commands, with and without programs.

python3 -m benchkit.in_overhead REQUESTS: prints a JSON object, way of the request -> what was
attached -> instructions for each request, one number a repeat.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from labkit import sysfs
from labkit.target import Target
from labkit.waiting import await_that

from prtrace.probe import core, objectfile

_REQUESTS = 500
_REPEATS = 3
_RING = 16 << 20
_DOOR = b"fentry/sg_rq_end_io"
_NO_DOOR = b"fentry/sg_nowhere__"
_NVMET = Path("/sys/kernel/config/nvmet")


@contextlib.contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextlib.contextmanager
def _prtrace() -> Iterator[None]:
    programs = core.load(1, _RING, {})
    if programs.missing or programs.fallback:
        raise SystemExit(f"not attached: {programs.missing} {programs.fallback}")
    try:
        yield
    finally:
        programs.close()


@contextlib.contextmanager
def _fallback() -> Iterator[None]:
    """With an object in which one end function has a name that no kernel has."""
    with tempfile.NamedTemporaryFile(suffix=".o") as changed:
        changed.write(objectfile.object_path().read_bytes().replace(_DOOR, _NO_DOOR))
        changed.flush()
        os.environ["PRTRACE_BPF_OBJECT"] = changed.name
        programs = core.load(1, _RING, {})
        assert programs.fallback, programs
        yield
        programs.close()


# Each runs in a process of its own: the kernel closes its links when it ends.
_ARMS: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    "no program": _nothing,
    "prtrace": _prtrace,
    "fallback": _fallback,
    "no program again": _nothing,
}


def _measure(arm: str, way: str, device: str) -> list[float]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        with _ARMS[arm]():
            done = subprocess.run(
                [sys.argv[1], way, device, str(_REQUESTS), str(_REPEATS)],
                stdout=writing,
                check=False,
            )
        os._exit(done.returncode)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        values = [float(line) for line in pipe]
    _, status = os.waitpid(child, 0)
    if status or len(values) != _REPEATS:
        raise SystemExit(f"{way} of {device} with {arm}: status {status}")
    return values


def _scsi_debug() -> str:
    """The cheapest SCSI device that there is: it answers at once and copies nothing."""
    before = set(sysfs.addresses())
    subprocess.run(["modprobe", "scsi_debug", "delay=0", "fake_rw=1", "dev_size_mb=8"], check=True)
    await_that("scsi_debug's disk", lambda: bool(set(sysfs.addresses()) - before))
    return sysfs.await_disk((set(sysfs.addresses()) - before).pop()).block


def _nvme() -> str:
    """A namespace in memory, over the kernel's own NVMe target: its passthrough node.

    "" where the kernel has no such target.
    """
    if subprocess.run(["modprobe", "-a", "brd", "nvmet", "nvme_loop"], check=False).returncode:
        return ""
    system, port = _NVMET / "subsystems" / "bench", _NVMET / "ports" / "1"
    space = system / "namespaces" / "1"
    space.mkdir(parents=True)
    (system / "attr_allow_any_host").write_text("1")
    (space / "device_path").write_text("/dev/ram0")
    (space / "enable").write_text("1")
    port.mkdir(parents=True)
    (port / "addr_trtype").write_text("loop")
    (port / "subsystems" / "bench").symlink_to(system)
    Path("/dev/nvme-fabrics").write_text("transport=loop,nqn=bench")
    node = Path("/dev/ng0n1")
    await_that("the NVMe namespace", node.exists)
    return str(node)


def main() -> None:
    target = Target.load(os.environ["LAB_TARGET"])
    debug, lio = _scsi_debug(), target.units[0].paths[0].block
    for device in (debug, lio):
        (Path("/sys/class/block") / Path(device).name / "queue/scheduler").write_text("none")
    ways = {
        "scsi_debug read": ("read", debug),
        "LIO read": ("read", lio),
        "SG_IO READ(10)": ("sg_io", debug),
        "ioctl of a disk": ("ioctl", debug),
    }
    if nvme := _nvme():
        ways["NVMe passthrough"] = ("nvme", nvme)
    found = {
        name: {arm: _measure(arm, way, device) for arm in _ARMS}
        for name, (way, device) in ways.items()
    }
    json.dump(found, sys.stdout)


main()
