"""What the engines need of a kernel and of a host, each with the command that provides it.

`prtrace doctor` shows all of it; an engine that could not start names the first that is missing.
"""

from __future__ import annotations

import ctypes
import enum
import os
import platform
import re
import resource
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from prtrace.errors import PrtraceError, UnavailableError
from prtrace.linux.sysfs import SYS, names, read_text
from prtrace.probe import btf as types
from prtrace.probe import objectfile

_BTF: Final = SYS / "kernel" / "btf"
_OTHER_ENGINE: Final = "boot the distribution's kernel, or use --engine bcc"
_MACHINES: Final = ("x86_64", "aarch64")
_DATA_READ_ON: Final = "x86_64"
_NOWAIT_PARAMETERS: Final = 2
"""Of blk_execute_rq_nowait(): where it has another, blk_execute_rq() calls it."""


class CheckResult(enum.Enum):
    """How a check went."""

    OK = "ok"
    WARN = "warn"
    """prtrace runs, with something less."""
    MISSING = "missing"


class Part(enum.Enum):
    """What cannot run where a check says MISSING."""

    BOTH = "both engines"
    CORE = "core"
    BCC = "bcc"


class Check(NamedTuple):
    """One thing: what it is, how it is here, and the command that changes that ("" for none)."""

    name: str
    verdict: CheckResult
    detail: str
    fix: str = ""
    part: Part = Part.BOTH


def can_run(checks: Iterable[Check], engine: Part) -> bool:
    """Whether nothing that engine needs is missing."""
    return not any(missing(checks, engine))


def missing(checks: Iterable[Check], engine: Part) -> list[Check]:
    """What engine needs and does not have."""
    return [
        check
        for check in checks
        if check.verdict is CheckResult.MISSING and check.part in (Part.BOTH, engine)
    ]


def of_both() -> list[Check]:
    """What any engine needs of the kernel."""
    return [_machine(), _lockdown(), _scsi(), _bpffs()]


def of_core() -> list[Check]:
    """What core needs beside."""
    return [_libbpf(), _object(), _btf(), _shape(), _kprobes()]


def of_bcc() -> list[Check]:
    """What bcc needs beside."""
    from prtrace.probe import bcc

    path, headers = bcc.package_path(), bcc.headers_path()
    release = platform.release()
    return [
        Check("bcc", CheckResult.MISSING, "not installed", "apt install python3-bpfcc", Part.BCC)
        if path is None
        else Check("bcc", CheckResult.OK, str(path), part=Part.BCC),
        Check(
            "kernel headers",
            CheckResult.MISSING,
            f"none for {release}",
            f"apt install linux-headers-{release}",
            Part.BCC,
        )
        if headers is None
        else Check("kernel headers", CheckResult.OK, str(headers), part=Part.BCC),
    ]


def refusal(what: str, error: OSError, engine: Part) -> UnavailableError | None:
    """The real reason why the kernel refused something, where one is to be found."""
    checks = of_both() + (of_core() if engine is Part.CORE else of_bcc())
    lacking = missing(checks, engine)
    if lacking:
        first = lacking[0]
        return UnavailableError(f"{what}: {first.name}: {first.detail}", hint=first.fix)
    memory = _memory(error)
    return None if not memory else UnavailableError(f"{what}: {memory[0]}", hint=memory[1])


def _memory(error: OSError) -> tuple[str, str] | None:
    # Until Linux 5.11 maps counted against RLIMIT_MEMLOCK, and EPERM told of it.
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if error.errno == 1 and limit != resource.RLIM_INFINITY and _before(5, 11):
        return (
            f"the maps do not fit into RLIMIT_MEMLOCK, {limit} bytes",
            "ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit",
        )
    if error.errno == 12:
        return (
            "no memory for the maps: they take 30 MiB beside the ring",
            "raise the control group's limit (MemoryMax=), or take a smaller --ring-size",
        )
    return None


def _before(major: int, minor: int) -> bool:
    version = re.match(r"(\d+)\.(\d+)", platform.release())
    return bool(version) and (int(version[1]), int(version[2])) < (major, minor)  # type: ignore[index]


def _machine() -> Check:
    machine, release = platform.machine(), platform.release()
    if machine not in _MACHINES:
        return Check(
            "kernel",
            CheckResult.MISSING,
            f"{release} on {machine}: there are programs for {' and '.join(_MACHINES)} only",
        )
    if machine != _DATA_READ_ON:
        return Check(
            "kernel",
            CheckResult.WARN,
            f"{release} on {machine}: parameter lists and replies cannot be read there yet,"
            " so that every one of them is in doubt",
        )
    if _before(5, 8):
        return Check(
            "kernel", CheckResult.MISSING, f"{release}: the BPF ring buffer came with 5.8"
        )
    return Check("kernel", CheckResult.OK, release)


def _lockdown() -> Check:
    mode = re.search(r"\[(\w+)\]", read_text(SYS / "kernel/security/lockdown") or "")
    if mode and mode[1] == "confidentiality":
        return Check(
            "lockdown",
            CheckResult.MISSING,
            "mode confidentiality: BPF may not read kernel memory",
            "boot with lockdown=integrity, or without lockdown=",
        )
    return Check("lockdown", CheckResult.OK, mode[1] if mode else "not there")


