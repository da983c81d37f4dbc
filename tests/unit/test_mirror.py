"""Tests mirror the code: a module's tests are in the file of its name, or in its room's file.

prtrace/state/decode.py has tests/unit/state/test_decode.py.  A module without such a file is
tested by what its room does, in the file that ROOMS names: what only a kernel or a guest shows is
tested in a machine.  TESTED_BY has the modules that yet another file tests.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from sources import imports

TOP = Path(__file__).parents[2]
PACKAGE = TOP / "prtrace"
TESTS = TOP / "tests"

ROOMS = {
    "": "unit/cli/test_main.py",
    "agent": "kernel/test_restart.py",
    "api": "unit/api/test_server.py",
    "cli": "unit/cli/test_main.py",
    "explain": "unit/explain/test_causes.py",
    "libvirt": "libvirt/test_migrate.py",
    "move": "move/test_verbs.py",
    "prhelper": "proxy/test_sandbox.py",
    "probe": "kernel/test_attach.py",
    "state": "unit/state/test_effects.py",
}
TESTED_BY = {
    "explore/test_exploration.py": ("move/lines", "move/machine", "move/sight", "move/word"),
    "incidents/test_incidents.py": ("cli/anonymise", "cli/gather"),
    "kernel/test_bad_input.py": ("cli/detach",),
    "kernel/test_skipped.py": ("probe/misses",),
    "kernel/test_upgrade.py": ("probe/pins",),
    "libvirt/test_migrate.py": ("cli/libvirt",),
    "move/test_verbs.py": (
        "agent/moves",
        "cli/carrying",
        "cli/check",
        "cli/finish",
        "cli/load",
        "cli/moves",
        "cli/prepare",
        "cli/release",
        "cli/rollback",
        "cli/save",
    ),
    "proxy/differential.py": ("prhelper/upstream",),
    "unit/agent/test_watch.py": ("agent/aside",),
    "unit/api/test_hostile.py": ("api/room",),
    "unit/api/test_jobs.py": ("api/interface", "api/moving"),
    "unit/api/test_storm.py": ("api/queries", "api/recent"),
    "unit/cli/test_doctor.py": ("cli/checks",),
    "unit/cli/test_replay.py": ("cli/rebuild", "state/fold"),
    "unit/explain/test_causes.py": ("cli/explain", "cli/ports", "cli/record"),
    "unit/explain/test_chart.py": ("explain/perfetto",),
    "unit/explain/test_page.py": ("cli/report",),
    "unit/libvirt/test_plugin.py": ("libvirt/server",),
    "unit/move/test_knowledge.py": ("cli/knowledge",),
    "unit/paste/test_iscsi.py": ("paste/tshark",),
    "unit/paste/test_reader.py": ("paste/seen",),
    "unit/prhelper/test_broker.py": ("prhelper/execution", "prhelper/thread"),
}
ELSEWHERE = {module: file for file, modules in TESTED_BY.items() for module in modules}


def modules() -> list[str]:
    """The "room/module" of every module that has code of its own."""
    found = (path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py"))
    return sorted(str(each) for each in found if each.name != "__init__")


def own(module: str) -> Path:
    """The test file of a module's name; a name that Python keeps has a "_" more."""
    room, _, name = module.rpartition("/")
    return TESTS / "unit" / room / f"test_{name.rstrip('_')}.py"


@cache
def imported(path: Path) -> frozenset[str]:
    """The modules of prtrace that a file imports, as "room/module"."""
    parts = [name.split(".") for name in imports(path) if name.startswith("prtrace.")]
    return frozenset("/".join(each[1:3]) for each in parts) | frozenset(each[1] for each in parts)


def reached(test: Path) -> set[str]:
    """The modules that a test imports, with its helpers and by way of other modules."""
    helpers = (path for path in test.parent.glob("*.py") if not path.name.startswith("test_"))
    waiting = [test, *helpers]
    found: set[str] = set()
    while waiting:
        for name in imported(waiting.pop()):
            path = PACKAGE / f"{name}.py"
            if name not in found and path.exists():
                found.add(name)
                waiting.append(path)
                if name == "cli/main":  # imports a command's module when the command is wanted
                    waiting += (PACKAGE / "cli").glob("*.py")
    return found


def file_of(module: str) -> Path:
    """The file that tests a module which has none of its name."""
    room = module.rpartition("/")[0]
    named = ELSEWHERE.get(module) or ROOMS.get(room)
    assert named is not None, f"write {own(module)}, or say in TESTED_BY what tests {module}"
    return TESTS / named


def test_a_module_has_tests() -> None:
    for module in modules():
        if own(module).exists():
            assert module not in ELSEWHERE, f"{module} has a file of its name"
            continue
        file = file_of(module)
        assert file.exists()
        # What runs in a machine, or as a command, is another process.
        if file.is_relative_to(TESTS / "unit") and not module.startswith(("cli/", "__main__")):
            assert module in reached(file), f"{file} does not come to {module}"


def test_the_tables_have_no_stale_rows() -> None:
    here = modules()
    assert set(ELSEWHERE) <= set(here)
    assert set(ROOMS) <= {module.rpartition("/")[0] for module in here}
    for module, file in ELSEWHERE.items():
        assert file != ROOMS.get(module.rpartition("/")[0]), f"{module} needs no row"
