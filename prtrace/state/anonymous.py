"""Events without the names that tell who they are of (pure).

Guests, keys, initiator and target ports and host names become others, the same for the same word:
whoever has the same secret replaces alike, so that the recordings of several hosts still fit
together.  So do programs, device nodes and products whose names somebody may have chosen: libvirt
writes a guest's name into its process's, and LIO a backstore's into the product.  The bytes are
rewritten with the words; bytes that cannot be read cannot be rewritten and are left out, and what
they told is in doubt then.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, replace
from typing import Final

from prtrace.errors import MalformedError
from prtrace.model import Action, LocalNexus
from prtrace.scsi.cdb import PrInCdb, PrOutCdb, as_device_reads, parse_cdb
from prtrace.scsi.codes import InAction, Opcode
from prtrace.scsi.parameter import BasicList, MoveList, parse_list
from prtrace.scsi.reply import (
    ReadFullStatus,
    ReadKeys,
    ReadReservation,
    ReportCapabilities,
    parse_reply,
)
from prtrace.scsi.transportid import FcPort, IscsiPort, SasPort, SrpPort, TransportId
from prtrace.state.event import Event
from prtrace.state.quirks import profile_of

_NAME_BYTES: Final = 6
_ISID_MARK: Final = ",i,0x"
_PROGRAM: Final = re.compile(
    r"(?:qemu(?:-kvm|-system-x86(?:_64)?|-pr-helper)?|kvm|prtrace(?:-proxy|-agent)?"
    r"|sg_(?:persist|inq|turs|raw|reset|dd|vpd)|multipathd?|mpathpersist|fence_(?:scsi|mpath)"
    r"|(?:systemd-)?udevd|\(udev-worker\)|lvm|[pvl]vs|[pv]gscan|pvscan|blkid|smart(?:d|ctl)"
    r"|sos(?:report)?|iscsid|iscsiadm|dd|sbd|python3?(?:\.\d+)?|perl|bash|sh"
    r"|kworker/u?\d+:\d+H?)"
)
"""Programs that everybody has: their names tell nothing of whom they run for."""
_FOLDER: Final = re.compile(r"(?:/usr)?/(?:s?bin|lib(?:exec|64)?(?:/(?:udev|systemd|qemu))?)")
"""Where distributions put programs."""
_NODE: Final = re.compile(
    r"(?:/dev/)?(?:[sv]d[a-z]{1,4}\d*|(?:sr|sg|dm-)\d+|n?st\d+[lma]?|nvme\d+(?:c\d+)?n\d+(?:p\d+)?"
    r"|(?:bsg/)?\d+(?::\d+)+)"
)
"""Nodes, and numbers of nodes, that the kernel named."""


@dataclass(frozen=True, slots=True)
class Anonymous:
    """Replaces by a secret; the same secret replaces alike."""

    secret: bytes

    def _of(self, kind: str, word: bytes, size: int) -> bytes:
        return hmac.digest(self.secret, kind.encode() + b"\0" + word, hashlib.sha256)[:size]

    def name(self, kind: str, text: str) -> str:
        """Another name for a guest or a host; "" stays."""
        return f"{kind}-{self._of(kind, _bytes(text), _NAME_BYTES).hex()}" if text else ""

    def key(self, key: int) -> int:
        """Another key; 0, which is none, stays."""
        if key == 0:
            return 0
        return int.from_bytes(self._of("key", key.to_bytes(8, "big"), 8), "big") or 1

    def port(self, text: str) -> str:
        """Another port, as prtrace writes it; a form that is not known becomes a plain word."""
        kind, dot, rest = text.partition(".")
        if kind == "naa" and dot:
            try:
                return f"naa.{self._address(int(rest, 16)):016x}"
            except (ValueError, OverflowError):
                pass  # more than the 64 bits of a port's address
        if kind in ("iqn", "eui", "nqn"):
            name, mark, isid = text.partition(_ISID_MARK)
            session, comma, group = isid.partition(",")
            try:
                tail = f"{mark}{self._isid(name, int(session, 16)):012x}{comma}{group}"
            except (ValueError, OverflowError):
                tail = ""
            return self._iscsi(name) + (tail if mark else "")
        return self.name("port", text)

    def program(self, text: str) -> str:
        """A process's name, another one where it is no common program's.

        libvirt sets "qemu:GUEST": what follows the colon is replaced alone.
        """
        common, colon, rest = text.partition(":")
        if _PROGRAM.fullmatch(text):
            return text
        if colon and _PROGRAM.fullmatch(common):
            return f"{common}:{self.name('guest', rest)}"
        return self.name("program", text)

    def executable(self, text: str) -> str:
        """An executable's path, another one where it is no common program's."""
        folder, _, name = text.rpartition("/")
        return (
            text
            if _FOLDER.fullmatch(folder) and self.program(name) == name
            else self.name("program", text)
        )

    def node(self, text: str) -> str:
        """A device node; a name that somebody gave, as that of a map, becomes another."""
        if not text or _NODE.fullmatch(text):
            return text
        return f"/dev/{self.name('node', text.removeprefix('/dev/'))}"

    def target(self, text: str) -> str:
        """VENDOR/PRODUCT/REVISION with another product, unless how the target acts rests on it."""
        vendor, _, rest = text.partition("/")
        product, _, revision = rest.rpartition("/")
        other = f"{vendor}/{self.name('product', product)}/{revision}"
        return other if text and profile_of(other) is profile_of(text) else text

    def event(self, event: Event) -> Event:
        """The event with other names, in words and in bytes.

        What is derived from the bytes is left out: folding the events again fills it in.
        """
        issuer = event.issuer
        if issuer is not None:
            issuer = replace(
                issuer,
                comm=self.program(issuer.comm),
                guest=self.name("guest", issuer.guest),
                uuid=self.name("uuid", issuer.uuid),
                client_comm=self.program(issuer.client_comm),
                requested=self.node(issuer.requested),
            )
        return event._replace(
            issuer=issuer,
            device=self.node(event.device),
            exe=self.executable(event.exe),
            target=self.target(event.target),
            problem=self._without_names(event),
            # A systemd unit has its guest's name in its own.
            unit=self.name("unit", event.unit),
            key=None if event.key is None else self.key(event.key),
            sa_key=None if event.sa_key is None else self.key(event.sa_key),
            effect="",
            reason="",
            data=self._data(event.cdb, event.data),
            head=self._data(event.cdb, event.head),
            asked_data=self._data(event.asked, event.asked_data),
            paths=tuple(map(self.path, event.paths)),
        )

    def _without_names(self, event: Event) -> str:
        """The problem in words: it names nothing but what the event has elsewhere."""
        issuer = event.issuer
        others = {event.device: self.node(event.device), event.exe: self.executable(event.exe)}
        if issuer is not None:
            others[issuer.guest] = self.name("guest", issuer.guest)
            for comm in (issuer.comm, issuer.client_comm):
                others[comm] = self.program(comm)
        others[event.unit] = self.name("unit", event.unit)
        words = sorted((word for word, other in others.items() if word != other), key=len)
        problem = event.problem
        for word in reversed(words):
            problem = problem.replace(word, others[word])
        return problem

    def path(self, path: LocalNexus) -> LocalNexus:
        """The path with other ports."""
        initiator, target = path.initiator_port, path.target_port
        return replace(
            path,
            device=self.node(path.device),
            sg=self.node(path.sg),
            bsg=self.node(path.bsg),
            initiator_port=None if initiator is None else self.port(initiator),
            target_port=None if target is None else self.port(target),
        )

    def _data(self, cdb: bytes, data: bytes) -> bytes:
        """A parameter list or a reply with other keys and ports; b"" where it cannot be read."""
        if not data or not cdb:
            return b""
        try:
            read = parse_cdb(as_device_reads(cdb, len(cdb)))
            if isinstance(read, PrOutCdb) and isinstance(read.action, Action):
                return self._list(parse_list(data, read.action))
            if isinstance(read, PrInCdb) and isinstance(read.action, InAction):
                return self._reply(parse_reply(read.action, data))
        except MalformedError:
            pass
        return b"" if cdb[0] in (Opcode.PR_IN, Opcode.PR_OUT) else data

    def _list(self, given: BasicList | MoveList) -> bytes:
        if given.truncated or given.problem:
            return b""
        given = given._replace(key=self.key(given.key), sa_key=self.key(given.sa_key))
        if isinstance(given, MoveList):
            port = given.transport_id
            named = None if port is None else self._transport_id(port)
            return given._replace(transport_id=named).build()
        ports = tuple(map(self._transport_id, given.transport_ids))
        return given._replace(transport_ids=ports).build()

    def _reply(
        self, given: ReadKeys | ReadReservation | ReportCapabilities | ReadFullStatus
    ) -> bytes:
        if isinstance(given, ReadKeys):
            return given._replace(keys=tuple(map(self.key, given.keys))).build()
        if isinstance(given, ReadReservation):
            held = given.reservation
            if held is not None:
                held = held._replace(key=self.key(held.key))
            return given._replace(reservation=held).build()
        if isinstance(given, ReadFullStatus):
            if given.truncated:
                return b""
            named = [
                each._replace(
                    key=self.key(each.key),
                    transport_id=self._transport_id(each.transport_id),
                )
                for each in given.descriptors
            ]
            return ReadFullStatus.of(given.generation, *named).build()
        return given.build()

    def _transport_id(self, port: TransportId) -> TransportId:
        """MalformedError where the form is not known: its bytes may hold a name."""
        match port:
            case FcPort() | SasPort():
                return type(port)(self._address(port.address))
            case SrpPort():
                raw = self._of("srp", port.identifier.to_bytes(16, "big"), 16)
                return SrpPort(int.from_bytes(raw, "big"))
            case IscsiPort():
                name = port.name.decode("ascii", "backslashreplace").lower()
                isid = None if port.isid is None else self._isid(name, port.isid)
                return IscsiPort(self._iscsi(name).encode(), isid)
            case _:
                raise MalformedError("TransportID", "its form is not known")

    def _address(self, address: int) -> int:
        return int.from_bytes(self._of("naa", address.to_bytes(8, "big"), 8), "big")

    def _iscsi(self, name: str) -> str:
        return f"iqn.2000-01.invalid:{self._of('iscsi', _bytes(name), _NAME_BYTES).hex()}"

    def _isid(self, name: str, isid: int) -> int:
        word = _bytes(name) + isid.to_bytes(8, "big")
        return int.from_bytes(self._of("isid", word, 6), "big")


def _bytes(text: str) -> bytes:
    """A name's bytes; one that came through JSON may have halves of surrogate pairs."""
    return text.encode(errors="surrogatepass")
