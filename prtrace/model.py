"""The vocabulary that every layer shares: what happened, to which nexus, with what outcome.

Nothing here knows a SCSI byte.  Decoders (prtrace.scsi, prtrace.state.decode) turn bytes into
these values; the state (prtrace.state) is a fold over them; the store and the API carry
them.  Names are those of SPC-6 clause 5.14.

An I_T nexus is an initiator port and a target port.  It is written as text, everywhere:
"H:C:T:L" while a scsi_device of this host stands for it (the SCSI address, which the kernel
gives to another nexus once that scsi_device is gone), "<initiator port>,<relative target
port>" otherwise.  A nexus of this host that is gone and whose ports are not known is
"H:C:T:L@<when it went>".
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

Nexus = str
"""A nexus as text; see the module docstring."""

LOCAL_NAME = "hctl."
"""How the name of a unit begins that gives no designator: its address on this host follows."""


class ReservationType(enum.IntEnum):
    """The six reservation types, by their code in the TYPE field (SPC-6 table 86)."""

    WE = 1
    EA = 3
    WERO = 5
    EARO = 6
    WEAR = 7
    EAAR = 8

    @property
    def all_registrants(self) -> bool:
        """Whether every registrant is a holder (so that READ RESERVATION names key 0)."""
        return self in (ReservationType.WEAR, ReservationType.EAAR)

    @property
    def single_nexus(self) -> bool:
        """Whether registrants other than the holder are excluded too (WE and EA)."""
        return self in (ReservationType.WE, ReservationType.EA)

    @property
    def title(self) -> str:
        """The name in words, as the standard writes it."""
        return _TITLES[self]


_TITLES = {
    ReservationType.WE: "Write Exclusive",
    ReservationType.EA: "Exclusive Access",
    ReservationType.WERO: "Write Exclusive, Registrants Only",
    ReservationType.EARO: "Exclusive Access, Registrants Only",
    ReservationType.WEAR: "Write Exclusive, All Registrants",
    ReservationType.EAAR: "Exclusive Access, All Registrants",
}


class Action(enum.Enum):
    """What a persistent reservation command asks for."""

    REGISTER = "REGISTER"
    RESERVE = "RESERVE"
    RELEASE = "RELEASE"
    CLEAR = "CLEAR"
    PREEMPT = "PREEMPT"
    PREEMPT_AND_ABORT = "PREEMPT AND ABORT"
    REGISTER_AND_IGNORE = "REGISTER AND IGNORE EXISTING KEY"
    REGISTER_AND_MOVE = "REGISTER AND MOVE"
    REPLACE_LOST = "REPLACE LOST RESERVATION"


REGISTERS = (Action.REGISTER, Action.REGISTER_AND_IGNORE)
"""Those that register the sender, or change or end its registration."""
PREEMPTS = (Action.PREEMPT, Action.PREEMPT_AND_ABORT)


class Outcome(enum.Enum):
    """What became of a command, as far as the effect on the reservation state goes."""

    DONE = "done"
    """GOOD: the standard's effect applies."""
    CONFLICT = "conflict"
    """RESERVATION CONFLICT."""
    NOT_EXECUTED = "not executed"
    """A unit attention, BUSY or TASK SET FULL was answered instead: nothing happened."""
    UNKNOWN = "unknown"
    """CHECK CONDITION, timeout, transport error: it may or may not have taken effect."""


class Attention(enum.Enum):
    """The unit attentions that speak of reservations; value is (ASC, ASCQ), None is any."""

    RESERVATIONS_PREEMPTED = (0x2A, 0x03)
    RESERVATIONS_RELEASED = (0x2A, 0x04)
    REGISTRATIONS_PREEMPTED = (0x2A, 0x05)
    RESET = (0x29, None)
    INFORMATION_LOST = (0x44, 0x01)
    INQUIRY_CHANGED = (0x3F, 0x03)
    LUNS_CHANGED = (0x3F, 0x0E)


class Access(enum.Enum):
    """What a command does to the medium, as reservations distinguish it."""

    NONE = "none"
    """No reservation refuses it."""
    READ = "read"
    WRITE = "write"
    UNKNOWN = "unknown"
    """It depends on more than the operation code, or nobody saw the command."""


