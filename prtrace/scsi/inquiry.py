"""What a device says of itself in INQUIRY data."""

from __future__ import annotations

from functools import lru_cache

from prtrace.model import target_text
from prtrace.scsi.forms import INQUIRY_NAMES


@lru_cache(256)
def target_in(inquiry: bytes) -> str:
    """VENDOR/PRODUCT/REVISION from 28 bytes of INQUIRY data (bytes 8 to 35)."""
    vendor, product, revision = (
        "".join(chr(c) if 0x20 <= c < 0x7F else "?" for c in raw.rstrip(b"\0 "))
        for raw in INQUIRY_NAMES.parse(inquiry.ljust(INQUIRY_NAMES.size, b"\0"))
    )
    return target_text(vendor, product, revision)
