"""prtrace.scsi.inquiry: the names in INQUIRY data."""

import pytest

from prtrace.scsi.inquiry import target_in


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"LIO-ORG disk0           4.0 ", "LIO-ORG/disk0/4.0"),
        (b"", ""),
        (bytes(28), ""),
        (b"ACME    ", "ACME//"),
        (b"        disk", "/disk/"),
        (b"A\x1b\xff     d\0k".ljust(28, b"\0"), "A??/d?k/"),
    ],
)
def test_a_target_is_named_by_three_fields(raw: bytes, text: str) -> None:
    assert target_in(raw) == text
