"""Which target is recognised by which INQUIRY fields."""

from __future__ import annotations

import pytest

from prtrace.state.quirks import GENERIC, LIO, SCST, SPDK, Profile, profile_of


@pytest.mark.parametrize(
    ("target", "profile"),
    [
        ("LIO-ORG/disk0/4.0", LIO),
        ("LIO-ORG /disk0           /4.0 ", LIO),
        ("SCST_FIO/disk1/ 370", SCST),
        ("SCST_BIO/a/b/370", SCST),
        ("INTEL/Malloc disk/0001", SPDK),
        ("INTEL/SSDSC2BB480G7/0101", GENERIC),
        ("NETAPP/LUN C-Mode/9131", GENERIC),
        ("LIO-ORG", LIO),
        ("", GENERIC),
    ],
)
def test_a_target_is_known_by_its_inquiry_fields(target: str, profile: Profile) -> None:
    assert profile_of(target) is profile
