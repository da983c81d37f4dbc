"""Which target is recognised by which INQUIRY fields, and how careful the unknown one is."""

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


CAREFUL = {
    # A target that raises no unit attentions raises none for a stranger's commands either.
    "raises_attentions": True,
    # An expectation that is forgotten costs a reading; one that is kept hides a stranger's.
    "attention_clears_all": True,
    "attentions_shared": True,
}
"""Fields that have no None: the value that leaves more in doubt."""


@pytest.mark.parametrize("field", [each for each in Profile._fields if each != "name"])
def test_an_unknown_target_may_be_any_known_one_under_another_name(field: str) -> None:
    """LIO's vendor name is an attribute.  What comes of it is in test_against_reference.py,
    test_all_ports.py, test_sessions.py and test_access.py."""
    assert getattr(GENERIC, field) is CAREFUL.get(field)
