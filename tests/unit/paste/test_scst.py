"""SCST's files of what outlives a power loss."""

import struct

import pytest
from click.testing import CliRunner

from prtrace.cli.decode import command
from prtrace.errors import MalformedError
from prtrace.paste import scst
from prtrace.scsi.transportid import FcPort, IscsiPort

HOLDER = IscsiPort(b"iqn.2026-11.org.example:a", 0x23D000001)
OTHER = FcPort(0x21000024FF000001)


def file(order="<", *, reserved=1, kind=5, version=1, ports=(HOLDER, OTHER)):
    head = struct.pack(f"{order}QQBBBB", 0xBBEEEEAAEEBBDD77, version, 1, reserved, kind, 0)
    return head + b"".join(
        bytes((not number,)) + port.build() + (0xA1 + number).to_bytes(8, "big")
        + struct.pack(f"{order}H", 3 + number)
        for number, port in enumerate(ports)
    )  # fmt: skip


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_state_and_each_registration(order):
    state, holder, other = (dict(each.facts) for each in scst.read(file(order)))
    assert state == {
        "aptpl": "enabled",
        "reservation type": "5 (Write Exclusive, Registrants Only)",
    }
    assert holder == {
        "registered": HOLDER.text,
        "reservation key": "0x00000000000000a1",
        "holds the reservation": "yes",
        "relative target port identifier": "3",
    }
    assert (other["registered"], other["holds the reservation"]) == (OTHER.text, "no")


def test_nothing_is_reserved():
    (state,) = scst.read(file(reserved=0, kind=0xFF, ports=()))
    assert dict(state.facts) == {"aptpl": "enabled", "reservation": "none"}


def test_a_file_that_is_cut_off_within_a_registration_is_refused():
    whole = file()
    boundaries = [len(file(ports=ports)) for ports in ((), (HOLDER,), (HOLDER, OTHER))]
    for size in range(8, len(whole) + 1):
        if size in boundaries:
            assert len(list(scst.read(whole[:size]))) == 1 + boundaries.index(size)
        else:
            with pytest.raises(MalformedError):
                list(scst.read(whole[:size]))


def test_another_version_is_refused():
    with pytest.raises(MalformedError, match="version 2"):
        list(scst.read(file(version=2)))


def test_a_file_that_is_being_written_is_not_taken_for_one():
    """Its signature is zero until then."""
    assert not scst.is_file(bytes(8) + file()[8:])


def test_decode_takes_it(tmp_path):
    path = tmp_path / "disk1"
    path.write_bytes(file())
    done = CliRunner().invoke(command, [str(path)], standalone_mode=False)
    assert done.exception is None, done.output
    assert HOLDER.text in done.output
    assert "0x00000000000000a1" in done.output
