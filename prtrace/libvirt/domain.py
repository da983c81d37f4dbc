"""What the service reads from a domain's XML: its LUNs and its note (pure).

The XML has passwords: nothing here keeps or repeats more of it than what is named.
Source: libvirt's docs/formatdomain.rst, "Hard drives, floppy disks, CDROMs", "General metadata".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree

from prtrace.errors import MalformedError

NAMESPACE: Final = "urn:io.prtrace:libvirt:1"
"""The name space of the note in <metadata>."""

MAX_XML: Final = 4 << 20
"""Characters; libvirt itself sends less."""


@dataclass(frozen=True, slots=True)
class Domain:
    """A guest as its XML tells of it."""

    uuid: str
    name: str
    luns: dict[str, str]
    """The node of each disk with device='lun', by the target's name ("sda"); "" where it has none
    on the host, as with type='network' and type='volume'."""
    note: str
    """The text of the note; "" where there is none."""

    @property
    def nodes(self) -> list[str]:
        """The LUNs' nodes, without those that have none."""
        return [node for node in self.luns.values() if node]

    @property
    def without_node(self) -> str:
        """Why the guest cannot move with its LUNs that have no node; "" where all have one."""
        names = ", ".join(name for name, node in self.luns.items() if not node)
        return names and (
            f"the LUN {names} has no node on this host (type='network' or 'volume'): prtrace "
            "cannot see its reservation; give it type='block'"
        )


def parse(xml: str) -> Domain:
    """Read a domain's XML, or what the hook left of it; MalformedError where it is neither."""
    if len(xml) > MAX_XML:
        raise MalformedError("domain XML", f"longer than {MAX_XML} characters")
    if "<!DOCTYPE" in xml:
        # libvirt writes none; entities could make a small text large.
        raise MalformedError("domain XML", "it has a document type")
    try:
        root = ElementTree.fromstring(xml)  # noqa: S314 - it has no document type
    except ElementTree.ParseError as error:
        raise MalformedError("domain XML", str(error)[:100]) from None
    uuid = (root.findtext("uuid") or "").strip().lower()
    if len(uuid) != 36 or set(uuid) - set("0123456789abcdef-"):
        raise MalformedError("domain XML", "it has no UUID")
    luns = {}
    for disk in root.iterfind("devices/disk[@device='lun']"):
        source, target = disk.find("source"), disk.find("target")
        node = source.get("dev") if source is not None else None
        name = target.get("dev") if target is not None else None
        if name:
            luns[name] = node or ""
    note = root.findtext(f"metadata/{{{NAMESPACE}}}note") or ""
    return Domain(uuid, root.findtext("name") or "", luns, note)
