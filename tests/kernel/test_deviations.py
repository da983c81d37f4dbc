"""Where LIO departs from the standard: each row with the step that shows it.

The table of tests/kernel/DEVIATIONS.md.  Nothing of prtrace's state or agent is used: these are
facts about the target, seen through SG_IO and configfs.  Never shown here: PREEMPT AND ABORT
through tcm_loop, which hangs the machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from lab.kernels import ENDS
from lab.load import TEST_UNIT_READY, drain
from labkit import lio
from labkit.oracle import OracleState, oracle
from labkit.sysfs import await_disk
from labkit.target import Target, Unit

from prtrace.linux.sgio import Reply, SgDevice, SgIo
from prtrace.model import Action, ReservationType
from prtrace.scsi.cdb import PrInCdb, PrOutCdb
from prtrace.scsi.codes import InAction
from prtrace.scsi.parameter import BasicList
from prtrace.scsi.sense import Sense
from prtrace.scsi.transportid import SasPort

pytestmark = [pytest.mark.machine(kernels=ENDS, nexuses=2), pytest.mark.timeout(60)]

A, B = 0xA1, 0xB2
_APTPL_FOLDERS = (Path("/var/target/pr"), Path("/etc/target/pr"))
_SYNCHRONIZE_CACHE_10 = bytes([0x35]) + bytes(9)
WE, WERO, WEAR, EAAR = (
    ReservationType.WE,
    ReservationType.WERO,
    ReservationType.WEAR,
    ReservationType.EAAR,
)


class Bench:
    """One unit seen over its first two nexuses, which every step finds blank."""

    def __init__(self, unit: Unit) -> None:
        self.unit = unit
        self.paths = unit.paths
        self.devices = [SgDevice(path.sg) for path in unit.paths[:2]]

    def blank(self) -> None:
        """No registrations, no unit attentions."""
        self.drain()
        self.out(0, Action.REGISTER_AND_IGNORE, sa_key=A)
        self.out(0, Action.REGISTER_AND_IGNORE, sa_key=A, all_tg_pt=True)
        self.out(0, Action.CLEAR, A)
        self.drain()
        truth = self.truth()
        assert not truth.registrations, truth
        assert truth.type_code is None, truth

    def drain(self) -> None:
        for device in self.devices:
            drain(device)

    def truth(self) -> OracleState:
        return oracle(self.unit.directory)

    def out(
        self,
        nexus: int,
        action: Action,
        key: int = 0,
        sa_key: int = 0,
        kind: ReservationType | None = None,
        *,
        more: bytes = b"",
        **flags: object,
    ) -> str:
        """Send a PR OUT; its answer as "GOOD", "RESERVATION CONFLICT" or "CHECK key/asc/ascq"."""
        parameter = BasicList(key, sa_key, **flags).build() + more
        cdb = PrOutCdb(action, type=kind, parameter_length=len(parameter)).build()
        return answered(self.devices[nexus].send(cdb, parameter))

    def read(self, action: InAction, room: int = 4000) -> bytes:
        return self.devices[0].send(PrInCdb(action, room).build(), room=room).received

    def keys(self) -> str:
        """Who is registered, by nexus number: "0=0xa1 1=0xb2"."""
        number = {path.initiator: index for index, path in enumerate(self.paths)}
        listed = self.truth().registrations
        return " ".join(f"{number[each.initiator]}={each.key:#x}" for each in listed) or "nobody"


def answered(reply: Reply) -> str:
    names = {0x00: "GOOD", 0x18: "RESERVATION CONFLICT"}
    if reply.status in names:
        return names[reply.status]
    sense = Sense.parse(reply.sense)
    return f"CHECK CONDITION {sense.key:X}/{sense.asc:02X}/{sense.ascq:02X}"


def unregister_not_counted(on: Bench) -> str:
    on.out(0, Action.REGISTER, sa_key=A)
    before = on.truth().generation
    on.out(0, Action.REGISTER, A, 0)
    return f"PRGENERATION + {on.truth().generation - before}"


def idle_register_not_counted(on: Bench) -> str:
    before = on.truth().generation
    answer = on.out(0, Action.REGISTER, 0, 0)
    return f"{answer}, PRGENERATION + {on.truth().generation - before}"


def reserve_unregistered(on: Bench) -> str:
    return on.out(0, Action.RESERVE, A, kind=WE)


def clear_unregistered(on: Bench) -> str:
    return on.out(0, Action.CLEAR, A)


def release_wrong_type(on: Bench) -> str:
    on.out(0, Action.REGISTER, sa_key=A)
    on.out(0, Action.RESERVE, A, kind=WE)
    return on.out(0, Action.RELEASE, A, kind=WERO)


def release_wrong_key(on: Bench) -> str:
    on.out(0, Action.REGISTER, sa_key=A)
    on.out(1, Action.REGISTER, sa_key=B)
    on.out(0, Action.RESERVE, A, kind=WERO)
    return on.out(1, Action.RELEASE, 0xBAD, kind=WERO)


def preempt_type_zero(on: Bench) -> str:
    on.out(0, Action.REGISTER, sa_key=A)
    on.out(1, Action.REGISTER, sa_key=B)
    return on.out(0, Action.PREEMPT, A, B)


def preempt_own_key(on: Bench) -> str:
    on.out(0, Action.REGISTER, sa_key=A)
    return f"{on.out(0, Action.PREEMPT, A, A, WE)}, registered: {on.keys()}"


def preempt_designated(on: Bench) -> str:
    """All registrants hold; LIO takes the one that reserved, which is preempted, for holder."""
    on.out(0, Action.REGISTER, sa_key=A)
    on.out(1, Action.REGISTER, sa_key=B)
    on.out(0, Action.RESERVE, A, kind=WEAR)
    answer = on.out(1, Action.PREEMPT, B, A, WE)
    return f"{answer}, type {ReservationType(on.truth().type_code or 0).name}"


def relative_target_port(on: Bench) -> str:
    return f"tcm_loop: {on.paths[0].rtpi} and {on.paths[1].rtpi}"


def aptpl_not_stored(on: Bench) -> str:
    for folder in _APTPL_FOLDERS:
        folder.rename(folder.with_suffix(".away"))
    try:
        answer = on.out(0, Action.REGISTER, sa_key=A, aptpl=True)
    finally:
        for folder in _APTPL_FOLDERS:
            folder.with_suffix(".away").rename(folder)
    return f"{answer}, registered: {on.keys()}"


def spec_i_pt_self(on: Bench) -> str:
    own = SasPort(int(on.paths[0].initiator.removeprefix("naa."), 16))
    answer = on.out(0, Action.REGISTER, sa_key=A, spec_i_pt=True, transport_ids=(own,))
    return f"{answer}, registered: {on.keys()}"


def unregister_all_tg_pt(on: Bench) -> str:
    on.out(0, Action.REGISTER, sa_key=A, all_tg_pt=True)
    return on.out(0, Action.REGISTER, A, 0)


def attention_takes_the_rest(on: Bench) -> str:
    """Two unit attentions wait for nexus 1: which of them it gets."""
    on.out(0, Action.REGISTER, sa_key=A)
    on.out(1, Action.REGISTER, sa_key=B)
    on.out(0, Action.RESERVE, A, kind=WERO)
    on.out(0, Action.RELEASE, A, kind=WERO)  # 2A/04
    on.out(0, Action.PREEMPT, A, B, WE)  # 2A/05
    delivered = []
    while (reply := on.devices[1].send(TEST_UNIT_READY)).attention:
        delivered.append(answered(reply).split()[-1])
    return " ".join(delivered)


def cache_flush_let_in(on: Bench) -> str:
    on.out(0, Action.REGISTER, sa_key=A)
    on.out(0, Action.RESERVE, A, kind=WE)
    return answered(on.devices[1].send(_SYNCHRONIZE_CACHE_10, b""))


def full_status_cut_off(on: Bench) -> str:
    on.out(0, Action.REGISTER, sa_key=A)
    on.out(1, Action.REGISTER, sa_key=B)
    reply = on.read(InAction.READ_FULL_STATUS, 60)
    return f"ADDITIONAL LENGTH {int.from_bytes(reply[4:8], 'big')}"


def full_status_overrun(on: Bench) -> str:
    """40 bytes are asked for: whether the memory behind them is written."""
    on.out(0, Action.REGISTER, sa_key=A)
    cdb = PrInCdb(InAction.READ_FULL_STATUS, 40).build()
    io = SgIo()
    with SgDevice(on.paths[0].block) as device:  # the sg driver has buffers of its own
        io.send(device.fileno(), cdb, room=40, timeout_ms=10_000)
    return f"memory behind the reply is {'over' if any(io._data[40:256]) else 'not '}written"


def full_status_ends_early(on: Bench) -> str:
    """An initiator port that is not named by 16 digits has no SAS TransportID."""
    tpg = lio.CONFIGFS / "loopback" / "naa.6001405000000099" / "tpgt_1"
    tpg.mkdir(parents=True)
    (tpg / "nexus").write_text("naa.6001405099\n")
    (tpg / "lun" / "lun_0").mkdir(parents=True)
    (tpg / "lun" / "lun_0" / "port").symlink_to(on.unit.directory)
    with SgDevice(await_disk(f"{(tpg / 'address').read_text().strip()}:0").sg) as device:
        drain(device)
        cdb = PrOutCdb(Action.REGISTER, parameter_length=24).build()
        device.send(cdb, BasicList(0, A).build())
    on.out(0, Action.REGISTER, sa_key=B)
    keys = int.from_bytes(on.read(InAction.READ_KEYS)[4:8], "big") // 8
    full = int.from_bytes(on.read(InAction.READ_FULL_STATUS)[4:8], "big") // 48
    return f"READ KEYS lists {keys}, READ FULL STATUS {full}"


@dataclass(frozen=True, slots=True)
class Row:
    """One departure.  lio: what is seen; kernels that differ from it are listed in but."""

    step: Callable[[Bench], str]
    standard: str
    lio: str
    but: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        return self.step.__name__

    def expected(self, release: str) -> str:
        for series, answer in self.but:
            if release.startswith(series + "."):
                return answer
        return self.lio


ROWS = (
    Row(
        unregister_not_counted,
        "an unregistration counts (SPC-4, Registering)",
        "PRGENERATION + 0",
    ),
    Row(
        idle_register_not_counted,
        "every REGISTER that is GOOD counts (SPC-4, READ KEYS)",
        "GOOD, PRGENERATION + 0",
    ),
    Row(
        reserve_unregistered,
        "RESERVATION CONFLICT (SPC-4, Reservations overview)",
        "CHECK CONDITION 2/08/00",
    ),
    Row(
        clear_unregistered,
        "RESERVATION CONFLICT (SPC-4, Reservations overview)",
        "CHECK CONDITION 2/08/00",
    ),
    Row(
        release_wrong_type,
        "CHECK CONDITION 5/26/04 (SPC-4, Releasing)",
        "RESERVATION CONFLICT",
    ),
    Row(
        release_wrong_key,
        "RESERVATION CONFLICT (SPC-4, Reservations overview)",
        "GOOD",
    ),
    Row(
        preempt_type_zero,
        "GOOD: nothing is reserved, TYPE is ignored (SPC-4, Preempting)",
        "CHECK CONDITION 5/24/00",
        but=(("7", "GOOD"),),
    ),
    Row(
        preempt_own_key,
        "targets differ on whether the sender goes, too",
        "GOOD, registered: nobody",
    ),
    Row(
        preempt_designated,
        "all registrants hold alike: type WEAR (SPC-4, Preempting)",
        "GOOD, type WE",
    ),
    Row(
        relative_target_port,
        "each target port has its own, from 1 on (SPC-4, relative port identifier)",
        "tcm_loop: 0 and 0",
        but=(("6.1", "tcm_loop: 1 and 2"),),
    ),
    Row(
        aptpl_not_stored,
        "a command that fails changes nothing",
        "CHECK CONDITION 2/08/00, registered: 0=0xa1",
    ),
    Row(
        spec_i_pt_self,
        "one registration of one I_T nexus",
        "GOOD, registered: 0=0xa1 0=0xa1",
    ),
    Row(
        unregister_all_tg_pt,
        "GOOD: the nexus that sends it is unregistered (SPC-4, Unregistering)",
        "CHECK CONDITION 5/24/00",
    ),
    Row(
        attention_takes_the_rest,
        "each is delivered: 6/2A/04 6/2A/05 (SAM-5, Unit attention conditions)",
        "6/2A/04",
    ),
    Row(
        cache_flush_let_in,
        "RESERVATION CONFLICT (SBC-3, Reservations)",
        "GOOD",
    ),
    Row(
        full_status_cut_off,
        "ADDITIONAL LENGTH 96, whatever the allocation length (SPC-4, Allocation length)",
        "ADDITIONAL LENGTH 48",
    ),
    Row(
        full_status_overrun,
        "nothing is transferred behind the allocation length",
        "memory behind the reply is overwritten",
    ),
    Row(
        full_status_ends_early,
        "both list every registration",
        "READ KEYS lists 2, READ FULL STATUS 0",
    ),
)


def table() -> str:
    """The rows as DEVIATIONS.md has them."""
    lines = ["| Step | Standard | LIO |", "| --- | --- | --- |"]
    for row in ROWS:
        others = "".join(f"; {series}: {answer}" for series, answer in row.but)
        lines.append(f"| `{row.name}` | {row.standard} | {row.lio}{others} |")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def bench(target: Target) -> Bench:
    return Bench(target.units[0])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row(bench: Bench, row: Row) -> None:
    bench.blank()
    assert row.step(bench) == row.expected(os.uname().release)


def test_the_table_is_the_one_of_the_documentation() -> None:
    told = Path(__file__).with_name("DEVIATIONS.md").read_text()
    assert table().splitlines() == [line for line in told.splitlines() if line.startswith("|")]
