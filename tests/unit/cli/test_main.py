"""Exit statuses, messages, and never a traceback."""

import os
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner
from labkit import pace

from prtrace.cli import main
from prtrace.cli.main import cli

COMMANDS = sorted(main.COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_ends_with_examples(command):
    result = CliRunner().invoke(cli, [command, "--help"])
    assert result.exit_code == 0
    assert "Examples:" in result.output
    assert all(len(line) <= 80 for line in result.output.splitlines())
    assert result.output.rstrip().splitlines()[-1].lstrip().startswith(("prtrace", "sg_raw", "su"))


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--help"], 0, ""),
        (["--version"], 0, ""),
        (["nope"], 2, "No such command"),
        (["show", "--nope"], 2, "No such option"),
        (["events", "--since", "soon"], 2, "is no age"),
        (["events", "--last", "-1"], 2, "--last"),
        (["agent", "--ring-size", "12345"], 2, "power of two"),
        (["agent", "--socket-mode", "0777"], 2, "is no mode"),
        (["agent", "--engine", "magic"], 2, "magic"),
        (["decode", "zz"], 1, "is not hex"),
        (["decode", "00 00 00 07 00 00 00 08 00 00 00 00 00 00 00 01"], 2, "could be"),
        (["decode", "--as", "keys", "00"], 1, "READ KEYS"),
        (["decode", "/dev/zero"], 2, "is no file"),
        (["read", "/dev/nope"], 3, "No such file"),
        (["read", "/dev/null"], 3, "no SCSI node"),
        (["read", "/etc/passwd"], 3, "no device node"),
        (["replay", "/nope"], 2, "No such file"),
        (["replay", "/tmp"], 2, "Is a directory"),
        (["show", "--socket", "/nope/socket"], 5, "no agent on /nope/socket"),
        (["events", "--socket", "/nope/socket"], 5, "hint: start one"),
        (["status", "--socket", "/nope/socket"], 5, "PRTRACE_SOCKET"),
        (["show", "--socket", "x" * 200], 5, "no agent on"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_exit_statuses(prtrace, arguments, status, said):
    done = prtrace(*arguments)
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    if status not in (0, 2):
        assert done.stderr.startswith("prtrace: ")


def test_an_unexpected_error_is_one_line_unless_asked_for(prtrace):
    """A broken installation causes one."""
    code = (
        "import sys; import prtrace.api.client as c; c.Client.call = lambda *a, **k: 1 / 0;"
        "from prtrace.cli.main import main; sys.exit(main(['show']))"
    )

    def run(**environment):
        return subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=pace.limit(50),
            env=os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))} | environment,
        )

    done = run()
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "prtrace: internal error: ZeroDivisionError: division by zero",
        "hint: PRTRACE_DEBUG=1 shows where; please report it",
    ]
    assert "Traceback" in run(PRTRACE_DEBUG="1").stderr


def test_a_reader_that_goes_away_is_no_error(prtrace, served):
    served.happen(3000)
    with subprocess.Popen(
        [sys.executable, "-m", "prtrace", "events", "--json", "--socket", str(served.path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))},
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(pace.limit(20)) == 141
        assert process.stderr.read() == b""


def test_ctrl_c_ends_it_quietly(served):
    served.happen(1)
    # A background job of a shell ignores SIGINT, and so do the processes that it starts.
    heeding = ("env", "--default-signal=INT")
    command = (sys.executable, "-m", "prtrace", "events", "-f", "--socket", str(served.path))
    with subprocess.Popen(
        [*heeding, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path)), "PYTHONUNBUFFERED": "1"},
    ) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(pace.limit(20)) == 130
        assert b"Traceback" not in process.stderr.read()


def test_reading_commands_do_not_load_the_agent():
    code = "import sys; from prtrace.cli.main import main; main(['show']); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=pace.limit(50),
        env=os.environ
        | {"PYTHONPATH": ":".join(filter(None, sys.path)), "PRTRACE_SOCKET": "/nope"},
    )
    loaded = set(done.stdout.split())
    assert not loaded & {"asyncio", "sqlite3", "psutil", "ctypes"}
