"""Whose commands a qemu-pr-helper sends: real processes, named like QEMU and its helper."""

import contextlib
import shutil
import subprocess
from dataclasses import replace

import pytest

from prtrace.errors import UsageError
from prtrace.linux.process import ProcessIdentity
from prtrace.move.facts import Sender
from prtrace.move.guest import (
    find_guest,
    guests_of,
    helper_socket,
    helpers_of,
    is_helper,
    pr_sockets,
)
from prtrace.move.verdict import _same


@pytest.fixture
def processes(tmp_path):
    """Start processes: qemu(name, *sockets), helper(socket); each gives its process id."""
    program = tmp_path / "qemu-system-x86_64"
    shutil.copy("/bin/sh", program)
    script = tmp_path / "qemu-pr-helper"
    script.write_text("#!/bin/sh\necho up\nread end\n")
    script.chmod(0o755)
    with contextlib.ExitStack() as stack:

        def start(*command):
            process = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(process.kill)
            assert process.stdout.readline() == "up\n"
            return process.pid

        class Processes:
            def qemu(self, name, *sockets):
                objects = [
                    each
                    for place, socket in enumerate(sockets)
                    for each in ("-object", f"pr-manager-helper,id=pr{place},path={socket}")
                ]
                wait = "echo up; read end; :"
                return start(program, "-c", wait, "-name", f"guest={name}", *objects)

            def helper(self, socket):
                return start(script, "-k", str(socket))

        yield Processes()


def test_a_name_and_a_command_line_make_no_helper(processes, tmp_path):
    """Both are the process's own choice; tests/move/test_helper_groups.py has those that are."""
    qemu = processes.qemu("waldi", tmp_path / "waldi.sock")
    other = processes.qemu("bello", tmp_path / "bello.sock")
    helper = processes.helper(tmp_path / "waldi.sock")
    assert helpers_of(qemu) == helpers_of(other) == set()
    assert guests_of(helper) == (qemu,)  # whose QEMU is looked at, to be sure
    assert guests_of(qemu) == (qemu,)
    asked = Sender(qemu, "qemu-system-x86", "waldi", helpers_of(qemu))
    assert not _same(Sender(helper, "qemu-pr-helper"), asked)
    assert _same(Sender(helper, "qemu-pr-helper"), replace(asked, helpers=frozenset({helper})))


@pytest.mark.parametrize(
    ("exe", "found"),
    [
        ("/usr/bin/qemu-pr-helper", True),
        ("/usr/bin/qemu-pr-helper (deleted)", True),  # it was upgraded
        ("/bin/sh", False),
        ("", False),
        ("/usr/bin/qemu-pr-helper-of-mine", False),
    ],
)
def test_the_program_makes_the_helper(exe, found):
    assert is_helper(ProcessIdentity(7, 1, "qemu-pr-helper", exe)) is found


def test_a_guest_that_two_processes_claim_to_run_is_neither(processes):
    qemu = processes.qemu("waldi-7")
    assert find_guest("waldi-7").pid == qemu
    other = processes.qemu("waldi-7")
    with pytest.raises(UsageError, match=f"{min(qemu, other)}.*{max(qemu, other)}"):
        find_guest("waldi-7")


def test_a_shared_helper_acts_for_nobody_alone(processes, tmp_path):
    shared = tmp_path / "qemu-pr-helper.sock"
    first, second = processes.qemu("waldi", shared), processes.qemu("bello", shared)
    helper = processes.helper(shared)
    assert helpers_of(first) == helpers_of(second) == set()
    assert set(guests_of(helper)) == {first, second}


def test_two_helpers_on_a_nexus_are_two_users():
    one, other = Sender(7, "qemu-pr-helper"), Sender(8, "qemu-pr-helper")
    assert not _same(one, other)
    assert _same(one, one)
    assert not _same(one, Sender(9, "qemu-system-x86", "waldi"))
    assert _same(Sender(7, "sg_persist"), Sender(8, "sg_persist"))


def test_a_process_that_is_gone_acts_for_nobody(processes):
    assert guests_of(2**22 - 3) == ()


@pytest.mark.parametrize(
    ("arguments", "socket"),
    [
        (["qemu-pr-helper", "-k", "/run/a.sock"], "/run/a.sock"),
        (["qemu-pr-helper", "--socket", "/run/a.sock", "-d"], "/run/a.sock"),
        (["qemu-pr-helper", "--socket=/run/a.sock"], "/run/a.sock"),
        (["qemu-pr-helper", "-k/run/a.sock"], "/run/a.sock"),
        (["qemu-pr-helper", "-k"], ""),
        (["qemu-pr-helper"], ""),
    ],
)
def test_a_helpers_command_line_tells_its_socket(arguments, socket):
    assert helper_socket(arguments) == socket


@pytest.mark.parametrize(
    ("value", "sockets"),
    [
        ("pr-manager-helper,id=p,path=/run/a,,b.sock", ["/run/a,b.sock"]),
        ('{"qom-type":"pr-manager-helper","id":"p","path":"/run/a.sock"}', ["/run/a.sock"]),
        ('{"qom-type":"pr-manager-helper","id":"p","path":7}', []),
        ('{"qom-type":', []),
        ("[]", []),
        ("secret,id=s", []),
    ],
)
def test_the_sockets_that_qemu_asks(value, sockets):
    assert [*pr_sockets(["qemu-kvm", "-object", value])] == sockets
