"""Who sits at a terminal is asked before anything is sent, whatever the output is to be."""

from __future__ import annotations

import os
import sys

import pytest
from small_hosts import D1, S1, Host, K, Target

from prtrace.cli import carrying
from prtrace.cli.main import main
from prtrace.model import ReservationType

WERO = ReservationType.WERO


class Terminal:
    """Standard input and error are a terminal, where somebody has typed answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
        self._keyboard, self._device = os.openpty()
        os.write(self._keyboard, answer.encode())
        monkeypatch.setattr(sys, "stdin", open(self._device, closefd=False))  # noqa: SIM115
        monkeypatch.setattr(sys, "stderr", open(self._device, "w", closefd=False))  # noqa: SIM115

    def shown(self) -> str:
        """All that it has shown."""
        sys.stderr.flush()
        sys.stderr.close()
        sys.stdin.close()
        os.close(self._device)
        text = b""
        while True:
            try:
                text += os.read(self._keyboard, 65536)
            except OSError:  # nobody has the device open any more
                os.close(self._keyboard)
                return text.decode()


@pytest.mark.parametrize("json", [[], ["--json"]], ids=["text", "JSON"])
@pytest.mark.parametrize(
    ("answer", "yes", "status", "asked"),
    [("n\n", [], 1, True), ("y\n", [], 0, True), ("", ["-y"], 0, False)],
    ids=["no", "yes", "not asked"],
)
def test_a_terminal_is_asked(tmp_path, monkeypatch, capfd, json, answer, yes, status, asked):
    target = Target({S1: K}, S1, WERO)
    source = Host(target, {"1:0:0:0": S1}, tmp_path / "s", monkeypatch)
    there = Host(target, {"2:0:0:0": D1}, tmp_path / "d", monkeypatch)
    path = tmp_path / "file.json"
    path.write_text(source.file(WERO, held=True).dump())
    monkeypatch.setattr(carrying, "Moves", lambda how: there.moves(approve=how.approve))
    terminal = Terminal(monkeypatch, answer)
    said = main(["prepare", str(path), "--state-dir", str(there.folder), *yes, *json])
    shown = terminal.shown()
    assert said == status
    assert ("Register the guest's key here?" in shown) is asked
    assert (D1 in target.keys) is (status == 0)
    assert bool(target.log) is (status == 0)
