"""prtrace read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from prtrace.cli.inquiry import Inquiry
from prtrace.cli.options import json_option
from prtrace.cli.text import document, labelled, line, table
from prtrace.cli.unit import TITLES
from prtrace.errors import InDoubtError, NoSuchDeviceError
from prtrace.linux.sgio import SgDevice
from prtrace.linux.units import DEV, scan


@click.command(
    "read",
    epilog="""\b
Reading takes a unit attention that waits on this nexus, which the user of
the device was to see; it is reported.  Needs root, or CAP_SYS_RAWIO.
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
    type=click.FloatRange(min=1, max=600),
    default=20.0,
    show_default=True,
    help="how long a command may take; the kernel aborts it then",
)
@json_option
def command(device: str, *, timeout: float, as_json: bool) -> int:
    """Ask a device itself: keys, reservation, full status, capabilities.

    Sends PERSISTENT RESERVE IN over SG_IO; works without an agent.
    """
    with SgDevice(_node(device)) as opened:
        found = Inquiry(opened, int(timeout * 1000)).run()
    if as_json:
        document(found)
    else:
        for text in read_lines(found):
            line(text)
    return InDoubtError.exit_code if found["doubt"] else 0


def read_lines(found: Mapping[str, Any]) -> list[str]:
    """A prtrace.read/1 object as text."""
    lines = [str(found["device"])]
    lines += labelled("generation", str(found["generation"]))
    lines += _held(found["reservation"])
    if found["registrations"] is None:
        lines += labelled("keys", " ".join(found["keys"]) or "none")
    else:
        lines += labelled("registrations", str(len(found["registrations"])))
        rows = [
            (
                "*" if each["holder"] else "",
                each["key"],
                "all" if each["all_target_ports"] else str(each["relative_target_port"]),
                each["initiator_port"],
            )
            for each in found["registrations"]
        ]
        if rows:
            lines += table([("", "KEY", "TARGET PORT", "INITIATOR PORT"), *rows], indent=2)
    lines += _abilities(found["capabilities"])
    for label, name in (
        ("unit attention", "attentions"),
        ("note", "notes"),
        ("IN DOUBT", "doubt"),
    ):
        for text in found[name]:
            lines += labelled(label, text, column=18)
    return lines


def _held(held: Mapping[str, Any] | None) -> list[str]:
    if held is None:
        return labelled("reservation", "none")
    kind = held["type"]
    title = f"{TITLES[kind]} ({kind})" if kind else f"reserved type code {held['type_code']}"
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


def _node(device: str) -> str:
    """The node to send commands to: a running path's disk or sg node for anything but a node."""
    if device.startswith("/") and not _mapped(device):
        return device
    found = scan().resolve(device)
    paths = [found.nexus] if found.nexus is not None else list(found.lu.nexuses)
    running = [path for path in paths if path.state == "running"] or paths
    for path in running:
        if path.device or path.sg:
            return path.device or path.sg
    raise NoSuchDeviceError(
        f"{device}: none of its paths has a disk or sg node", hint="modprobe sg"
    )


def _mapped(device: str) -> bool:
    """Whether device is a device-mapper node, which stands for several paths."""
    try:
        name = Path(device).resolve(strict=True).name
    except (OSError, ValueError):
        return False
    return Path("/sys/class/block", name, "dm").is_dir() and device.startswith(f"{DEV}/")
