"""The lock-manager plugin, loaded as libvirt loads it, asking over a real socket."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, Structure, Union, byref, c_char_p, c_int, c_size_t, c_uint
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from answerer import Answerer
from labkit import pace

from prtrace.linux.lockfile import record_lock_holder

SOURCE = Path(__file__).parents[3] / "prtrace/libvirt/prtrace-lock.c"
UUID = "11111111-2222-4333-8444-555555555555"
RESTRICT, REGISTER_ONLY = 2, 1
REFUSED = -1
RECORDER = """
#include <stdio.h>
static int say(const char *what)
{ FILE *f = fopen("%s", "a"); fputs(what, f); fclose(f); return 0; }
static int init(unsigned v, const char *c, unsigned f)
{ (void)v; (void)c; (void)f; return say("init "); }
static int deinit(void) { return 0; }
static int new(void *m, unsigned t, unsigned long n, void *p, unsigned f)
{ (void)m; (void)t; (void)n; (void)p; (void)f; return say("new "); }
static void end(void *m) { (void)m; say("free "); }
static int add(void *m, unsigned t, const char *n, unsigned long c, void *p, unsigned f)
{ (void)m; (void)t; (void)n; (void)c; (void)p; (void)f; return say("add "); }
static int acquire(void *m, const char *s, unsigned f, int a, int *fd)
{ (void)m; (void)s; (void)f; (void)a; (void)fd; return say("acquire "); }
static int release(void *m, char **s, unsigned f)
{ (void)m; (void)s; (void)f; return say("release "); }
static int inquire(void *m, char **s, unsigned f)
{ (void)m; (void)s; (void)f; return say("inquire "); }
struct { unsigned version, flags; void *calls[8]; } virLockDriverImpl = { 1000000, 0,
    { init, deinit, new, end, add, acquire, release, inquire } };
