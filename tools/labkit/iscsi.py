"""The iSCSI initiator: one session for each initiator name, by open-iscsi.  Runs in the guest."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from labkit import pace
from labkit.failure import LabError
from labkit.lio import IQN, ISCSI, modprobe
from labkit.standstill import standstill
from labkit.sysfs import SESSIONS, addresses, host_of_session
from labkit.waiting import await_that


@dataclass(frozen=True, slots=True)
class Session:
    """One I_T nexus: its SCSI host's number, and the initiator port's name.

    With its ISID, which LIO shows, unless the target is remote.
    """

    host: int
    port: str


_GIVES_UP_SECONDS: Final = 180.0
"""iscsid itself gives up a login after eight attempts of 15 seconds each, and says why."""


def iscsiadm(*arguments: str, seconds: float = _GIVES_UP_SECONDS) -> None:
    """Run iscsiadm; LabError where it fails or does not end.

    seconds: until then, of an idle machine.  What everybody was doing by then is in the error: see
    labkit.standstill.
    """
    what = f"iscsiadm {' '.join(arguments)}"
    with subprocess.Popen(
        ["iscsiadm", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            out, err = process.communicate(timeout=pace.limit(seconds))
        except subprocess.TimeoutExpired as error:
            doing = standstill()
            process.kill()
            raise LabError(f"{what} does not end:\n{doing}") from error
    if process.returncode:
        raise LabError(f"{what}: {err.strip() or out.strip()}\n{standstill()}")


def _initiator(nexus: int, *, remote: bool) -> str:
    # iscsid makes ISIDs of session numbers, which begin alike in every machine: without another
    # name two machines would have the same initiator port.
    return f"iqn.2026-11.lab.prtrace:{'remote' if remote else 'host'}{nexus}"


def login(portal: str, nexuses: int, luns: int, *, remote: bool) -> list[Session]:
    """Log in at portal once for each of nexuses initiator names; wait for luns disks each."""
    modprobe("iscsi_tcp")
    names = Path("/etc/iscsi/initiatorname.iscsi")
    names.parent.mkdir(exist_ok=True)
    names.write_text(f"InitiatorName={_initiator(0, remote=remote)}\n")
    subprocess.run(["iscsid"], check=True, timeout=60)
    sessions = []
    for nexus in range(1, nexuses + 1):
        initiator = _initiator(nexus, remote=remote)
        interface = ("-m", "iface", "-I", f"lab{nexus}")
        iscsiadm(*interface, "-o", "new")
        iscsiadm(*interface, "-o", "update", "-n", "iface.initiatorname", "-v", initiator)
        node = ("-m", "node", "-T", IQN, "-p", portal, "-I", f"lab{nexus}")
        iscsiadm(*node, "-o", "new")
        iscsiadm(*node, "--login")
        port = initiator if remote else f"{initiator},i,0x{_isid(initiator)}"
        session = Session(_host(initiator), port)
        await_that(
            f"{luns} disks appear for {initiator}",
            partial(_has_disks, session.host, luns),
        )
        sessions.append(session)
    return sessions


def _has_disks(host: int, luns: int) -> bool:
    return sum(address.startswith(f"{host}:") for address in addresses()) >= luns


def _host(initiator: str) -> int:
    for entry in SESSIONS.iterdir():
        if (entry / "initiatorname").read_text().strip() == initiator:
            return int(host_of_session(entry))
    raise LabError(f"no session of {initiator}")


def _isid(initiator: str) -> str:
    """The session's ISID, twelve digits.

    The initiator's sysfs does not show it.  LIO does, in the initiator's access control list: to
    name the list makes permanent the one that LIO made by itself, and changes nothing else.
    """
    acl = ISCSI / "acls" / initiator
    acl.mkdir()
    shown = re.search(r"ISID: 0x((?:[0-9a-f]{2} ){5}[0-9a-f]{2})", (acl / "info").read_text())
    if shown is None:
        raise LabError(f"LIO shows no ISID of {initiator}")
    return shown[1].replace(" ", "")
