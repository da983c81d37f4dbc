"""The log of a service, written by a process that the test starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from labkit import pace

_LOGS = """
import logging, sys
from prtrace.linux import logs
logs.set_up(sys.argv[1], sys.argv[2])
logging.getLogger("prtrace.test").debug("fine")
logging.getLogger("prtrace.test").warning("odd: %d", 7)
logging.getLogger("asyncio").debug("a selector")
"""


def written(level: str, form: str, **environment: str) -> list[str]:
    env = {name: value for name, value in os.environ.items() if name != "JOURNAL_STREAM"}
    env["PYTHONPATH"] = ":".join(filter(None, sys.path))
    return subprocess.run(
        [sys.executable, "-c", _LOGS, level, form],
        env=env | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=pace.limit(60),
    ).stderr.splitlines()


def test_for_people() -> None:
    (line,) = written("info", "text")
    assert line.endswith(" WARNING prtrace.test: odd: 7")


def test_for_the_journal() -> None:
    assert written("info", "text", JOURNAL_STREAM="8:1") == ["<4>prtrace.test: odd: 7"]


def test_for_machines() -> None:
    (line,) = written("info", "json", JOURNAL_STREAM="8:1")
    told = json.loads(line)
    assert told.pop("time").endswith("Z")
    assert told == {"level": "warning", "logger": "prtrace.test", "message": "odd: 7"}


@pytest.mark.parametrize(("level", "count"), [("debug", 2), ("warning", 1), ("error", 0)])
def test_levels(level: str, count: int) -> None:
    assert len(written(level, "text")) == count
