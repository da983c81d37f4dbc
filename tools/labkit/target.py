"""What a target is asked to be, and what was built: logical units and the paths to them.

Standard library only, no side effects: used on both sides of the machine's border.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class TargetSpec:
    """luns logical units, each reached over nexuses I_T nexuses of every transport.

    transport is "loop", "iscsi" or "loop,iscsi" (nexuses of each, loop's first).  multipath puts a
    device-mapper node over the first two paths of every logical unit.  pages is the size of a
    logical unit in 4 KiB pages.  udev runs the device manager (slower; makes /dev/disk/by-id).
    portal is the address of the iSCSI target.  remote: it is another machine's, built there with
    as many luns; this machine has iSCSI initiators only, with names of their own.
    """

    luns: int = 1
    nexuses: int = 2
    transport: str = "loop"
    multipath: bool = False
    pages: int = 256
    udev: bool = False
    portal: str = "127.0.0.1"
    remote: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> TargetSpec:
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class UnitPath:
    """One path: one I_T nexus to one logical unit.

    hctl "H:C:T:L"; block, sg, bsg device nodes; initiator the initiator port's name (iSCSI: with
    ",i,0x<ISID>", unless the target is remote: only LIO shows it), rtpi the relative target port
    identifier, tpg LIO's configfs folder.
    """

    hctl: str
    block: str
    sg: str
    bsg: str
    transport: str
    initiator: str
    rtpi: int
    tpg: str


@dataclass(frozen=True, slots=True)
class Unit:
    """One logical unit; lu is its name ("naa.6001405…"), directory LIO's configfs folder of it.

    directory is in the machine that has the target.  multipath is the device-mapper node
    ("/dev/mapper/mpatha"), where one was asked for.
    """

    lu: str
    serial: str
    directory: str
    paths: tuple[UnitPath, ...]
    multipath: str | None = None


@dataclass(frozen=True, slots=True)
class Target:
    units: tuple[Unit, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Target:
        return cls(
            tuple(
                Unit(**{**unit, "paths": tuple(UnitPath(**path) for path in unit["paths"])})
                for unit in fields["units"]
            )
        )

    @classmethod
    def load(cls, file: str | Path) -> Target:
        """Read the file that $LAB_TARGET names inside the machine."""
        return cls.from_json(json.loads(Path(file).read_text()))
