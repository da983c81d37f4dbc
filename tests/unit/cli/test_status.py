"""prtrace status against a real socket."""

import json

import pytest
from shipped import valid

from cli.conftest import lines


def test_status(prtrace, served):
    done = prtrace("status", "--socket", served.path)
    assert done.returncode == 0
    text = "\n".join(lines(done))
    assert "1 of 2 programs" in text
    assert "without it: timeouts" in text
    assert "because: this kernel has no such tracepoint" in text
    assert "lost            nothing" in text
    done = prtrace("status", "--json", "--socket", served.path)
    assert valid(json.loads(done.stdout), "status.1")["pid"] == 4711


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"in_doubt": 1}, 4, "1 in doubt"),
        ({"loss": [{"cause": "the ring was full", "count": 9}]}, 0, "9: the ring was full"),
        (
            {"self_test": {"result": "failed", "at": None, "detail": "nothing was seen"}},
            1,
            "failed (nothing was seen)",
        ),
        (
            {"store": {"path": "x", "events": 1, "bytes": 1, "problem": "the disk is full"}},
            1,
            "NOTHING IS STORED: the disk is full",
        ),
    ],
    ids=lambda value: str(next(iter(value))) if isinstance(value, dict) else None,
)
def test_status_says_what_is_wrong(prtrace, served, changes, status, said):
    served.source.report.update(changes)
    done = prtrace("status", "--socket", served.path)
    assert done.returncode == status
    assert said in "\n".join(lines(done))
