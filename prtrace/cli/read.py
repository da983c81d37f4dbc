"""prtrace read."""

from __future__ import annotations

import os
import stat
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from prtrace.cli.options import Seconds, json_option
from prtrace.cli.text import WIDTH, document, labelled, line, plain, table
from prtrace.cli.unit import title_of
from prtrace.errors import InDoubtError, NoSuchDeviceError
from prtrace.linux.reader import (
    ByteOrder,
    Disagreement,
    FailureKind,
    Reader,
    ReadFailure,
    Reading,
    ReadPolicy,
    ReportedRegistration,
    Unread,
)
from prtrace.linux.sgio import SG_MAJOR, SgDevice
from prtrace.linux.units import scan
from prtrace.model import ReservationType
from prtrace.scsi.codes import InAction, ReservedCode
from prtrace.scsi.reply import ReportCapabilities, ReservationDescriptor
from prtrace.state.event import key_text

SCHEMA: Final = "prtrace.read/1"

_BELOW: Final = " " * 6
_OTHER_PATH: Final = frozenset(
    {FailureKind.TRANSPORT, FailureKind.TIMEOUT, FailureKind.REFUSED, FailureKind.GONE}
)
"""Failures that may be the path's and not the unit's."""


@click.command(
    "read",
    epilog="""\b
Reading takes a unit attention that waits on this nexus, which the user of
the device was to see; it is reported.  Needs root, or CAP_SYS_RAWIO.
Exit status 4: the replies contradict each other.
\b
Examples:
  prtrace read /dev/sda
  prtrace read /dev/mapper/mpatha --json
  prtrace read 2:0:0:1 --timeout 5
""",
)
@click.argument("device")
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=Seconds(min=1, max=600),
    default=60.0,
    help="how long a command may take; the kernel aborts it then",
)
@json_option
def command(device: str, *, timeout: float, as_json: bool) -> int:
    """Ask a device itself: keys, reservation, full status, capabilities.

    Sends PERSISTENT RESERVE IN over SG_IO; works without an agent.
    """
    found = _ask(device, int(timeout * 1000))
    if as_json:
        document(found)
    else:
        for text in read_lines(found):
            line(text)
    return InDoubtError.exit_code if found["doubt"] else 0


def _ask(device: str, timeout_ms: int) -> dict[str, Any]:
    """The prtrace.read/1 object of the first path that answers; the last path's error."""
    notes: list[str] = []
    *others, last = _nodes(device)
    for node in others:
        with SgDevice(node) as opened:
            reader = Reader(opened, ReadPolicy(timeout_ms=timeout_ms))
            reading = reader.read()
            if not isinstance(reading, Unread) or reading.failure.kind not in _OTHER_PATH:
                return _document(node, reading, reader, notes)
            notes.append(f"{node}: {reading.failure.text}: asked over another path")
    with SgDevice(last) as opened:
        reader = Reader(opened, ReadPolicy(timeout_ms=timeout_ms))
        return _document(last, reader.read(), reader, notes)


def _document(node: str, reading: Reading, reader: Reader, notes: list[str]) -> dict[str, Any]:
    """Asks reader for the capabilities as well.  Raises what an Unread stands for."""
    if isinstance(reading, Unread):
        raise reading.failure.error(node)
    attentions = [sense.text for sense in reading.way.attentions]
    unsupported = set(reading.way.unsupported)
    capabilities = reader.capabilities()
    attentions += [sense.text for sense in reader.way.attentions]
    if isinstance(capabilities, ReadFailure):
        if capabilities.kind is not FailureKind.UNSUPPORTED:
            raise capabilities.error(node)
        unsupported.add(InAction.REPORT_CAPABILITIES)
    notes += [f"the device does not know {action.title}" for action in sorted(unsupported)]
    shared = {
        "schema": SCHEMA,
        "device": node,
        "capabilities": _capabilities(capabilities),
        "attentions": attentions,
        "notes": notes,
    }
    if isinstance(reading, Disagreement):
        replies = reading.replies
        return shared | {
            "generation": max(replies.generations),
            "keys": [key_text(key) for key in replies.keys.keys],
            "reservation": _reservation(replies.held.reservation),
            "registrations": _registrations(replies.registrations),
            "doubt": list(reading.reasons),
        }
    named = InAction.READ_FULL_STATUS not in unsupported
    if reading.byte_order is ByteOrder.SWAPPED:
        notes.append(
            "READ FULL STATUS has its keys and ports in the byte order of the target's "
            "processor, as SPDK's has: they were turned round"
        )
    if named and not reading.named:
        notes.append("READ FULL STATUS does not fit into one reply: some are not named")
    return shared | {
        "generation": reading.generation,
        "keys": [key_text(key) for key in reading.keys],
        "reservation": _reservation(reading.reservation),
        "registrations": _registrations(reading.registrations if named else None),
        "doubt": [],
    }


def _type(kind: ReservationType | ReservedCode | None) -> dict[str, Any]:
    if kind is None:
        return {"type": None, "type_code": None}
    if isinstance(kind, ReservedCode):
        return {"type": None, "type_code": kind.code}
    return {"type": kind.name, "type_code": int(kind)}


def _reservation(held: ReservationDescriptor | None) -> dict[str, Any] | None:
    if held is None:
        return None
    return {**_type(held.type), "scope": held.scope, "key": key_text(held.key)}