class IssuePath(enum.Enum):
    """How a command came into the kernel."""

    BLOCK_SG_IO = "SG_IO block"
    SG_NODE = "sg node"
    BSG = "bsg"
    IOC_PR = "IOC_PR"
    SEND_COMMAND = "SCSI_IOCTL_SEND_COMMAND"
    SEND_PACKET = "CDROM_SEND_PACKET"
    KERNEL = "kernel"
    UNKNOWN = "unknown"


def target_text(vendor: str, product: str, revision: str) -> str:
    """ "VENDOR/PRODUCT/REVISION" of INQUIRY's fields, blanks stripped; "" where all are empty.

    There always are two slashes outside the product, so that a missing revision is not taken for
    the product's lack.
    """
    fields = [text.strip(" \0") for text in (vendor, product, revision)]
    return "/".join(fields) if any(fields) else ""


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who asked for a command."""

    pid: int
    comm: str
    start_ns: int = 0
    """The process's start, nanoseconds of CLOCK_BOOTTIME; with pid it names one process."""
    cgroup: int = 0
    """The id of its control group (cgroup v2)."""
    path: IssuePath = IssuePath.UNKNOWN
    requested: str = ""
    """ "MAJOR:MINOR" of the block node that was opened, where that is not the disk the command
    went to (dm-multipath); else ""."""
    guest: str = ""
    """QEMU's name of the guest, its UUID where it has no name; "" where the process runs none."""
    uuid: str = ""
    """The guest's UUID, "" where it is not known."""
    client_pid: int = 0
    """The process that had the issuer send the command, through `prtrace proxy`; 0 where nobody
    did."""
    client_comm: str = ""
    """That process's name, "" where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One thing seen on one logical unit."""

    lu: str
    nexus: Nexus
    target: str = ""
    """ "VENDOR/PRODUCT/REVISION" of the logical unit as INQUIRY gives them, or ""."""
    seq: int = 0
    """The number of the kernel's record, 0 where the observation is not of a record."""
    time: int = 0
    """Wall clock, nanoseconds since the epoch."""
    start_ns: int = 0
    """The submission on CLOCK_MONOTONIC; two commands whose spans overlap have no known order."""
    done_ns: int = 0
    """The completion on the same clock."""
    issuer: Issuer | None = None
    life: int = 0
    """LocalNexus.life of the scsi_device that carried the command, 0 where not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrOut(Observation):
    """A PERSISTENT RESERVE OUT and its outcome."""

    action: Action
    outcome: Outcome
    key: int
    sa_key: int
    type: ReservationType | None = None
    """None where the action has none, or where its code is reserved."""
    scope: int = 0
    """0 is the logical unit."""
    aptpl: bool = False
    spec_i_pt: bool = False
    all_tg_pt: bool = False
    unreg: bool = False
    transport_ids: tuple[str, ...] | None = None
    """The initiator ports that the parameter list names, with SPEC_I_PT or REGISTER AND MOVE; None
    where they did not arrive whole."""
    relative_target_port: int | None = None
    """Of REGISTER AND MOVE; None for other actions."""
    compared: bool = True
    """Whether the sender cannot have changed the names while the command was under way."""
    problem: str = ""
    """What is wrong with an UNKNOWN outcome, or with a parameter list that cannot be trusted."""
    timed_out: bool = False
    """Whether the kernel gave up waiting, so that the device may carry the command out still.
    Another observation of the same nexus and start_ns follows when the request is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadablePrOut(Observation):
    """A PR OUT whose CDB or list could not be decoded, with an outcome other than refusal."""

    outcome: Outcome
    problem: str
    timed_out: bool = False
    """As in PrOut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysRead(Observation):
    """A READ KEYS reply: one key per registered nexus, in no order, repeats included."""

    generation: int
    keys: tuple[int, ...]
    truncated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationRead(Observation):
    """A READ RESERVATION reply; type None means that nothing is reserved."""

    generation: int
    key: int = 0
    type: ReservationType | None = None
    scope: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FullStatus:
    """One registration in a READ FULL STATUS reply."""

    initiator_port: str
    """Canonical text of the TransportID ("naa.…", "iqn.…,i,0x…", …)."""
    relative_target_port: int
    key: int
    holder: bool
    all_target_ports: bool = False
    type: ReservationType | None = None
    """The reservation's, where holder is set."""
    scope: int = 0
    """As type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FullStatusRead(Observation):
    """A READ FULL STATUS reply."""

    generation: int
    registrations: tuple[FullStatus, ...]
    truncated: bool
    paths: tuple[LocalNexus, ...] = ()
    """This host's nexuses to the unit at the time, which tell which of the registrations are its
    own; none where the state knows them from a PathsSeen."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What REPORT CAPABILITIES says (SPC-6 6.16.4): the bits by their names there."""

    rlr_c: bool
    crh: bool
    sip_c: bool
    atp_c: bool
    ptpl_c: bool
    ptpl_a: bool
    allow_commands: int
    types: tuple[ReservationType, ...] | None
    """Those in the type mask, None where TMV says that there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CapabilitiesRead(Observation):
    """A REPORT CAPABILITIES reply."""

    capabilities: Capabilities


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadFailed(Observation):
    """A PR IN that brought no reply: it proves nothing but that somebody asked."""

    action: str
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class LegacyReserve(Observation):
    """An SPC-2 RESERVE (or, with release set, RELEASE) of 6 or 10 bytes.

    third_party: it is for another initiator than the sender.
    """

    release: bool
    outcome: Outcome
    third_party: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSeen(Observation):
    """A unit attention was delivered on the nexus, count times since the last one noted."""

    attention: Attention
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ConflictSeen(Observation):
    """Commands that are not PR commands were answered RESERVATION CONFLICT.

    access: what one of them would have done.
    """

    count: int = 1
    access: Access = Access.UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordsLost(Observation):
    """count records of this nexus never reached us; cause names the counter.

    over: every request of the nexus is over by now.
    """

    cause: str
    count: int = 1
    over: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherUnit(Observation):
    """The device at the nexus's address said that it is found, and not what the kernel remembers.

    Commands that were taken for one unit's went to another, nobody knows since when.
    """

    found: str
    """"" where the device did not say which unit it is, though it was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotWatched(Observation):
    """Nobody watched the unit for a while, and CLOCK_MONOTONIC may have begun anew since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsupported(Observation):
    """The device answered READ KEYS, which every device with reservations knows, as unknown.

    full_status: it was READ FULL STATUS, which a device need not know.
    """

    full_status: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PathsSeen(Observation):
    """This host's nexuses to the unit from now on, as sysfs describes them; all of them.

    nexus is "", for it is about none of them alone.
    """

    paths: tuple[LocalNexus, ...]


AnyObservation = (
    PrOut
    | UnreadablePrOut
    | KeysRead
    | ReservationRead
    | FullStatusRead
    | CapabilitiesRead
    | ReadFailed
    | LegacyReserve
    | AttentionSeen
    | ConflictSeen
    | RecordsLost
    | OtherUnit
    | NotWatched
    | PathsSeen
    | Unsupported
)
"""Every kind of observation: what a match over them has to cover."""


@dataclass(frozen=True, slots=True)
class LocalNexus:
    """A local path to a logical unit, as sysfs describes it."""

    nexus: Nexus
    """ "H:C:T:L"."""
    lu: str
    device: str = ""
    """The node of its disk ("/dev/sda"), "" where it is no disk."""
    sg: str = ""
    """Its sg node, or ""."""
    bsg: str = ""
    """Its bsg node, or ""."""
    initiator_port: str | None = None
    """None where neither sysfs nor configfs knows it."""
    target_port: str | None = None
    """As initiator_port."""
    relative_target_port: int | None = None
    """As initiator_port."""
    transport: str = ""
    """ "fc", "sas", "iscsi", "srp", "loop" or ""."""
    state: str = ""
    """The midlayer's word: "running" for a device that takes commands."""
    life: int = 0
    """The inode number of the scsi_device's directory in sysfs, which no other scsi_device has had
    since the host was started; 0 where not known."""


@dataclass(frozen=True, slots=True)
class LogicalUnit:
    """A logical unit of this host: its designator and every name it goes by."""

    lu: str
    """ "naa.6001405…"; "hctl.H:C:T:L" where the device gives no designator, which names it on this
    host only, until it is removed."""
    vendor: str = ""
    product: str = ""
    revision: str = ""
    nexuses: tuple[LocalNexus, ...] = ()
    devices: tuple[str, ...] = field(default=())
    """Every node: disks, sg nodes, device-mapper nodes; by-id links are looked up on request."""
    kind: str = "disk"
    """ "disk", "tape", … (peripheral device type)."""

    @property
    def target(self) -> str:
        """As target_text has it."""
        return target_text(self.vendor, self.product, self.revision)
