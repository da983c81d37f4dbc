"""Whether a QEMU that knows migrate-pr moves reservations itself, by its command line."""

import os

import pytest

from prtrace.move import guest
from prtrace.move.guest import moves_itself, reason

DISK = "scsi-block,drive=d0,bus=s.0"
GLOBAL_ON = ("-global", "driver=scsi-block,property=migrate-pr,value=on")


@pytest.mark.parametrize(
    ("arguments", "itself"),
    [
        (["qemu-kvm", "-machine", "pc-q35-11.0"], False),
        (["qemu-kvm", "-machine", "pc-q35-11.0", "-device", "scsi-hd,drive=d0"], False),
        (["qemu-kvm", "-machine", "pc-q35-11.0", "-device", DISK], True),
        (["qemu-kvm", "-machine", "pc-q35-10.2,accel=kvm", "-device", DISK], False),
        (["qemu-kvm", "-machine", "type=pc-i440fx-7.2", "-device", DISK], False),
        (["qemu-kvm", "-M", "q35", "-device", DISK], True),
        (["qemu-kvm", "-device", DISK], True),
        (["qemu-kvm", "-M", "q35", "-device", f"{DISK},migrate-pr=off"], False),
        (["qemu-kvm", "-M", "pc-q35-9.0", "-device", f"{DISK},migrate-pr=on"], True),
        (["qemu-kvm", "-M", "pc-q35-9.0", "-device", f"{DISK},migrate-pr=y"], True),
        (["qemu-kvm", "-global", "scsi-block.migrate-pr=off", "-device", DISK], False),
        (["qemu-kvm", *GLOBAL_ON, "-M", "pc-i440fx-10.2", "-device", DISK], True),
        (["qemu-kvm", *GLOBAL_ON, "-device", f"{DISK},migrate-pr=off"], False),
        (["qemu-kvm", "-device", '{"driver":"scsi-block","migrate-pr":false}'], False),
        (["qemu-kvm", "-device", '{"driver":"scsi-block","migrate-pr":true}'], True),
        (["qemu-kvm", "-device", '{"driver":"scsi-block"'], False),
        (["qemu-kvm", "-device", '{"driver":' + "[" * 200_000], False),
        (["qemu-kvm", "-device", "[]", "-device", "{}"], False),
        (["qemu-kvm", "-device", f"{DISK},id=a,,migrate-pr=off"], True),
        (["qemu-kvm", "-device", f"{DISK},migrate-pr=on,migrate-pr=off"], False),
        (["qemu-kvm", "-M", "accel=kvm,type=pc-q35-9.0", "-device", DISK], False),
        (["qemu-kvm", "-M", "pc-q35-9.0,firmware=a,,type=pc-q35-11.0", "-device", DISK], False),
    ],
)
def test_the_command_line_tells_whether_qemu_moves_reservations_itself(arguments, itself):
    assert bool(reason(arguments)) is itself


def test_a_program_that_is_no_qemu_moves_nothing_itself():
    assert moves_itself(os.getpid()) == ""


@pytest.mark.parametrize("place", [0, 5, guest._CHUNK - 5, guest._CHUNK, 3 * guest._CHUNK - 1])
def test_a_property_is_found_wherever_it_is(tmp_path, place):
    program = tmp_path / "qemu"
    whole = bytearray(4 * guest._CHUNK)
    program.write_bytes(whole)
    assert not guest._contains(program, b"migrate-pr")
    whole[place : place + 10] = b"migrate-pr"
    program.write_bytes(whole)
    assert guest._contains(program, b"migrate-pr")


def test_a_huge_file_is_not_read_to_its_end(tmp_path):
    program = tmp_path / "qemu"
    program.touch()
    os.truncate(program, 1 << 40)
    assert guest._contains(program, b"migrate-pr")
