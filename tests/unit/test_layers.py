"""The layer table: a module imports what is below it, and pure modules stay pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from sources import imports

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
    "prtrace.libvirt": 8,
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
    "prtrace.libvirt.machine",
    "prtrace.libvirt.domain",
    "prtrace.libvirt.note",
)
IMPURE = {"asyncio", "ctypes", "fcntl", "logging", "mmap", "os", "pathlib", "psutil", "socket",
          "sqlite3", "subprocess", "sys", "threading", "time"}  # fmt: skip

# Arrows that close a circle within a room, and why nobody has cut them yet.
CIRCLES = {
    # What core lacks is a requirement, and whether core's object is one for this machine, too.
    ("prtrace.probe.requirements", "prtrace.probe.core"),
}
MOST_ROOMS = 16
MOST_ARROWS = 63

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


def misplaced(path: Path) -> Iterator[str]:
    """What is wrong with the layer of a module, or with what it imports."""
    me = module_name(path)
    mine = layer(me)
    if mine == "prtrace" and me != "prtrace":
        yield f"{me} is in no layer: add it to RANK"
    for name in imports(path):
        if name == "prtrace" or name.startswith("prtrace."):
            theirs = layer(name)
            if theirs != mine and RANK[theirs] >= RANK[mine]:
                yield f"{me} imports {name}, which is not below it"
        elif name.startswith("."):
            yield f"{me} imports {name}, which does not say from where"
        elif me.startswith(PURE) and name.split(".")[0] in IMPURE:
            yield f"{me} is pure and imports {name}"


def test_imports_point_down() -> None:
    wrong = [each for path in MODULES for each in misplaced(path)]
    assert not wrong, "\n".join(wrong)


def test_an_import_that_points_up_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One within a function, in a block of it, is an import, too."""
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    (tmp_path / "scsi").mkdir()
    module = tmp_path / "scsi" / "sense.py"
    module.write_text(
        "def f():\n    try:\n        import os\n    except OSError:\n"
        "        from prtrace.cli import main\n"
    )
    assert list(misplaced(module)) == [
        "prtrace.scsi.sense is pure and imports os",
        "prtrace.scsi.sense imports prtrace.cli.main, which is not below it",
    ]


def room(name: str) -> str:
    """The folder that a module lies in, or its own name directly below prtrace."""
    return ".".join(name.split(".")[:2])


def test_rooms_and_arrows_between_them_stay_few() -> None:
    """A stranger keeps so much in mind; today's counts are in the message where it fails."""
    rooms = {room(module_name(path)) for path in MODULES} - {"prtrace"}
    arrows = {
        (room(module_name(path)), room(name))
        for path in MODULES
        for name in imports(path)
        if room(name) in rooms and room(name) != room(module_name(path))
    }
    assert len(rooms) <= MOST_ROOMS, f"{len(rooms)} rooms: {sorted(rooms)}"
    assert len(arrows) <= MOST_ARROWS, f"{len(arrows)} arrows: {sorted(arrows)}"


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Within a room, too, there is an order to read in."""
    names = {module_name(path) for path in MODULES}
    graph = {
        module_name(path): {
            found
            for name in imports(path)
            if (found := name if name in names else name.rpartition(".")[0]) in names
            and (module_name(path), found) not in CIRCLES
        }
        for path in MODULES
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(f"a circle: {' -> '.join(error.args[1])}") from None


def test_modules_of_tests_have_names_of_their_own() -> None:
    """pytest imports what lies in no package by its bare name, once."""
    alone = Counter(
        path.name
        for path in (TOP / "tests").rglob("test_*.py")
        if not (path.parent / "__init__.py").exists()
    )
    assert not [name for name, count in alone.items() if count > 1]


def test_the_tree_knows_nothing_of_where_it_was_made() -> None:
    """No path of one machine and no registry's address in what is shipped."""
    words = ("/work" + "/", "pypi" + ".org", "deb." + "debian.org", "npmjs" + ".org")
    for path in (*MODULES, *TOP.glob("tools/**/*"), *TOP.glob("bpf/*"), TOP / "pyproject.toml"):
        if path.is_file() and path.suffix not in (".o", ".pyc"):
            text = path.read_text(errors="replace")
            assert not [word for word in words if word in text], path
