"""The layer table: a module imports what is below it, and pure modules stay pure."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
PACKAGE = TOP / "prtrace"

# A module's layer is that of its longest prefix here.  It may import lower layers and
# whatever has the same prefix.
RANK = {
    "prtrace": 0,
    "prtrace.errors": 0,
    "prtrace.model": 1,
    "prtrace.scsi": 2,
    "prtrace.state": 3,
    "prtrace.explain": 4,
    "prtrace.linux": 4,
    "prtrace.paste": 4,
    "prtrace.probe": 5,
    "prtrace.store": 5,
    "prtrace.api": 6,
    "prtrace.move": 7,
    "prtrace.prhelper": 7,
    "prtrace.agent.options": 7,
    "prtrace.agent": 8,
    "prtrace.cli": 9,
    "prtrace.__main__": 10,
}

PURE = (
    "prtrace.errors",
    "prtrace.model",
    "prtrace.scsi",
    "prtrace.paste",
    "prtrace.probe.record",
    "prtrace.explain",
    "prtrace.state",
)
IMPURE = {"asyncio", "ctypes", "fcntl", "logging", "mmap", "os", "pathlib", "psutil", "socket",
          "sqlite3", "subprocess", "sys", "threading", "time"}  # fmt: skip

MODULES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = ("prtrace", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer(name: str) -> str:
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        if (prefix := ".".join(parts[:end])) in RANK:
            return prefix
    return ""


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_point_down(path: Path) -> None:
    me = module_name(path)
    mine = layer(me)
    assert mine != "prtrace" or me == "prtrace", f"{me} is in no layer: add it to RANK"
    for name in imports(path):
        if name == "prtrace" or name.startswith("prtrace."):
            theirs = layer(name)
            if theirs != mine:
                assert RANK[theirs] < RANK[mine], f"{me} imports {name}, which is not below it"
        elif me.startswith(PURE):
            assert name.split(".")[0] not in IMPURE, f"{me} is pure and imports {name}"


def test_the_tree_knows_nothing_of_where_it_was_made() -> None:
    """No path of one machine and no registry's address in what is shipped."""
    words = ("/work" + "/", "pypi" + ".org", "deb." + "debian.org", "npmjs" + ".org")
    for path in (*MODULES, *TOP.glob("tools/**/*"), *TOP.glob("bpf/*"), TOP / "pyproject.toml"):
        if path.is_file() and path.suffix not in (".o", ".pyc"):
            text = path.read_text(errors="replace")
            assert not [word for word in words if word in text], path
