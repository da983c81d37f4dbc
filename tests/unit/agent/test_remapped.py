"""Devices that say they are another unit than the kernel remembers: believed, with an end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from linux.conftest import Tree, page_83

from prtrace.agent.remapped import MOST, Remapped
from prtrace.linux.units import Inventory, scan

AT = "2:0:0:0"


def name(number: int) -> str:
    return f"naa.6{number:031x}"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path)
    tree.device(AT, page=page_83(name(1).removeprefix("naa.")), disk="sda", block="8:0")
    return tree


class Looking:
    """An inventory of a tree with what its devices say."""

    def __init__(self, tree: Tree) -> None:
        self.tree, self.remapped = tree, Remapped()
        self.inventory: Inventory = self.look()

    def look(self) -> Inventory:
        self.inventory = self.remapped.applied(scan(self.tree.sys, self.tree.dev))
        return self.inventory

    def said(self, lu: str) -> None:
        known = self.inventory.nexus(AT)
        assert known is not None
        self.remapped.note(known, lu)
        self.look()

    @property
    def leads_to(self) -> str:
        known = self.inventory.nexus(AT)
        assert known is not None
        return known.lu


def test_a_device_is_believed_until_it_says_what_the_kernel_remembers(tree: Tree) -> None:
    looking = Looking(tree)
    looking.said(name(2))
    assert looking.leads_to == name(2)
    assert looking.remapped.unit(AT, name(1)) == name(2)
    assert looking.remapped.unit(AT, name(3)) == name(3), "a record that met another one yet"
    assert looking.remapped.unit("3:0:0:0", name(1)) == name(1)
    looking.said(name(1))
    assert looking.leads_to == name(1)
    assert looking.remapped.unit(AT, name(1)) == name(1)


def test_the_kernel_is_believed_when_it_has_asked_again(tree: Tree) -> None:
    looking = Looking(tree)
    looking.said(name(2))
    page = tree.sys / "bus/scsi/devices" / AT / "vpd_pg83"
    page.write_bytes(page_83(name(3).removeprefix("naa.")))
    looking.look()
    assert looking.leads_to == name(3)
    assert not looking.remapped.addresses


def test_a_device_that_names_one_unit_after_the_other_is_not_believed(tree: Tree) -> None:
    looking = Looking(tree)
    for number in range(2, 2 + MOST):
        assert looking.remapped.believes(AT, name(number))
        looking.said(name(number))
        # Going back to the first unit in between earns no more.
        looking.said(name(1))
    assert not looking.remapped.believes(AT, name(99))
    assert looking.remapped.believes(AT, name(1))


def test_what_was_said_ends_with_the_scsi_device(tree: Tree) -> None:
    looking = Looking(tree)
    looking.said(name(2))
    known = looking.inventory.nexus(AT)
    assert known is not None
    other_life = Remapped()
    other_life.note(replace(known, life=known.life + 1, lu=name(1)), name(2))
    assert other_life.applied(scan(tree.sys, tree.dev)).units.keys() == {name(1)}
    assert not other_life.addresses
