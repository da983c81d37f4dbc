"""In a machine with systemd: the agent as a service, 104 bad clients, and what it does meanwhile.

    python3 tests/agent/in_siege.py SECONDS COMMANDS

Prints its figures as JSON in the last line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prtrace.api.client import Client
from prtrace.linux.sgio import SgDevice
from prtrace.model import Action
from prtrace.scsi.cdb import PrOutCdb
from prtrace.scsi.parameter import BasicList

SOCKET = "/run/prtrace/io.prtrace"
CLIENTS = Path(__file__).parents[1] / "hostile/agent_clients.py"
KINDS = ("history", "followers", "garbage", "names", "floods", "half")
PROCESSES, EACH = 13, 8
LONGEST_S = 24 * 3600.0
"""Of the clients, which are killed when the siege is over."""
PATIENCE_S = 60.0
"""What the mover itself gives the agent.  What a move takes is imported when one is asked for the
first time, which takes this machine's processor 20 s beside so many clients."""
FIRST_UID = 3000
KEY = 0xA1
CGROUP = Path("/sys/fs/cgroup/system.slice/prtrace-agent.service")


@contextmanager
def siege(seconds: float) -> Iterator[None]:
    """Each process of another user, who has nothing to do with prtrace."""
    running = [
        subprocess.Popen(
            [sys.executable, CLIENTS, KINDS[number % len(KINDS)], SOCKET,
             "--connections", str(EACH), "--seconds", str(seconds)],
            user=FIRST_UID + number, group=FIRST_UID + number, extra_groups=[],
            stdout=subprocess.PIPE,
        )
        for number in range(PROCESSES)
    ]  # fmt: skip
    try:
        yield
        for each in running:
            assert each.poll() is None, "a bad client has ended"
    finally:
        for each in running:
            each.kill()
            each.communicate()


class Asking(threading.Thread):
    """Root, who asks for the status all the time."""

    def __init__(self) -> None:
        # Where the siege fails nobody stops it.
        super().__init__(daemon=True)
        self.stop = threading.Event()
        self.took: list[float] = []

    def run(self) -> None:
        while not self.stop.wait(0.2):
            begun = time.monotonic()
            Client(SOCKET, timeout=PATIENCE_S).call("Status")
            self.took.append(time.monotonic() - begun)

    def percentile(self, share: float) -> float:
        """Seconds within which this share of the statuses came."""
        took = sorted(self.took)
        return took[min(len(took) - 1, int(len(took) * share))]

    def shown(self) -> str:
        """How long they took until now."""
        if not self.took:
            return "no status came yet"
        shares = (0.5, 0.99, 1)
        half, most, longest = (f"{self.percentile(share):.2f}" for share in shares)
        return f"{len(self.took)} statuses, p50 {half} s, p99 {most} s, longest {longest} s"


def send(devices: list[SgDevice], count: int, end: float, asking: Asking) -> int:
    """PR OUT at the pace that ends with the siege, or as fast as the machine lets them through."""
    told = time.monotonic()
    good = number = 0
    cdb = PrOutCdb(Action.REGISTER_AND_IGNORE).build()
    pause = max(0.0, (end - time.monotonic()) / count - 0.01)
    while good < count:
        key = KEY + number % 2
        parameter = BasicList(0, key, aptpl=False).build()
        reply = devices[number % len(devices)].send(cdb, parameter)
        good += reply.status == 0
        number += 1
        if time.monotonic() > told + 60:
            told = time.monotonic()
            say(f"{good} commands were sent; {asking.shown()}")
        time.sleep(pause)
    return good


def carry(method: str, file: dict[str, Any], **given: Any) -> dict[str, Any]:
    report: dict[str, Any] = [*Client(SOCKET).stream(method, file=file, **given)][-1]["report"]
    return report


def moved(source: str, destination: str) -> dict[str, str]:
    """A registration from one path to the other, by the service; the words of the verbs."""
    client = Client(SOCKET, timeout=PATIENCE_S)
    client.call("Refresh", devices=[source], max_age=0)
    file = client.call("Save", devices=[source])["file"]
    mapping = {"devices": {file["units"][0]["lu"]: destination}}
    prepared = carry("Prepare", file, **mapping)
    loaded = carry("Load", file)
    finished = client.call("Finish", file=file)["report"]
    reports = {"Prepare": prepared, "Load": loaded, "Finish": finished}
    return {verb: each["units"][0]["result"] for verb, each in reports.items()}


def register(device: SgDevice, key: int) -> None:
    cdb = PrOutCdb(Action.REGISTER_AND_IGNORE).build()
    while device.send(cdb, BasicList(0, key, aptpl=False).build()).status:
        pass


def recorded(since: int) -> int:
    """How many PR OUT of this process the history has, with GOOD."""
    found = 0
    for reply in Client(SOCKET).stream("Events", since_seq=since):
        found += sum(
            (event["command"], event["status"], event["pid"]) == ("PR OUT", "GOOD", os.getpid())
            for event in reply.get("events", ())
        )
    return found


def newest() -> int:
    last = 0
    for reply in Client(SOCKET).stream("Events", last=1):
        last = max([last, *(event["seq"] for event in reply.get("events", ()))])
    return last


BEGUN = time.monotonic()


def say(what: str) -> None:
    """Progress, for whoever reads why it failed."""
    print(f"{time.monotonic() - BEGUN:.0f} s: {what}", file=sys.stderr, flush=True)


def main() -> None:
    seconds, commands = float(sys.argv[1]), int(sys.argv[2])
    nodes = sorted(f"/dev/{path.name}" for path in Path("/sys/block").glob("sd*"))[:2]
    devices = [SgDevice(node) for node in nodes]
    before = newest()
    asking = Asking()
    end = time.monotonic() + seconds
    with siege(LONGEST_S):
        # Who sends and asks is no part of the siege: what is measured is the agent, not how long
        # this process waits until the clients have had their share of the machine's processor.
        os.nice(-15)
        asking.start()
        time.sleep(2)
        say("the clients do their worst")
        sent = send(devices, commands, end, asking)
        # One registration, and nothing reserved: what a move can carry.
        register(devices[1], 0)
        register(devices[0], KEY)
        sent += 2
        say(f"{sent} commands were sent; {asking.shown()}")
        words = moved(*nodes)
        say(f"moved: {words}")
        while time.monotonic() < end:
            time.sleep(0.5)
        asking.stop.set()
        asking.join()
    say("the clients are gone")
    status = Client(SOCKET, timeout=PATIENCE_S).call("Status")["status"]
    say("asked for the status alone")
    figures = {
        "sent": sent,
        "recorded": recorded(before),
        "lost": status["loss"],
        "move": words,
        "statuses": len(asking.took),
        "status_p50_s": round(asking.percentile(0.5), 3),
        "status_p99_s": round(asking.percentile(0.99), 3),
        "status_max_s": round(asking.percentile(1), 3),
        "memory_peak": int((CGROUP / "memory.peak").read_text()),
        "memory_now": status["memory_bytes"],
        "memory_max": int((CGROUP / "memory.max").read_text()),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
