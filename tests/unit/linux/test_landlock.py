"""What the kernel refuses to a process that Landlock restricts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from labkit import pace

_PROGRAM = """
import errno, sys
from pathlib import Path
from prtrace.linux import landlock
own, other = map(Path, sys.argv[1:])
there = landlock.restrict([other / "read", other / "nothing here"], [own])
print(there)
for what in (
    lambda: (own / "new").write_text("x"),
    lambda: (own / "new").rename(own / "newer"),
    lambda: (own / "newer").unlink(),
    lambda: (other / "read").read_text(),
    lambda: (other / "read").write_text("x"),
    lambda: (other / "secret").read_text(),
    lambda: (other / "new").write_text("x"),
    lambda: (other / "read").rename(own / "moved"),
    lambda: (other / "secret").unlink(),
):
    try:
        what()
        print("ok")
    except OSError as error:
        print(errno.errorcode[error.errno])
"""


def test_only_the_folders_that_are_named(tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir()
    other.mkdir()
    (other / "read").write_text("y")
    (other / "secret").write_text("z")
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, own, other],
        env=os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=pace.limit(60),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    there, *told = done.stdout.split()
    # A kernel without Landlock says so, and restricts nothing.
    if there == "True":
        refused = ["EACCES"] * 3
        assert told[:4] == ["ok"] * 4
        assert told[4:7] == refused
        assert told[7] in ("EACCES", "EXDEV")
        assert told[8] == "EACCES"
    else:
        assert told[:7] == ["ok"] * 7