"""


class Manager(Structure):
    _fields_ = [("driver", ctypes.c_void_p), ("private", ctypes.c_void_p)]


class Value(Union):
    _fields_ = [("ul", ctypes.c_ulonglong), ("uuid", ctypes.c_ubyte * 16), ("str", c_char_p)]


class Parameter(Structure):
    _fields_ = [("type", c_int), ("key", c_char_p), ("value", Value)]


class Driver(Structure):
    _fields_ = [
        ("version", c_uint),
        ("flags", c_uint),
        ("init", CFUNCTYPE(c_int, c_uint, c_char_p, c_uint)),
        ("deinit", CFUNCTYPE(c_int)),
        ("new", CFUNCTYPE(
            c_int, POINTER(Manager), c_uint, c_size_t, POINTER(Parameter), c_uint
        )),
        ("free", CFUNCTYPE(None, POINTER(Manager))),
        ("add", CFUNCTYPE(
            c_int, POINTER(Manager), c_uint, c_char_p, c_size_t, POINTER(Parameter), c_uint
        )),
        ("acquire", CFUNCTYPE(c_int, POINTER(Manager), c_char_p, c_uint, c_int, POINTER(c_int))),
        ("release", CFUNCTYPE(c_int, POINTER(Manager), POINTER(c_char_p), c_uint)),
        ("inquire", CFUNCTYPE(c_int, POINTER(Manager), POINTER(c_char_p), c_uint)),
    ]  # fmt: skip


class Plugin:
    """A copy of the plugin of its own: it keeps its configuration in its variables."""

    def __init__(self, folder: Path, built: Path, config: str) -> None:
        self.run_dir = folder
        (folder / "incoming").mkdir()
        copy = folder / "prtrace.so"
        copy.write_bytes(built.read_bytes())
        (folder / "qemu-prtrace.conf").write_text(f'run_dir = "{folder}"\n{config}')
        self.driver = Driver.in_dll(ctypes.CDLL(str(copy)), "virLockDriverImpl")
        self.started = self.init()

    def init(self, version: int = 1_000_000) -> int:
        return int(self.driver.init(version, str(self.run_dir / "qemu-prtrace.conf").encode(), 0))

    def with_guest(self, call: Callable[[Any], int]) -> int:
        """Do what libvirt does for each call: a manager, the disks, the call, its end."""
        manager = Manager()
        parameters = (Parameter * 2)(
            Parameter(0, b"name", Value(str=b"waldi")),
            Parameter(7, b"uuid", Value(uuid=(ctypes.c_ubyte * 16)(*uuid.UUID(UUID).bytes))),
        )
        assert self.driver.new(byref(manager), 0, 2, parameters, 0) == 0
        assert self.driver.add(byref(manager), 0, b"/dev/lun", 0, None, 0) == 0
        try:
            return call(byref(manager))
        finally:
            self.driver.free(byref(manager))

    def acquire(self, flags: int = 0) -> int:
        return self.with_guest(lambda one: self.driver.acquire(one, None, flags, 0, None))

    def inquire(self) -> int:
        state = c_char_p(b"x")
        result = self.with_guest(lambda one: self.driver.inquire(one, byref(state), 0))
        assert state.value is None
        return result

    def mark(self) -> None:
        (self.run_dir / "incoming" / UUID).touch()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("plugin") / "prtrace.so"
    flags = ("-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror")
    subprocess.run(["gcc", *flags, "-o", library, SOURCE], check=True)
    return library


@pytest.fixture
def plugin(tmp_path: Path, built: Path) -> Plugin:
    return Plugin(tmp_path, built, "deadline = 60\n")


DAEMON = """
import ctypes, sys, time
driver = ctypes.cast(ctypes.CDLL(sys.argv[1]).virLockDriverImpl, ctypes.POINTER(ctypes.c_void_p))
init = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint, ctypes.c_char_p, ctypes.c_uint)(driver[1])
print(init(1_000_000, sys.argv[2].encode(), 0), flush=True)
time.sleep(600)
"""
"""A process that loads the plugin; its init() comes after two 32-bit numbers."""


def daemon(plugin: Plugin) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", DAEMON, plugin.run_dir / "prtrace.so"]
    started = subprocess.Popen(
        [*words, plugin.run_dir / "qemu-prtrace.conf"], stdout=subprocess.PIPE, text=True
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "0\n"
    return started


def test_it_says_that_it_is_there_while_its_daemon_lives(plugin: Plugin) -> None:
    assert plugin.started == 0
    said = plugin.run_dir / "plugin"
    assert said.read_text() == f"{os.getpid()}\n"
    first, second = daemon(plugin), daemon(plugin)
    assert said.read_text() == f"{second.pid}\n"
    assert record_lock_holder(said) in (first.pid, second.pid)
    for each, left in ((second, first.pid), (first, None)):
        each.kill()
        each.communicate()
        assert record_lock_holder(said) == left


def test_a_second_init_keeps_the_lock(plugin: Plugin) -> None:
    started = daemon(plugin)
    assert plugin.init() == 0
    assert record_lock_holder(plugin.run_dir / "plugin") == started.pid
    started.kill()
    started.communicate()


def test_a_run_dir_that_cannot_be_written_is_refused(plugin: Plugin, built: Path) -> None:
    folder = plugin.run_dir / "another"
    folder.mkdir()
    (folder / "plugin").mkdir()
    assert Plugin(folder, built, "").started == REFUSED


def test_another_interface_is_refused(plugin: Plugin) -> None:
    assert plugin.init(version=2_000_000) == REFUSED


@pytest.mark.parametrize(
    "line",
    [
        "deadline = 0",
        "deadline = x",
        'forward = "../x"',
        "what = 1",
        f'run_dir = "/{"x" * 200}"',
        'run_dir = "/x',
    ],
)
def test_a_configuration_that_is_not_understood_is_refused(
    tmp_path: Path, built: Path, line: str
) -> None:
    assert Plugin(tmp_path, built, f"# words\n\n{line}\n").started == REFUSED


def test_guests_without_a_mark_ask_nobody(plugin: Plugin, asked: Answerer) -> None:
    assert plugin.acquire() == 0
    assert asked.calls == []


@pytest.mark.parametrize(("allow", "result"), [(True, 0), (False, REFUSED)])
def test_a_guest_with_a_mark_goes_on_as_the_service_says(
    plugin: Plugin, asked: Answerer, allow: bool, result: int
) -> None:
    plugin.mark()
    asked.answer = lambda reply: reply(allow, 'it says "allow": true')
    assert plugin.acquire() == result
    assert asked.calls == [{"uuid": UUID}]


def test_a_qemu_that_is_not_executed_yet_asks_nobody(plugin: Plugin, asked: Answerer) -> None:
    plugin.mark()
    assert plugin.acquire(REGISTER_ONLY | RESTRICT) == 0
    assert asked.calls == []


def test_a_migration_that_began_makes_the_source_ask(plugin: Plugin, asked: Answerer) -> None:
    assert plugin.inquire() == 0
    assert plugin.acquire() == 0
    assert asked.calls == [{"uuid": UUID}]


def test_no_service_is_a_refusal(plugin: Plugin) -> None:
    plugin.mark()
    assert plugin.acquire() == REFUSED


def test_an_answer_that_does_not_come_is_a_refusal(
    tmp_path: Path, built: Path, asked: Answerer
) -> None:
    plugin = Plugin(tmp_path, built, "deadline = 1\n")
    plugin.mark()
    over = Event()
    waited: list[bool] = []
    asked.answer = lambda _reply: waited.append(over.wait(pace.limit(60)))
    assert plugin.acquire() == REFUSED
    assert waited == []
    over.set()


def test_a_service_that_closes_is_a_refusal(plugin: Plugin, asked: Answerer) -> None:
    plugin.mark()
    asked.answer = lambda _reply: None
    assert plugin.acquire() == REFUSED


def test_a_long_answer_is_a_refusal(plugin: Plugin, asked: Answerer) -> None:
    plugin.mark()
    asked.answer = lambda reply: reply(False, "x" * 100_000)
    assert plugin.acquire() == REFUSED


def test_every_call_is_passed_on_and_the_other_locks_first(tmp_path: Path, built: Path) -> None:
    said = tmp_path / "said"
    code = tmp_path / "other.c"
    code.write_text(RECORDER.replace("%s", str(said)))
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", tmp_path / "lockd.so", code], check=True)
    plugin = Plugin(tmp_path, built, 'forward = "lockd"\n')
    assert plugin.started == 0
    plugin.mark()
    # Nobody answers: what the other one has locked is given free again.
    assert plugin.acquire() == REFUSED
    assert said.read_text() == "init new add acquire release free "


def test_what_cannot_be_passed_on_is_refused(tmp_path: Path, built: Path) -> None:
    assert Plugin(tmp_path, built, 'forward = "sanlock"\n').started == REFUSED
