"""One page of HTML with everything in it: charts, what explain says, style and script (pure).

The page fetches nothing and runs nothing but its own script: its Content-Security-Policy allows
that script and that style by their hashes.  What devices, guests and processes call themselves is
in a JSON block, where "<" and "&" are escaped, and reaches the document as text only.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

SCHEMA: Final = "prtrace.report/1"
_ESCAPES: Final = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


@dataclass(frozen=True, slots=True)
class Parts:
    """The files that the page is made of."""

    frame: str
    """HTML with the places @POLICY@, @STYLE@, @SCRIPT@ and @REPORT@."""
    style: str
    script: str


def page(parts: Parts, units: Sequence[Mapping[str, Any]], made: str) -> str:
    """The page.  made: when, RFC 3339.

    units: {"chart": Chart.to_json(), "account": prtrace.explain/1, "statements": what of it is
    said in words, "nothing_wrong": a sentence or null, "offers": remedies with "commands"}.
    """
    report = json.dumps({"schema": SCHEMA, "made": made, "units": units}, separators=(",", ":"))
    policy = (
        f"default-src 'none'; script-src {_hash(parts.script)}; style-src {_hash(parts.style)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    found = parts.frame
    # The report last: whatever it has in it is not a place.
    for place, text in (
        ("@POLICY@", policy),
        ("@STYLE@", parts.style),
        ("@SCRIPT@", parts.script),
        ("@REPORT@", report.translate(_ESCAPES)),
    ):
        found = found.replace(place, text)
    return found


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
