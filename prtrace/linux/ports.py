"""The initiator port of each local nexus, where sysfs or configfs knows it for certain.

The text is the one that prtrace.scsi.transportid gives to the same port in a READ FULL
STATUS reply, so that the two can be compared:

  FC, SAS   naa.<16 hex>                  (port name; SAS address)
  iSCSI     <name in lower case>,i,0x<12 hex ISID>
  SRP       srp.<32 hex>                  (initiator extension, GID's interface identifier)
  loopback  what LIO's TransportID says for the configured nexus (drivers/target/loopback)

None means unknown, and is never a guess: an iSCSI name without its ISID is not a port.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

from prtrace.linux.sysfs import SYS, names, read_text
from prtrace.scsi.transportid import FcPort, IscsiPort, SasPort, SrpPort

_SESSION: Final = re.compile(r"session\d+")
_SAS_PORT: Final = re.compile(r"port-[\d:]+")
_PORT_NAME: Final = re.compile(r"(?:0x)?([0-9a-f]{16})")
_ISID: Final = re.compile(r"(?:0x)?([0-9a-f]{12})")
_ISID_OUI: Final = 0x00023D << 24
_LOGIN_BY_ISCSID: Final = frozenset({"iscsi_tcp", "iscsi_iser"})
_GID: Final = re.compile(r"[0-9a-f]{4}(?::[0-9a-f]{4}){7}")


class InitiatorPort(NamedTuple):
    """The initiator port of a nexus."""

    transport: str = ""
    """ "fc", "sas", "iscsi", "srp", "loop" or ""."""
    text: str | None = None
    """The port's name as this module writes it; None where it is not known."""


class InitiatorPorts:
    """Looks up initiator ports, each host adapter, port or session once.

    Make a new one for every scan: the answers are kept.
    """

    def __init__(self, sys: Path = SYS) -> None:
        self._sys = sys
        self._known: dict[str, InitiatorPort] = {}
        self._loopback: dict[str, str] | None = None

    def of(self, nexus: str, device: Path) -> InitiatorPort:
        """The port of the nexus "H:C:T:L" whose sysfs directory, links resolved, is device."""
        host, channel, target, _ = nexus.split(":")
        parts = device.parts
        below = parts[parts.index(f"host{host}") + 1 :] if f"host{host}" in parts else ()
        via = below[0] if below else ""
        if _SESSION.fullmatch(via):
            key = via
        elif _SAS_PORT.fullmatch(via):
            key = f"{host}/{via}"
        else:
            via = ""
            key = f"{host}:{channel}:{target}"
        if key not in self._known:
            self._known[key] = self._look_up(host, key, via, device)
        return self._known[key]

    def _look_up(self, host: str, key: str, via: str, device: Path) -> InitiatorPort:
        shost = self._sys / "class/scsi_host" / f"host{host}"
        if via.startswith("session"):
            return InitiatorPort("iscsi", self._iscsi(via, read_text(shost / "proc_name")))
        port_name = read_text(self._sys / "class/fc_host" / f"host{host}" / "port_name")
        if port_name is not None:
            return InitiatorPort("fc", _fc(port_name))
        if via:
            address = _sas_phys(_ancestor(device, via)) or read_text(shost / "host_sas_address")
            return InitiatorPort("sas", _sas(address))
        sgid = read_text(shost / "sgid")
        extension = read_text(shost / "initiator_ext")
        if sgid is not None and extension is not None:
            return InitiatorPort("srp", _srp(sgid, extension))
        if read_text(shost / "proc_name") == "tcm_loopback":
            return InitiatorPort("loop", self._loopback_ports().get(key))
        address = read_text(shost / "host_sas_address")
        return InitiatorPort("sas", _sas(address)) if address else InitiatorPort()

    def _iscsi(self, session: str, driver: str | None) -> str | None:
        """Name and ISID, which the software initiator does not show in sysfs.

        There it follows from the session's number: iscsid makes it of open-iscsi's company
        identifier and the low 24 bits (open-iscsi commit 4c1f2d9, since 2.0.874 of 2016).
        """
        directory = self._sys / "class/iscsi_session" / session
        name = read_text(directory / "initiatorname")
        shown = _ISID.fullmatch((read_text(directory / "isid") or "").lower())
        if not name or not (shown or driver in _LOGIN_BY_ISCSID):
            return None
        number = int(session.removeprefix("session")) & 0xFFFFFF
        return IscsiPort(name.encode(), int(shown[1], 16) if shown else _ISID_OUI | number).text

    def _loopback_ports(self) -> dict[str, str]:
        """LIO's own loopback targets, "H:C:T" to initiator port."""
        if self._loopback is None:
            fabric = self._sys / "kernel/config/target/loopback"
            self._loopback = {}
            for wwn in names(fabric):
                for tpg in names(fabric / wwn):
                    address = read_text(fabric / wwn / tpg / "address")
                    nexus = read_text(fabric / wwn / tpg / "nexus")
                    port = _lio_port(nexus) if nexus else None
                    if address and port:
                        self._loopback[address] = port
        return self._loopback


def _number(name: str | None) -> int:
    """A 64-bit port name or address; 0, which names no port, where it is none."""
    match = _PORT_NAME.fullmatch((name or "").lower())
    return int(match[1], 16) if match else 0


def _fc(name: str | None) -> str | None:
    return FcPort(address).text if (address := _number(name)) else None


def _sas(name: str | None) -> str | None:
    return SasPort(address).text if (address := _number(name)) else None


def _sas_phys(port: Path) -> str | None:
    """The SAS address of the adapter's phys that form this port, where they agree."""
    addresses = {
        read_text(port / phy / "sas_phy" / phy / "sas_address")
        for phy in names(port)
        if phy.startswith("phy-")
    }
    return addresses.pop() if len(addresses) == 1 else None


def _srp(sgid: str, extension: str) -> str | None:
    """As drivers/infiniband/ulp/srp builds it: the extension, then the GID's low 8 bytes.

    Targets of the obsolete I/O class 0xff00 want the halves the other way round; such a port
    is then not recognised in replies, and not taken for another one.
    """
    match = _PORT_NAME.fullmatch(extension.lower())
    if match is None or not _GID.fullmatch(sgid.lower()):
        return None
    return SrpPort(int(match[1] + sgid.lower().replace(":", "")[16:], 16)).text


def _lio_port(nexus: str) -> str | None:
    """The port text of a tcm_loop nexus (drivers/target/target_core_fabric_lib.c).

    naa.: SAS, the hex digits after the prefix.  fc.: FC, pairs of digits and colons.  iqn.:
    iSCSI without ISID, since a loopback session has none.
    """
    if nexus.startswith("iqn."):
        return IscsiPort(nexus.encode()).text
    if nexus.startswith("naa."):
        return _sas(nexus.removeprefix("naa."))
    return _fc(nexus.removeprefix("fc.").replace(":", ""))


def _ancestor(device: Path, name: str) -> Path:
    return Path(*device.parts[: device.parts.index(name) + 1])
