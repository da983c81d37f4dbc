"""One process of the benchmark explain: makes a store, or asks one and prints its CPU seconds."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from prtrace.cli.explain import EVENTS, account_lines
from prtrace.cli.history import rebuilt_unit
from prtrace.explain.account import account
from prtrace.explain.recording import Recording
from prtrace.explain.timeline import timeline
from prtrace.model import Issuer, LocalNexus
from prtrace.state.event import Command, Event
from prtrace.store.database import Store

_LU = "naa.6001405000000001"
_PATHS = tuple(
    LocalNexus(
        f"{number}:0:0:0",
        _LU,
        device=f"/dev/sd{'ab'[number]}",
        initiator_port=f"naa.{number:016x}",
        relative_target_port=1,
    )
    for number in range(2)
)
_BATCH = 5_000


def main() -> None:
    what, path, *rest = sys.argv[1:]
    if what == "make":
        _make(Path(path), int(rest[0]))
    else:
        begun = time.process_time()
        _ask(Path(path))
        print(time.process_time() - begun)


def _make(path: Path, wanted: int) -> None:
    path.mkdir()
    events = _events(wanted)
    with Store.open(path / "prtrace.db", keep_events=wanted, keep_bytes=1 << 40) as store:
        while batch := list(islice(events, _BATCH)):
            store.commit("e", batch)


def _events(wanted: int) -> Iterator[Event]:
    """A unit as two guests use it: registrations come and go, and one path is shut out."""
    yield _event(1, command=Command.PATHS, paths=_PATHS)
    kinds = ("5f06", "5f01", "2a", "2a", "2a", "5f02", "5f06", "2a")
    for record in range(2, wanted + 1):
        kind = kinds[record % len(kinds)]
        key = (record & 0xFFFF).to_bytes(8, "big")
        path = _PATHS[kind == "2a"]
        place = {"nexus": path.nexus, "device": path.device, "issuer": Issuer(100, "qemu")}
        if kind == "2a":
            cdb = bytes.fromhex(f"2a00{record:08x}00000800")
            yield _event(
                record, command=Command.CONFLICT, status="RESERVATION CONFLICT", cdb=cdb, **place
            )
        else:
            held = bytes(8) + key if kind == "5f06" else key + bytes(8)
            cdb = bytes.fromhex(f"{kind}05000000000018") + b"\0"
            yield _event(
                record,
                command=Command.PR_OUT,
                status="GOOD",
                cdb=cdb.ljust(10, b"\0"),
                data=held + bytes(8),
                head=held + bytes(8),
                **place,
            )


def _event(record: int, **fields: object) -> Event:
    return Event(
        epoch="e",
        record=record,
        time=1_790_000_000_000_000_000 + record * 1_000_000,
        start_ns=record * 1000,
        done_ns=record * 1000 + 500,
        lu=_LU,
        target="LIO-ORG/disk/4.0",
        **fields,  # type: ignore[arg-type]
    )


def _ask(path: Path) -> None:
    with Store.open(path / "prtrace.db", readonly=True) as store:
        stored = store.events(lus=[_LU], last=EVENTS)
        answer = json.dumps([event.to_json() for event in stored])
    recording = Recording("", tuple(Event.from_json(each) for each in json.loads(answer)))
    told = account(rebuilt_unit(recording, _LU), [("", timeline(recording.events, _LU))])
    for _ in account_lines(told):
        pass


if __name__ == "__main__":
    main()
