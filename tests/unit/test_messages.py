"""docs/messages.md has a line for every error that prtrace can end with."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from sources import statements

import prtrace.errors
from prtrace.errors import MalformedError, PrtraceError, UsageError

TOP = Path(__file__).parents[2]
DOCUMENT = TOP / "docs" / "messages.md"

# What is wrong with a request or with bytes is said by the message itself; the document has a
# paragraph for each of the two.
_PARAGRAPHS = {UsageError.__name__, MalformedError.__name__}
_NAMES = {
    name
    for name, kind in inspect.getmembers(prtrace.errors, inspect.isclass)
    if issubclass(kind, PrtraceError)
} - _PARAGRAPHS


def text(node: ast.expr) -> str:
    """A message with … for what only the moment knows; "" where all of it is."""
    match node:
        case ast.Constant(value=str(value)):
            return value
        case ast.JoinedStr(values=values):
            parts = (text(value) if isinstance(value, ast.Constant) else "…" for value in values)
            return "".join(parts)
        case _:
            return "…"


def raised() -> Iterator[tuple[str, str]]:
    """(where, message) of each error that a module raises, or makes, with words of its own."""
    for path in sorted((TOP / "prtrace").rglob("*.py")):
        for statement in statements(path):
            match statement:
                case (
                    ast.Raise(exc=ast.Call(func=ast.Name(id=name), args=[message, *_]))
                    | ast.Return(value=ast.Call(func=ast.Name(id=name), args=[message, *_]))
                ) if name in _NAMES:
                    yield f"{path.relative_to(TOP)}:{statement.lineno}", text(message)


def refused() -> Iterator[tuple[str, str]]:
    """(message, where) of each sentence with which libvirt is refused, by service and plugin."""
    machine = TOP / "prtrace" / "libvirt" / "machine.py"
    for node in ast.parse(machine.read_text()).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(message))):
                yield message, f"{machine.name}: {name}"
    plugin = TOP / "prtrace" / "libvirt" / "prtrace-lock.c"
    for message in re.findall(r'refuse\((?:\*why \? why : )?"([^"]+)"', plugin.read_text()):
        yield message, plugin.name


def test_every_error_has_its_line() -> None:
    lines = re.findall(r"^\| `(.+?)` \|", DOCUMENT.read_text(), re.MULTILINE)
    wanted = {message: where for where, message in raised() if message.strip("…:; ")}
    assert len(wanted) > 50  # the walk finds them
    said = dict(refused())
    assert len(said) > 15
    wanted |= said
    missing = {where: message for message, where in wanted.items() if message not in lines}
    assert not missing, "docs/messages.md lacks: " + "\n".join(map(str, missing.items()))
    stale = set(lines) - set(wanted)
    assert not stale, f"docs/messages.md has what nothing raises any more: {stale}"
