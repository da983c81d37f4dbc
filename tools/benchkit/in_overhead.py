"""In the machine: what a SCSI command that is none of ours costs, with and without programs.

python3 -m benchkit.in_overhead READS EMPTY_OBJECT: prints a JSON object, device -> what was
attached -> instructions for each 4 KiB read, one number a repeat.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from labkit import sysfs
from labkit.target import Target

from prtrace.probe import core, libbpf

_READS = 1000
_REPEATS = 5
_RING = 16 << 20


@contextlib.contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextlib.contextmanager
def _empty() -> Iterator[None]:
    obj = libbpf.bpf_object__open_file(sys.argv[2])
    links = []
    try:
        libbpf.bpf_object__load(obj)
        links = [libbpf.bpf_program__attach(program) for _, program in libbpf.programs(obj)]
        yield
    finally:
        libbpf.bpf_object__close(obj)
        for fd in links:
            os.close(fd)


@contextlib.contextmanager
def _prtrace() -> Iterator[None]:
    programs = core.load(1, _RING, {})
    if programs.missing:
        raise SystemExit(f"not attached: {programs.missing}")
    try:
        yield
    finally:
        programs.close()


# Each in a process of its own: links are given back to the kernel by its end.
_ARMS: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    "no program": _nothing,
    "empty pair": _empty,
    "prtrace": _prtrace,
    "no program again": _nothing,
}


def _measure(arm: str, device: str) -> list[float]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        with _ARMS[arm]():
            done = subprocess.run(
                [sys.argv[1], device, str(_READS), str(_REPEATS)],
                stdout=writing,
                check=False,
            )
        os._exit(done.returncode)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        values = [float(line) for line in pipe]
    _, status = os.waitpid(child, 0)
    if status or len(values) != _REPEATS:
        raise SystemExit(f"reading {device} with {arm}: status {status}")
    return values


def _scsi_debug() -> str:
    """The cheapest SCSI device that there is: it answers at once and copies nothing."""
    before = set(sysfs.addresses())
    subprocess.run(["modprobe", "scsi_debug", "delay=0", "fake_rw=1", "dev_size_mb=8"], check=True)
    sysfs.await_that("scsi_debug's disk", lambda: bool(set(sysfs.addresses()) - before))
    return sysfs.await_disk((set(sysfs.addresses()) - before).pop()).block


def main() -> None:
    target = Target.load(os.environ["LAB_TARGET"])
    devices = {"scsi_debug": _scsi_debug(), "LIO": target.units[0].paths[0].block}
    for device in devices.values():
        (Path("/sys/class/block") / Path(device).name / "queue/scheduler").write_text("none")
    found = {
        name: {arm: _measure(arm, device) for arm in _ARMS} for name, device in devices.items()
    }
    json.dump(found, sys.stdout)


main()
