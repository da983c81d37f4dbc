"""tools/migrate-vm where the way to the destination's QEMU breaks: what it concludes from that.

Two real QEMUs without disks, on this host, and a relay between the tool and the destination's QMP
as a tunnel between hosts is.  The verbs of prtrace are `sh` here: they say 0 and write themselves
down.  What the verbs do is tested elsewhere; this is about who is told to run.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from labkit import pace
from labkit.waiting import await_that
from qemu.qmp import ConnectError, QMPClient

TOOL = Path(__file__).resolve().parents[2] / "tools" / "migrate-vm"
LIMIT_S = 120
HEEDING = ("env", "--default-signal=INT,TERM,HUP")
"""A job in the background of a shell ignores SIGINT, and one of nohup SIGHUP, with all that they
start; the tool leaves a signal that is ignored alone."""


class Qemu:
    """A QEMU with nothing in it; it runs its firmware.  A context manager."""

    def __init__(self, socket: Path, *more: str) -> None:
        self.socket = socket
        self.process = subprocess.Popen(
            ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-m", "16", "-accel", "tcg",
             "-qmp", f"unix:{socket},server=on,wait=off",
             "-qmp", f"unix:{socket}.own,server=on,wait=off", *more],
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def __enter__(self) -> Qemu:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def status(self) -> str:
        """What it says over a monitor of the test's own."""

        async def ask() -> str:
            async with asyncio.timeout(pace.limit(LIMIT_S)):
                while True:
                    client = QMPClient()
                    try:
                        await client.connect(f"{self.socket}.own")
                        return (await client.execute("query-status"))["status"]
                    except ConnectError:
                        await asyncio.sleep(0.1)
                    finally:
                        await client.disconnect()

        return asyncio.run(ask())


class Tunnel:
    """Passes QMP on from socket to qemu; breaks as soon as the command called last went through,
    before any answer to it can come back.  Without one it does not break."""

    def __init__(self, socket_path: Path, qemu: Qemu, last: str) -> None:
        self._last = f'"{last}"'.encode() if last else b"\0"
        self._qemu = qemu
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(socket_path))
        self._listening.listen()
        self.broken = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Tunnel:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Wakes the thread where nobody has ever connected.
        with suppress(OSError), socket.socket(socket.AF_UNIX) as knock:
            knock.connect(self._listening.getsockname())
        self._thread.join(pace.limit(LIMIT_S))
        self._listening.close()

    def _serve(self) -> None:
        with closing(self._listening.accept()[0]) as near, socket.socket(socket.AF_UNIX) as far:
            far.connect(str(self._qemu.socket))
            back = threading.Thread(target=self._back, args=(far, near))
            back.start()
            # A tool that was stopped has left something unread, and a QEMU may have ended.
            with suppress(OSError):
                while octets := near.recv(65536):
                    if self._last in octets:
                        self.broken.set()
                    far.sendall(octets)
                    if self.broken.is_set():
                        break
            with suppress(OSError):
                near.shutdown(socket.SHUT_RDWR)
            back.join(1)
            if self.broken.is_set():
                # Not before QEMU has read what was sent.
                self._qemu.status()
            with suppress(OSError):
                far.shutdown(socket.SHUT_RDWR)
            back.join(pace.limit(LIMIT_S))

    def _back(self, far: socket.socket, near: socket.socket) -> None:
        with suppress(OSError):
            while octets := far.recv(65536):
                if not self.broken.is_set():
                    near.sendall(octets)


PATIENT = """\
import importlib.machinery, importlib.util, sys
loader = importlib.machinery.SourceFileLoader("tool", sys.argv.pop(1))
tool = importlib.util.module_from_spec(importlib.util.spec_from_loader("tool", loader))
loader.exec_module(tool)
tool.ANSWER_S = int(sys.argv.pop(1))
sys.exit(tool.main())
"""
"""The tool, which waits for an answer of QEMU for so many seconds."""


