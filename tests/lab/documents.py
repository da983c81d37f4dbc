"""The documentation's code blocks and references, for the tests that hold it to what it says.

A block of commands is fenced as sh.  The comment on the line before it says how it is tested:

    <!-- test: machine -->   run in a lab machine that has an agent
    <!-- test: host -->      run on a host with systemd, libvirt and the packages at hand
    <!-- test: parse -->     only parsed: it needs what no machine has; the default

`path/to/file.py:Name` in backquotes is a reference to a definition, `path/to/file` to a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from labkit.places import CHECKOUT

_FENCE = re.compile(r"^```(\w*)\s*$")
_MARK = re.compile(r"^<!-- test: (.+?) -->$")
_CODE = re.compile(r"`([^`\n]+)`")
_PATH = re.compile(
    r"(?P<path>(?:prtrace|tools|tests|docs|bpf|debian|contrib|data|\.ci)(?:/[\w.\-]+)+/?)"
    r"(?::(?P<name>\w+))?(?P<call>\(\))?"
)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block: where it begins, its language, how it is tested, its text."""

    document: Path
    line: int
    language: str
    mark: str
    text: str

    @property
    def name(self) -> str:
        """For a test's name."""
        return f"{self.document.name}:{self.line}"

    def commands(self) -> list[str]:
        """The commands, lines that end in a backslash joined, without comments."""
        joined = self.text.replace("\\\n", " ")
        stripped = (re.sub(r"(^|\s)#.*", "", line).strip() for line in joined.splitlines())
        return [line for line in stripped if line]


def documents() -> list[Path]:
    """What a reader reads: the files at the top, docs, and those beside the code."""
    found = [*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/*.md")]
    return sorted([*found, *CHECKOUT.glob("prtrace/**/*.md"), *CHECKOUT.glob("tests/**/*.md")])


def blocks(document: Path) -> Iterator[Block]:
    """The fenced blocks of a document."""
    language, begun, mark = None, 0, ""
    lines: list[str] = []
    for number, line in enumerate(document.read_text().splitlines(), 1):
        fence = _FENCE.match(line)
        if language is None and fence:
            language, begun, lines = fence[1], number, []
        elif language is not None and line.startswith("```"):
            yield Block(document, begun, language, mark, "\n".join(lines) + "\n")
            language, mark = None, ""
        elif language is not None:
            lines.append(line)
        elif line.strip():
            found = _MARK.match(line.strip())
            mark = found[1] if found else ""


def references(document: Path) -> Iterator[tuple[int, str, str]]:
    """(line, path, name or nothing) of every reference to a file of the checkout."""
    for number, line in enumerate(document.read_text().splitlines(), 1):
        for code in _CODE.findall(line):
            found = _PATH.fullmatch(code)
            if found:
                yield number, found["path"], found["name"] or ""
