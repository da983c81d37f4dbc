"""The live view in a real terminal, which tmux gives."""

import os
import subprocess
import sys
import time

import pytest
from labkit import pace

from cli.conftest import pr_out
from prtrace.cli.watch import drawn_unit
from prtrace.model import Issuer

pytestmark = pytest.mark.needs("tmux")


class Terminal:
    """A tmux server of its own, with one window."""

    def __init__(self, folder, columns, rows):
        self.socket = folder / "tmux"
        self.tmux("new-session", "-d", "-x", str(columns), "-y", str(rows), "sh")
        self.tmux("set-option", "-g", "window-size", "manual")

    def tmux(self, *words):
        done = subprocess.run(
            ["tmux", "-S", self.socket, "-f", "/dev/null", *words],
            capture_output=True,
            text=True,
            timeout=pace.limit(30),
            env={
                **os.environ,
                "TERM": "xterm",
                "LC_ALL": "C.UTF-8",
                "PS1": "$ ",
                "COLUMNS": "80",
                "LINES": "24",
            },
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def type(self, *keys):
        self.tmux("send-keys", *keys)

    def screen(self):
        return self.tmux("capture-pane", "-p")

    def shows(self, *texts, never=()):
        end = time.monotonic() + pace.limit(20)
        while True:
            screen = self.screen()
            if all(text in screen for text in texts) and not any(text in screen for text in never):
                return screen
            assert time.monotonic() < end, screen
            time.sleep(0.1)


@pytest.fixture
def terminal(tmp_path):
    made = Terminal(tmp_path, 100, 30)
    yield made
    made.tmux("kill-server")


def happens(served, *events):
    """Store and publish them, as the agent does."""

    def store():
        served.server.publish(served.source.store.commit("epoch", events))

    served.run(store)


@pytest.fixture
def watching(served, terminal):
    happens(served, pr_out(1, sa_key=0x123ABC))
    terminal.type(
        f"{sys.executable} -m prtrace watch --socket {served.path}; echo ended $?", "Enter"
    )
    terminal.shows("WERO held by 2:0:0:1", "── events")
    return terminal


def test_it_shows_what_is_and_what_happens_in_a_terminal_of_any_size(served, watching):
    hostile = "\x1b]0;title\x07"
    watching.shows("naa.1", "0x0000000000123abc", "IN DOUBT", "PR OUT", "guest web1")
    happens(served, pr_out(3, action=2, issuer=Issuer(1, hostile)))
    watching.shows("\\x1b]0;title")
    for columns, rows in ((60, 15), (140, 40), (40, 8)):
        watching.tmux("resize-window", "-x", str(columns), "-y", str(rows))
        watching.shows("prtrace on")
        lines = watching.screen().splitlines()
        assert len(lines) <= rows
        assert all(len(line) <= columns for line in lines)


def test_it_ends_and_leaves_the_terminal_as_it_was(watching):
    watching.type("C-c")
    watching.shows("ended 0", never=("── events",))
    watching.type("stty -a | tr ' ' '\\n' | grep -x 'echo;\\?'", "Enter")
    watching.shows("echo")


def test_an_agent_that_goes_away_is_told(served, watching):
    served.close_soon().result(20)
    watching.shows("no agent answers", "WERO held by 2:0:0:1")
    watching.type("C-c")
    watching.shows("ended 0")


def test_a_pipe_is_refused_with_what_to_do_instead(served):
    done = subprocess.run(
        [sys.executable, "-m", "prtrace", "watch", "--socket", str(served.path)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=pace.limit(60),
    )  # fmt: skip
    assert done.returncode == 2
    assert "events --follow" in done.stderr


def test_without_rich_it_says_what_to_install(served, terminal, tmp_path):
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "rich.py").write_text("raise ImportError('not here')\n")
    terminal.type(
        f"PYTHONPATH={tmp_path / 'without'}:$PYTHONPATH {sys.executable} -m prtrace watch"
        f" --socket {served.path}; echo ended $?",
        "Enter",
    )
    terminal.shows("python3-rich", "ended 1")


def test_what_is_reserved_by_spc2_and_whose_keys_are_not_known_is_there():
    doubt = {"what": "reservation", "reason": "a reset"}
    unit = {
        "lu": "naa.1",
        "target": "x",
        "doubt": [doubt],
        "reservation": None,
        "legacy_reservation": "1:0:0:0",
        "registrations": [],
        "unattributed_keys": ["0x0000000000000001"],
        "nexuses": [],
    }
    assert [text.plain for text in drawn_unit(unit)][2:] == [
        "  SPC-2 RESERVE by 1:0:0:0 (in doubt)",
        "  0x0000000000000001 on a nexus that is not known",
    ]
