"""The metrics and the alerts, by the program that Prometheus' own people check theirs with."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from labkit import foreign, pace

from prtrace.explain.metrics import metrics, unreachable

TOP = Path(__file__).parents[2]
RULES = TOP / "prtrace" / "prometheus" / "prtrace.rules.yml"
TESTS = Path(__file__).with_name("prtrace.rules.test.yml")
HOSTILE = (
    *(
        '"} 1\nprtrace_up 0',
        "\\",
        '\\"',
        "a\nb",
        "\x1b[2J",
        "\u202e",
        "\ud800",
        "\0",
        "",
        "{}=,# ",
    ),
    *(chr(code) for code in range(0x100)),
)
STATUS = {"self_test": {"result": "failed"}, "store": {"problem": ""}, "loss": []}

pytestmark = pytest.mark.timeout(900)  # the first time, a package is fetched


@pytest.fixture(scope="module")
def promtool():
    def run(*arguments, given=None):
        return subprocess.run(
            [foreign.promtool(), *map(str, arguments)],
            input=given,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=pace.limit(120),
        )

    return run


def unit(name):
    nexus = f"{name},1"
    return {
        "lu": name,
        "as_of": "2026-11-23T12:00:00.000000000Z",
        "generation": 4294967295,
        "reservation": {"type": "WERO", "holders": [nexus]},
        "registrations": [
            {
                "nexus": nexus,
                "local": False,
                "initiator_port": name,
                "relative_target_port": None,
                "source": "read",
            }
        ],
        "nexuses": [{"nexus": "2:0:0:1", "initiator_port": name, "registered": True}],
        "doubt": [{"what": "registrations", "reason": name}],
    }


@pytest.mark.parametrize("details", [False, True])
def test_promtool_has_nothing_to_say_of_hostile_names(promtool, details):
    conflicts = [
        {"command": "CONFLICT", "lu": name, "nexus": "2:0:0:1", "count": 1} for name in HOSTILE
    ]
    text = metrics({"units": [unit(name) for name in HOSTILE]}, STATUS, conflicts, details=details)
    done = promtool("check", "metrics", given=text)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert text.splitlines().count("prtrace_up 1") == 1
    assert "prtrace_up 0" not in text.splitlines()


def test_promtool_has_nothing_to_say_of_an_agent_that_is_down(promtool):
    done = promtool("check", "metrics", given=unreachable())
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_promtool_refuses_what_is_not_escaped(promtool):
    """So that the tests above can fail."""
    assert promtool("check", "metrics", given='prtrace_up{lu="a"b"} 1\n').returncode


def test_the_rules_are_rules(promtool):
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_say_what_they_should(promtool):
    done = promtool("test", "rules", TESTS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested():
    alerts = [line.split()[-1] for line in RULES.read_text().splitlines() if "- alert:" in line]
    assert alerts
    for alert in alerts:
        assert f"alertname: {alert}\n" in TESTS.read_text()
