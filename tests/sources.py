"""Python sources as Python reads them, for tests of how they are written."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path


@cache
def statements(path: Path) -> tuple[ast.stmt, ...]:
    """Every statement of a file, however deep; most nodes are parts of expressions instead."""
    return tuple(below(ast.parse(path.read_text(encoding="utf-8")).body))


def below(block: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a block, and those in them."""
    for statement in block:
        yield statement
        for name in ("body", "orelse", "finalbody"):
            yield from below(getattr(statement, name, ()))
        for part in (*getattr(statement, "handlers", ()), *getattr(statement, "cases", ())):
            yield from below(part.body)


@cache
def imports(path: Path) -> tuple[str, ...]:
    """What a file imports, wherever it does it: "package.module" or "package.module.name".

    A relative import begins with its dots.
    """
    found: list[str] = []
    for statement in statements(path):
        if isinstance(statement, ast.Import):
            found += (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            start = "." * statement.level + (statement.module or "")
            found += (f"{start}.{alias.name}" for alias in statement.names)
    return tuple(found)
