"""The iSCSI initiator: one session for each initiator name, by open-iscsi.  Runs in the guest."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from labkit.failure import LabError
from labkit.lio import IQN, PORTAL
from labkit.sysfs import addresses, await_that

_SESSIONS = Path("/sys/class/iscsi_session")


@dataclass(frozen=True, slots=True)
class Session:
    """One I_T nexus: its SCSI host's number, and the initiator port's name with its ISID."""

    host: int
    port: str


def _iscsiadm(*arguments: str) -> None:
    done = subprocess.run(
        ["iscsiadm", *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode:
        complaint = done.stderr.strip() or done.stdout.strip()
        raise LabError(f"iscsiadm {' '.join(arguments)}: {complaint}")


def _initiator(nexus: int) -> str:
    return f"iqn.2026-11.lab.prtrace:host{nexus}"


def login(tpg: Path, nexuses: int, luns: int) -> list[Session]:
    """Log in to tpg once for each of nexuses initiator names; wait for luns disks each."""
    names = Path("/etc/iscsi/initiatorname.iscsi")
    names.parent.mkdir(exist_ok=True)
    names.write_text(f"InitiatorName={_initiator(0)}\n")
    subprocess.run(["iscsid"], check=True, timeout=60)
    sessions = []
    for nexus in range(1, nexuses + 1):
        interface = ("-m", "iface", "-I", f"lab{nexus}")
        _iscsiadm(*interface, "-o", "new")
        _iscsiadm(*interface, "-o", "update", "-n", "iface.initiatorname", "-v", _initiator(nexus))
        node = ("-m", "node", "-T", IQN, "-p", PORTAL, "-I", f"lab{nexus}")
        _iscsiadm(*node, "-o", "new")
        _iscsiadm(*node, "--login")
        session = _session(tpg, _initiator(nexus))
        await_that(
            f"{luns} disks appear for {_initiator(nexus)}",
            partial(_has_disks, session.host, luns),
        )
        sessions.append(session)
    return sessions


def _has_disks(host: int, luns: int) -> bool:
    return sum(address.startswith(f"{host}:") for address in addresses()) >= luns


def _session(tpg: Path, initiator: str) -> Session:
    for entry in _SESSIONS.iterdir():
        if (entry / "initiatorname").read_text().strip() == initiator:
            # /sys/devices/platform/hostH/sessionS
            host = (entry / "device").resolve().parent.name.removeprefix("host")
            return Session(int(host), f"{initiator},i,0x{_isid(tpg, initiator)}")
    raise LabError(f"no session of {initiator}")


def _isid(tpg: Path, initiator: str) -> str:
    """The session's ISID, twelve digits.

    The initiator's sysfs does not show it.  LIO does, in the initiator's access control list: to
    name the list makes permanent the one that LIO made by itself, and changes nothing else.
    """
    acl = tpg / "acls" / initiator
    acl.mkdir()
    shown = re.search(r"ISID: 0x((?:[0-9a-f]{2} ){5}[0-9a-f]{2})", (acl / "info").read_text())
    if shown is None:
        raise LabError(f"LIO shows no ISID of {initiator}")
    return shown[1].replace(" ", "")