def _scsi() -> Check:
    if not (SYS / "bus/scsi").is_dir():
        return Check(
            "SCSI midlayer", CheckResult.MISSING, "scsi_mod is not loaded", "modprobe scsi_mod"
        )
    count = len(names(SYS / "class/scsi_device"))
    return Check("SCSI midlayer", CheckResult.OK, f"{count} devices")


def _bpffs() -> Check:
    for line in Path("/proc/self/mounts").read_text("utf-8", "replace").splitlines():
        if line.split()[1:3] == ["/sys/fs/bpf", "bpf"]:
            return Check("BPF file system", CheckResult.OK, "on /sys/fs/bpf")
    return Check(
        "BPF file system",
        CheckResult.MISSING,
        "nothing is mounted on /sys/fs/bpf",
        "mount -t bpf bpf /sys/fs/bpf",
    )


def btf() -> Check:
    """Whether the kernel describes its types, and the midlayer its own."""
    return _btf()


def _btf() -> Check:
    if not (_BTF / "vmlinux").exists():
        return Check(
            "BTF",
            CheckResult.MISSING,
            "the kernel has none (CONFIG_DEBUG_INFO_BTF)",
            _OTHER_ENGINE,
            Part.CORE,
        )
    module = (SYS / "module/scsi_mod/initstate").exists()
    if module and not (_BTF / "scsi_mod").exists():
        return Check(
            "BTF",
            CheckResult.MISSING,
            "the module scsi_mod has none (CONFIG_DEBUG_INFO_BTF_MODULES, Linux 5.11)",
            _OTHER_ENGINE,
            Part.CORE,
        )
    return Check("BTF", CheckResult.OK, "of the kernel and scsi_mod", part=Part.CORE)


def _shape() -> Check:
    """The structures that the object was written for, whatever number the kernel has."""
    name = "SCSI structures"
    if _btf().verdict is not CheckResult.OK:
        return Check(name, CheckResult.WARN, "not looked at: no BTF", part=Part.CORE)
    try:
        problem = _shape_problem()
    except (OSError, UnavailableError) as error:
        return Check(name, CheckResult.MISSING, f"BTF cannot be read: {error}", part=Part.CORE)
    if problem:
        return Check(name, CheckResult.MISSING, problem, _OTHER_ENGINE, Part.CORE)
    return Check(name, CheckResult.OK, "as the object wants them", part=Part.CORE)


def _shape_problem() -> str:
    vmlinux = types.btf__load_vmlinux_btf()
    midlayer = vmlinux
    try:
        if (_BTF / "scsi_mod").exists():
            midlayer = types.btf__load_module_btf("scsi_mod", vmlinux)
        if not types.member_is_array(midlayer, "scsi_cmnd", "cmnd"):
            return "scsi_cmnd::cmnd is no array (it is one since Linux 5.18)"
        if types.member_is_array(midlayer, "scsi_cmnd", "resid_len") is None:
            return "scsi_cmnd has no resid_len (it has one since Linux 5.18)"
        if types.first_parameter(vmlinux, "blk_execute_rq") != "request":
            return "blk_execute_rq() does not begin with the request (it does since Linux 5.17)"
        if types.parameters(vmlinux, "blk_execute_rq_nowait") != _NOWAIT_PARAMETERS:
            return "blk_execute_rq() calls blk_execute_rq_nowait() (it does not since Linux 5.19)"
    finally:
        if midlayer != vmlinux:
            types.btf__free(midlayer)
        types.btf__free(vmlinux)
    return ""


def _kprobes() -> Check:
    if not (SYS / "bus/event_source/devices/kprobe/type").exists():
        return Check(
            "kprobes",
            CheckResult.MISSING,
            "the kernel has none (CONFIG_KPROBE_EVENTS)",
            _OTHER_ENGINE,
            Part.CORE,
        )
    try:
        enabled = read_text(SYS / "kernel/debug/kprobes/enabled")
    except PrtraceError:
        # Lockdown refuses all of debugfs, root included: it is another check that says so.
        enabled = None
    if enabled is not None and enabled.strip() == "0":
        return Check(
            "kprobes",
            CheckResult.MISSING,
            "switched off",
            "echo 1 > /sys/kernel/debug/kprobes/enabled",
            Part.CORE,
        )
    return Check("kprobes", CheckResult.OK, "there", part=Part.CORE)


def _libbpf() -> Check:
    try:
        ctypes.CDLL("libbpf.so.1")
    except OSError:
        return Check(
            "libbpf", CheckResult.MISSING, "no libbpf.so.1", "apt install libbpf1", Part.CORE
        )
    return Check("libbpf", CheckResult.OK, "libbpf.so.1", part=Part.CORE)


def _object() -> Check:
    try:
        path = objectfile.object_path()
        with objectfile.opened(path):
            pass
    except PrtraceError as error:
        return Check("BPF object", CheckResult.MISSING, error.message, error.hint, Part.CORE)
    return Check("BPF object", CheckResult.OK, os.fspath(path), part=Part.CORE)
