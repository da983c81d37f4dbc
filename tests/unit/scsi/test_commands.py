"""Commands that are not about reservations."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prtrace.scsi.commands import Access, medium_command


@pytest.mark.parametrize(
    ("cdb", "name", "access", "lba"),
    [
        ("0afff123 0100", "WRITE(6)", Access.WRITE, 0x1FF123),
        ("2a00 00012345 0000 0800", "WRITE(10)", Access.WRITE, 0x12345),
        ("a800 89abcdef 00000001 0000", "READ(12)", Access.READ, 0x89ABCDEF),
        ("8a00 0123456789abcdef 00000008 0000", "WRITE(16)", Access.WRITE, 0x0123456789ABCDEF),
        ("8900 0000000000000010 00000000 0100", "COMPARE AND WRITE", Access.WRITE, 0x10),
        ("4200 000000000000 0018 00", "UNMAP", Access.WRITE, None),
        ("2a00 0001", "WRITE(10)", Access.WRITE, None),
        ("12000000 6000", "INQUIRY", Access.NONE, None),
        ("f7", "command 0xf7", Access.UNKNOWN, None),
        ("", "a command that was not seen", Access.UNKNOWN, None),
    ],
)
def test_names_and_addresses(cdb, name, access, lba):
    command = medium_command(bytes.fromhex(cdb))
    assert (command.name, command.access, command.lba) == (name, access, lba)


@given(st.binary(max_size=32))
def test_any_bytes_are_a_command(cdb):
    command = medium_command(cdb)
    assert command.name
    assert command.lba is None or 0 <= command.lba < 1 << 64
