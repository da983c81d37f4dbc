"""Each thing is done in one place: what gives a second copy away is found nowhere else."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest
from sources import below, statements

PACKAGE = Path(__file__).parents[2] / "prtrace"
SOURCES = {
    str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8")
    for path in sorted(PACKAGE.rglob("*.py"))
}

TRIVIAL = 40
"""Characters of a function's body; a shorter one may stand in two places."""

# What it is: the file that has it, and what gives a copy away.
HOMES = {
    "reading PR state": ("linux/reader.py", r"PrInCdb\(\w"),
    "SG_IO": ("linux/sgio.py", r"0x2285|class \w*[sS]g_?[iI]o_?[hH]dr"),
    "the sg driver's number": ("linux/sgio.py", r"SG_MAJOR: Final|== 21\b"),
    "sd_notify": ("linux/systemd.py", r"NOTIFY_SOCKET"),
    "the watchdog": ("linux/systemd.py", r"WATCHDOG_USEC"),
    "listening": ("linux/unixsocket.py", r"\.listen\(\w|LISTEN_PID|SO_ACCEPTCONN"),
    "peer credentials": ("linux/peer.py", r"socket\.SO_PEERCRED|SO_PEERGROUPS:"),
    "QEMU's command line": ("linux/qemu.py", r'qemu-system-\\w|",,"|removeprefix\("--?"\)'),
    "a guest's UUID": ("linux/qemu.py", r"\[0-9a-f\]\{8\}\(-"),
    "multipath detection": ("linux/multipath.py", r"mpath-\"|dm/uuid"),
    "reservation types' titles": ("model.py", r"Registrants Only\""),
    "INQUIRY's names as one text": (
        "model.py",
        r"\(vendor, product, revision\)\]|\.vendor, \w",
    ),
    "H:C:T:L": ("linux/directory.py", r"\\d\+:\\d\+:\\d\+"),
    "a unit without a designator": ("model.py", r"= \"hctl\."),
    "capabilities": ("linux/capabilities.py", r"PR_CAPBSET_DROP|capset\("),
    "the log": ("linux/logs.py", r"basicConfig|JOURNAL_STREAM"),
    "uevents": ("linux/uevents.py", r"AF_NETLINK"),
    "which start of the host this is": ("linux/process.py", r"boot_id\""),
    "the start of a process": ("linux/process.py", r"SC_CLK_TCK"),
    "no new privileges": ("linux/libc.py", r"NO_NEW_PRIVS"),
    "how to name a device": ("linux/devnode.py", r"name a disk, sg or multipath"),
}

# The form is declared there, or the command that sg_persist had sent is named there; an address
# is a part of a log line's grammar there.
DECLARES = {
    "reading PR state": {
        "paste/joined.py",
        "paste/sosreport.py",
        "scsi/cdb.py",
        "scsi/describe.py",
        "scsi/recognise.py",
    },
    "H:C:T:L": {"paste/kernel.py", "paste/sosreport.py"},
}


@pytest.mark.parametrize("what", HOMES)
def test_there_is_no_second_copy(what: str) -> None:
    home, pattern = HOMES[what]
    found = {name for name, text in SOURCES.items() if re.search(pattern, text)}
    assert home in found, f"{pattern} would find no copy of {what}"
    copies = found - {home} - DECLARES.get(what, set())
    assert not copies, f"{what} has its place in {home}"


def test_no_function_is_written_twice() -> None:
    """Alike to the letter but for names and docstrings of the functions; trivial ones may be."""
    alike: dict[tuple[str, ...], list[tuple[str, list[ast.stmt]]]] = {}
    for name in SOURCES:
        for node in statements(PACKAGE / name):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[ast.get_docstring(node) is not None :]
                alike.setdefault(outline(body), []).append((f"{name}:{node.name}", body))
    assert sum(map(len, alike.values())) > 1500, "the walk finds no functions"
    twice = [each for group in alike.values() if len(group) > 1 for each in copies(group)]
    assert not twice


def outline(body: list[ast.stmt]) -> tuple[str, ...]:
    """What copies have in common, and few others: comparing their text takes longer."""
    return tuple(
        f"{type(each).__name__} {type(getattr(each, 'value', None)).__name__}"
        for each in below(body)
    )


def copies(functions: list[tuple[str, list[ast.stmt]]]) -> list[list[str]]:
    """The names of functions, those together whose bodies are alike to the letter."""
    homes: dict[str, list[str]] = {}
    for name, body in functions:
        text = "\n".join(map(ast.unparse, body))
        if len(text) > TRIVIAL:
            homes.setdefault(text, []).append(name)
    return [names for names in homes.values() if len(names) > 1]


CHANCE = {"KEPT"}
"""Two helpers happen to need the same capabilities; neither has them because the other does."""


def test_no_table_is_written_twice() -> None:
    """A constant of several members that has the same name and value in two modules."""
    homes: dict[tuple[str, str], list[str]] = {}
    for name in SOURCES:
        for statement in ast.parse(SOURCES[name]).body:
            match statement:
                case (
                    ast.Assign(targets=[ast.Name(id=constant)], value=value)
                    | ast.AnnAssign(target=ast.Name(id=constant), value=ast.expr() as value)
                ) if len(getattr(value, "elts", getattr(value, "values", ()))) > 1:
                    key = constant.lstrip("_"), ast.unparse(value)
                    homes.setdefault(key, []).append(name)
    assert len(homes) > 150, "the walk finds no constants"
    twice = {key[0]: found for key, found in homes.items() if len(found) > 1}
    assert twice.keys() == CHANCE, twice


def test_a_class_name_has_one_meaning() -> None:
    """So that a reader who meets it knows it, and a search finds it."""
    names = Counter(
        name
        for text in SOURCES.values()
        for name in re.findall(r"^class ([A-Z]\w*)", text, re.MULTILINE)
    )
    assert not [name for name, count in names.items() if count > 1]
