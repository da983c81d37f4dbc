"""The server of commands inside a lab machine: one request after the other, from the virtio port.

Standard library only: it runs before anything is known about the machine.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

from labkit import build, channel
from labkit.channel import Lines, Message
from labkit.failure import LabError
from labkit.target import TargetSpec

_RECONNECT_SECONDS = 0.05


class Port:
    """The guest's end of the virtio port.

    A port without a client reads as empty and polls as hung up, for ever: the only way to wait for
    the next client is to look again after a while.
    """

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._lines = Lines()
        self._requests: deque[Message] = deque()

    def receive(self) -> bool:
        """Take in what has come; False when no client is there."""
        try:
            octets = os.read(self.fd, 65536)
        except BlockingIOError:
            return True
        self._requests.extend(self._lines.feed(octets))
        if not octets:
            self._lines.clear()
        return bool(octets)

    def waiting(self) -> bool:
        return bool(self._requests)

    def next(self) -> Message:
        """The next request, however long it takes to come."""
        with selectors.DefaultSelector() as waiter:
            waiter.register(self.fd, selectors.EVENT_READ)
            while not self._requests:
                waiter.select()
                if not self.receive():
                    time.sleep(_RECONNECT_SECONDS)
        return self._requests.popleft()

    def send(self, message: Message) -> bool:
        """Send message, waiting while the port is full; False when the client has gone."""
        rest = channel.encode(message)
        with selectors.DefaultSelector() as waiter:
            waiter.register(self.fd, selectors.EVENT_WRITE)
            while rest:
                try:
                    rest = rest[os.write(self.fd, rest) :]
                except BlockingIOError:
                    waiter.select()
                    if not self.receive():
                        return False
        return True


def run(port: Port, request: Message) -> None:
    """Run one command, its output sent as it comes; it ends when the client stops it or goes."""
    if request["fresh"]:
        # The machine caches what it reads: it would see old content where a file has changed.
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    with open(os.memfd_create("stdin"), "w+b") as given:
        given.write(channel.unpack(request["stdin"]))
        given.seek(0)
        process = subprocess.Popen(
            ["/bin/bash", "-c", request["command"]],
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=request["env"],
            cwd=request["cwd"],
            start_new_session=True,
        )
    assert process.stdout is not None
    assert process.stderr is not None
    streams = {process.stdout.fileno(): "out", process.stderr.fileno(): "err"}
    end = os.pidfd_open(process.pid)
    with selectors.DefaultSelector() as waiter, process.stdout, process.stderr:
        for fd in (*streams, end, port.fd):
            waiter.register(fd, selectors.EVENT_READ)
        # Once the command has ended and its pipes are empty it is done: what it left running in
        # the background may hold them open for as long as the machine stands.
        while (
            ready := {key.fd for key, _ in waiter.select()}
        ) & streams.keys() or end not in ready:
            for fd in ready & streams.keys():
                octets = os.read(fd, 65536)
                if not octets:
                    waiter.unregister(fd)
                    continue
                reply = {"id": request["id"], streams[fd]: channel.pack(octets)}
                if not port.send(reply):
                    signal.pidfd_send_signal(end, signal.SIGKILL)
            if port.fd in ready and (not port.receive() or port.waiting()):
                # The client has gone: nobody waits for this command.
                os.killpg(process.pid, signal.SIGKILL)
                waiter.unregister(port.fd)
    os.close(end)
    code = process.wait()
    port.send({"id": request["id"], "status": 128 - code if code < 0 else code})


def shell(port: Port, request: Message) -> None:
    """An interactive shell on the serial console, until the user leaves it."""
    start = f"stty rows {int(request['rows'])} cols {int(request['columns'])} sane; exec bash -i"
    with open("/dev/ttyS0", "r+b", buffering=0) as console:
        code = subprocess.run(
            ["setsid", "--ctty", "--wait", "bash", "-c", start],
            stdin=console,
            stdout=console,
            stderr=console,
            env=request["env"],
            cwd=request["cwd"],
            check=False,
        ).returncode
    port.send({"id": request["id"], "status": code})


def build_target(port: Port, request: Message) -> None:
    """Build the target; a failure is an answer."""
    try:
        target = build.build(TargetSpec.from_json(request["target"]))
    except LabError as error:
        port.send({"id": request["id"], "failed": error.message})
    else:
        port.send({"id": request["id"], "target": target.to_json()})


def serve(port: Port) -> None:
    operations = {"run": run, "shell": shell, "build": build_target}
    while True:
        request = port.next()
        # A stop that comes after its command has ended has nothing to stop.
        if request["op"] in operations:
            operations[request["op"]](port, request)


def find_port() -> Path:
    """The device node of the port, by the name that the host gave it."""
    for name in Path("/sys/class/virtio-ports").glob("*/name"):
        if name.read_text().strip() == channel.PORT:
            return Path("/dev") / name.parent.name
    sys.exit(f"lab: no virtio port is called {channel.PORT}")


def main() -> None:
    serve(Port(find_port()))
