"""The formats against the kernel's own header; sending is tested in the lab."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
from pathlib import Path

from prtrace.linux.sgio import SgIoHdr
from prtrace.linux.sgslot import _GIVEN, _GOT, _GOT_AT, SgSlot

SOURCE = """
#include <stdio.h>
#include <string.h>
#include <scsi/sg.h>
int main(void) {
    struct sg_io_hdr h;
    memset(&h, 0, sizeof h);
    h.interface_id = 'S'; h.dxfer_direction = -3; h.cmd_len = 16; h.mx_sb_len = 252;
    h.dxfer_len = 8192; h.dxferp = (void *)0x1111; h.cmdp = (void *)0x2222;
    h.sbp = (void *)0x3333; h.timeout = 30000; h.flags = 5; h.pack_id = 6;
    h.usr_ptr = (void *)0x4444;
    fwrite(&h, sizeof h, 1, stdout);
    h.status = 2; h.masked_status = 99; h.msg_status = 98; h.sb_len_wr = 18;
    h.host_status = 3; h.driver_status = 8; h.resid = -7; h.duration = 12; h.info = 97;
    return fwrite(&h, sizeof h, 1, stdout) != 1;
}
"""


def test_layout_is_that_of_the_header(tmp_path: Path) -> None:
    (tmp_path / "layout.c").write_text(SOURCE)
    subprocess.run(["gcc", "-o", tmp_path / "layout", tmp_path / "layout.c"], check=True)
    made = subprocess.run([tmp_path / "layout"], check=True, capture_output=True).stdout
    size = ctypes.sizeof(SgIoHdr)
    given = _GIVEN.pack(
        ord("S"), -3, 16, 252, 0, 8192, 0x1111, 0x2222, 0x3333, 30000, 5, 6, 0x4444
    )
    assert made[:size] == given
    assert _GOT.unpack_from(made[size:], _GOT_AT) == (2, 18, 3, 8, -7, 12)


def test_what_takes_no_command_is_an_errno() -> None:
    fd = os.open("/dev/null", os.O_RDWR)
    slot = SgSlot()
    assert slot.pr_in(fd, bytes(16), 8, 1000) == errno.ENOTTY
    assert slot.pr_out(fd, bytes(16), bytes(8192), 1000) == errno.ENOTTY
    assert slot.pr_out(fd, bytes(16), b"", 1000) == errno.ENOTTY
    os.close(fd)
