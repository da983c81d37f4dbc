"""What an event shows of a command's own fields, and that odd bytes have none."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prtrace.model import Action
from prtrace.scsi.cdb import PrInCdb, PrOutCdb
from prtrace.scsi.codes import InAction
from prtrace.scsi.parameter import BasicList, MoveList
from prtrace.scsi.transportid import SasPort
from prtrace.state.fields import NAMES, fields_of

PORT = SasPort(0x5000C500A0000001)


def told(cdb: bytes, data: bytes, *, good: bool = True) -> dict:
    return {name: value for name, value in fields_of(cdb, data, good=good).items() if value}


def test_flags_and_ports_of_a_register() -> None:
    data = BasicList(0, 1, spec_i_pt=True, aptpl=True, transport_ids=(PORT,)).build()
    cdb = PrOutCdb(Action.REGISTER, parameter_length=len(data)).build()
    assert told(cdb, data) == {
        "aptpl": True,
        "spec_i_pt": True,
        "transport_ids": [PORT.text],
        "parameter_list_length": len(data),
    }


def test_where_a_registration_moves() -> None:
    data = MoveList(1, 2, 7, PORT, unreg=True).build()
    cdb = PrOutCdb(Action.REGISTER_AND_MOVE, parameter_length=len(data)).build()
    found = told(cdb, data)
    assert (found["unreg"], found["relative_target_port"]) == (True, 7)
    assert found["transport_ids"] == [PORT.text]


def test_what_a_reply_lists() -> None:
    cdb = PrInCdb(InAction.READ_KEYS, 512).build()
    data = bytes.fromhex("0000000900000010") + bytes(16)
    assert told(cdb, data) == {"generation": 9, "keys": 2}
    assert told(cdb, data, good=False) == {}


@given(st.binary(max_size=16), st.binary(max_size=64), st.booleans())
def test_any_bytes(cdb: bytes, data: bytes, good: bool) -> None:
    assert set(fields_of(cdb, data, good=good)) == set(NAMES)
