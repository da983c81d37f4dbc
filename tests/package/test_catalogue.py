"""The agent's entries in a real journal, and what its catalogue says of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from labkit import pace

from prtrace.agent import entries

TOP = Path(__file__).parents[2]

# A journal of its own in a mount namespace: nothing of this machine's is touched.
SCRIPT = """\
set -eu
mount --make-rprivate /
for folder in /run /usr/lib/systemd/catalog /var/lib/systemd; do
    mkdir -p $folder; mount -t tmpfs own $folder
done
mkdir -p /run/systemd/journal /run/log/journal /var/lib/systemd/catalog
cp "$CATALOG" /usr/lib/systemd/catalog/
journalctl --update-catalog
/lib/systemd/systemd-journald >/dev/null 2>&1 & journal=$!
trap 'kill $journal' EXIT
until [ -S /run/systemd/journal/socket ]; do sleep 0.1; done
"$PYTHON" -c "$SENDER"
told() { journalctl -D /run/log/journal/* -o json SYSLOG_IDENTIFIER=prtrace 2>/dev/null | wc -l; }
until [ "$(told)" -ge 2 ]; do sleep 0.1; done
journalctl -D /run/log/journal/* -o json SYSLOG_IDENTIFIER=prtrace
echo ----
journalctl -D /run/log/journal/* -x --no-pager SYSLOG_IDENTIFIER=prtrace
"""

SENDER = """\
from prtrace.agent.entries import Entries
from prtrace.linux.journal import SystemJournal
from prtrace.model import Issuer, IssuePath
from prtrace.state.event import Command, Event
journal = SystemJournal.of_service()
issuer = Issuer(7, "a\\nPRIORITY=0\\x1b[2J", 1, 2, IssuePath.BLOCK_SG_IO, "", "web1")
sent = [Event(command, time=1, lu="naa.6", nexus="2:0:0:1", issuer=issuer)
        for command in (Command.PR_OUT, Command.CONFLICT, Command.CONFLICT)]
for entry in Entries({}).of(sent, {}):
    journal.send(entry)
"""


def test_the_journal_has_the_entries_and_the_catalogue_explains_them():
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", SCRIPT],
        env=os.environ
        | {
            "CATALOG": str(TOP / "prtrace" / "systemd" / "prtrace.catalog"),
            "PYTHON": sys.executable,
            "PYTHONPATH": str(TOP),
            "SENDER": SENDER,
            "JOURNAL_STREAM": "1:1",
            "LC_ALL": "C.UTF-8",
        },
        capture_output=True,
        text=True,
        timeout=pace.limit(50),
    )
    assert done.returncode == 0, done.stderr
    listed, _, explained = done.stdout.partition("----\n")
    found = [json.loads(line) for line in listed.splitlines()]
    assert [each["MESSAGE_ID"] for each in found] == [entries.PR_OUT, entries.CONFLICT]
    for each in found:
        assert each["PRTRACE_LU"] == "naa.6"
        assert each["PRTRACE_COMM"] == r"a\x0aPRIORITY=0\x1b[2J"
        assert each["PRIORITY"] == "4"
    assert "PERSISTENT RESERVE OUT to naa.6" in explained
    assert "prtrace explain naa.6" in explained
