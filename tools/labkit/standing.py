"""Machines that outlive the command that started them: up, exec, down."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from labkit import machine, places
from labkit.control import CompletedRun, Control, Sink
from labkit.failure import LabError
from labkit.qemu import Shape
from labkit.target import Target, TargetSpec

_QUIT_SECONDS = 10.0


@contextmanager
def _locked(name: str) -> Iterator[Path]:
    """The folder of the machine called name, for one client at a time."""
    folder = places.standing(name)
    with places.locked(folder.with_name(f"{name}.lock")):
        yield folder


def _quit(folder: Path) -> bool:
    """Make the QEMU behind folder end, through its monitor; False when there is none."""
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.settimeout(_QUIT_SECONDS)
        try:
            monitor.connect(str(folder / "monitor"))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        for command in ("qmp_capabilities", "quit"):
            monitor.sendall(json.dumps({"execute": command}).encode())
        # The socket closes when QEMU has gone.
        while monitor.recv(65536):
            pass
    return True


def up(
    name: str, series: str, spec: TargetSpec | None, shape: Shape, out: Path | None, seconds: float
) -> Target:
    """Start a machine called name and leave it standing with its target."""
    with _locked(name) as folder:
        try:
            Control(folder).close()
        except (FileNotFoundError, ConnectionRefusedError):
            shutil.rmtree(folder, ignore_errors=True)
        else:
            raise LabError(
                f"a machine called {name} stands already", hint=f"./tools/lab down --name {name}"
            )
        folder.mkdir(mode=0o700)
        shared = out or folder / "out"
        shared.mkdir(parents=True, exist_ok=True)
        process = machine.start(series, shape, folder, shared, standing=True)
        control = None
        try:
            control = machine.connect(process, folder)
            return machine.boot(control, folder, spec, seconds)
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            if control is not None:
                control.close()


def execute(
    name: str, command: str, timeout: float, *, env: dict[str, str], sink: Sink
) -> CompletedRun:
    """Run command in the machine called name."""
    with _locked(name) as folder:
        try:
            control = Control(folder)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise LabError(
                f"no machine called {name} stands", hint=f"./tools/lab up --name {name}"
            ) from error
        machine.compile_checkout()
        try:
            return control.begin(command, env=env, fresh=True, sink=sink).finish(timeout)
        finally:
            control.close()


def down(name: str) -> bool:
    """End the machine called name, hanging or not; False when there was none."""
    with _locked(name) as folder:
        ended = _quit(folder)
        shutil.rmtree(folder, ignore_errors=True)
    return ended
