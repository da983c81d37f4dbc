"""Which guest a QEMU process runs, from its command line.

libvirt passes `-name guest=NAME,debug-threads=on -uuid UUID`, KubeVirt through libvirt with
the name NAMESPACE_VMI; by hand it is often `-name NAME`, and a UUID only in
`-smbios type=1,uuid=UUID`.
"""

from __future__ import annotations

import itertools
import os
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from prtrace.linux.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_PROGRAM: Final = re.compile(r"qemu-system-\w+|qemu-kvm|kvm")
UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""A guest's UUID, in lower case."""
NAME_LIMIT: Final = 256


class GuestIdentity(NamedTuple):
    """A guest as its QEMU's command line names it; a text is "" where it is not given."""

    name: str
    """Cleaned: whoever starts the QEMU chooses it."""
    uuid: str
    """In lower case."""


def is_qemu(name: str) -> bool:
    """Whether a program or a process of this name is a QEMU; the kernel cuts a process's name
    after 15 characters."""
    return _PROGRAM.fullmatch(name) is not None


def options(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Every option of a command line and its value: ("name", "guest=web1,debug-threads=on").

    QEMU takes one dash or two (system/vl.c, lookup_opt).  An option without a value is followed
    by the next option as if that were its value.
    """
    for option, value in itertools.pairwise(arguments):
        if option.startswith("-"):
            yield option.removeprefix("-").removeprefix("-"), value


def settings(text: str, implied: str = "") -> dict[str, str]:
    """QEMU's "key=value,…" list (util/keyval.c, util/qemu-option.c); the last of a key counts.

    ",," is a comma.  A first part without "=" is the value of the key implied.
    """
    found: dict[str, str] = {}
    for place, part in enumerate(text.replace("\0", "").replace(",,", "\0").split(",")):
        key, equals, value = part.replace("\0", ",").partition("=")
        if equals:
            found[key] = value
        elif place == 0 and implied:
            found[implied] = key
    return found


def guest_of(program: str, arguments: Sequence[str]) -> GuestIdentity | None:
    """The guest, where program (a path or a name) is QEMU and says something about it.

    arguments: the command line with the program's own name first.
    """
    if not _PROGRAM.fullmatch(os.path.basename(program.removesuffix(" (deleted)"))):
        return None
    name = uuid = smbios_uuid = ""
    for option, value in options(arguments):
        match option:
            case "name":
                name = settings(value, "guest").get("guest", name)
            case "uuid":
                uuid = value
            case "smbios":
                table = settings(value)
                if table.get("type") == "1":
                    smbios_uuid = table.get("uuid", smbios_uuid)
            case _:
                pass
    uuid = (uuid or smbios_uuid).lower()
    if not UUID.fullmatch(uuid):
        uuid = ""
    return GuestIdentity(clean(name, NAME_LIMIT), uuid) if name or uuid else None
