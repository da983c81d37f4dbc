"""Random bytes and descriptors into the protocol's pure code: no crash, no hang, memory flat.

    python3 tests/proxy/fuzz.py [--executions N] [--seconds S] [--seed N]

An execution is one session from its greeting to the error, or to the end of the bytes, with all
that is done to a request on its way (policy, mask, reply), and the client's end on the same bytes.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import time

from prtrace.errors import MalformedError
from prtrace.prhelper.policy import hidden, masked, refusal
from prtrace.prhelper.protocol import ClientSession, Request, Response, ServerSession

BATCH = 10_000
HEADS = tuple(bytes((opcode, action)) for opcode in (0x5E, 0x5F, 0xFF) for action in range(10))


def execute(r: random.Random, pool: bytes) -> int:
    """One session; how many requests it gave."""
    session, requests = ServerSession(r.getrandbits(1)), 0
    start = r.randrange(len(pool) - 400)
    data = pool[start : start + r.randrange(1, 120)]
    kind = r.random()
    if kind < 0.8:
        # Past the greeting, with an operation code that is let in.
        length = r.choice((0, 1, 24, 24, 25, 100, 8192, 8193, 0xFFFF))
        data = bytes(4) + r.choice(HEADS) + data[:5] + length.to_bytes(2, "big") + data[5:]
    try:
        while data and session.wanted:
            size = r.randrange(1, session.wanted + 1) if kind < 0.3 else session.wanted
            request = session.feed(
                data[:size],
                r.choice((0, 1, 1, 1, 2)) if kind < 0.1 else int(not requests or session.idle),
            )
            data = data[size:]
            if request is not None:
                requests += 1
                _answer(session, request, data)
    except MalformedError:
        pass
    return requests


def _answer(session: ServerSession, request: Request, data: bytes) -> None:
    answer = (
        refusal(request)
        or hidden(request)
        or Response(data[0] & 0x1A if data else 0, data[:20], data)
    )
    raw = session.reply(masked(request, answer))
    if len(raw) > 104 + request.allocation_length:
        raise AssertionError(f"{len(raw)} bytes for {request}")
    client = ClientSession()
    client.feed(raw[:4])
    client.send(request)
    try:
        while raw and client.wanted:
            size = client.wanted
            client.feed(raw[:size])
            raw = raw[size:]
    except MalformedError:
        raise AssertionError(f"a reply that no client takes to {request}") from None
    client = ClientSession()
    client.feed(bytes(4))
    client.send(request)
    try:
        while data and client.wanted:
            size = client.wanted
            client.feed(data[:size])
            data = data[size:]
    except MalformedError:
        return


def resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--executions", type=int, default=10_000_000)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    r = random.Random(asked.seed)
    done = requests = memory = 0
    slowest = 0.0
    start = time.monotonic()
    while done < asked.executions and time.monotonic() - start < asked.seconds:
        pool = r.randbytes(1 << 16)
        begin = time.monotonic()
        for _ in range(BATCH):
            requests += execute(r, pool)
        slowest = max(slowest, time.monotonic() - begin)
        done += BATCH
        if done == 10 * BATCH:
            memory = resident()
    taken = time.monotonic() - start
    print(f"{done} executions, {requests} requests, {taken:.0f} s, slowest batch {slowest:.2f} s, "
          f"memory {memory} -> {resident()} KiB")  # fmt: skip
    return 0 if resident() <= memory * 1.05 or not memory else 1


if __name__ == "__main__":
    sys.exit(main())
