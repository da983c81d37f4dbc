"""Whose key it may be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prtrace.explain.owners import owners


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (0x666E0001, "fence_scsi, node 0001 of the cluster 666e"),
        (0x36830000, "fence_scsi, node 0000 of the cluster 3683"),
        (0x0100000000000000, "the pNFS server (nfsd)"),
        (0x1000000000000001, "LVM, host id 1"),
        (0x4150475230303031, "Veritas VxVM, node 0"),
        (0x5646423430353130, "Veritas fencing (vxfen)"),
        (int.from_bytes(b"HANFSs01"), "a program that writes 'HANFSs01'"),
    ],
)
def test_forms_that_show(key, name):
    (owner,) = owners(key)
    assert owner.name == name
    assert not owner.certain
    assert owner.why


@pytest.mark.parametrize("key", [0, 1, 0xFFFF, 0x123ABC, 0x1000000000000000, 0x8877665544332211])
def test_other_keys_have_no_owner(key):
    assert owners(key) == ()


def test_what_somebody_said_comes_first_and_is_certain():
    named, form = owners(0x666E0001, {0x666E0001: "node1 of prod"})
    assert (named.name, named.certain) == ("node1 of prod", True)
    assert not form.certain


@given(st.integers(0, (1 << 64) - 1))
def test_any_key_is_taken(key):
    for owner in owners(key):
        assert owner.name.isprintable()
