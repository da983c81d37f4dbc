"""Whether a path takes commands now, and how well."""

from __future__ import annotations

import pytest

from prtrace.linux.pathstate import is_quiet, is_removable, path_state
from tests.unit.linux.conftest import Tree


@pytest.mark.parametrize(
    ("state", "access", "runs", "may_answer"),
    [
        ("running", "", True, True),
        ("running", "active/optimized", True, True),
        ("running", "standby", True, True),
        ("running", "transitioning", True, False),
        ("running", "unavailable", True, False),
        ("running", "offline", True, False),
        ("running", "a new word", True, True),
        ("offline", "active/optimized", False, True),
        ("blocked", "", False, True),
        ("transport-offline", "", False, True),
    ],
)
def test_states(tree: Tree, state: str, access: str, runs: bool, may_answer: bool) -> None:
    directory = tree.device("2:0:0:0", state=state)
    if access:
        (directory / "access_state").write_text(f"{access}\n")
    found = path_state("2:0:0:0", tree.sys)
    assert (found.runs, found.may_answer) == (runs, may_answer)


def test_the_state_is_read_at_each_call(tree: Tree) -> None:
    directory = tree.device("2:0:0:0", state="offline")
    assert not path_state("2:0:0:0", tree.sys).runs
    (directory / "state").write_text("running\n")
    assert path_state("2:0:0:0", tree.sys).runs
    assert path_state("2:0:0:9", tree.sys).state == ""


def test_access_has_an_order(tree: Tree) -> None:
    directory = tree.device("2:0:0:0")
    ranks = []
    for word in ("active/optimized", "active/non-optimized", "standby", "unavailable"):
        (directory / "access_state").write_text(word)
        ranks.append(path_state("2:0:0:0", tree.sys).access_rank)
    assert ranks == sorted(set(ranks))


def test_removable_media(tree: Tree) -> None:
    tree.device("2:0:0:0", removable=True)
    tree.device("2:0:0:1")
    (tree.device("2:0:0:2") / "inquiry").write_bytes(b"\0")
    found = [is_removable(f"2:0:0:{lun}", tree.sys) for lun in range(4)]
    assert found == [True, False, None, None]


def test_what_is_under_way_is_the_midlayer_s_word(tree: Tree) -> None:
    directory = tree.device("2:0:0:0")
    for busy, quiet in (("0\n", True), ("1\n", False), ("17\n", False)):
        (directory / "device_busy").write_text(busy)
        assert is_quiet("2:0:0:0", tree.sys) is quiet
    assert is_quiet("2:0:0:9", tree.sys)
