"""Which device-mapper nodes are multipath maps; the same question on a kernel: tests/kernel."""

from __future__ import annotations

import pytest

from prtrace.linux.multipath import is_multipath
from prtrace.linux.units import scan
from tests.unit.linux.conftest import Tree, page_83

NAA = "6001405000000001000000000000000a"


@pytest.mark.parametrize("slaves", [("sda", "sdb"), ("sda",)])
@pytest.mark.parametrize(
    ("uuid", "queues", "is_map"),
    [
        ("", True, True),
        ("", False, False),
        ("mpath-x", True, True),
        ("mpath-x", False, True),
        ("LVM-x", True, False),
        ("part1-mpath-x", False, False),
    ],
)
def test_what_is_a_map(
    tree: Tree, uuid: str, slaves: tuple[str, ...], queues: bool, is_map: bool
) -> None:
    tree.device("2:0:0:0", page=page_83(NAA), disk="sda", block="8:0")
    tree.device("3:0:0:0", page=page_83(NAA), disk="sdb", block="8:16")
    tree.mapped("dm-0", "253:0", "byhand", uuid, *slaves, queues=queues)
    maps = scan(tree.sys, tree.dev).maps
    assert [found.lu for found in maps] == ([f"naa.{NAA}"] if is_map else [])
    assert all(found.is_multipathds is bool(uuid) for found in maps)
    assert is_multipath(tree.sys / "block/dm-0") is is_map


def test_what_is_no_device_mapper_node_is_no_map(tree: Tree) -> None:
    tree.device("2:0:0:0", page=page_83(NAA), disk="sda", block="8:0")
    tree.device("3:0:0:0", page=page_83(NAA), disk="sdb", block="8:16")
    tree.write("block/sda/mq/0/cpu_list", "0")
    assert not is_multipath(tree.sys / "block/sda")
    assert not is_multipath(tree.sys / "block/dm-7")
