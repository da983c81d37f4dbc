"""What LIO, the Linux kernel's target, writes: configfs attributes below pr/, and aptpl_* files.

drivers/target/target_core_configfs.c and target_core_pr.c.  They state what the target knows, so
they are facts, not commands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from prtrace.paste.seen import Seen
from prtrace.scsi.codes import ReservedCode, reservation_type

SOURCE: Final = "LIO"

_REGISTERED: Final = re.compile(
    r"(?P<fabric>\S+) Node: (?P<node>\S+) Key: (?P<key>0x[0-9a-f]{16}) "
    r"PRgen: (?P<generation>0x[0-9a-f]{8})",
    re.IGNORECASE,
)
_HOLDER: Final = re.compile(
    r"SPC-(?P<spc>[23]) Reservation: (?P<fabric>\S+) Initiator: (?P<node>\S+)"
)
_NO_HOLDER: Final = re.compile(r"No SPC-[23] Reservation holder")
_TYPE: Final = re.compile(r"SPC-3 Reservation Type: (?P<type>.+?)\s*")
_APTPL: Final = re.compile(r"APTPL Bit Status: (?P<state>\w+)")
_START: Final = re.compile(r"PR_REG_START: \d+")
_END: Final = re.compile(r"PR_REG_END: \d+")
_ASSIGNED: Final = re.compile(r"(?P<name>[a-z_]+)=(?P<value>\S*)")


def is_line(text: str) -> bool:
    """Whether a line is one of LIO's."""
    forms = (_REGISTERED, _HOLDER, _NO_HOLDER, _TYPE, _APTPL, _START)
    return any(form.match(text.strip()) for form in forms)


def read(lines: list[str]) -> Iterator[Seen]:
    """One for each registration, holder, type or APTPL state."""
    block: dict[str, str] | None = None
    begun = 0
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if _START.match(text):
            block, begun = {}, number
        elif _END.match(text):
            if block is not None:
                yield _saved(block, begun)
            block = None
        elif block is not None and (found := _ASSIGNED.fullmatch(text)) is not None:
            block[found["name"]] = found["value"]
        elif facts := _stated(text):
            yield Seen(source=SOURCE, line=number, facts=facts)


def _stated(text: str) -> tuple[tuple[str, str], ...]:
    if (found := _REGISTERED.match(text)) is not None:
        return (
            ("registered", found["node"]),
            ("transport", found["fabric"]),
            ("reservation key", found["key"].lower()),
            ("prgeneration", str(int(found["generation"], 16))),
        )
    if (found := _HOLDER.match(text)) is not None:
        kind = "reservation" if found["spc"] == "3" else "SPC-2 RESERVE"
        return ((f"holder of the {kind}", found["node"]), ("transport", found["fabric"]))
    if _NO_HOLDER.match(text):
        return (("reservation", "none"),)
    if (found := _TYPE.fullmatch(text)) is not None:
        return (("reservation type", found["type"]),)
    if (found := _APTPL.match(text)) is not None:
        return (("aptpl", found["state"].lower()),)
    return ()


def _saved(block: dict[str, str], line: int) -> Seen:
    """A registration of an aptpl_* file, which LIO reads again after a power loss."""
    node = block.get("initiator_node", "")
    if "initiator_sid" in block:
        node += f",i,0x{block['initiator_sid'].removeprefix('0x')}"
    facts = [("registered", node), ("transport", block.get("initiator_fabric", ""))]
    if "sa_res_key" in block:
        facts.append(("reservation key", _key(block["sa_res_key"])))
    holder = block.get("res_holder") == "1"
    facts.append(("holds the reservation", "yes" if holder else "no"))
    if holder and "res_type" in block:
        facts.append(("reservation type", _type(block["res_type"])))
    if "port_rtpi" in block:
        facts.append(("relative target port identifier", block["port_rtpi"]))
    if "res_all_tg_pt" in block:
        facts.append(("all_tg_pt", block["res_all_tg_pt"]))
    return Seen(source=SOURCE, line=line, facts=tuple(facts))


def _key(text: str) -> str:
    try:
        return f"0x{int(text, 0):016x}"
    except ValueError:
        return text


def _type(text: str) -> str:
    try:
        kind = reservation_type(int(text, 16))
    except ValueError:
        return text
    return text if isinstance(kind, ReservedCode) else f"{kind.value} ({kind.title})"
