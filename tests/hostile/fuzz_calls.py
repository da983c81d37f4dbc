"""Random messages into the pure code of the socket: each is a call, or a clean refusal.

    python3 tests/hostile/fuzz_calls.py [--executions N] [--seconds S] [--seed N]

An execution is one message from its bytes to the call that it makes, for root and for nobody, with
what is made of its parameters before anybody is asked: the time and bounds of a query, the save
file of a move.  What refuses it has to be a reply that any client reads.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import resource
import sys
import time
from typing import Any, assert_never

from prtrace.api import idl
from prtrace.api.calls import Call, Calls, Refusal, refusal
from prtrace.api.client import Client
from prtrace.api.interface import definitions
from prtrace.api.rights import Right
from prtrace.api.server import events_query
from prtrace.errors import PrtraceError
from prtrace.linux.peer import Peer
from prtrace.model import ReservationType
from prtrace.move import savefile
from prtrace.move.savefile import SavedPath, SavedUnit, SaveFile

BATCH = 10_000
ROOT, NOBODY = Peer(1, 0, 0), Peer(2, 65534, 65534)
CALLS = Calls()
CLIENT = Client("the socket")
METHODS = tuple(
    f"{interface}.{method}" for interface, each in definitions().items() for method in each.methods
)
PARAMETERS = tuple(
    {name for each in definitions().values() for made in each.methods.values()
     for name in made.takes.fields}
)  # fmt: skip
PATH = SavedPath("2:0:0:1", "/dev/sda", "naa.5", 1, True)
UNIT = SavedUnit(
    "naa.1",
    "/dev/sda",
    "LIO",
    0xA,
    ReservationType.WERO,
    True,
    7,
    "read",
    (PATH,),
    (("naa.6,1", 0xB),),
    ("naa.7,1",),
)
FILE = SaveFile("0" * 32, 1, 10**18, "here", "vm", (UNIT,)).to_json()
ATOMS: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**400, 0.5, float("inf"),
    float("nan"), "", "/dev/sda", "naa.1", "\0", "\ud800", "a" * 300, "/dev/" + "../" * 50,
    "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "2026-02-30T00:00:00Z",
    "prtrace.save/2", {}, [],
)  # fmt: skip


def value(r: random.Random, depth: int = 0) -> Any:
    kind = r.random()
    if kind < 0.6 or depth > 3:
        return r.choice(ATOMS)
    if kind < 0.8:
        return [value(r, depth + 1) for _ in range(r.randrange(4))]
    return {r.choice(PARAMETERS): value(r, depth + 1) for _ in range(r.randrange(4))}


def fitting(r: random.Random, kind: idl.Type) -> Any:
    """A value of this type, mostly."""
    if r.random() < 0.05:
        return value(r)
    match kind:
        case idl.Scalar():
            fits = {"bool": (bool,), "int": (int,), "string": (str,)}.get(kind.name, (object,))
            return r.choice([each for each in ATOMS if isinstance(each, fits)])
        case idl.Optional():
            return None if r.random() < 0.3 else fitting(r, kind.of)
        case idl.Array():
            return [fitting(r, kind.of) for _ in range(r.randrange(4))]
        case idl.Dictionary():
            return {"naa.1": fitting(r, kind.of)}
        case idl.Struct():
            return {name: fitting(r, each) for name, each in kind.fields.items()}
        case idl.Choice():
            return r.choice(kind.words)
    assert_never(kind)


def altered(r: random.Random, whole: Any) -> Any:
    """The document with one thing in it replaced, added or left out."""
    if isinstance(whole, dict) and whole and r.random() < 0.85:
        name = r.choice(list(whole))
        if r.random() < 0.1:
            return {each: whole[each] for each in whole if each != name}
        return whole | {name: altered(r, whole[name])}
    if isinstance(whole, list) and whole and r.random() < 0.85:
        place = r.randrange(len(whole))
        return [*whole[:place], altered(r, whole[place]), *whole[place + 1 :]]
    return value(r)


def message(r: random.Random) -> bytes:
    """A call that is nearly right, in nine of ten cases; then perhaps with some bytes changed."""
    method = r.choice(METHODS)
    interface, _, name = method.rpartition(".")
    fields = definitions()[interface].methods[name].takes.fields
    parameters = {each: fitting(r, kind) for each, kind in fields.items() if r.random() < 0.8}
    if "file" in fields and r.random() < 0.9:
        file = altered(r, FILE) if r.random() < 0.8 else FILE
        if isinstance(file, dict):
            # A checksum that fits, so that what stands in the file is looked at.
            file = file | {"checksum": savefile._checksum(file)}
        parameters["file"] = file
    document: dict[str, Any] = {"method": method, "parameters": parameters}
    for flag in ("more", "oneway", "upgrade"):
        if r.random() < (0.5 if flag == "more" else 0.05):
            document[flag] = r.choice((True, True, False, value(r)))
    if r.random() < 0.1:
        document = altered(r, document)
    made = bytearray(json.dumps(document).encode())
    while r.random() < 0.15:
        place = r.randrange(len(made))
        made[place : place + r.choice((0, 1, 1, 5))] = r.choice(
            (b"", r.randbytes(1), b'"', b"[" * 2000, b"{", b"9" * 5000, b"1e999", b"\xed\xa0\x80")
        )
        if not made:
            break
    return bytes(made)


def digested(call: Call) -> bytes:
    """What is made of parameters before anybody is asked; the refusal, or b"" for none."""
    try:
        if call.method.endswith(".Events"):
            events_query(call, None)
        elif call.method.startswith("org.varlink"):
            CALLS.describe(call)
        elif isinstance(file := call.parameters.get("file"), dict):
            savefile.from_document(file).to_document()
    except Refusal as refused:
        return refused.reply
    except PrtraceError as error:
        return refusal(error).reply
    return b""


def execute(made: bytes) -> int:
    """One message for two callers; how many of them may make the call that it is."""
    good = 0
    for peer in (ROOT, NOBODY):
        try:
            call = CALLS.parse(made, peer)
        except Refusal as refused:
            reply = refused.reply
        else:
            if peer is NOBODY and call.peer_may is not Right.READ:
                raise AssertionError(made)
            good += 1
            reply = digested(call)
        if reply:
            if reply.count(b"\0") != 1 or not reply.endswith(b"\0"):
                raise AssertionError(reply)
            if "error" not in json.loads(reply[:-1]):
                raise AssertionError(reply)
    with contextlib.suppress(PrtraceError):
        # A client is to bear the same bytes as a reply.
        CLIENT._parse(made)
    return good


def resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--executions", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    r = random.Random(asked.seed)
    done = calls = memory = 0
    start = time.monotonic()
    while done < asked.executions and time.monotonic() - start < asked.seconds:
        for _ in range(BATCH):
            made = message(r)
            try:
                calls += execute(made)
            except Exception:
                print(f"this message ended it: {made!r}", flush=True)
                raise
        done += BATCH
        if done == 2 * BATCH:
            memory = resident()
    taken = time.monotonic() - start
    print(f"{done} executions, {calls} calls, {taken:.0f} s, memory {memory} -> {resident()} KiB")
    return 0 if resident() <= memory * 1.05 or not memory else 1


if __name__ == "__main__":
    sys.exit(main())
