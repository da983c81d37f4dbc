"""The machine with one guard less: what the exploration must be able to notice.

Three kinds:

- cell: a cell of the table that refuses, takes away, looks behind itself or sends a command says
  at once what its verb is for instead;
- row: a row never fits, so that the row behind it answers;
- code: one operand of an "and" or "or", one filter of a comprehension, one "if" of what decides
  is gone.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import inspect
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import FunctionType

import explorer

from prtrace.move import lines, machine, sight
from prtrace.move.table import TABLE, Cell, Do, Verb
from prtrace.move.word import Word

GOOD = {
    Verb.PREPARE: Word.PREPARED,
    Verb.COMMIT: Word.COMMITTED,
    Verb.LATE_COMMIT: Word.DONE,
    Verb.WITHDRAW: Word.WITHDRAWN,
    Verb.RELEASE: Word.RELEASED,
    Verb.FINISH: Word.DONE,
    Verb.RECLAIM: Word.RESTORED,
    Verb.EVICT: Word.DONE,
}
DECIDES = {
    machine: (
        "admit", "_after", "answered", "looked", "_decide", "_carry_out", "_leave",
        "_failures", "_best", "_lacking", "_DESTINATION", "_SOURCE", "_Seen",
    ),
    sight: ("sight_of", "blind_sight", "_held_here", "Sight"),
    lines: ("Lines",),
}  # fmt: skip
NO_DECISION = ("to_json", "from_json")


@dataclass(frozen=True)
class Mutant:
    """name: what is gone, and where.  changes: (object, attribute, value)."""

    name: str
    changes: tuple[tuple[object, str, object], ...]

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The machine is this mutant, until the with statement ends."""
        before = [(thing, name, vars(thing)[name]) for thing, name, _ in self.changes]
        for thing, name, value in self.changes:
            setattr(thing, name, value)
        try:
            yield
        finally:
            for thing, name, value in before:
                setattr(thing, name, value)


def mutants() -> Iterator[Mutant]:
    """All of them, each with a name of its own."""
    names: Counter[str] = Counter()
    for mutant in (*_cells(), *_rows(), *_all_code()):
        names[mutant.name] += 1
        again = names[mutant.name]
        yield replace(mutant, name=f"{mutant.name} ({again})") if again > 1 else mutant


def _all_code() -> Iterator[Mutant]:
    for module, names in DECIDES.items():
        tree = ast.parse(inspect.getsource(module))
        for node in tree.body:
            if _name(node) in names:
                yield from _code(module, module, node, module.__name__.rpartition(".")[2])


def _cells() -> Iterator[Mutant]:
    for row, cells in TABLE.items():
        for verb, cell in cells.items():
            good = cell.word is not None and cell.word.good
            if cell.do is Do.END and good:
                continue
            table = {**TABLE, row: {**cells, verb: Cell(Do.END, GOOD[verb])}}
            name = f"cell {row.name} {verb.name}: {cell.text} is {GOOD[verb].value}"
            yield Mutant(name, ((machine, "TABLE", table),))


def _rows() -> Iterator[Mutant]:
    for name in ("_DESTINATION", "_SOURCE"):
        rows = getattr(machine, name)
        for row, _ in rows:
            left = tuple((each, fits) for each, fits in rows if each is not row)
            yield Mutant(f"row {row.name}", ((machine, name, left),))


def _name(node: ast.stmt) -> str:
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return name
        case ast.AnnAssign(target=ast.Name(id=name)):
            return name
    return ""


def _code(module: object, owner: object, node: ast.stmt, prefix: str) -> Iterator[Mutant]:
    if isinstance(node, ast.ClassDef):
        for inner in node.body:
            if isinstance(inner, ast.FunctionDef) and inner.name not in NO_DECISION:
                yield from _code(
                    module, getattr(module, node.name), inner, f"{prefix}.{node.name}"
                )
        return
    name = _name(node)
    for what, changed in _changed(node):
        text = f"code {prefix}.{name}: {what}"
        value = _made(module, name, changed)
        users = (machine, explorer) if isinstance(value, FunctionType) else ()
        # A module can have it by a name of its own.
        places = {owner, *(user for user in users if name in vars(user))}
        changes = [(place, name, value) for place in places]
        yield Mutant(text, tuple(changes))


def _made(module: object, name: str, node: ast.stmt) -> object:
    tree = ast.fix_missing_locations(ast.Module([node], []))
    local: dict[str, object] = {}
    exec(compile(tree, f"<mutant of {name}>", "exec"), vars(module), local)
    return local[name]


def _changed(node: ast.stmt) -> Iterator[tuple[str, ast.stmt]]:
    """What is gone, and node without it."""
    for place, each in enumerate(ast.walk(node)):
        for what, number in _parts(each):
            changed = copy.deepcopy(node)
            _cut(_at(changed, place), number)
            row = _row_of(node, each)
            yield f"{row}without {what}", changed


def _parts(node: ast.AST) -> Iterator[tuple[str, int]]:
    match node:
        case ast.BoolOp(values=values):
            word = "and" if isinstance(node.op, ast.And) else "or"
            for number, value in enumerate(values):
                yield f"{word} {ast.unparse(value)}", number
        case ast.comprehension(ifs=ifs):
            for number, value in enumerate(ifs):
                yield f"filter {ast.unparse(value)}", number
        case ast.If(test=test):
            yield f"if {ast.unparse(test)}", 0


def _cut(node: ast.AST, number: int) -> None:
    match node:
        case ast.BoolOp(values=values):
            del values[number]
            if len(values) == 1:
                values.append(ast.Constant(isinstance(node.op, ast.And)))
        case ast.comprehension(ifs=ifs):
            del ifs[number]
        case ast.If():
            node.test = ast.Constant(value=False)


def _at(node: ast.AST, place: int) -> ast.AST:
    return next(each for number, each in enumerate(ast.walk(node)) if number == place)


def _row_of(node: ast.stmt, part: ast.AST) -> str:
    """The row whose condition part is in, for a name that tells where; "" elsewhere."""
    if not isinstance(node, ast.AnnAssign):
        return ""
    for pair in node.value.elts:  # type: ignore[union-attr]
        if any(each is part for each in ast.walk(pair)):
            return f"{ast.unparse(pair.elts[0])} "
    return ""
