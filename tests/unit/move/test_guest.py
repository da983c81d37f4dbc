"""Whether a QEMU that knows migrate-pr moves reservations itself, by its command line."""

import os

import pytest

from prtrace.move.guest import moves_itself, reason

DISK = "scsi-block,drive=d0,bus=s.0"


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
        (["qemu-kvm", "-device", '{"driver":"scsi-block","migrate-pr":false}'], False),
        (["qemu-kvm", "-device", '{"driver":"scsi-block","migrate-pr":true}'], True),
        (["qemu-kvm", "-device", '{"driver":"scsi-block"'], False),
    ],
)
def test_reason(arguments, itself):
    assert bool(reason(arguments)) is itself


def test_a_program_that_does_not_know_it():
    assert moves_itself(os.getpid()) == ""
