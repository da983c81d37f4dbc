"""The filter, by a BPF machine of the test's own, and by the kernel."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st
from labkit import pace

from prtrace.linux.seccomp import CallRule, assemble

AUDIT = 0xC000003E
ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS, 0x80000000
NUMBERS = st.integers(0, 500)
WORDS = st.integers(0, 0xFFFFFFFF)


def verdict(code: bytes, number: int, arguments: tuple[int, ...], audit: int = AUDIT) -> int:
    """What a filter returns: seccomp_data is number, architecture, address and six arguments."""
    given = struct.pack("=IIQ6Q", number, audit, 0, *arguments, *[0] * (6 - len(arguments)))
    program = [struct.unpack_from("=HBBI", code, at) for at in range(0, len(code), 8)]
    at = loaded = 0
    while True:
        what, yes, no, k = program[at]
        at += 1
        match what:
            case 0x20:
                (loaded,) = struct.unpack_from("=I", given, k)
            case 0x54:
                loaded &= k
            case 0x15:
                at += yes if loaded == k else no
            case 0x35:
                at += yes if loaded >= k else no
            case 0x06:
                return int(k)
            case _:
                raise AssertionError(hex(what))


@given(
    calls=st.sets(NUMBERS, max_size=60),
    rules=st.dictionaries(
        NUMBERS,
        st.tuples(st.integers(0, 5), st.lists(WORDS, min_size=1, max_size=5).map(tuple)).map(
            lambda rule: CallRule(*rule)
        ),
        max_size=5,
    ),
    errors=st.dictionaries(NUMBERS, st.just(errno.ENOSYS), max_size=2),
    number=NUMBERS,
    arguments=st.tuples(*[WORDS] * 6),
)
def test_what_is_not_listed_is_refused(
    calls: set[int],
    rules: dict[int, CallRule],
    errors: dict[int, int],
    number: int,
    arguments: tuple[int, ...],
) -> None:
    code = assemble(AUDIT, calls, rules, errors)
    found = verdict(code, number, arguments)
    if number in calls:
        assert found == ALLOW
    elif number in errors:
        assert found == ENOSYS
    elif number in rules:
        rule = rules[number]
        right = arguments[rule.argument] in rule.values
        assert found == (ALLOW if right else EPERM)
        allowed = tuple(rule.values[0] if at == rule.argument else 0 for at in range(6))
        assert verdict(code, number, allowed) == ALLOW
    else:
        assert found == EPERM
    assert verdict(code, number | 0x40000000, arguments) == EPERM
    assert verdict(code, number, arguments, audit=0x40000003) == KILL


def test_a_mask_chooses_the_bits_that_count() -> None:
    code = assemble(AUDIT, (), {56: CallRule(0, (0x10000,), 0x10000)}, {})
    assert verdict(code, 56, (0x3D0F00,)) == ALLOW
    assert verdict(code, 56, (0x1200011,)) == EPERM


_PROGRAM = """
import errno, os, socket, threading
from prtrace.agent.confinement import _CALLS, _ERRORS, _RULES
from prtrace.linux import seccomp
seccomp.allow(_CALLS, _RULES, _ERRORS)
socket.socket(socket.AF_UNIX).close()
thread = threading.Thread(target=lambda: print("a thread"))
thread.start()
thread.join()
for name, attempt in {
    "fork": os.fork,
    "execve": lambda: os.execv("/bin/true", ["true"]),
    "inet": socket.socket,
    "chown": lambda: os.chown("/", 0, 0),
    "setuid": lambda: os.setuid(0),
    "mknod": lambda: os.mknod("/tmp/prtrace-node"),
}.items():
    try:
        attempt()
    except OSError as error:
        print(name, errno.errorcode[error.errno])
"""


def test_the_kernel_refuses_what_the_agent_never_does() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env=os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=pace.limit(60),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names = ("fork", "execve", "inet", "chown", "setuid", "mknod")
    assert done.stdout.splitlines() == ["a thread", *(f"{name} EPERM" for name in names)]
