"""The same byte streams to qemu-pr-helper and to the proxy: same replies, same closing.

    python3 tests/proxy/differential.py [--streams N] [--seed N] [--upstream]

Without SCSI (any machine) the descriptors are files, pipes and other devices.  In the lab
($LAB_TARGET is set; two logical units) they are disks as well: the helper works on the first
unit, the proxy on the second, and both see the same commands, so that their states go the same
way.  Prints "N streams, N differences"; exits 1 when there is one that DIFFERENCES.md does not
name.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from helpers import proxy, qemu_helper
from streams import Maker, Reply, Stream, Transcript, play

FEATURE_CLEANUP = 1


def open_descriptors(stack: contextlib.ExitStack, folder: Path) -> dict[str, int]:
    """One descriptor of every kind that is no SCSI device."""
    (folder / "file").write_bytes(b"x")
    pipe = os.pipe()
    pair = socket.socketpair()
    stack.callback(pair[0].close)
    stack.callback(pair[1].close)
    found = {
        "null": os.open("/dev/null", os.O_RDWR),
        "null-ro": os.open("/dev/null", os.O_RDONLY),
        "zero-wo": os.open("/dev/zero", os.O_WRONLY),
        "file": os.open(folder / "file", os.O_RDWR),
        "file-ro": os.open(folder / "file", os.O_RDONLY),
        "path": os.open(folder / "file", os.O_PATH),
        "directory": os.open(folder, os.O_RDONLY),
        "pipe-r": pipe[0],
        "pipe-w": pipe[1],
        "memfd": os.memfd_create("x"),
    }
    for fd in found.values():
        stack.callback(os.close, fd)
    return {**found, "socket": pair[0].fileno()}


def open_units(stack: contextlib.ExitStack) -> tuple[dict[str, int], dict[str, int]]:
    """The disks of the lab's two units: for the helper, for the proxy."""
    sides: list[dict[str, int]] = []
    for unit in json.loads(Path(os.environ["LAB_TARGET"]).read_text())["units"][:2]:
        found = {}
        for place, path in enumerate(unit["paths"]):
            for kind in ("block", "sg"):
                found[f"{kind}{place}"] = os.open(path[kind], os.O_RDWR | os.O_NONBLOCK)
        found["block0-ro"] = os.open(unit["paths"][0]["block"], os.O_RDONLY)
        sides.append(found)
        for fd in found.values():
            stack.callback(os.close, fd)
    return sides[0], sides[1]


def expected(theirs: Transcript, stream: Stream) -> Transcript:
    """What the proxy is to say where the helper said theirs: see DIFFERENCES.md."""
    replies = []
    for reply in theirs.replies:
        data = reply.data
        if data[:2] == b"\0\x08" and b"\x5e\x02" in _heads(stream):
            data = data[:2] + bytes(c & ~0x0C for c in data[2:3]) + data[3:]
        replies.append(Reply(reply.status, reply.sense, data))
    greeting = None if theirs.greeting is None else theirs.greeting | FEATURE_CLEANUP
    return Transcript(greeting, tuple(replies), theirs.rest)


def _kinds(theirs: Transcript) -> list[str]:
    words = [
        f"status {reply.status:02x}"
        + (f" {reply.sense[2]:x}/{reply.sense[12]:02x}" if reply.sense else "")
        for reply in theirs.replies
    ]
    return words or ["no reply"]


def _heads(stream: Stream) -> bytes:
    return b"".join(message.data for message in stream)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--streams", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--upstream", action="store_true", help="the proxy before a helper")
    asked = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        common = open_descriptors(stack, folder)
        one, two = open_units(stack) if "LAB_TARGET" in os.environ else ({}, {})
        stack.enter_context(qemu_helper(folder / "helper"))
        options: list[str] = []
        if asked.upstream:
            stack.enter_context(qemu_helper(folder / "upstream"))
            options = ["--upstream", str(folder / "upstream")]
        stack.enter_context(proxy(folder / "proxy", "--run-dir", str(folder), *options))
        # Without REGISTER AND MOVE and what lies behind: the proxy refuses them by policy.
        # Without PREEMPT AND ABORT: it hangs LIO's loopback fabric.
        names = [*common, *list(one) * 3]
        maker = Maker(asked.seed, names, actions=(0, 1, 2, 3, 4, 6, 9, 31))
        differences = 0
        kinds: Counter[str] = Counter()
        for number in range(asked.streams):
            stream = maker.stream()
            theirs = play(str(folder / "helper"), stream, {**common, **one})
            ours = play(str(folder / "proxy"), stream, {**common, **two})
            kinds.update(_kinds(theirs))
            if ours != expected(theirs, stream):
                differences += 1
                print(f"stream {number}: {stream}\n  helper {theirs}\n  proxy  {ours}", flush=True)
                if differences > 10:
                    break
            if number % 2000 == 1999:
                print(f"{number + 1} streams", flush=True)
    print("the helper's replies:", ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items())))
    print(f"{number + 1} streams, {differences} differences")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
