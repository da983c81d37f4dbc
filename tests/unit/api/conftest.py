"""A real server on a real socket, over a real store; the client runs in the test's thread."""

import asyncio
import contextlib
import os
import socket
import threading
import time

import pytest
from labkit import pace

from prtrace.api.client import Client
from prtrace.api.room import ConnectionLimits
from prtrace.api.server import ApiServer
from prtrace.api.source import Resolution, Wanted
from prtrace.errors import NoSuchDeviceError, StoreError, UnavailableError
from prtrace.linux.peer import Peer
from prtrace.linux.unixsocket import Listener
from prtrace.state.event import Command, Event
from prtrace.store.database import Store


def make_event(record, lu="naa.1", **changes):
    fields = {
        "record": record,
        "time": 1_700_000_000_000_000_000 + record,
        "lu": lu,
        "nexus": "2:0:0:1",
        "command": Command.PR_IN,
        "action": "READ KEYS",
        "status": "GOOD",
    }
    return Event(**(fields | changes))


def wait_for(condition):
    """Until condition holds, at most 20 s."""
    deadline = time.monotonic() + pace.limit(20)
    while not condition():
        assert time.monotonic() < deadline


class StoreSource:
    """Answers as an agent does that knows two units and keeps its history in a store."""

    def __init__(self, path):
        self.path = path
        self.names = {"/dev/sda": "naa.1", "naa.1": "naa.1", "/dev/sdb": "naa.2"}
        self.failing = self.refusal = ""
        self.waiting = []
        self.behind = False

    def open(self):
        self.store = Store.open(self.path)

    def caught_up(self):
        if not self.behind:
            return None
        self.waiting.append(asyncio.get_running_loop().create_future())
        return self.waiting[-1]

    def show(self, names, *, behind):
        units = [self.resolve(name).lu for name in names] or ["naa.1", "naa.2"]
        views = [{"lu": lu, "doubt": "behind"} if behind else {"lu": lu} for lu in units]
        return {"schema": "prtrace.show/1", "host": "here", "units": views}

    def events(self, query):
        if self.failing:
            raise StoreError(self.failing, hint="make room")
        return self._portions(query)

    def _portions(self, query):
        with Store.open(self.store.path, readonly=True) as reader:
            yield from reader.portions(query)

    def status(self):
        if self.failing:
            raise UnavailableError(self.failing)
        return {"schema": "prtrace.status/1", "units": 2}

    def want(self, names, max_age):
        lus = [self.resolve(name).lu for name in names] or ["naa.1", "naa.2"]
        self.unmet = {lu: 2 for lu in lus if max_age == 0}
        return [Wanted(lu, asked=lu in self.unmet, problem=self.refusal) for lu in lus]

    def unconfirmed(self, lus):
        self.unmet = {lu: looks - 1 for lu, looks in self.unmet.items() if looks > 1}
        return [lu for lu in lus if lu in self.unmet]

    def resolve(self, name):
        if name not in self.names:
            raise NoSuchDeviceError(f"{name} names nothing here", hint="name a disk")
        return Resolution(self.names[name], "2:0:0:1" * (name == "/dev/sda"), ("/dev/sda",))


class WaitingMoves:
    """Moves nothing; a call ends when may_end is set, and done has those that ended."""

    def __init__(self):
        self.may_end = threading.Event()
        self.may_end.set()
        self.begun = []
        self.done = []
        self.failing = None

    def _call(self, name, answer):
        self.begun.append(name)
        if not self.may_end.wait(pace.limit(20)):
            raise TimeoutError
        if self.failing is not None:
            raise self.failing
        self.done.append(name)
        return answer

    def check(self, observed, devices, guest, pid):
        shown = observed.show(devices)
        last = [event.seq for event in observed.changes("naa.1", 1000)]
        answer = {
            "schema": "prtrace.check/2",
            "host": f"{guest} {pid}",
            "verdict": "clear",
            "units": [*shown["units"], last],
        }
        return self._call("check", answer)

    def check_file(self, given):
        answer = {
            "schema": "prtrace.check/2",
            "host": "here",
            "verdict": "clear",
            "units": [given["file"], given["deadline"]],
        }
        return self._call("check_file", answer)

    def save(self, observed, devices, guest, pid):
        return self._call("save", {"devices": list(devices)})

    def carry_out(self, verb, given, step):
        if verb in ("Prepare", "Load"):
            step("naa.1", "first")
        answer = self._call(verb.lower(), {"verb": verb, **given})
        if verb in ("Prepare", "Load"):
            step("naa.1", "last")
        return answer

    def unfinished(self):
        return self._call("moves", {"schema": "prtrace.moves/1", "moves": []})


class Served:
    """The server in its thread; run() runs a function on its loop.

    Members of this process's own group may change things.
    """

    def __init__(self, directory, limits):
        self.path = directory / "io.prtrace"
        self.source = StoreSource(directory / "prtrace.db")
        self.moves = WaitingMoves()
        self._limits = limits
        self._records = 0

    @contextlib.contextmanager
    def running(self):
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._loop.run_forever)
        thread.start()
        try:
            self.run(self._start)
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(20)
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join(20)
            self._loop.close()

    def close_soon(self):
        """Begin to close the server, and go as far as it gets at once; a future of its end."""
        closing = asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        for _ in range(10):
            self.run(lambda: None)
        return closing

    def _start(self):
        self.source.open()
        self.server = ApiServer(
            self.source, lambda: self.moves, admin_gid=os.getegid(), limits=self._limits
        )
        self._listener = Listener.bind(self.path)
        self._accepting = asyncio.get_running_loop().create_task(self._accept())

    async def _accept(self):
        """As the mover does it: whoever is at the other end is told by the end it accepted."""
        loop = asyncio.get_running_loop()
        while True:
            accepted, _ = await loop.sock_accept(self._listener.socket)
            self.server.admit(accepted, Peer.of(accepted))

    async def _end(self):
        self._accepting.cancel()
        await asyncio.wait((self._accepting,))
        self._listener.close()
        await self.server.close()

    async def _close(self):
        await self._end()
        self.source.store.close()

    def run(self, function, *arguments):
        async def call():
            return function(*arguments)

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(20)

    def happen(self, count=1, lu="naa.1", **changes):
        """Store and publish so many new events, as the agent does."""

        def store():
            first = self._records + 1
            self._records += count
            events = [make_event(n, lu, **changes) for n in range(first, self._records + 1)]
            stored = self.source.store.commit("epoch", events)
            self.server.publish(stored)
            return [event.seq for event in stored]

        return self.run(store)

    def client(self, **options):
        return Client(str(self.path), **options)

    def connect(self, timeout=20):
        connection = socket.socket(socket.AF_UNIX)
        # From where the process stands: to another user the folders above may be closed.
        connection.connect(os.path.relpath(self.path))
        connection.settimeout(timeout)
        return connection

    def let_in(self):
        """Let every user connect who stands in the socket's folder."""
        os.chmod(self.path, 0o666)
        os.chmod(self.path.parent, 0o711)

    def connections(self):
        return self.run(self.server.statistics)["connections"]


@pytest.fixture
def limits():
    return ConnectionLimits()


@pytest.fixture
def served(tmp_path, limits):
    with Served(tmp_path, limits).running() as running:
        yield running
