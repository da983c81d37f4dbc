"""A running machine with its target.

with Machine("6.1", TargetSpec(luns=2, nexuses=4)) as machine:
    done = machine.run("sg_persist -k /dev/sda", timeout=60)
    assert done.status == 0, done.output
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from labkit import kernels, pace, places, qemu
from labkit.control import CompletedRun, Control, Running, Sink, console_tail
from labkit.failure import DeadlineError, LabError
from labkit.qemu import Shape
from labkit.target import Target, TargetSpec

BOOT_SECONDS = 180.0
_SERVER_SECONDS = 20.0


def start(
    series: str,
    shape: Shape,
    folder: Path,
    out: Path,
    *,
    standing: bool,
    interactive: bool = False,
) -> subprocess.Popen[bytes]:
    """Start QEMU with its sockets in folder; it ends with this process unless standing."""
    compile_checkout()
    kernel = kernels.find(series)
    for server in qemu.servers(kernel, shape, folder, out):
        _serve(server, folder)
    command = qemu.command(kernel, shape, folder, out, interactive=interactive)
    if not standing:
        command = ["setpriv", "--pdeathsig", "KILL", *command]
    with (folder / "qemu.log").open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=None if interactive else subprocess.DEVNULL,
            stdout=None if interactive else log,
            stderr=log,
            # A terminal's Ctrl-C is for this program; in a shell it is for the machine's.
            start_new_session=not interactive,
        )


def _serve(server: list[str], folder: Path) -> None:
    """Start a program that QEMU connects to, and wait until it listens.

    It ends when QEMU goes.
    """
    listening = Path(server[1].partition("=")[2])
    with (folder / "qemu.log").open("ab") as log:
        process = subprocess.Popen(
            server, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    deadline = time.monotonic() + pace.limit(_SERVER_SECONDS)
    while not listening.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            said = (folder / "qemu.log").read_text(errors="replace")
            raise LabError(f"{server[0]} does not listen: {said}")
        time.sleep(0.05)


def compile_checkout() -> None:
    """Compile the checkout's Python here: the machine is slow, and cannot keep the result."""
    trees = [places.CHECKOUT / name for name in ("prtrace", "tests", "tools")]
    subprocess.run(
        [sys.executable, "-m", "compileall", "-q", *(tree for tree in trees if tree.is_dir())],
        env={"PYTHONPYCACHEPREFIX": str(places.cache() / "pycache")},
        stdout=subprocess.DEVNULL,
        check=False,  # the command reports a file with a syntax error
    )


def connect(process: subprocess.Popen[bytes], folder: Path, *, own_root: bool = False) -> Control:
    """The control port of a machine just started, once QEMU listens."""
    while True:
        if process.poll() is not None:
            log = (folder / "qemu.log").read_text(errors="replace").strip()
            raise LabError(f"QEMU did not start: {log}")
        try:
            return Control(folder, own_root=own_root)
        except (FileNotFoundError, ConnectionRefusedError):
            try:
                process.wait(timeout=0.05)
            except subprocess.TimeoutExpired:
                continue


class Machine:
    """One machine, from entering the context to leaving it.

    target None: a machine without one.  out is the host's folder that is $LAB_OUT inside (a
    temporary one when not given).  boot_seconds bounds start and building each.  After entering,
    target says what was built.
    """

    def __init__(
        self,
        kernel: str = "6.1",
        target: TargetSpec | None = None,
        *,
        shape: Shape | None = None,
        out: Path | None = None,
        boot_seconds: float = BOOT_SECONDS,
    ) -> None:
        self.target = Target(())
        self.out = out or Path()
        self._wanted_out = out
        self._series = kernel
        self._spec = target
        self._shape = shape or Shape()
        self._boot_seconds = boot_seconds
        self._resources = ExitStack()
        self._control: Control | None = None

    def __enter__(self) -> Self:
        with self._resources as resources:
            temporary = tempfile.TemporaryDirectory(prefix="prtrace-lab-")
            folder = Path(resources.enter_context(temporary))
            self.out = self._wanted_out or folder / "out"
            self.out.mkdir(parents=True, exist_ok=True)
            process = start(self._series, self._shape, folder, self.out, standing=False)
            resources.callback(process.wait)
            resources.callback(process.kill)
            self._control = connect(process, folder, own_root=self._shape.root is not None)
            resources.callback(self._control.close)
            self.target = boot(self._control, folder, self._spec, self._boot_seconds)
            self._resources = resources.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._control = None
        self._resources.close()

    def run(
        self,
        command: str,
        timeout: float,
        *,
        env: dict[str, str] | None = None,
        stdin: bytes = b"",
        fresh: bool = False,
        sink: Sink | None = None,
    ) -> CompletedRun:
        """Run command by bash in the checkout, to its end; see Control.begin.

        timeout: seconds of an idle machine, see labkit.pace.  Raises DeadlineError when it had to
        be ended then (the machine goes on), LostMachineError when the machine ended or hangs.
        """
        begun = self.begin(command, env=env, stdin=stdin, fresh=fresh, sink=sink)
        return begun.finish(pace.limit(timeout))

    def begin(
        self,
        command: str,
        *,
        env: dict[str, str] | None = None,
        stdin: bytes = b"",
        fresh: bool = False,
        sink: Sink | None = None,
    ) -> Running:
        """Start command by bash in the checkout; see Control.begin."""
        if self._control is None:
            raise LabError("the machine is not running")
        return self._control.begin(command, env=env, stdin=stdin, fresh=fresh, sink=sink)


def boot(control: Control, folder: Path, spec: TargetSpec | None, seconds: float) -> Target:
    """Wait until the machine answers, then build its target.

    seconds: for each of the two, on an idle machine.
    """
    seconds = pace.limit(seconds)
    try:
        control.begin("true").finish(seconds)
    except DeadlineError as error:
        raise control.lost(f"did not start within {seconds:g} s") from error
    if spec is None:
        return Target(())
    try:
        return control.build(spec, seconds)
    except (DeadlineError, LabError) as error:
        error.message += f"\n{console_tail(folder)}"
        raise
