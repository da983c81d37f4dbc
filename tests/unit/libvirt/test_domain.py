"""The domain's XML, as libvirt and the hook give it."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prtrace.errors import MalformedError
from prtrace.libvirt.domain import NAMESPACE, parse

UUID = "11111111-2222-4333-8444-555555555555"
XML = f"""<domain type='kvm'><name>waldi</name><uuid>{UUID}</uuid>
<metadata><p:note xmlns:p='{NAMESPACE}'>{{"a": "&lt;"}}</p:note></metadata>
<devices>
<graphics type='vnc' passwd='secret'/>
<disk type='block' device='lun'><source dev='/dev/x'/><target dev='sda' bus='scsi'/></disk>
<disk type='block' device='disk'><source dev='/dev/y'/><target dev='sdb' bus='scsi'/></disk>
<disk type='network' device='lun'><source protocol='iscsi'/><target dev='sdc'/></disk>
</devices></domain>"""


def test_what_a_domain_tells() -> None:
    found = parse(XML)
    assert (found.uuid, found.name) == (UUID, "waldi")
    assert found.luns == {"sda": "/dev/x", "sdc": ""}
    assert found.nodes == ["/dev/x"]
    assert "sdc" in found.without_node
    assert found.note == '{"a": "<"}'
    assert "secret" not in repr(found)


@pytest.mark.parametrize(
    "xml",
    [
        "",
        "<domain>",
        "<domain/>",
        "<domain><uuid>11111111-2222-4333-8444-55555555555g</uuid></domain>",
        "<domain><uuid>../../../../../../../../etc/passwd--</uuid></domain>",
        "<!DOCTYPE d [<!ENTITY a 'b'>]><domain/>",
    ],
)
def test_what_is_no_domain_is_refused(xml: str) -> None:
    with pytest.raises(MalformedError):
        parse(xml)


@given(st.text())
def test_any_text_is_a_domain_or_refused(xml: str) -> None:
    with contextlib.suppress(MalformedError):
        parse(xml)