class Run:
    """One run of the tool through a tunnel that breaks; what it said, called and left.

    last: see Tunnel; "" for one that does not break.  away: what sh does on the way to the
    destination for a rollback there, instead of it; $SOURCE is the source's QEMU.  patience: for
    an answer of a QEMU, in seconds.  signals: what the tool gets while a verb runs, by the verb's
    first words.  unread: nobody reads what the tool says.
    """

    def __init__(
        self,
        folder: Path,
        last: str = "",
        away: str = "",
        patience: int = 60,
        signals: Mapping[str, str] | None = None,
        unread: bool = False,
    ) -> None:
        calls = folder / "calls"
        calls.touch()
        with ExitStack() as stack:
            source = stack.enter_context(Qemu(folder / "s.qmp"))
            there = stack.enter_context(Qemu(folder / "d.qmp", "-incoming", "defer"))
            assert (source.status(), there.status()) == ("running", "inmigrate")
            stack.enter_context(Tunnel(folder / "tunnel.qmp", there, last))
            tool = subprocess.Popen(
                [*HEEDING, sys.executable, "-c", PATIENT, TOOL, str(patience),
                 "--source", source.socket,
                 "--there", f"sh {self._way(folder, away)}",
                 "--destination", folder / "tunnel.qmp", "--uri", f"unix:{folder}/migration",
                 "/dev/nothing"],
                env={**os.environ, "PRTRACE": f"sh {self._verb(folder, calls, signals or {})}",
                     "SOURCE": str(source.process.pid)},
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
            stack.callback(tool.kill)
            if unread:
                assert tool.stdout is not None
                tool.stdout.close()
                tool.stdout = None
            (folder / "tool").write_text(str(tool.pid))
            self.said = tool.communicate(timeout=pace.limit(LIMIT_S))[0] or ""
            self.status = tool.returncode
            print(self.said)
            source.process.send_signal(signal.SIGCONT)
            if last == "cont":
                # It runs once all of it has come, which the source does not wait for.
                await_that("it has come", lambda: _status(there) != "inmigrate")
            self.source, self.there = _status(source), _status(there)
        self.calls = [json.loads(line) for line in calls.read_text().splitlines()]

    @staticmethod
    def _verb(folder: Path, calls: Path, signals: Mapping[str, str]) -> Path:
        script = folder / "verb.sh"
        pid = folder / "tool"
        known = f"until [ -s {pid} ]; do sleep 0.1; done"
        sends = "".join(
            f'"{words}"*) {known}; kill -s {name} $(cat {pid});;\n'
            for words, name in signals.items()
        )
        script.write_text(f'printf \'"%s"\\n\' "$*" >>{calls}\ncase "$*" in\n{sends}esac\n')
        return script

    @staticmethod
    def _way(folder: Path, away: str) -> Path:
        script = folder / "way.sh"
        if away:
            away = f'case "$1" in *rollback*) {away}; exit 255;; esac\n'
        script.write_text(f'{away}exec sh -c "$1"\n')
        return script


def _status(qemu: Qemu) -> str:
    return qemu.status() if qemu.process.poll() is None else "ended"


def test_a_tunnel_that_breaks_behind_cont_starts_the_guest_nowhere_else(tmp_path: Path) -> None:
    run = Run(tmp_path, "cont")
    assert run.status == 1
    assert "cont was sent" in run.said
    assert "Traceback" not in run.said
    # The destination has it, and the source was not touched any more.
    assert run.there == "running"
    assert run.source == "postmigrate"
    assert not [call for call in run.calls if call.startswith("rollback")]


def test_a_tunnel_that_breaks_before_the_transfer_leaves_the_guest_on_the_source(
    tmp_path: Path,
) -> None:
    run = Run(tmp_path, "migrate-incoming")
    assert run.status == 1
    assert run.source == "running"
    assert run.there != "running"
    assert [call for call in run.calls if call.startswith("rollback - --as destination")]
    assert run.said.rstrip().endswith("nothing was moved: the guest goes on here")


def test_what_the_destination_may_keep_is_said_last(tmp_path: Path) -> None:
    """Its rollback was not reached: nobody else would know that the key is there."""
    run = Run(tmp_path, "migrate-incoming", away=":")
    assert run.status == 1
    assert run.source == "running"
    last = run.said.splitlines()[-1]
    assert "nothing was moved: the guest goes on here. The destination may keep the key" in last
    assert "prtrace rollback --as destination with " in last


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP"])
def test_a_signal_is_undone_and_no_second_one_stops_that(tmp_path: Path, name: str) -> None:
    run = Run(tmp_path, signals={"load": name, "rollback": name})
    assert run.status == 1
    assert "Traceback" not in run.said
    assert (run.source, run.there) == ("running", "ended")
    assert [call.split()[0] for call in run.calls] == [
        "check", "save", "prepare", "load", "rollback", "rollback", "rollback",
    ]  # fmt: skip
    assert f"SIG{name}: wait, the migration is being undone" in run.said
    assert run.said.rstrip().endswith("rolled back: the guest goes on here")


def test_the_end_of_its_terminal_is_undone(tmp_path: Path) -> None:
    """Nobody reads then, and to say something must not be what ends it."""
    run = Run(tmp_path, signals={"load": "HUP"}, unread=True)
    assert run.status == 1
    assert (run.source, run.there) == ("running", "ended")
    assert len([call for call in run.calls if call.startswith("rollback")]) == 3


def test_a_signal_before_anything_was_saved_says_so(tmp_path: Path) -> None:
    run = Run(tmp_path, signals={"check": "TERM"})
    assert run.status == 1
    assert "Traceback" not in run.said
    assert (run.source, run.there) == ("running", "inmigrate")
    assert run.said.rstrip().endswith("stopped by SIGTERM: nothing was moved")


def test_a_signal_that_comes_after_finish_began_stops_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path, signals={"finish": "TERM"})
    assert run.status == 0
    assert (run.source, run.there) == ("ended", "running")


@pytest.mark.slow
def test_a_source_that_does_not_answer_is_to_be_seen_to(tmp_path: Path) -> None:
    run = Run(tmp_path, "migrate-incoming", away="kill -STOP $SOURCE", patience=20)
    assert run.status == 1
    assert "Traceback" not in run.said
    last = run.said.splitlines()[-1]
    assert "TimeoutError: see whether the guest runs here" in last
    assert "cont here if that ends with 0. The destination may keep the key" in last


@pytest.mark.slow
def test_a_source_that_does_not_answer_after_a_signal_is_to_be_seen_to(tmp_path: Path) -> None:
    run = Run(tmp_path, away="kill -STOP $SOURCE", patience=20, signals={"load": "TERM"})
    assert run.status == 1
    assert "Traceback" not in run.said
    assert "nothing was moved" not in run.said
    last = run.said.splitlines()[-1]
    assert "TimeoutError: see whether the guest runs here" in last
    assert "cont here if that ends with 0. The destination may keep the key" in last
