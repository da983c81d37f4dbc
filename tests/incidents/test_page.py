"""The page of prtrace report in a real browser: what is drawn, found, printed and refused.

Times are printed and not asserted: this machine may have others on it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from labkit import pace
from labkit.waiting import await_that
from unit.explain import story

from incidents.browser import Browser
from prtrace.explain.recording import Recording
from prtrace.model import Issuer
from prtrace.state.event import Command, Event

STORIES = Path(story.__file__).with_name("stories")
MANY = 50_000
HOSTILE = "</script><img src=x onerror=alert(1)>\u2028&lt;b"

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as started:
        yield started


def report(folder: Path, recordings: dict[str, list[Event]]) -> Path:
    """The page that the program makes of recordings."""
    files = []
    for host, events in recordings.items():
        file = folder / f"{len(files)}.jsonl"
        file.write_text("".join(f"{line}\n" for line in Recording(host, tuple(events)).lines()))
        files.append(str(file))
    page = folder / "report.html"
    done = subprocess.run(
        [sys.executable, "-m", "prtrace", "report", *files, "-o", str(page)],
        capture_output=True,
        text=True,
        timeout=pace.limit(200),
        env={**os.environ, "PRTRACE_DEBUG": "1"},
    )
    assert done.returncode == 0, done.stderr
    return page


def hosts(name: str) -> dict[str, list[Event]]:
    return story.read(STORIES / f"{name}.txt").hosts


def drawn(browser: Browser, lane: int, below: int) -> set[str]:
    """The colours of a row of the canvas, below the top of a lane (-1: the whole unit's)."""
    return set(
        browser.run(f"""
            const canvas = document.getElementById("chart"), pen = canvas.getContext("2d");
            const y = {26 + (lane + 1) * 34 + below};
            const row = pen.getImageData(200, y, canvas.width - 200, 1).data;
            const found = new Set();
            for (let at = 0; at < row.length; at += 4)
                found.add([row[at], row[at + 1], row[at + 2]].join());
            return [...found];
        """)
    )


def colour(browser: Browser, name: str) -> str:
    """A colour of the page's style, as pixels have it."""
    text = browser.run(
        f"return getComputedStyle(document.documentElement).getPropertyValue('--{name}')"
    ).strip()
    return ",".join(str(int(text[at : at + 2], 16)) for at in (1, 3, 5))


def test_lanes_bands_and_what_explain_says(browser: Browser, tmp_path: Path) -> None:
    browser.open(report(tmp_path, hosts("fenced-by-a-host-that-recorded")))
    assert browser.complaints() == []
    chart = browser.run("return JSON.parse(document.getElementById('report').textContent)")
    assert chart["units"][0]["chart"]["lanes"] == [
        "node1 /dev/sda 1:0:0:0",
        "node2 /dev/sdc 5:0:0:0",
    ]
    registered, holder = (colour(browser, name) for name in ("registered", "holder"))
    assert registered in drawn(browser, 0, 22)
    assert holder in drawn(browser, 0, 30)
    assert holder in drawn(browser, 1, 30)
    assert colour(browser, "doubt") in drawn(browser, -1, 20)
    told = " ".join(browser.texts("#incidents li"))
    assert "PREEMPT on 5:0:0:0 of node2 by fence_scsi[100] took it away" in told
    assert "was fenced, or taken by the holder" in " ".join(browser.texts("#now dd"))
    assert "node2's is between 89.0 and 99.0 s ahead of node1's" in " ".join(
        browser.texts("#now dd")
    )
    assert "by node1's clock" in browser.texts("#clock")[0]


def test_it_says_of_now_what_explain_says(browser: Browser, tmp_path: Path) -> None:
    browser.open(report(tmp_path, hosts("an-spc-2-reserve")))
    now = browser.texts("#now dd")
    assert any(text.startswith("an SPC-2 RESERVE by ") for text in now), now
    assert "none" not in now
    browser.open(report(tmp_path, hosts("a-move-that-changed-the-type")))
    # Each command stands alone, as it is to be copied.
    first, second = browser.texts("#now dd code")
    assert first.startswith("sg_persist --out --release ")
    assert second.startswith("sg_persist --out --reserve ")
    assert browser.run("return document.getElementById('clock').hidden")


def test_it_goes_by_keys_and_finds(browser: Browser, tmp_path: Path) -> None:
    browser.open(report(tmp_path, hosts("fenced-by-a-host-that-recorded")))
    whole = browser.texts("#span")
    browser.run("document.getElementById('chart').focus()")
    browser.press("+")
    assert browser.texts("#span") != whole
    browser.press("\ue011")  # Home
    assert browser.texts("#span") == whole
    browser.press("nnn")
    assert browser.run("return !document.getElementById('tip').hidden")
    assert len(browser.texts("tr.chosen")) == 1
    browser.press("/")
    browser.press("fence_scsi")
    rows = browser.texts("#rows tr")
    assert len(rows) == 4
    assert all("fence_scsi[100]" in row for row in rows)
    browser.type_into("#search", " of another cluster")
    assert browser.texts("#rows tr") == []
    assert browser.texts("#count") == ["0 of 11 events"]


def test_hostile_names_stay_text(browser: Browser, tmp_path: Path) -> None:
    events = [
        event._replace(
            lu=HOSTILE,
            issuer=event.issuer and dataclasses.replace(event.issuer, comm=HOSTILE, guest=HOSTILE),
            device=HOSTILE,
        )
        for event in hosts("same-host-guest")[""]
    ]
    page = report(tmp_path, {HOSTILE: events})
    assert page.read_text().count("</script>") == 2
    browser.open(page)
    assert browser.complaints() == []
    assert browser.run("return document.images.length") == 0
    assert HOSTILE in browser.texts("#now-title")[0]
    assert any(HOSTILE in row for row in browser.texts("#rows td"))
    # The policy refuses what would get into the document all the same.
    browser.run(
        "const made = document.createElement('div'); made.innerHTML ="
        " '<img src=x onerror=\"document.title = 1\">'; document.body.append(made)"
    )
    assert browser.complaints()
    assert browser.run("return document.title") == "prtrace report"


def test_dark_light_and_print(browser: Browser, tmp_path: Path) -> None:
    page = report(tmp_path, hosts("a-path-added-to-a-reserved-map"))
    ground = {}
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.chrome("Emulation.setEmulatedMedia", features=[feature])
        browser.open(page)
        ground[scheme] = drawn(browser, 0, 5)
    assert "255,255,255" in ground["light"]
    assert "255,255,255" not in ground["dark"]
    browser.chrome("Emulation.setEmulatedMedia", media="print", features=[feature])
    # The page hears of it after the command has been answered.
    await_that("the chart is drawn for paper", lambda: "255,255,255" in drawn(browser, 0, 5))
    hidden = browser.run(
        "return getComputedStyle(document.getElementById('keys')).display === 'none'"
    )
    browser.chrome("Emulation.setEmulatedMedia", media="", features=[])
    assert hidden
    closed = "return document.querySelectorAll('details:not([open])').length"
    browser.run("document.querySelector('details').open = false")
    browser.run("window.dispatchEvent(new Event('beforeprint'))")
    assert browser.run(closed) == 0, "what is closed is not on paper"
    browser.run("window.dispatchEvent(new Event('afterprint'))")
    assert browser.run(closed) == 1
    printed = tmp_path / "report.pdf"
    browser.print_to(printed)
    assert printed.read_bytes().startswith(b"%PDF")


def many() -> list[Event]:
    """A storm of conflicts on a path that another one shuts out, with what began it."""
    begun = hosts("other-process-of-this-host")[""]
    template = begun[-1]
    names = ("dd", "qemu-system-x86", "kworker/0:1")
    storm = []
    for number in range(1, MANY - len(begun) + 1):
        event = template._replace(
            seq=template.seq + number,
            record=template.record + number,
            time=template.time + number * 70_000_000,
            start_ns=template.start_ns + number * 1000,
            done_ns=template.done_ns + number * 1000,
            issuer=Issuer(100 + number % 50, names[number % 3]),
            cdb=bytes.fromhex(f"2a00{number:08x}00000800"),
        )
        if number % 100 == 0:
            event = event._replace(
                command=Command.PR_IN,
                status="GOOD",
                cdb=bytes.fromhex("5e000000000000200000"),
                data=bytes.fromhex("000000010000000800000000000000a1"),
            )
        storm.append(event)
    return [*begun, *storm]


def cpu(browser: Browser) -> float:
    """Seconds of CPU that the page's main thread has taken."""
    told: list[dict[str, Any]] = browser.chrome("Performance.getMetrics")["metrics"]
    return next(each["value"] for each in told if each["name"] == "TaskDuration")


def test_fifty_thousand_events_stay_fluid(browser: Browser, tmp_path: Path) -> None:
    page = report(tmp_path, {"": many()})
    browser.chrome("Performance.enable", timeDomain="threadTicks")
    before = cpu(browser)
    browser.open(page)
    first = cpu(browser) - before
    marks = json.loads(browser.run("return document.getElementById('report').textContent"))[
        "units"
    ][0]["chart"]["marks"]
    assert len(marks) == MANY
    assert re.search(rf"{MANY} of {MANY} events", browser.texts("#count")[0])
    browser.run("document.getElementById('chart').focus()")
    zooms = []
    for _ in range(8):
        before = cpu(browser)
        browser.run("""
            document.getElementById("in").click();
            document.getElementById("chart").getContext("2d").getImageData(0, 0, 1, 1);
        """)
        zooms.append(1000 * (cpu(browser) - before))
    print(
        f"{MANY} events: {page.stat().st_size / 1e6:.1f} MB; first drawing {first:.2f} s of CPU, "
        f"zoom {min(zooms):.1f} to {max(zooms):.1f} ms of CPU"
    )
    assert colour(browser, "bad") in drawn(browser, 1, 24)
