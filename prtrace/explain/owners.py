"""Whose reservation key it may be: an inference from its form, with the reason (pure).

A key is 64 bits that anybody may choose.  Some programs choose them by a rule that shows; the rule
is a hint and no proof, and is told as one.

Sources: fence_scsi (ClusterLabs fence-agents, get_key: four hexadecimal digits of the cluster's
name, four of the node), lvmpersist (LVM2, keys 0x1000000000000000 with the host id below), nfsd
(fs/nfsd/blocklayout.c, NFSD_MDS_PR_KEY), LTFS (ibm_tape_genkey: 0x40 and an IPv4 address, 0x10 and
the first seven letters of the host's name; 0x60 and half an IPv6 address fits too many other keys,
and is not told), Veritas Cluster Server administrator's guide (keys in
ASCII: "VF" and the cluster id for fencing disks, the node's letter and "PGR" for disk groups).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_NFSD_SERVER: Final = 0x0100000000000000
_LVM: Final = 0x1000000000000000
_LTFS_HOST: Final = 0x10
_LTFS_IPV4: Final = 0x40000000
_LTFS_ADDRESS_AT: Final = 32
_HOST: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]+")
_WORDS: Final = {"dead", "beef", "cafe", "babe", "feed", "f00d", "face", "c0de", "fade", "bead"}
"""What people write in hexadecimal digits: no cluster's hash, but by chance."""
_LVM_HOSTS: Final = 2000
"""LVM's host ids are 1 to 2000 (lvmlocal.conf, host_id)."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Who may have chosen a key."""

    name: str
    why: str
    """The reason, as a clause."""
    certain: bool = False
    """Whether somebody said so, rather than the key's form."""


def owners(key: int, named: Mapping[int, str] | None = None) -> tuple[Owner, ...]:
    """Who may have chosen key, what somebody said first.

    named: keys that the administrator has given names.
    """
    found = []
    if named is not None and key in named:
        found.append(Owner(named[key], "the file of key names says so", certain=True))
    text = _ascii(key)
    if key == _NFSD_SERVER:
        found.append(Owner("the pNFS server (nfsd)", "nfsd's own key is 0x0100000000000000"))
    elif 0 < key - _LVM <= _LVM_HOSTS:
        found.append(
            Owner(f"LVM, host id {key - _LVM}", "LVM's keys are 0x1000000000000000 and a host id")
        )
    elif key >> _LTFS_ADDRESS_AT == _LTFS_IPV4 and key & 0xFFFF_FFFF:
        address = ".".join(map(str, (key & 0xFFFF_FFFF).to_bytes(4, "big")))
        found.append(Owner(f"LTFS of the host {address}", "LTFS's keys are 0x40 and an address"))
    elif key >> 56 == _LTFS_HOST and _HOST.fullmatch(name := _ascii(key & (1 << 56) - 1, skip=1)):
        found.append(Owner(f"LTFS of the host {name!r}", "LTFS's keys are 0x10 and a host name"))
    elif text.startswith("VF"):
        found.append(Owner("Veritas fencing (vxfen)", f"the key is the text {text!r}"))
    elif text[1:4] == "PGR" and "A" <= text[0] <= "Z":
        node = ord(text[0]) - ord("A")
        found.append(Owner(f"Veritas VxVM, node {node}", f"the key is the text {text!r}"))
    elif text:
        found.append(Owner(f"a program that writes {text!r}", "the key's bytes are text"))
    elif 0x1000_0000 <= key <= 0xFFFF_FFFF and not _WORDS & set(_quarters(key)):
        # A shorter key has this form by chance more often than by fence_scsi's rule.
        found.append(
            Owner(
                f"fence_scsi, node {key & 0xFFFF:04x} of the cluster {key >> 16:04x}",
                "fence_scsi's keys are four digits of the cluster and four of the node",
            )
        )
    return tuple(found)


def _quarters(key: int) -> tuple[str, str]:
    """The two halves of a short key as text."""
    return f"{key >> 16:04x}", f"{key & 0xFFFF:04x}"


def _ascii(key: int, skip: int = 0) -> str:
    """The key as text, "" where its bytes are none: at least four letters, then only NULs.

    skip: how many bytes at its begin are no part of the text.
    """
    raw = key.to_bytes(8, "big")[skip:].rstrip(b"\0")
    return raw.decode() if len(raw) >= 4 and raw.isascii() and raw.decode().isprintable() else ""
