"""What an agent needs of its host, each with the command that provides it."""

from __future__ import annotations

import ctypes
import enum
import os
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prtrace.agent.options import STATE_DIR
from prtrace.agent.privileges import Capability
from prtrace.api.client import Client
from prtrace.errors import PrtraceError
from prtrace.linux.sysfs import names, read_text
from prtrace.probe import bcc, core

_OLDEST: Final = (5, 8)
"""The BPF ring buffer came with Linux 5.8."""

_MULTIPATHD: Final = "@/org/kernel/linux/storage/multipathd"
_SYS: Final = Path("/sys")


class Verdict(enum.Enum):
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


@dataclass(frozen=True, slots=True)
class Check:
    """One thing: what it is, how it is here, and the command that changes that ("" for none)."""

    name: str
    verdict: Verdict
    detail: str
    fix: str = ""
    part: Part = Part.BOTH


def all_checks(socket: str) -> list[Check]:
    """Look at everything; sends nothing to a device and changes nothing."""
    return [
        _privileges(),
        _kernel(),
        _lockdown(),
        _scsi(),
        _bpffs(),
        _btf(),
        _kprobes(),
        _libbpf(),
        _object(),
        _bcc(),
        _headers(),
        _sg(),
        *_multipath(),
        _state_dir(),
        _agent(socket),
    ]


def can_run(checks: Iterable[Check], engine: Part) -> bool:
    """Whether nothing that engine needs is missing."""
    return all(
        check.verdict is not Verdict.MISSING
        for check in checks
        if check.part in (Part.BOTH, engine)
    )


def _privileges() -> Check:
    text = re.search(r"^CapEff:\s*([0-9a-f]+)", _read("/proc/self/status"), re.MULTILINE)
    effective = int(text[1], 16) if text else 0
    needed = (Capability.SYS_ADMIN, Capability.SYS_RAWIO, Capability.BPF)
    missing = [each.name for each in needed if not effective >> each & 1]
    if not missing:
        return Check("privileges", Verdict.OK, f"uid {os.geteuid()} has what the agent needs")
    return Check(
        "privileges",
        Verdict.MISSING,
        f"uid {os.geteuid()} lacks " + ", ".join(f"CAP_{name}" for name in missing),
        "sudo prtrace agent",
    )


def _kernel() -> Check:
    release = platform.release()
    version = re.match(r"(\d+)\.(\d+)", release)
    if version and (int(version[1]), int(version[2])) >= _OLDEST:
        return Check("kernel", Verdict.OK, release)
    return Check(
        "kernel", Verdict.MISSING, f"{release} is older than 5.8: it has no BPF ring buffer"
    )


def _lockdown() -> Check:
    mode = re.search(r"\[(\w+)\]", read_text(_SYS / "kernel/security/lockdown") or "")
    if mode and mode[1] == "confidentiality":
        return Check(
            "lockdown",
            Verdict.MISSING,
            "mode confidentiality: BPF may not read kernel memory",
            "boot with lockdown=integrity, or without lockdown=",
        )
    return Check("lockdown", Verdict.OK, mode[1] if mode else "not there")


def _scsi() -> Check:
    if not (_SYS / "bus/scsi").is_dir():
        return Check(
            "SCSI midlayer", Verdict.MISSING, "scsi_mod is not loaded", "modprobe scsi_mod"
        )
    count = len(names(_SYS / "class/scsi_device"))
    return Check("SCSI midlayer", Verdict.OK, f"{count} devices")


def _bpffs() -> Check:
    for line in _read("/proc/self/mounts").splitlines():
        if line.split()[1:3] == ["/sys/fs/bpf", "bpf"]:
            return Check("BPF file system", Verdict.OK, "on /sys/fs/bpf")
    return Check(
        "BPF file system",
        Verdict.MISSING,
        "nothing is mounted on /sys/fs/bpf",
        "mount -t bpf bpf /sys/fs/bpf",
    )


