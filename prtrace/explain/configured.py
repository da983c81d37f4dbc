"""Keys that a host's own configuration has: what gathered files say of them (pure).

multipath.conf(5): reservation_key, a key in hex with or without 0x, ":aptpl" behind it, or "file"
for the file of keys, which has a key and a map's WWID in each line.  fence_scsi and fence_mpath
keep the node's own key below /var/run/cluster.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from prtrace.explain.owners import Owner
from prtrace.explain.recording import Gathered, Recording

FILES: Final = (
    "/etc/multipath.conf",
    "/etc/multipath/prkeys",
    "/var/run/cluster/fence_scsi.key",
    "/var/run/cluster/fence_mpath.key",
)
"""The files that are read."""
MULTIPATH_CONFIGURATION: Final = "multipath configuration"
"""What multipathd itself says of it (Gathered.name)."""
_RESERVATION_KEY: Final = re.compile(
    r'^\s*reservation_key\s+"?(?:0x)?(?P<key>[0-9a-f]{1,16})(?::aptpl)?"?\s*$',
    re.IGNORECASE | re.MULTILINE,
)
_PRKEY: Final = re.compile(
    r"^\s*(?:0x)?(?P<key>[0-9a-f]{1,16})(?::aptpl)?\s+\S+\s*$", re.IGNORECASE | re.MULTILINE
)
_NODE_KEY: Final = re.compile(r"^\s*(?P<key>[0-9a-f]{1,16})\s*$", re.IGNORECASE | re.MULTILINE)
_FORMS: Final = {
    FILES[0]: ("multipathd", "reservation_key of /etc/multipath.conf", _RESERVATION_KEY),
    FILES[1]: ("multipathd", "/etc/multipath/prkeys", _PRKEY),
    FILES[2]: ("fence_scsi", FILES[2], _NODE_KEY),
    FILES[3]: ("fence_mpath", FILES[3], _NODE_KEY),
}


def configured(recordings: Iterable[Recording]) -> Mapping[int, tuple[Owner, ...]]:
    """By key: whose configuration has it."""
    found: dict[int, dict[Owner, None]] = {}
    for each in recordings:
        for gathered in each.gathered:
            for key, owner in _of(gathered, each.host):
                if key:
                    found.setdefault(key, {})[owner] = None
    return {key: tuple(owners) for key, owners in found.items()}


def _of(gathered: Gathered, host: str) -> Iterator[tuple[int, Owner]]:
    if gathered.status != 0:
        return
    name = gathered.command[0] if gathered.name == "file" and gathered.command else ""
    if gathered.name == MULTIPATH_CONFIGURATION:
        name = FILES[0]
    if name in _FORMS:
        program, where, form = _FORMS[name]
        owner = Owner(
            f"{program} of {host or 'this host'}", f"{where} there has this key, as others' may"
        )
        for line in form.finditer(gathered.output):
            yield int(line["key"], 16), owner
