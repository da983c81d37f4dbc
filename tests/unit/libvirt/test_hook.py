"""The hook as libvirt calls it: a program of its own, asked over a real socket."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from answerer import Answerer
from labkit import pace

from prtrace.libvirt.domain import NAMESPACE, parse

HOOK = Path(__file__).parents[3] / "prtrace/libvirt/qemu-hook"
UUID = "11111111-2222-4333-8444-555555555555"
XML = f"""<domain><name>waldi</name><uuid>{UUID}</uuid>
<metadata><prtrace:note xmlns:prtrace='{NAMESPACE}'>x</prtrace:note></metadata>
<devices><graphics passwd='secret'/>
<disk device='lun'><source dev='/dev/x'/><target dev='sda'/></disk></devices></domain>"""
WITHOUT = XML.replace("device='lun'", "device='disk'")
IN = "<domstatus><job type='none' async='migration in' phase='prepare' flags='0x21'/></domstatus>"
NONE = "<domstatus><job type='none' async='none'/></domstatus>"


def hook(
    folder: Path, *words: str, xml: str = XML, status: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the hook, which looks for its socket and libvirt's status in folder."""
    if status is not None:
        (folder / "waldi.xml").write_text(status)
    text = HOOK.read_text().replace("/run/prtrace-libvirt", str(folder))
    program = folder / "hook"
    program.write_text(text.replace("/run/libvirt/qemu", str(folder)))
    return subprocess.run(
        [sys.executable, "-I", program, "waldi", *words],
        input=xml, capture_output=True, text=True, timeout=pace.limit(30),
    )  # fmt: skip


def test_it_passes_on_what_is_needed_and_nothing_else(asked: Answerer, tmp_path: Path) -> None:
    done = hook(tmp_path, "migrate", "begin", "-")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (call,) = asked.calls
    assert call["operation"] == "migrate"
    assert parse(call["xml"]) == parse(XML)
    assert "secret" not in json.dumps(call)


@pytest.mark.parametrize(
    ("status", "incoming", "flags"), [(IN, True, 0x21), (NONE, False, None), (None, None, None)]
)
def test_it_reads_whether_the_guest_comes(
    asked: Answerer, tmp_path: Path, status: str | None, incoming: bool | None, flags: int | None
) -> None:
    assert hook(tmp_path, "started", "begin", "-", status=status).returncode == 0
    assert (asked.calls[0]["incoming"], asked.calls[0]["flags"]) == (incoming, flags)


@pytest.mark.parametrize("operation", ["migrate", "started"])
def test_a_refusal_is_one_sentence_on_stderr(
    asked: Answerer, tmp_path: Path, operation: str
) -> None:
    asked.answer = lambda reply: reply(False, "the key\nis here already")
    done = hook(tmp_path, operation, "begin", "-", status=IN)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "prtrace: the key is here already\n"


@pytest.mark.parametrize("words", [("stopped", "end"), ("release", "end")])
def test_what_is_only_told_refuses_nothing(asked: Answerer, tmp_path: Path, words: Any) -> None:
    asked.answer = lambda reply: reply(False, "no")
    assert hook(tmp_path, *words, "failed").returncode == 0
    assert asked.calls[0]["reason"] == "failed"


@pytest.mark.parametrize(
    "words", [("reconnect", "begin"), ("prepare", "begin"), ("start", "begin")]
)
def test_what_it_is_not_for_asks_nobody(asked: Answerer, tmp_path: Path, words: Any) -> None:
    assert hook(tmp_path, *words, "-", xml="not read").returncode == 0
    assert asked.calls == []


def test_a_guest_without_a_lun_asks_nobody(asked: Answerer, tmp_path: Path) -> None:
    assert hook(tmp_path, "migrate", "begin", "-", xml=WITHOUT).returncode == 0
    assert asked.calls == []


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        (("migrate", "begin"), None, 1),
        (("started", "begin"), IN, 1),
        (("started", "begin"), None, 1),
        (("started", "begin"), NONE, 0),
        (("release", "end"), None, 0),
    ],
)
def test_without_a_service_nothing_comes_and_the_rest_goes_on(
    tmp_path: Path, words: Any, status: str | None, code: int
) -> None:
    done = hook(tmp_path, *words, "-", status=status)
    assert done.returncode == code
    assert ("prtrace: " in done.stderr) is bool(code)


def test_an_answer_that_does_not_come_is_a_refusal(asked: Answerer, tmp_path: Path) -> None:
    asked.deadline = 0.0
    over = Event()
    waited: list[bool] = []
    asked.answer = lambda _reply: waited.append(over.wait(pace.limit(60)))
    assert hook(tmp_path, "migrate", "begin", "-").returncode == 1
    assert waited == []
    over.set()


def test_a_service_that_closes_is_a_refusal(asked: Answerer, tmp_path: Path) -> None:
    asked.answer = lambda _reply: None
    assert hook(tmp_path, "migrate", "begin", "-").returncode == 1


@pytest.mark.parametrize("xml", ["", "<domain", "text"])
def test_xml_that_cannot_be_read_is_a_refusal(tmp_path: Path, xml: str) -> None:
    done = hook(tmp_path, "migrate", "begin", "-", xml=xml)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
