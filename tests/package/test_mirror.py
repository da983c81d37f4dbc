"""Tests mirror the code: a module's tests are in the file of its name, or the table says where.

prtrace/state/decode.py has tests/unit/state/test_decode.py.  The table has the modules without
such a file, by the file that tests them: what only a kernel or a guest shows is tested in a
machine, and a part that one module alone uses is tested by what that module does.
"""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
PACKAGE = TOP / "prtrace"
TESTS = TOP / "tests"

TESTED_BY = {
    # In machines.
    "agent/test_taken_over.py": ("agent/keeper",),
    "incidents/test_incidents.py": ("cli/anonymise", "cli/gather"),
    "kernel/test_attach.py": (
        "agent/answers",
        "probe/attach",
        "probe/bcc",
        "probe/btf",
        "probe/core",
        "probe/kallsyms",
        "probe/libbpf",
        "probe/programs",
        "probe/selftest",
        "probe/targets",
    ),
    "kernel/test_bad_input.py": ("cli/detach",),
    "kernel/test_foreign.py": ("agent/surroundings",),
    "kernel/test_restart.py": ("agent/service",),
    "kernel/test_ring.py": ("agent/counters",),
    "kernel/test_skipped.py": ("probe/misses",),
    "kernel/test_truth.py": ("agent/tracker",),
    "kernel/test_upgrade.py": ("probe/pins",),
    "libvirt/test_migrate.py": ("cli/libvirt", "libvirt/hypervisor"),
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
        "move/carry",
        "move/device",
        "move/multipathd",
        "move/parallel",
        "move/saving",
        "move/verbs",
    ),
    "proxy/differential.py": ("prhelper/upstream",),
    "proxy/test_failed_paths.py": ("prhelper/multipath_execution",),
    "proxy/test_sandbox.py": ("prhelper/run",),
    # Explored: every order of every step.
    "explore/test_exploration.py": ("move/lines", "move/machine", "move/sight", "move/word"),
    # By what a command prints and how it ends.
    "unit/cli/test_main.py": ("__main__", "agent/options", "cli/agent", "cli/proxy", "errors"),
    "unit/cli/test_doctor.py": ("cli/checks",),
    "unit/cli/test_metrics.py": ("cli/output",),
    "unit/cli/test_replay.py": ("cli/rebuild", "state/fold"),
    "unit/cli/test_show.py": ("cli/unit",),
    "unit/explain/test_causes.py": (
        "cli/explain",
        "cli/given",
        "cli/ports",
        "cli/record",
        "explain/account",
        "explain/elsewhere",
        "explain/incident",
        "explain/links",
        "explain/moved",
        "explain/remedies",
        "explain/timeline",
    ),
    "unit/explain/test_page.py": ("cli/report",),
    "unit/move/test_knowledge.py": ("cli/knowledge", "move/side"),
    # Parts of another module.
    "unit/agent/test_watch.py": ("agent/aside",),
    "unit/api/test_jobs.py": ("api/interface", "api/moving"),
    "unit/api/test_server.py": (
        "api/address",
        "api/calls",
        "api/client",
        "api/source",
        "api/stream",
    ),
    "unit/api/test_storm.py": ("api/queries", "api/recent", "api/turns"),
    "unit/explain/test_chart.py": ("explain/perfetto",),
    "unit/libvirt/test_plugin.py": ("libvirt/server",),
    "unit/move/test_verdict.py": ("move/facts",),
    "unit/paste/test_reader.py": ("paste/seen",),
    "unit/prhelper/test_broker.py": ("prhelper/execution", "prhelper/thread"),
    "unit/state/test_against_reference.py": ("state/evidence",),
    "unit/state/test_any_sequence.py": ("state/doubt", "state/draft"),
    "unit/state/test_effects.py": (
        "model",
        "state/apply",
        "state/preempting",
        "state/registering",
        "state/reserving",
        "state/unit",
    ),
    "unit/state/test_signs.py": ("state/expecting",),
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
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    parts = (name.split(".") for name in names if name.startswith("prtrace."))
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


@pytest.mark.parametrize("module", modules())
def test_a_module_has_tests(module: str) -> None:
    named = TESTS / ELSEWHERE[module] if module in ELSEWHERE else own(module)
    assert named.exists(), f"write {own(module)}, or say in TESTED_BY what tests {module}"


@pytest.mark.parametrize("module", sorted(ELSEWHERE))
def test_the_table_is_short_and_true(module: str) -> None:
    assert module in modules(), "there is no such module"
    assert not own(module).exists(), f"{module} has a file of its name"
    file = ELSEWHERE[module]
    # What runs in a machine, or as a command, is another process.
    if file.startswith("unit/") and not module.startswith(("cli/", "__main__")):
        assert module in reached(TESTS / file), f"{file} does not come to {module}"


def test_a_module_is_in_the_table_once() -> None:
    rows = Counter(module for modules in TESTED_BY.values() for module in modules)
    assert not [module for module, count in rows.items() if count > 1]