def _registrations(told: tuple[ReportedRegistration, ...] | None) -> list[dict[str, Any]] | None:
    """What READ FULL STATUS tells, None where the device does not know it."""
    if told is None:
        return None
    return [
        {
            "initiator_port": None if each.transport_id is None else each.transport_id.text,
            "relative_target_port": each.relative_target_port,
            "all_target_ports": each.all_target_ports,
            "key": key_text(each.key),
            "holder": each.holder,
            **_type(each.type),
        }
        for each in told
    ]


def _capabilities(reply: ReportCapabilities | ReadFailure) -> dict[str, Any] | None:
    if isinstance(reply, ReadFailure):
        return None
    return {
        "replace_lost_reservation": reply.rlr_c,
        "compatible_reservation_handling": reply.crh,
        "specify_initiator_ports": reply.sip_c,
        "all_target_ports": reply.atp_c,
        "persist_through_power_loss": {"capable": reply.ptpl_c, "active": reply.ptpl_a},
        "allow_commands": reply.allow_commands,
        "types": [kind.name for kind in sorted(reply.types)] if reply.tmv else None,
    }


def read_lines(found: Mapping[str, Any]) -> list[str]:
    """A prtrace.read/1 object as text."""
    lines = [str(found["device"])]
    lines += labelled("generation", str(found["generation"]))
    lines += _held(found["reservation"])
    if found["registrations"] is None:
        lines += labelled("keys", " ".join(found["keys"]) or "none")
    else:
        lines += labelled("registrations", str(len(found["registrations"])))
        lines += _table(found["registrations"])
    lines += _abilities(found["capabilities"])
    for label, name in (
        ("unit attention", "attentions"),
        ("note", "notes"),
        ("IN DOUBT", "doubt"),
    ):
        for text in found[name]:
            lines += labelled(label, text, column=18)
    return lines


def _table(registrations: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each registration; its initiator port below it where lines get too long."""
    rows = [
        (
            "*" if each["holder"] else "",
            each["key"],
            _port(each),
            each["initiator_port"] or "not told",
        )
        for each in registrations
    ]
    if not rows:
        return []
    lines = table([("", "KEY", "TARGET PORT", "INITIATOR PORT"), *rows], indent=2)
    if max(map(len, lines)) <= WIDTH:
        return lines
    heads = table([("", "KEY", "TARGET PORT"), *(row[:3] for row in rows)], indent=2)
    lines = heads[:1]
    for head, row in zip(heads[1:], rows, strict=True):
        names = textwrap.wrap(plain(row[3]), WIDTH - len(_BELOW), break_on_hyphens=False)
        lines += [head, *(f"{_BELOW}{name}" for name in names)]
    return lines


def _port(registration: Mapping[str, Any]) -> str:
    if registration["all_target_ports"]:
        return "all"
    port = registration["relative_target_port"]
    return "not told" if port is None else str(port)


def _held(held: Mapping[str, Any] | None) -> list[str]:
    if held is None:
        return labelled("reservation", "none")
    kind = held["type"]
    title = f"{title_of(kind)} ({kind})" if kind else f"reserved type code {held['type_code']}"
    return labelled("reservation", f"{title}, key {held['key']}")


def _abilities(can: Mapping[str, Any] | None) -> list[str]:
    if not can:
        return []
    words = {
        "persist_through_power_loss": "persists through power loss (APTPL)",
        "all_target_ports": "ALL_TG_PT",
        "specify_initiator_ports": "SPEC_I_PT",
        "replace_lost_reservation": "REPLACE LOST RESERVATION",
        "compatible_reservation_handling": "SPC-2 RESERVE beside it",
    }
    told = [
        text
        for name, text in words.items()
        if (can[name]["capable"] if isinstance(can[name], dict) else can[name])
    ]
    if can["persist_through_power_loss"]["active"]:
        told.append("APTPL is active")
    types = "not told" if can["types"] is None else " ".join(can["types"])
    return [*labelled("capabilities", "; ".join(told) or "none"), *labelled("types", types)]


def _nodes(device: str) -> list[str]:
    """The nodes to send commands to, at least one: one for each path of what is no node itself.

    A block or sg node is taken as it is; a map, a tape or a name of a unit stands for the disk
    or sg nodes of its paths, those first that are running.
    """
    if device.startswith("/") and _takes_commands(device):
        return [device]
    found = scan().resolve(device)
    paths = [found.nexus] if found.nexus is not None else list(found.lu.nexuses)
    paths.sort(key=lambda path: path.state != "running")
    nodes = [node for path in paths if (node := path.device or path.sg)]
    if not nodes:
        raise NoSuchDeviceError(
            f"{device}: none of its paths has a disk or sg node", hint="modprobe sg"
        )
    return nodes


def _takes_commands(device: str) -> bool:
    """Whether device is an sg node, or a block node that stands for no more than one path."""
    try:
        status = os.stat(device)
    except (OSError, ValueError):
        return True  # opening it says why
    if stat.S_ISCHR(status.st_mode):
        return os.major(status.st_rdev) == SG_MAJOR
    if not stat.S_ISBLK(status.st_mode):
        return True
    number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    return not Path("/sys/dev/block", number, "dm").is_dir()
