"""In the machine: what an agent does that has nothing to do.  Prints a JSON object."""

from __future__ import annotations

import json
import sys
import time

from benchkit.agent import Agent, context_switches, cpu_ns

_SECONDS = 60

with Agent("--engine", "core") as agent:
    agent.await_ready()
    agent.await_self_test()
    time.sleep(5)
    begun, cpu, woken = time.monotonic(), cpu_ns(agent.pid), context_switches(agent.pid)
    time.sleep(_SECONDS)
    lasted = time.monotonic() - begun
    json.dump(
        {
            "cpu": (cpu_ns(agent.pid) - cpu) / lasted,
            "woken": (context_switches(agent.pid) - woken) / lasted,
        },
        sys.stdout,
    )
