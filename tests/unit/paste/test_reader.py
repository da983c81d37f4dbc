"""Any text: it is read, or refused with a hint."""
# ruff: noqa: E501  # log lines are as long as they are

import contextlib
import re
from datetime import UTC

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paste.lines import FIXTURES
from prtrace.errors import MalformedError, PrtraceError
from prtrace.paste.reader import read_text
from prtrace.paste.recorded import Import
from prtrace.paste.shown import shown, shown_in_order
from prtrace.paste.stamp import Clock


@pytest.mark.parametrize(
    "text", ["hello world", "nvme0n1: reservation conflict", "Nov 27 21:43 x"]
)
def test_what_is_not_understood_is_refused_with_a_hint(text):
    with pytest.raises(MalformedError) as caught:
        read_text(f"{text}\n{text}")
    assert caught.value.hint


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text):
    try:
        found = read_text(text)
    except MalformedError:
        return
    if not isinstance(found, bytes):
        for each in found:
            for header in (None, True, False):
                with contextlib.suppress(PrtraceError):
                    list(shown(each, "keys", header=header))


_WORDS = st.sampled_from([
    "sd 1:0:0:0: ", "[sda] ", "tag#1 ", "reservation conflict", "CDB: ", "5f 01 ", "Result: hostbyte=",
    "Sense Key : ", "Unit Attention", "PR generation=0x1, ", "Additional length=8", "\n", " 00     ",
    "00 11 22", "H:0x0 D:0x18 P:0x0", "cmnd=(X - raw=5f)", "Raw sense data\n", "PR_REG_START: 0\n",
    "sa_res_key=x\n", "PR_REG_END: 0\n", "Reservation follows", "Key=0x", "99999999999", "sense = 062a03",
])  # fmt: skip


@given(st.lists(_WORDS, max_size=12).map("".join))
def test_pieces_in_any_order_are_read_or_refused(text):
    test_any_text_is_read_or_refused.hypothesis.inner_test(text)


PRINTED = [
    "[ 1234.500000] sd 1:0:0:0: reservation conflict",
    "Feb 28 12:00:00 node1 kernel: sd 1:0:0:0: [sda] tag#1 CDB: Persistent reserve out 5f 01 05 00",
    "Nov 27 12:00:00 node1 kernel: critical nexus error, dev sda, sector 80 op 0x1:(WRITE)",
    "scsi_req_parsed target 0 lun 1 tag 2 command 94 dir 1 length 8",
    "scsi_generic_ioctl_sgio_done cmd=0x5e xfer=8 status=0x18 host=0",
    "virtio_scsi_cmd_resp target=0 lun=1 tag=2 response=0 status=0x18 resid=0",
    "scsi_req_build_sense target 0 lun 0 tag 1 key 0x06 asc 0x2a ascq 0x05",
    "cat-1 [000] 12.000001: scsi_dispatch_cmd_done: host_no=1 channel=0 id=0 lun=0 data_sgl=1 "
    "prot_sgl=0 cmnd=(PERSISTENT_RESERVE_OUT - raw=5f 01 05 00) result=(driver=DRIVER_OK "
    "host=DID_OK message=COMMAND_COMPLETE status=SAM_STAT_CHECK_CONDITION) "
    "sense=(key=0x6 asc=0x2a ascq=0x5)",
    "  PR generation=0x3, 2 registered reservation keys follow:\n    0x1\n    0x2",
    "  PR generation=0x3, Additional length=8\n 00     00 00 00 00 00 00 00 01",
    'Cmd(0x45b945d01a80) 0x2a, CmdSN 0x5d from world 2101337 to dev "naa.60060160a1b02e00c9f0e25a11d2e711" '
    "failed H:0x0 D:0x2 P:0x0 Valid sense data: 0x6 0x2a 0x3.",
    "PR_REG_START: 0\nsa_res_key=1\nres_type=05\nres_holder=1\nport_rtpi=1\nPR_REG_END: 0",
    "ltfs sense = 062a03",
    "UNIT_ATTENTION(6) ASCQ:x(0x2a03)",
    "mpatha: configured reservation key doesn't match: 0x123",
    *(file.read_text() for file in sorted(FIXTURES.glob("*.txt"))),
]
"""One of each form that has numbers."""
_NUMBERS = re.compile(r"[0-9a-fA-F]+")
_OTHERS = ["9" * 5000, "f" * 5000, "9" * 25, "300", "1ff", "29", "zz", "", "0", "-1"]


@given(st.sampled_from(PRINTED), st.data())
def test_any_number_in_a_line_is_read_or_refused(text, data):
    """A number of any length, and one that no field can have."""
    at = data.draw(st.sampled_from(list(_NUMBERS.finditer(text))))
    changed = text[: at.start()] + data.draw(st.sampled_from(_OTHERS)) + text[at.end() :]
    try:
        found = read_text(changed)
    except PrtraceError:
        return
    if isinstance(found, bytes):
        return
    with contextlib.suppress(PrtraceError):
        list(shown_in_order(found, "keys"))
    recorded = Import()
    recorded.add(found, Clock(boot_ns=0, year=2026, zone=UTC), {"sda": "naa.6001405000000001"})
    for event in recorded.numbered():
        assert event.to_json()