def _btf() -> Check:
    if not (_SYS / "kernel/btf/vmlinux").exists():
        return Check(
            "BTF",
            Verdict.MISSING,
            "the kernel has none (CONFIG_DEBUG_INFO_BTF)",
            "boot the distribution's kernel, or use --engine bcc",
            Part.CORE,
        )
    module = (_SYS / "module/scsi_mod/initstate").exists()
    if module and not (_SYS / "kernel/btf/scsi_mod").exists():
        return Check(
            "BTF",
            Verdict.MISSING,
            "the module scsi_mod has none (CONFIG_DEBUG_INFO_BTF_MODULES)",
            "boot the distribution's kernel, or use --engine bcc",
            Part.CORE,
        )
    return Check("BTF", Verdict.OK, "of the kernel and scsi_mod", part=Part.CORE)


def _kprobes() -> Check:
    if (_SYS / "bus/event_source/devices/kprobe/type").exists():
        return Check("kprobes", Verdict.OK, "there", part=Part.CORE)
    return Check(
        "kprobes",
        Verdict.MISSING,
        "the kernel has none (CONFIG_KPROBE_EVENTS)",
        "boot the distribution's kernel, or use --engine bcc",
        Part.CORE,
    )


def _libbpf() -> Check:
    try:
        ctypes.CDLL("libbpf.so.1")
    except OSError:
        return Check("libbpf", Verdict.MISSING, "no libbpf.so.1", "apt install libbpf1", Part.CORE)
    return Check("libbpf", Verdict.OK, "libbpf.so.1", part=Part.CORE)


def _object() -> Check:
    try:
        path = core.object_path()
    except PrtraceError as error:
        return Check("BPF object", Verdict.MISSING, error.message, error.hint, Part.CORE)
    return Check("BPF object", Verdict.OK, str(path), part=Part.CORE)


def _bcc() -> Check:
    path = bcc.package_path()
    if path is None:
        return Check(
            "bcc", Verdict.MISSING, "not installed", "apt install python3-bpfcc", Part.BCC
        )
    return Check("bcc", Verdict.OK, str(path), part=Part.BCC)


def _headers() -> Check:
    path = bcc.headers_path()
    if path is None:
        release = platform.release()
        return Check(
            "kernel headers",
            Verdict.MISSING,
            f"none for {release}",
            f"apt install linux-headers-{release}",
            Part.BCC,
        )
    return Check("kernel headers", Verdict.OK, str(path), part=Part.BCC)


def _sg() -> Check:
    if (_SYS / "class/scsi_generic").is_dir():
        return Check("sg driver", Verdict.OK, "loaded")
    return Check(
        "sg driver",
        Verdict.WARN,
        "not loaded: units without a disk node cannot be read",
        "modprobe sg",
    )


def _multipath() -> list[Check]:
    maps = [
        node
        for node in names(_SYS / "block")
        if (read_text(_SYS / "block" / node / "dm/uuid") or "").startswith("mpath-")
    ]
    if not maps:
        return []
    if _MULTIPATHD in _read("/proc/net/unix"):
        return [Check("multipathd", Verdict.OK, f"runs; {len(maps)} maps")]
    return [
        Check(
            "multipathd",
            Verdict.WARN,
            f"does not run: the keys of {len(maps)} maps are not restored on new paths",
            "systemctl start multipathd",
        )
    ]


def _state_dir() -> Check:
    path = STATE_DIR
    if path.is_dir():
        if os.access(path, os.W_OK):
            return Check("state directory", Verdict.OK, str(path))
        return Check("state directory", Verdict.WARN, f"{path} may not be written by this user")
    if path.exists():
        return Check("state directory", Verdict.MISSING, f"{path} is no directory", f"rm {path}")
    return Check("state directory", Verdict.OK, f"{path} will be made")


def _agent(socket: str) -> Check:
    try:
        status = Client(socket, timeout=5.0).call("Status")["status"]
        detail = f"process {status['pid']}, engine {status['engine']}"
    except PrtraceError as error:
        return Check("agent", Verdict.WARN, error.message, "prtrace agent")
    except (KeyError, TypeError):
        return Check("agent", Verdict.WARN, f"what answers on {socket} is no agent")
    return Check("agent", Verdict.OK, detail)


def _read(path: str) -> str:
    return Path(path).read_text("utf-8", "replace")
