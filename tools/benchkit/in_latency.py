"""In the machine: from a command's completion to the follower that has read its event.

Sends a PR OUT, waits until a follower of io.prtrace.Events has parsed its event, and again.
Prints a JSON object: nanoseconds of each round trip, from done_ns to parsed, and of the agent's
and the follower's processor time for each event.
"""

from __future__ import annotations

import json
import os
import sys
import time

from labkit.target import Target

from benchkit.agent import Agent, cpu_ns
from prtrace.api.client import Client
from prtrace.linux.sgio import SgDevice
from prtrace.model import Action
from prtrace.scsi.cdb import PrOutCdb
from prtrace.scsi.parameter import BasicList

_WARM = 50
_COMMANDS = 500


def main() -> None:
    node = Target.load(os.environ["LAB_TARGET"]).units[0].paths[0].sg
    cdb = PrOutCdb(Action.REGISTER_AND_IGNORE).build()
    trips, visible, following = [], [], []
    with Agent("--engine", "core") as agent, SgDevice(node) as device:
        agent.await_ready()
        agent.await_self_test()
        last = agent.status()["counters"]["consumed"]
        stream = Client(agent.socket).stream(
            "Events", patient=True, devices=[], follow=True, since_seq=last
        )
        used = cpu_ns(agent.pid)
        for number in range(_WARM + _COMMANDS):
            sent = BasicList(0, number + 1).build()
            begun = time.monotonic_ns()
            device.send(cdb, sent, 10_000)
            trips.append(time.monotonic_ns() - begun)
            key = f"0x{number + 1:016x}"
            seen = 0
            followed = time.thread_time_ns()
            while not seen:
                for event in next(stream).get("events", ()):
                    if event["sa_key"] == key:
                        seen = event["done_ns"]
            visible.append(time.monotonic_ns() - seen)
            following.append(time.thread_time_ns() - followed)
        used = (cpu_ns(agent.pid) - used) // (_WARM + _COMMANDS)
    found = {
        "trips": trips[_WARM:],
        "visible": visible[_WARM:],
        "agent": used,
        "follower": sum(following[_WARM:]) // _COMMANDS,
    }
    json.dump(found, sys.stdout)


main()
