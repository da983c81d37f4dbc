"""./tools/bench: figures of prtrace, each against a floor or peer measured in the same run."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time

_ALL = ("overhead", "start", "throughput", "latency", "scale", "idle", "pause", "forms", "explain")


def main() -> int:
    """Run what the command line names; the exit status."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("name", nargs="*", metavar="NAME", help=", ".join(_ALL))
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    asked = parser.parse_args()
    for name in asked.name or _ALL:
        begun = time.monotonic()
        for figure in importlib.import_module(f"benchkit.{name}").run():
            if asked.json:
                print(json.dumps({"bench": name, **figure.to_json()}), flush=True)
            else:
                print(figure, flush=True)
        print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr)
    return 0
