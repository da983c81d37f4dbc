"""QEMU's trace events."""
# ruff: noqa: E501  # log lines are as long as they are

import pytest

from paste.lines import RESERVE, only
from prtrace.paste.seen import SenseTriple


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("scsi_generic_send_command Command: data= 0x5f 0x01 0x05 0x00 0x00 0x00 0x00 0x00 0x18 0x00",
         {"cdb": RESERVE}),
        ("1@1694.2:scsi_disk_new_request Command: lun=0 tag=0x1 data= 0x16 0x00 0x00 0x00 0x00 0x00",
         {"cdb": b"\x16" + bytes(5)}),
        ("scsi_req_parsed target 0 lun 0 tag 5 command 95 dir 2 length 24", {"opcode": 0x5F}),
        ("scsi_generic_ioctl_sgio_done generic ioctl sgio: cmd=0x5e ret=0 status=0x18 host_status=0x0",
         {"opcode": 0x5E, "status": 0x18}),
        ("virtio_scsi_cmd_resp virtio_scsi_cmd_resp lun=0 tag=0x0 response=0 status=0x18",
         {"status": 0x18}),
        ("scsi_req_build_sense target 0 lun 0 tag 1 key 0x05 asc 0x26 ascq 0x00",
         {"triple": SenseTriple(5, 0x26, 0)}),
        ("scsi_device_set_ua target 0 lun 0 key 0x06 asc 0x2a ascq 0x05",
         {"triple": SenseTriple(6, 0x2A, 5)}),
    ],
)  # fmt: skip
def test_qemu(line, what):
    seen = only(line)
    assert seen.source == "QEMU"
    assert {name: getattr(seen, name) for name in what} == what
