"""Tests mirror the code: a module's tests are in the file of its name, or the table says where.

prtrace/state/decode.py has tests/unit/state/test_decode.py.  What only a kernel shows is tested
in a machine, and what a module does for another one with that one: ELSEWHERE names the file.
"""

from __future__ import annotations

from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
PACKAGE = TOP / "prtrace"
TESTS = TOP / "tests"

ELSEWHERE = {
    "__main__": "unit/cli/test_main.py",
    "cli/anonymise": "incidents/test_incidents.py",
    "cli/gather": "incidents/test_incidents.py",
    "agent/child": "agent/test_taken_over.py",
    "agent/keeper": "agent/test_taken_over.py",
    "agent/aside": "unit/agent/test_watch.py",
    "agent/idle": "unit/agent/test_watch.py",
    "agent/answers": "kernel/test_attach.py",
    "agent/counters": "kernel/test_ring.py",
    "agent/options": "unit/cli/test_main.py",
    "agent/service": "kernel/test_restart.py",
    "agent/surroundings": "kernel/test_foreign.py",
    "agent/tracker": "kernel/test_truth.py",
    "agent/watch": "kernel/test_restart.py",
    "api/moving": "unit/api/test_jobs.py",
    "api/queries": "unit/api/test_storm.py",
    "api/recent": "unit/api/test_storm.py",
    "api/turns": "unit/api/test_storm.py",
    "api/address": "unit/api/test_server.py",
    "api/calls": "unit/api/test_server.py",
    "api/client": "unit/api/test_server.py",
    "api/connection": "unit/api/test_hostile.py",
    "api/interface": "unit/api/test_jobs.py",
    "api/source": "unit/api/test_server.py",
    "api/stream": "unit/api/test_server.py",
    "cli/agent": "unit/cli/test_main.py",
    "cli/carrying": "move/test_verbs.py",
    "cli/check": "move/test_verbs.py",
    "cli/checks": "unit/cli/test_main.py",
    "cli/detach": "kernel/test_bad_input.py",
    "cli/doctor": "unit/cli/test_main.py",
    "cli/explain": "unit/explain/test_causes.py",
    "cli/given": "unit/explain/test_causes.py",
    "cli/report": "unit/explain/test_page.py",
    "cli/finish": "move/test_verbs.py",
    "cli/import_": "unit/paste/test_logs.py",
    "cli/knowledge": "unit/move/test_knowledge.py",
    "cli/libvirt": "libvirt/test_migrate.py",
    "cli/load": "move/test_verbs.py",
    "cli/moves": "move/test_verbs.py",
    "cli/output": "unit/cli/test_metrics.py",
    "cli/ports": "unit/explain/test_causes.py",
    "cli/prepare": "move/test_verbs.py",
    "cli/proxy": "unit/cli/test_main.py",
    "cli/rebuild": "unit/cli/test_replay.py",
    "cli/record": "unit/explain/test_causes.py",
    "cli/release": "move/test_verbs.py",
    "cli/rollback": "move/test_verbs.py",
    "cli/save": "move/test_verbs.py",
    "cli/unit": "unit/cli/test_show.py",
    "errors": "unit/cli/test_main.py",
    "explain/account": "unit/explain/test_causes.py",
    "explain/elsewhere": "unit/explain/test_causes.py",
    "explain/links": "unit/explain/test_causes.py",
    "explain/moved": "unit/explain/test_causes.py",
    "explain/perfetto": "unit/explain/test_chart.py",
    "explain/incident": "unit/explain/test_causes.py",
    "explain/remedies": "unit/explain/test_causes.py",
    "explain/timeline": "unit/explain/test_causes.py",
    "libvirt/hypervisor": "libvirt/test_migrate.py",
    "libvirt/server": "unit/libvirt/test_plugin.py",
    "model": "unit/state/test_effects.py",
    "move/carry": "move/test_verbs.py",
    "move/device": "move/test_verbs.py",
    "move/facts": "unit/move/test_verdict.py",
    "move/lines": "explore/test_exploration.py",
    "move/machine": "explore/test_exploration.py",
    "move/multipathd": "move/test_verbs.py",
    "move/parallel": "move/test_verbs.py",
    "move/saving": "move/test_verbs.py",
    "agent/moves": "move/test_verbs.py",
    "move/side": "unit/move/test_knowledge.py",
    "move/sight": "explore/test_exploration.py",
    "move/verbs": "move/test_verbs.py",
    "move/word": "explore/test_exploration.py",
    "paste/kernel": "unit/paste/test_logs.py",
    "paste/lio": "unit/paste/test_logs.py",
    "paste/multipath": "unit/paste/test_logs.py",
    "paste/qemu": "unit/paste/test_logs.py",
    "paste/reader": "unit/paste/test_logs.py",
    "paste/seen": "unit/paste/test_logs.py",
    "paste/sense_words": "unit/paste/test_sg_utils.py",
    "paste/shown": "unit/paste/test_logs.py",
    "paste/vmkernel": "unit/paste/test_logs.py",
    "prhelper/execution": "unit/prhelper/test_broker.py",
    "prhelper/multipath_execution": "proxy/test_failed_paths.py",
    "prhelper/run": "proxy/test_sandbox.py",
    "prhelper/thread": "unit/prhelper/test_broker.py",
    "prhelper/upstream": "proxy/differential.py",
    "probe/attach": "kernel/test_attach.py",
    "probe/bcc": "kernel/test_attach.py",
    "probe/core": "kernel/test_attach.py",
    "probe/btf": "kernel/test_attach.py",
    "probe/kallsyms": "kernel/test_attach.py",
    "probe/libbpf": "kernel/test_attach.py",
    "probe/misses": "kernel/test_skipped.py",
    "probe/pins": "kernel/test_upgrade.py",
    "probe/programs": "kernel/test_attach.py",
    "probe/selftest": "kernel/test_attach.py",
    "probe/targets": "kernel/test_attach.py",
    "state/apply": "unit/state/test_effects.py",
    "state/binding": "unit/state/test_learning.py",
    "state/codec": "unit/state/test_any_sequence.py",
    "state/doubt": "unit/state/test_any_sequence.py",
    "state/draft": "unit/state/test_any_sequence.py",
    "state/evidence": "unit/state/test_against_reference.py",
    "state/expecting": "unit/state/test_signs.py",
    "state/fold": "unit/state/test_against_reference.py",
    "state/order": "unit/state/test_overlap.py",
    "state/preempting": "unit/state/test_effects.py",
    "state/registering": "unit/state/test_effects.py",
    "state/reserving": "unit/state/test_effects.py",
    "state/unit": "unit/state/test_effects.py",
}


def modules() -> list[str]:
    """The "room/module" of every module that has code of its own."""
    found = (path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py"))
    return sorted(str(each) for each in found if each.name != "__init__")


def own(module: str) -> Path:
    """The test file of a module's name."""
    room, _, name = module.rpartition("/")
    return TESTS / "unit" / room / f"test_{name}.py"


@pytest.mark.parametrize("module", modules())
def test_a_module_has_tests(module: str) -> None:
    named = TESTS / ELSEWHERE[module] if module in ELSEWHERE else own(module)
    assert named.exists(), f"write {own(module)}, or say in ELSEWHERE what tests {module}"
