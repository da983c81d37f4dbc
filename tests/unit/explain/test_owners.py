"""Which program or host a reservation key gives away by its form."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from explain.story import LU, read
from prtrace.cli.history import rebuilt_unit
from prtrace.explain.account import account
from prtrace.explain.configured import configured
from prtrace.explain.owners import owners
from prtrace.explain.recording import Gathered, Recording
from prtrace.explain.timeline import timeline

STORY = Path(__file__).with_name("stories") / "nobody-watched.txt"


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
        (0x400000000A000005, "LTFS of the host 10.0.0.5"),
        (int.from_bytes(b"\x10node1\0\0"), "LTFS of the host 'node1'"),
        (int.from_bytes(b"\x10WINLTFS"), "LTFS of the host 'WINLTFS'"),
    ],
)
def test_a_form_names_its_owner(key, name):
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


FORMS = st.one_of(
    st.integers(0, (1 << 64) - 1),
    st.integers(0x1000_0000, 0xFFFF_FFFF),
    st.integers(0x1000_0000_0000_0000, 0x1000_0000_0000_0FFF),
    st.integers(0x4000_0000_0000_0000, 0x4000_0000_FFFF_FFFF),
    st.binary(min_size=8, max_size=8).map(int.from_bytes),
    st.tuples(
        st.sampled_from([b"", b"VF", b"APGR", b"\x10"]),
        st.text("aZ09.-\x1b \x7f\0", max_size=8).map(str.encode),
    ).map(lambda parts: int.from_bytes(b"".join(parts)[:8].ljust(8, b"\0"))),
)
"""Keys of every form that names its owner, and others."""


@given(FORMS)
def test_any_key_is_taken(key):
    for owner in owners(key):
        assert owner.name.isprintable()
        assert owner.why
        assert not owner.certain


def gathered(file, text, status=0):
    name = "file" if file.startswith("/") else file
    return Gathered(name, (file,), status, text)


FOUND = [
    ("/etc/multipath.conf", 'defaults {\n\treservation_key "0x123abc:aptpl"\n}\n', "multipathd"),
    ("/etc/multipath.conf", "defaults {\n reservation_key 123abc\n}\n", "multipathd"),
    ("multipath configuration", '\treservation_key "0x123abc"\n', "multipathd"),
    ("/etc/multipath/prkeys", "# a comment\n0x123abc 3600140512345678\n", "multipathd"),
    ("/var/run/cluster/fence_scsi.key", "123abc\n", "fence_scsi"),
    ("/var/run/cluster/fence_mpath.key", "123abc\n", "fence_mpath"),
]


@pytest.mark.parametrize(("file", "text", "program"), FOUND)
def test_a_key_of_a_configuration_names_its_host(file, text, program):
    recording = Recording("node1", (), gathered=(gathered(file, text),))
    read = Recording.parse(recording.lines(), "x")
    assert read.gathered == recording.gathered
    ((key, (owner,)),) = configured([read]).items()
    assert (key, owner.name, owner.certain) == (0x123ABC, f"{program} of node1", False)
    assert "this key" in owner.why


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("/etc/multipath.conf", "defaults {\n reservation_key file\n}\n"),
        ("/etc/multipath.conf", "# reservation_key 0x123abc\n"),
        ("/etc/multipath/prkeys", "# 0x123abc 3600140512345678\n"),
        ("/etc/lvm/lvmlocal.conf", "123abc\n"),
    ],
)
def test_what_has_no_key_names_nobody(file, text):
    assert not configured([Recording("node1", (), gathered=(gathered(file, text),))])


def test_what_a_program_said_that_failed_is_no_configuration():
    failed = gathered("multipath configuration", " reservation_key 0x1\n", status=1)
    assert not configured([Recording("node1", (), gathered=(failed,))])


def test_an_account_tells_whose_configuration_has_a_key():
    steps = timeline(read(STORY).hosts[""], LU)
    unit = rebuilt_unit(Recording("", tuple(step.event for step in steps)), LU)
    by_files = configured([Recording("node9", (), gathered=(gathered(*FOUND[0][:2]),))])
    (registered,) = account(unit, [("", steps)], configured={0xF1: by_files[0x123ABC]})[
        "registrations"
    ]
    assert [each["name"] for each in registered["owners"]] == ["multipathd of node9"]
