"""LIO's own view of a logical unit's reservations: tests compare every decoder with it.

From configfs; the texts are those of drivers/target/target_core_configfs.c, target_pr_*_show,
the same in 6.1, 6.12 and 7.3.  Standard library only: runs in the guest.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from labkit.failure import LabError

# core_scsi3_pr_dump_type(), by the type codes of SPC-4 table 65.
_TYPES = {
    "Write Exclusive Access": 1,
    "Exclusive Access": 3,
    "Write Exclusive Access, Registrants Only": 5,
    "Exclusive Access, Registrants Only": 6,
    "Write Exclusive Access, All Registrants": 7,
    "Exclusive Access, All Registrants": 8,
}
_REGISTRATION = re.compile(r"(\S+) Node: (\S+) Key: 0x([0-9a-f]{16}) PRgen: 0x([0-9a-f]{8})")
_HOLDER = re.compile(r"SPC-([23]) Reservation: (\S+) Initiator: (\S+)")
_HOLDER_PORT = re.compile(r"Relative Port Identifier Tag: (\d+)")
_TYPE = re.compile(r"SPC-3 Reservation Type: (.+)")
# A configfs file ends after one page; a list that fills it has lost its last entries.
_PAGE = 4096
_LONGEST_ENTRY = 384


@dataclass(frozen=True, slots=True)
class Registration:
    """One registration.

    fabric is "loopback" or "iSCSI"; initiator the port's name as LIO spells it (iSCSI: in lower
    case, with ",i,0x<ISID>"); generation PRGENERATION before the command that made it.
    """

    fabric: str
    initiator: str
    key: int
    generation: int


@dataclass(frozen=True, slots=True)
class OracleState:
    """type_code is SPC's (1, 3, 5, 6, 7, 8), None without a persistent reservation.

    holder: initiator port of the persistent reservation; with an all-registrants type every
    registrant holds it, and this is the one that LIO keeps.  spc2_holder: of a legacy RESERVE.
    The list names no target ports: registrations of one initiator port through several look the
    same.  complete is False when the list was longer than the kernel shows.
    """

    generation: int
    type_code: int | None
    holder: str | None
    spc2_holder: str | None
    all_target_ports: bool
    aptpl: bool
    registrations: tuple[Registration, ...]
    complete: bool

    def keys(self) -> dict[str, int]:
        """Key by initiator port."""
        return {one.initiator: one.key for one in self.registrations}


def oracle(directory: str | Path) -> OracleState:
    """The state of the unit whose configfs folder is directory (Unit.directory).

    One file after the other: nothing may change the reservations meanwhile.  LabError when the
    kernel's text is not the one known.
    """
    pr = f"{directory}/pr"
    holder, spc2 = _holders(_read(f"{pr}/res_holder"))
    listed = _read(f"{pr}/res_pr_registered_i_pts")
    return OracleState(
        generation=int(_read(f"{pr}/res_pr_generation"), 16),
        type_code=_type(_read(f"{pr}/res_pr_type")),
        holder=holder,
        spc2_holder=spc2,
        all_target_ports="All Target Port" in _read(f"{pr}/res_pr_all_tgt_pts"),
        aptpl="Activated" in _read(f"{pr}/res_aptpl_active"),
        registrations=_registrations(listed),
        complete=len(listed) < _PAGE - _LONGEST_ENTRY,
    )


def _read(file: str) -> str:
    """By descriptor and not by Path: file objects were most of what a reading took on an emulated
    processor, and a walk takes thousands.  Opened anew each time, because configfs makes the text
    at the first read after open() and then keeps it.
    """
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # configfs_read_iter() gives all that is left of the one page in one read.
            return os.read(fd, _PAGE).decode().strip()
        finally:
            os.close(fd)
    except OSError as error:
        raise LabError(f"{file}: {error.strerror}") from error


def _holders(text: str) -> tuple[str | None, str | None]:
    """(persistent reservation's holder, legacy reservation's holder)."""
    if found := _HOLDER.match(text):
        return (found[3], None) if found[1] == "3" else (None, found[3])
    if text.startswith("No SPC-"):
        return None, None
    raise LabError(f"res_holder says {text!r}")


def _type(text: str) -> int | None:
    if found := _TYPE.match(text):
        if found[1] in _TYPES:
            return _TYPES[found[1]]
    elif text.startswith("No SPC-"):
        return None
    raise LabError(f"res_pr_type says {text!r}")


def _registrations(text: str) -> tuple[Registration, ...]:
    found = []
    for line in text.splitlines()[1:]:
        if entry := _REGISTRATION.fullmatch(line.strip()):
            found.append(Registration(entry[1], entry[2], int(entry[3], 16), int(entry[4], 16)))
        elif line.strip() not in ("None", ""):
            raise LabError(f"res_pr_registered_i_pts says {line!r}")
    return tuple(found)
