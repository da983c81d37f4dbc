"""For whom a proxy sent a command: the kernel's record joined with the attribution record.

See prtrace.prhelper.attribution for what joins them.  An attribution record is what a proxy wrote.
It is taken from a directory that root, the agent's own user or the proxy's owns and nobody else
may write to.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
import re
from functools import cached_property
from typing import TYPE_CHECKING, Final

from prtrace.linux.process import same_start
from prtrace.scsi.codes import Opcode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from prtrace.prhelper.attribution import Attribution
    from prtrace.prhelper.attribution_reader import AttributionReader
    from prtrace.probe.record import Record

    Opened = Callable[[Path, str], tuple[int, int]]

PROXY_USER: Final = "prtrace-proxy"
"""The user of the installed unit (prtrace/systemd)."""

_OWN_PREFIX: Final = "prx"
_OWN_COMM: Final = re.compile(_OWN_PREFIX + r"[0-9a-f]{12}")
_HELPER: Final = "qemu-pr-helper"

_log = logging.getLogger("prtrace.claims")


def sent_by_proxy(comm: str) -> bool:
    """Whether the name is one that a proxy's thread bears for one command."""
    return comm.startswith(_OWN_PREFIX) and _OWN_COMM.fullmatch(comm) is not None


class Claims:
    """The attribution records of every proxy on this host, one directory each.

    opened: opens a file of one of them (see AttributionReader); None: this process may.
    """

    def __init__(self, directories: Iterable[Path], opened: Opened | None = None) -> None:
        self._directories = tuple(directories)
        self._opened = opened
        self._told = {""}

    def of(self, record: Record, exe: str) -> Attribution | None:
        """The attribution of the record's command; exe is the program that issued it."""
        comm = record.comm
        if sent_by_proxy(comm):
            found = self._of_proxy(record)
        elif comm == _HELPER or exe.rpartition("/")[2] == _HELPER:
            found = self._of_helper(record)
        else:
            return None
        for reader in self._readers:
            if reader.disbelieved not in self._told:
                self._told.add(reader.disbelieved)
                _log.warning("no guest is named: %s", reader.disbelieved)
        return found

    @cached_property
    def _readers(self) -> tuple[AttributionReader, ...]:
        """Made when the first proxy is seen, which is long after the agent's start."""
        # Most hosts have none: what reads them is loaded when it is needed.
        from prtrace.prhelper.attribution_reader import AttributionReader, open_records

        owners = {0, os.geteuid()}
        with contextlib.suppress(KeyError):  # no proxy is installed as a service
            owners.add(pwd.getpwnam(PROXY_USER).pw_uid)
        return tuple(
            AttributionReader(directory, owners, self._opened or open_records)
            for directory in self._directories
        )

    def _of_proxy(self, record: Record) -> Attribution | None:
        header = record.header
        for reader in self._readers:
            claim = reader.of_comm(header.pid, record.comm)
            if claim is not None and same_start(claim.issuer_start_ns, header.issuer_start_ns):
                return claim
        return None

    def _of_helper(self, record: Record) -> Attribution | None:
        for reader in self._readers:
            claim = reader.of_helper(record.nexus, record.cdb, record.header.start_ns)
            if claim is not None and _same_list(claim, record):
                return claim
        return None


def _same_list(claim: Attribution, record: Record) -> bool:
    """Whether the parameter list is that of the attribution record, as far as both are known.

    It tells apart the guests that have one helper send commands to one nexus at once.  For a
    multipath map, and so on several nexuses, the helper makes parameter lists of its own.
    """
    if record.cdb[:1] != bytes((Opcode.PR_OUT,)) or len(claim.nexuses) > 1:
        return True
    seen = record.header.head[: record.header.head_length] or record.data
    length = min(len(seen), len(claim.parameter))
    return seen[:length] == claim.parameter[:length]
