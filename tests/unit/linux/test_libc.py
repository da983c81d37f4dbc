"""prctl(2) and syscall(2): an error is the kernel's, and what is given up stays given up."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from prtrace.linux.libc import checked, library

TOP = Path(__file__).parents[3]
NO_SUCH_CALL = 1 << 20


def test_an_error_has_the_kernels_number_and_says_what_failed() -> None:
    with pytest.raises(OSError, match="a call that is none") as raised:
        checked(library().syscall(NO_SUCH_CALL), "a call that is none")
    assert raised.value.errno == errno.ENOSYS


def test_a_result_is_passed_on() -> None:
    assert checked(0, "a call") == 0
    assert checked(7, "a call") == 7


def test_programs_give_no_privileges_any_more() -> None:
    code = (
        "from prtrace.linux.libc import library, no_new_privileges; "
        "no_new_privileges(library()); print(open('/proc/self/status').read())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True)
    assert "NoNewPrivs:\t1" in done.stdout, done.stderr
