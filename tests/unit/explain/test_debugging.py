"""The example of docs/debugging.md is what explain says of a story."""

import re
from pathlib import Path

from labkit.places import CHECKOUT

from explain.story import LU, read
from prtrace.cli.explain import account_lines
from prtrace.cli.history import look
from prtrace.explain.account import account
from prtrace.explain.recording import Recording

DOCUMENT = (CHECKOUT / "docs" / "debugging.md").read_text()
EXAMPLE = re.compile(
    r"<!-- test: story (?P<story>[\w-]+) -->\n```text\n(?P<text>.*?)```\n", re.DOTALL
)
ZONE = re.compile(r"in the zone .*")
MOMENT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


def said(name):
    """What explain says of a story, without the remedies."""
    hosts = read(Path(__file__).with_name("stories") / f"{name}.txt").hosts
    looked = look([Recording(host, tuple(each)) for host, each in hosts.items()], LU)
    told = account(looked.unit, looked.steps, joined=looked.joined)
    lines = list(account_lines(told))
    return "\n".join(lines[: lines.index("What may be done; prtrace does nothing of it")]).rstrip()


def test_the_example_is_what_is_said():
    (example,) = EXAMPLE.finditer(DOCUMENT)
    # The zone is that of whoever runs it.
    printed, told = (ZONE.sub("zone", MOMENT.sub("TIME", text)).rstrip() for text in (
        example["text"], said(example["story"])))  # fmt: skip
    assert printed == told
