"""LIO by configfs: backstores, and their export through tcm_loop and iSCSI.  Runs in the guest."""

from __future__ import annotations

import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

from labkit.failure import LabError

CONFIGFS = Path("/sys/kernel/config/target")
IQN = "iqn.2026-11.lab.prtrace:target"
ISCSI = CONFIGFS / "iscsi" / IQN / "tpgt_1"


@dataclass(frozen=True, slots=True)
class Backstore:
    """One logical unit before anybody can reach it."""

    directory: Path
    serial: str

    @classmethod
    def numbered(cls, index: int) -> Backstore:
        """The index-th.  Its serial is the same in every machine, unique in the NAA's digits."""
        serial = str(uuid.uuid5(uuid.NAMESPACE_DNS, f"lun{index}.lab.prtrace"))
        return cls(CONFIGFS / "core" / "rd_mcp_0" / f"lun{index}", serial)

    @property
    def lu(self) -> str:
        """The name that LIO makes of the serial: its company identifier, then 25 digits of it."""
        return "naa.6001405" + self.serial.replace("-", "")[:25]


def write(file: Path, text: str) -> None:
    """Write one configfs attribute; a refusal becomes a LabError that names the file."""
    try:
        file.write_text(f"{text}\n")
    except OSError as error:
        raise LabError(f"{file}: {error.strerror}") from error


def modprobe(*modules: str) -> None:
    done = subprocess.run(
        ["modprobe", "-a", *modules], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise LabError(f"modprobe: {done.stderr.strip()}")


def prepare() -> None:
    """Load LIO."""
    # Where LIO keeps APTPL metadata, looked for as the module loads.  Without the folders REGISTER
    # answers NOT READY, and registers all the same.
    for folder in ("/var/target/pr", "/etc/target/pr"):
        Path(folder).mkdir(parents=True, exist_ok=True)
    modprobe("target_core_mod", "tcm_loop")


def create(unit: Backstore, pages: int) -> None:
    """Make unit, a ramdisk."""
    unit.directory.mkdir(parents=True)
    write(unit.directory / "control", f"rd_pages={pages}")
    write(unit.directory / "wwn" / "vpd_unit_serial", unit.serial)
    write(unit.directory / "enable", "1")


def _link(tpg: Path, units: list[Backstore]) -> None:
    for index, unit in enumerate(units):
        lun = tpg / "lun" / f"lun_{index}"
        lun.mkdir(parents=True)
        (lun / "port").symlink_to(unit.directory)


def loop_target(nexus: int, units: list[Backstore]) -> tuple[Path, str, str]:
    """One tcm_loop target with every unit: (target portal group, initiator port, "H:C:T")."""
    initiator = f"naa.6001405{0xA0000000 + nexus:09x}"
    tpg = CONFIGFS / "loopback" / f"naa.6001405{nexus:09x}" / "tpgt_1"
    tpg.mkdir(parents=True)
    write(tpg / "nexus", initiator)
    address = (tpg / "address").read_text().strip()
    _link(tpg, units)
    return tpg, initiator, address


def iscsi_target(units: list[Backstore], portal: str) -> None:
    """The target portal group ISCSI at "address:port", with every unit, open to everybody."""
    modprobe("iscsi_target_mod")
    (ISCSI / "np" / portal).mkdir(parents=True)
    _link(ISCSI, units)
    for attribute, setting in (
        ("authentication", "0"),
        ("generate_node_acls", "1"),
        ("demo_mode_write_protect", "0"),
        ("cache_dynamic_acls", "1"),
    ):
        write(ISCSI / "attrib" / attribute, setting)
    write(ISCSI / "enable", "1")
