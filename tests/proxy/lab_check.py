"""The proxy against LIO: mask, refusals, attributions, guard, a helper that dies, dm-multipath.

    ./tools/lab run --luns 1 --nexuses 2 -- python3 tests/proxy/lab_check.py
    ./tools/lab run --luns 1 --nexuses 2 --multipath -- python3 tests/proxy/lab_check.py

Prints "N passed, N failed"; exits 1 when something failed.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from helpers import proxy, qemu_helper
from streams import CLEANUP, PR_IN, PR_OUT, Message, Reply, Stream, cdb, parameter, play

from prtrace.prhelper.attribution import UNKNOWN, Attribution
from prtrace.prhelper.attribution_reader import AttributionReader

REGISTER, RESERVE, RELEASE, CLEAR, PREEMPT, _ABORT, IGNORE, MOVE, REPLACE = range(9)
KEYS, RESERVATION, CAPABILITIES, FULL = range(4)
GOOD, CHECK, CONFLICT = 0, 2, 0x18
WERO, WE = 5, 1
SPEC_I_PT, ALL_TG_PT = 0x08, 0x04
DEADLINE = 60

passed: list[str] = []
failures: list[str] = []


def check(what: str, got: object, wanted: object) -> None:
    if got == wanted:
        passed.append(what)
    else:
        failures.append(what)
        print(f"FAILED {what}: got {got!r}, wanted {wanted!r}", flush=True)


def stream_of(*requests: tuple[bytes, bytes]) -> Stream:
    messages = [Message(bytes(4))]
    for head, body in requests:
        messages.append(Message(head, ("device",)))
        if body:
            messages.append(Message(body))
    return tuple(messages)


def ask(path: Path, fd: int, head: bytes, body: bytes = b"") -> Reply:
    """One request on a connection of its own, again while a unit attention comes first."""
    for _ in range(8):
        replies = play(str(path), stream_of((head, body)), {"device": fd}, DEADLINE).replies
        if len(replies) != 1:
            raise AssertionError(f"{len(replies)} replies to {head.hex()}")
        if replies[0].status != CHECK or replies[0].sense[2] & 0xF != 6:
            return replies[0]
    raise AssertionError("unit attentions without end")


def out(
    path: Path, fd: int, action: int, key: int, sa_key: int = 0, kind: int = 0, flags: int = 0
) -> Reply:
    return ask(path, fd, cdb(PR_OUT, action, 24, kind), parameter(key, sa_key, flags))


def read(path: Path, fd: int, action: int, length: int = 8192) -> Reply:
    return ask(path, fd, cdb(PR_IN, action, length))


def keys(path: Path, fd: int) -> list[int]:
    data = read(path, fd, KEYS).data
    length = int.from_bytes(data[4:8], "big")
    return sorted(int.from_bytes(data[8 + i : 16 + i], "big") for i in range(0, length, 8))


def code(reply: Reply) -> tuple[int, int, int]:
    return (
        reply.status,
        reply.sense[12] if reply.sense else 0,
        reply.sense[13] if reply.sense else 0,
    )


def check_mask(path: Path, bare: Path, fd: int) -> None:
    for length in (0, 1, 2, 3, 4, 6, 7, 8, 24, 255, 8192):
        through, direct = (read(p, fd, CAPABILITIES, length) for p in (path, bare))
        wanted = direct.data[:2] + bytes(c & ~0x0C for c in direct.data[2:3]) + direct.data[3:]
        check(
            f"capabilities of {length} bytes",
            (through.status, through.data),
            (direct.status, wanted),
        )
        if length >= 8:
            check("the device has both", direct.data[2] & 0x0C, 0x0C)


def check_refusals(path: Path, fd: int) -> None:
    for action in (REGISTER, IGNORE):
        for flags in (SPEC_I_PT, ALL_TG_PT, SPEC_I_PT | ALL_TG_PT):
            check(
                f"{action}, flags {flags}",
                code(out(path, fd, action, 0, 5, 0, flags)),
                (CHECK, 0x26, 0),
            )
    for action in (MOVE, REPLACE):
        check(f"action {action}", code(out(path, fd, action, 0, 5)), (CHECK, 0x24, 0))
    long = cdb(PR_OUT, REGISTER, 24)
    check(
        "a 64 KiB list",
        code(ask(path, fd, long[:5] + b"\0\1" + long[7:], parameter(0, 5))),
        (CHECK, 0x24, 0),
    )
    check("nothing registered", keys(path, fd), [])


def check_commands(path: Path, fd: int) -> None:
    check("register", out(path, fd, REGISTER, 0, 0xA).status, GOOD)
    check("keys", keys(path, fd), [0xA])
    check("wrong key", out(path, fd, REGISTER, 0xB, 0xC).status, CONFLICT)
    check("reserve", out(path, fd, RESERVE, 0xA, 0, WERO).status, GOOD)
    check("reserve again", out(path, fd, RESERVE, 0xA, 0, WERO).status, GOOD)
    check(
        "reservation",
        read(path, fd, RESERVATION).data[8:22],
        (0xA).to_bytes(8, "big") + bytes(5) + bytes([WERO]),
    )
    full = read(path, fd, FULL).data
    check("full status", full[8:16], (0xA).to_bytes(8, "big"))
    check("cleanup of a disk", ask(path, fd, bytes([CLEANUP]) + bytes(15)).status, GOOD)
    check("release", out(path, fd, RELEASE, 0xA, 0, WERO).status, GOOD)
    check("nothing reserved", read(path, fd, RESERVATION).data[4:8], bytes(4))
    check("clear", out(path, fd, CLEAR, 0xA).status, GOOD)
    check("no keys", keys(path, fd), [])


def check_attributions(run_dir: Path, nexus: str) -> None:
    reader = AttributionReader(run_dir)
    reader.read()
    found: list[Attribution] = list(reader.attributions.values())
    check("attributions", bool(found), True)
    check("all ended", [c for c in found if not c.end_ns], [])
    masks = [c for c in found if c.answered]
    check(
        "masked ones keep both",
        bool(masks) and all(c.shown[2] != c.answered[2] for c in masks),
        True,
    )
    check(
        "refused ones were not issued", bool([c for c in found if not c.issued and c.note]), True
    )
    check("by whom", {c.client_pid for c in found}, {os.getpid()})
    check("where", {c.nexuses for c in found}, {(nexus,)})


def check_dead_helper(folder: Path, fd: int) -> None:
    """A helper that takes the request and dies: closed, and the record says unknown."""
    path, run_dir = folder / "dying", folder / "dying-run"
    run_dir.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(folder / "dead"))
        listener.listen()
        child = os.fork()
        if not child:
            signal.alarm(DEADLINE)
            for reply in (b"", b"\0" * 50):
                peer, _ = listener.accept()
                peer.sendall(bytes(4))
                peer.recv(4, socket.MSG_WAITALL)
                peer.recv(16, socket.MSG_WAITALL)
                peer.recv(24, socket.MSG_WAITALL)
                peer.sendall(reply)
                peer.close()
            os._exit(0)
        with proxy(path, "--upstream", str(folder / "dead"), "--run-dir", str(run_dir)):
            for cut in ("before", "in"):
                request = (cdb(PR_OUT, REGISTER, 24), parameter(0, 7))
                got = play(str(path), stream_of(request), {"device": fd}, DEADLINE)
                check(f"died {cut} the reply", (got.replies, got.rest), ((), b""))
            os.waitpid(child, 0)
            listener.close()
            got = play(str(path), stream_of(request), {"device": fd}, DEADLINE)
            check("no helper", got.replies, ())
    reader = AttributionReader(run_dir)
    reader.read()
    outcomes = [claim.outcome for claim in reader.attributions.values()]
    check("outcomes", outcomes, [UNKNOWN, UNKNOWN, "not sent"])


def check_guard(folder: Path, fd: int, nexus: str, guard: str) -> None:
    """Two guests on one nexus: this process, and a child."""
    policy, path = folder / f"{guard}.toml", folder / f"guard-{guard}"
    run_dir, log = folder / f"guard-{guard}-run", folder / f"guard-{guard}-log"
    policy.write_text(f'guard = "{guard}"\n')
    run_dir.mkdir()
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from lab_check import *; fd = int(sys.argv[3]); p = Path(sys.argv[2]);"
        "print(os.getpid(), code(out(p, fd, IGNORE, 0, 0xB)),"
        " code(out(p, fd, RESERVE, 0xA, 0, 5)), read(p, fd, KEYS).status)"
    )
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(path), str(fd)]

    def second(what: str, wanted: str) -> str:
        """A guest of its own, which is gone when this returns; its pid."""
        done = subprocess.run(
            command, pass_fds=[fd], capture_output=True, text=True, timeout=DEADLINE
        )
        pid, _, told = done.stdout.strip().partition(" ")
        check(f"{guard}: {what}", told, wanted)
        return pid

    refused = guard == "refuse"
    alone = f"({GOOD}, 0, 0) ({CONFLICT}, 0, 0) 0"
    beside = f"({CHECK}, 85, 4) ({CONFLICT}, 0, 0) 0" if refused else alone
    with proxy(path, "--policy", str(policy), "--run-dir", str(run_dir), log=log):
        check("first guest", out(path, fd, REGISTER, 0, 0xA).status, GOOD)
        pid = second("second guest", beside)
        check("first guest's registration", keys(path, fd), [0xA if refused else 0xB])
        key = 0xA if refused else 0xB
        check("first guest unregisters", out(path, fd, REGISTER, key, 0).status, GOOD)
        warned = log.read_text()
        second("second guest alone", alone)
        # Its process is gone, so the nexus is free.
        check("first guest again", out(path, fd, IGNORE, 0, 0xA).status, GOOD)
        check("clear", out(path, fd, CLEAR, 0xA).status, GOOD)
        check("no more warnings", log.read_text(), warned)
    lines = [line for line in warned.splitlines() if nexus in line]
    both = all(pid in line and str(os.getpid()) in line for line in lines)
    check(f"{guard}: warned with both named", both and len(lines) >= 1, True)
    check(f"{guard}: refused", {line.endswith(": refused") for line in lines}, {refused})
    reader = AttributionReader(run_dir)
    reader.read()
    noted = [claim for claim in reader.attributions.values() if claim.note]
    check(
        f"{guard}: both in the record",
        all(nexus in claim.note and str(os.getpid()) in claim.note for claim in noted),
        True,
    )
    check(f"{guard}: sent", {claim.issued for claim in noted}, {not refused})


def check_policy(folder: Path, fd: int, lu: str) -> None:
    path, policy = folder / "open", folder / "open.toml"
    policy.write_text(f'[[rule]]\ndevice = "{lu}"\nhide = false\n')
    with proxy(path, "--policy", str(policy)):
        check("not hidden by policy", read(path, fd, CAPABILITIES, 8).data[2] & 0x0C, 0x0C)
        check("ALL_TG_PT by policy", out(path, fd, REGISTER, 0, 5, 0, ALL_TG_PT).status, GOOD)
        check("clear", out(path, fd, CLEAR, 5).status, GOOD)


def check_refused_descriptors(path: Path, folder: Path, disk: str) -> None:
    """Everything that is no whole SCSI device, within a second each."""
    kinds: dict[str, int] = {"null": os.open("/dev/null", os.O_RDWR)}
    kinds["directory"] = os.open(folder, os.O_RDONLY)
    kinds["pipe"], kinds["pipe end"] = os.pipe()
    kinds["O_PATH"] = os.open(disk, os.O_PATH)
    with socket.socket() as inet:
        kinds["socket"] = os.dup(inet.fileno())
    for name, fd in kinds.items():
        start = time.monotonic()
        check(f"{name} is refused", read(path, fd, KEYS).status, CHECK)
        check(f"{name}: in time", time.monotonic() - start < 1, True)
        os.close(fd)
    fd = os.open(disk, os.O_RDONLY)
    check("read-only, IN", read(path, fd, KEYS).status, GOOD)
    check("read-only, OUT", code(out(path, fd, REGISTER, 0, 1)), (CHECK, 0x20, 0))
    os.close(fd)


def check_partition(path: Path, disk: str) -> None:
    entry = (
        bytes((0, 0, 0, 0, 0x83, 0, 0, 0))
        + (64).to_bytes(4, "little")
        + (512).to_bytes(4, "little")
    )
    Path(disk).write_bytes(bytes(446) + entry + bytes(48) + b"\x55\xaa")
    subprocess.run(["partx", "-a", disk], check=True)
    end = time.monotonic() + DEADLINE
    node = f"{disk}1"
    while not os.path.exists(node) and time.monotonic() < end:
        select.select([], [], [], 0.05)
    fd = os.open(node, os.O_RDWR)
    check("a partition", code(read(path, fd, KEYS)), (CHECK, 0, 6))
    os.close(fd)
    subprocess.run(["partx", "-d", disk], check=True)


def check_multipath(path: Path, unit: dict[str, Any]) -> None:
    """One nexus to the guest, all paths to LIO; the paths' own view is LIO's configfs."""
    fd = os.open(unit["multipath"], os.O_RDWR | os.O_NONBLOCK)
    pr = Path(unit["directory"], "pr")
    paths = len(unit["paths"])

    def registered() -> int:
        text = (pr / "res_pr_registered_i_pts").read_text()
        return sum("Node:" in line for line in text.splitlines())

    check("register", out(path, fd, REGISTER, 0, 0xA).status, GOOD)
    check("every path", (registered(), keys(path, fd)), (paths, [0xA] * paths))
    check("wrong key", out(path, fd, REGISTER, 0xB, 0xC).status, CONFLICT)
    check("new key", out(path, fd, REGISTER, 0xA, 0xB).status, GOOD)
    check("on every path", keys(path, fd), [0xB] * paths)
    for kind in (WE, WERO, 7):
        check(f"reserve {kind}", out(path, fd, RESERVE, 0xB, 0, kind).status, GOOD)
        check("again", out(path, fd, RESERVE, 0xB, 0, kind).status, GOOD)
        check("full status", read(path, fd, FULL).status, GOOD)
        # LIO says RESERVATION CONFLICT where SPC-4 wants 26/04.
        check("wrong type", out(path, fd, RELEASE, 0xB, 0, 8).status, CONFLICT)
        check("release", out(path, fd, RELEASE, 0xB, 0, kind).status, GOOD)
        check("released", "No SPC-3" in (pr / "res_holder").read_text(), True)
    # Held by the second path, as after a path failed and came back.
    with proxy(path.with_name("side")):
        side = path.with_name("side")
        second = os.open(unit["paths"][1]["block"], os.O_RDWR | os.O_NONBLOCK)
        check("second path reserves", out(side, second, RESERVE, 0xB, 0, WERO).status, GOOD)
        check("it is the guest's", out(path, fd, RESERVE, 0xB, 0, WERO).status, GOOD)
        check("release by the guest", out(path, fd, RELEASE, 0xB, 0, WERO).status, GOOD)
        check("is released", "No SPC-3" in (pr / "res_holder").read_text(), True)
        # A path that came back without its registration gets the new key.
        check("one path loses its key", out(side, second, REGISTER, 0xB, 0).status, GOOD)
        check("register with the old key", out(path, fd, REGISTER, 0xB, 0xD).status, GOOD)
        check("all paths again", keys(path, fd), [0xD] * paths)
        os.close(second)
    check("reserve", out(path, fd, RESERVE, 0xD, 0, WERO).status, GOOD)
    check("preempt of itself", out(path, fd, PREEMPT, 0xD, 0xD, WERO).status, GOOD)
    check("registered on all paths", keys(path, fd), [0xD] * paths)
    check("fenced: wrong key stays out", out(path, fd, REGISTER, 0xA, 0xE).status, CONFLICT)
    check("cleanup", ask(path, fd, bytes([CLEANUP]) + bytes(15)).status, GOOD)
    check("nothing left", registered(), 0)
    check(
        "short list", code(ask(path, fd, cdb(PR_OUT, REGISTER, 16), bytes(16))), (CHECK, 0x1A, 0)
    )
    check("capabilities", read(path, fd, CAPABILITIES, 8).data[2] & 0x0C, 0)
    os.close(fd)


def main() -> int:
    unit = json.loads(Path(os.environ["LAB_TARGET"]).read_text())["units"][0]
    first = unit["paths"][0]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        run_dir = folder / "run"
        run_dir.mkdir()
        path, bare = folder / "proxy", folder / "helper"
        stack.enter_context(proxy(path, "--run-dir", str(run_dir)))
        if unit["multipath"]:
            check_multipath(path, unit)
        else:
            stack.enter_context(qemu_helper(bare))
            fd = os.open(first["block"], os.O_RDWR | os.O_NONBLOCK)
            stack.callback(os.close, fd)
            behind = folder / "behind"
            second_run = folder / "second-run"
            second_run.mkdir()
            stack.enter_context(
                proxy(behind, "--upstream", str(bare), "--run-dir", str(second_run))
            )
            for each in (path, behind):
                check_mask(each, bare, fd)
                check_refusals(each, fd)
                check_commands(each, fd)
            check_attributions(run_dir, first["hctl"])
            check_attributions(second_run, first["hctl"])
            check_dead_helper(folder, fd)
            for guard in ("warn", "refuse"):
                check_guard(folder, fd, first["hctl"], guard)
            check_policy(folder, fd, unit["lu"])
            check_refused_descriptors(path, folder, first["block"])
            check_partition(path, first["block"])
    print(f"{len(passed)} passed, {len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
