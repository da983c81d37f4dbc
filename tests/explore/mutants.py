"""The machine with one guard less: what the exploration must be able to notice.

Three kinds:

- cell: a cell of the table that refuses, takes away, looks behind itself or sends a command says
  at once what its verb is for instead;
- row: a row never fits, so that the row behind it answers;
- code: one operand of an "and" or "or", one filter of a comprehension, one "if" of what decides
  is gone.  watched() is the machine that tells which of these would have gone another way.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
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
DECIDES = (machine, sight, lines)
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
    """All of them, each with a name of its own; those of the code in the order of watched()."""
    names: Counter[str] = Counter()
    for mutant in (*_cells(), *_rows(), *_code()):
        names[mutant.name] += 1
        again = names[mutant.name]
        yield replace(mutant, name=f"{mutant.name} ({again})") if again > 1 else mutant


@dataclass
class Watch:
    """Which conditions have had another value in a code mutant, by the mutants' numbers."""

    differ: set[int] = field(default_factory=set)
    within: bool = False
    """A mutant's condition is asked for: what it asks for itself, the machine does not."""

    def __call__(self, value: Callable[[], object], cuts: tuple[Cut, ...]) -> object:
        answer = value()
        if not self.within:
            self.within = True
            self.differ.update(number for number, cut in cuts if _differs(answer, cut))
            self.within = False
        return answer


Cut = tuple[int, Callable[[], object]]


def _differs(answer: object, cut: Callable[[], object]) -> bool:
    try:
        other = cut()
    except Exception:  # it relied on the operand that is gone
        return True
    if isinstance(answer, bool) or isinstance(other, bool):
        return bool(answer) is not bool(other)
    return answer != other


def watched(watch: Watch) -> Mutant:
    """The machine as it is, which tells watch at each condition what the mutants have there."""
    number = 0
    changes: list[tuple[object, str, object]] = []
    for decision in _decisions():
        numbers = {}
        for each in ast.walk(decision.node):
            for _, place in _parts(each):
                numbers[each, place] = number
                number += 1
        changes += decision.changes(_Watched(numbers).visit(decision.node), watch)
    return Mutant("watched", tuple(changes))


class _Watched(ast.NodeTransformer):
    """Puts a call of the watch around each condition."""

    def __init__(self, numbers: dict[tuple[ast.AST, int], int]) -> None:
        self.numbers = numbers

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        cuts: list[tuple[int, ast.expr]] = []
        for place in range(len(node.values)):
            cut = copy.deepcopy(node)
            _cut(cut, place)
            cuts.append((self.numbers[node, place], cut))
        self.generic_visit(node)
        return _told(node, cuts)

    def visit_comprehension(self, node: ast.comprehension) -> ast.comprehension:
        numbers = [self.numbers[node, place] for place in range(len(node.ifs))]
        self.generic_visit(node)
        node.ifs = [
            _told(each, [(number, ast.Constant(value=True))])
            for number, each in zip(numbers, node.ifs, strict=True)
        ]
        return node

    def visit_If(self, node: ast.If) -> ast.If:
        self.generic_visit(node)
        node.test = _told(node.test, [(self.numbers[node, 0], ast.Constant(value=False))])
        return node


def _told(value: ast.expr, cuts: list[tuple[int, ast.expr]]) -> ast.expr:
    """watch(lambda: value, ((number, lambda: cut), ...))."""
    given = "".join(f"({number}, lambda: {ast.unparse(cut)})," for number, cut in cuts)
    call = ast.parse(f"watch(lambda: value, ({given}))", mode="eval").body
    call.args[0].body = value  # type: ignore[attr-defined]
    return call


@dataclass(frozen=True)
class Decision:
    """A function, a method or a table of rows that decides.

    owner: what has it, module or class.  node: its source.  prefix: the owner's name.
    """

    module: object
    owner: object
    node: ast.stmt
    prefix: str

    def changes(
        self, node: ast.stmt, watch: Watch | None = None
    ) -> list[tuple[object, str, object]]:
        """What node is in its place."""
        name = _name(node)
        value = _made(self.module, name, node, watch)
        users = (machine, explorer) if isinstance(value, FunctionType) else ()
        # A module can have it by a name of its own.
        places = {self.owner, *(user for user in users if name in vars(user))}
        return [(place, name, value) for place in places]


def _decisions() -> Iterator[Decision]:
    for module in DECIDES:
        prefix = module.__name__.rpartition(".")[2]
        for node in ast.parse(inspect.getsource(module)).body:
            if isinstance(node, ast.ClassDef):
                owner = getattr(module, node.name)
                for inner in node.body:
                    if isinstance(inner, ast.FunctionDef) and inner.name not in NO_DECISION:
                        yield Decision(module, owner, inner, f"{prefix}.{node.name}")
            elif isinstance(node, ast.FunctionDef) or _name(node) in ("_DESTINATION", "_SOURCE"):
                yield Decision(module, module, node, prefix)


def _code() -> Iterator[Mutant]:
    for decision in _decisions():
        name = f"code {decision.prefix}.{_name(decision.node)}"
        for what, changed in _changed(decision.node):
            yield Mutant(f"{name}: {what}", tuple(decision.changes(changed)))


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


def _made(module: object, name: str, node: ast.stmt, watch: Watch | None) -> object:
    tree = ast.parse(f"def make(watch):\n return {name}")
    tree.body[0].body.insert(0, node)  # type: ignore[attr-defined]
    local: dict[str, Callable[[Watch | None], object]] = {}
    exec(compile(ast.fix_missing_locations(tree), f"<{name}>", "exec"), vars(module), local)
    return local["make"](watch)


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
