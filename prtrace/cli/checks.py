"""What an agent needs of its host, each with the command that provides it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from prtrace.agent.options import STATE_DIR
from prtrace.api.client import Client
from prtrace.errors import PrtraceError
from prtrace.linux.capabilities import Capability
from prtrace.linux.multipath import multipath_maps
from prtrace.linux.sysfs import SYS
from prtrace.probe import requirements
from prtrace.probe.requirements import Check, CheckResult

_MULTIPATHD: Final = "@/org/kernel/linux/storage/multipathd"


def all_checks(socket: str) -> list[Check]:
    """Look at everything; sends nothing to a device and changes nothing."""
    return [
        _privileges(),
        *requirements.of_both(),
        *requirements.of_core(),
        *requirements.of_bcc(),
        _sg(),
        *_multipath(),
        _state_dir(),
        _agent(socket),
    ]


def _privileges() -> Check:
    text = re.search(r"^CapEff:\s*([0-9a-f]+)", _read("/proc/self/status"), re.MULTILINE)
    effective = int(text[1], 16) if text else 0
    needed = (Capability.SYS_ADMIN, Capability.SYS_RAWIO, Capability.BPF)
    missing = [each.name for each in needed if not effective >> each & 1]
    if not missing:
        return Check("privileges", CheckResult.OK, f"uid {os.geteuid()} has what the agent needs")
    return Check(
        "privileges",
        CheckResult.MISSING,
        f"uid {os.geteuid()} lacks " + ", ".join(f"CAP_{name}" for name in missing),
        "sudo prtrace agent",
    )


def _sg() -> Check:
    if (SYS / "class/scsi_generic").is_dir():
        return Check("sg driver", CheckResult.OK, "loaded")
    return Check(
        "sg driver",
        CheckResult.WARN,
        "not loaded: units without a disk node cannot be read",
        "modprobe sg",
    )


def _multipath() -> list[Check]:
    maps = [found for found in multipath_maps(SYS, {}) if found.is_multipathds]
    if not maps:
        return []
    if _MULTIPATHD in _read("/proc/net/unix"):
        return [Check("multipathd", CheckResult.OK, f"runs; {len(maps)} maps")]
    return [
        Check(
            "multipathd",
            CheckResult.WARN,
            f"does not run: the keys of {len(maps)} maps are not restored on new paths",
            "systemctl start multipathd",
        )
    ]


def _state_dir() -> Check:
    path = STATE_DIR
    if path.is_dir():
        if os.access(path, os.W_OK):
            return Check("state directory", CheckResult.OK, str(path))
        return Check(
            "state directory", CheckResult.WARN, f"{path} may not be written by this user"
        )
    if path.exists():
        return Check(
            "state directory", CheckResult.MISSING, f"{path} is no directory", f"rm {path}"
        )
    return Check("state directory", CheckResult.OK, f"{path} will be made")


def _agent(socket: str) -> Check:
    try:
        status = Client(socket, timeout=5.0).call("Status")["status"]
        detail = f"process {status['pid']}, engine {status['engine']}"
    except PrtraceError as error:
        return Check("agent", CheckResult.WARN, error.message, "prtrace agent")
    except (KeyError, TypeError):
        return Check("agent", CheckResult.WARN, f"what answers on {socket} is no agent")
    return Check("agent", CheckResult.OK, detail)


def _read(path: str) -> str:
    return Path(path).read_text("utf-8", "replace")
