"""In the machine: what a start of the agent costs.

python3 -m benchkit.in_start ENGINE…: prints a JSON object, what was started -> figures.
"""

from __future__ import annotations

import json
import subprocess
import sys

from benchkit.agent import Agent, cpu_ns, memory

_REPEATS = {"core": 3, "bcc": 1}


def _agent(engine: str) -> dict[str, int]:
    with Agent("--engine", engine) as agent:
        agent.await_ready()
        attached = cpu_ns(agent.pid)
        agent.await_self_test()
        return {"attached": attached, "tested": cpu_ns(agent.pid), **memory(agent.pid)}


def _python(program: str) -> dict[str, int]:
    """An interpreter that has run program and waits."""
    script = f"{program}\nimport sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        return {"tested": cpu_ns(process.pid), **memory(process.pid)}


found = {
    "bare Python with ctypes": [_python("import ctypes") for _ in range(3)],
    "the agent's imports": [_python("import prtrace.cli.agent, prtrace.agent.service")],
}
for name in sys.argv[1:]:
    found[name] = [_agent(name) for _ in range(_REPEATS[name])]
json.dump(found, sys.stdout)
