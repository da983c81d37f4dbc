"""Prometheus on loopback reads the files of three hosts, and finds the key that is nobody's."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from labkit import foreign, pace

from prtrace.explain.metrics import metrics

RULES = Path(__file__).parents[2] / "prtrace" / "prometheus" / "prtrace.rules.yml"
LU = "naa.6001405000000001"
STALE = "iqn.2026-11.org.example:node4,i,0x00023d000009"
STATUS = {"self_test": {"result": "passed"}, "store": {"problem": ""}, "loss": []}

pytestmark = [pytest.mark.needs("prometheus"), pytest.mark.timeout(300)]


def port(node: int) -> str:
    return f"iqn.2026-11.org.example:node{node},i,0x00023d00000{node}"


def host(node: int) -> str:
    """The metrics of one of three nodes that are registered, beside one that is gone for good."""
    registrations = [
        {
            "nexus": "2:0:0:1" if other == node else f"{port(other)},1",
            "local": other == node,
            "initiator_port": port(other),
            "relative_target_port": 1,
            "source": "observed" if other == node else "read",
        }
        for other in (1, 2, 3)
    ]
    registrations.append(
        {
            "nexus": f"{STALE},1",
            "local": False,
            "initiator_port": STALE,
            "relative_target_port": 1,
            "source": "read",
        }
    )
    unit = {
        "lu": LU,
        "as_of": "2026-11-23T12:00:00.000000000Z",
        "generation": 7,
        "reservation": {"type": "WERO", "holders": [registrations[0]["nexus"]]},
        "registrations": registrations,
        "nexuses": [{"nexus": "2:0:0:1", "initiator_port": port(node), "registered": True}],
        "doubt": [],
    }
    return metrics({"units": [unit]}, STATUS, [], details=True)


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Three hosts' files, each as its node_exporter would serve it."""
    texts = {f"/{node}": host(node) for node in (1, 2, 3)}

    class Exporter(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = texts[self.path].encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Exporter) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield [f"127.0.0.1:{server.server_port}{path}" for path in texts]
        server.shutdown()
        thread.join()


@pytest.fixture
def prometheus(hosts: list[str], tmp_path: Path) -> Iterator[str]:
    """The server's address; it scrapes each second, and alerts wait for no time."""
    rules = tmp_path / "rules.yml"
    waiting = RULES.read_text()
    rules.write_text("\n".join(line for line in waiting.splitlines() if "for: " not in line))
    jobs = "".join(
        f"  - job_name: node{number}\n    metrics_path: /{number}\n"
        f"    static_configs: [{{targets: ['{each.partition('/')[0]}'],"
        f" labels: {{instance: node{number}}}}}]\n"
        for number, each in enumerate(hosts, 1)
    )
    configuration = tmp_path / "prometheus.yml"
    configuration.write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
        f"rule_files: ['{rules}']\nscrape_configs:\n{jobs}"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            [foreign.prometheus(), f"--config.file={configuration}",
             f"--storage.tsdb.path={tmp_path / 'data'}", f"--web.listen-address={address}"],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield address
    finally:
        server.terminate()
        server.wait(timeout=pace.limit(60))


def ask(address: str, path: str, **query: str) -> Any:
    with urllib.request.urlopen(
        f"http://{address}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=pace.limit(30)
    ) as answer:
        return json.load(answer)["data"]


def _named(alert: Any) -> tuple[str, str]:
    return alert["labels"]["alertname"], alert["labels"].get("initiator_port", "")


def test_the_key_of_a_node_that_is_gone_raises_the_alert(prometheus: str) -> None:
    end = time.monotonic() + pace.limit(60)
    wanted = [("PrtraceRegistrationWithoutOwner", STALE)]
    alerts: list[Any] = []
    # While some hosts were not scraped yet, their ports are nobody's, too.
    while [_named(each) for each in alerts] != wanted:
        assert time.monotonic() < end, alerts
        time.sleep(0.5)
        with contextlib.suppress(OSError):
            alerts = ask(prometheus, "alerts")["alerts"]
    (alert,) = alerts
    assert alert["labels"]["lu"] == LU
    assert STALE in alert["annotations"]["summary"]
