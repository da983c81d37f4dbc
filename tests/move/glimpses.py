"""What this host's agent says from before a command until it knows what came of it.

glimpses.py COMMAND: run COMMAND, ask the agent all the time, and print each answer that differs
from the one before: the unit as in prtrace.show/1, as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

from prtrace.api.address import SOCKET
from prtrace.api.client import Client

QUIET_S = 2.0
LONGEST_S = 90.0


def main(command: str) -> None:
    """Ask until the command has ended and the answer is certain, and the same for a while."""
    client = Client(SOCKET)
    process: subprocess.Popen[bytes] | None = None
    last: object = None
    changed = time.monotonic()
    end = changed + LONGEST_S
    while True:
        (unit,) = client.call("Show", devices=[])["units"]
        now = time.monotonic()
        if unit != last:
            print(json.dumps(unit), flush=True)
            last, changed = unit, now
        if process is None:
            process = subprocess.Popen(command, shell=True, stdout=sys.stderr)
        elif process.poll() is None:
            changed = now
        elif not unit["doubt"] and now - changed > QUIET_S:
            return
        assert now < end, f"{command}: not at rest after {LONGEST_S} s"


if __name__ == "__main__":
    main(sys.argv[1])
