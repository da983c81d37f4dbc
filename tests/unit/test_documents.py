"""What README and docs say of files, definitions and command lines is so.

tests/kernel/test_documents.py runs the commands that can be run.
"""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import click
import pytest
from lab.documents import blocks, documents, references
from labkit import cli as lab_cli
from labkit.places import CHECKOUT

from prtrace.cli.main import cli

DOCUMENTS = documents()
SHELL = [block for each in DOCUMENTS for block in blocks(each) if block.language == "sh"]
_SEPARATORS = {";", "&&", "||", "|", "&"}
_LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#]+)")


def named(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_what_is_referred_to_exists(document: Path) -> None:
    for line, path, name in references(document):
        file = CHECKOUT / path
        assert file.exists(), f"{named(document)}:{line}: no {path}"
        if name:
            defined = (
                rf"^\s*(?:(?:async def|def|class|struct|enum|#define) |int BPF_\w+\()?{name}\b"
            )
            found = re.search(defined, file.read_text(), re.MULTILINE)
            assert found, f"{named(document)}:{line}: no {name} in {path}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_links_lead_somewhere(document: Path) -> None:
    for target in _LINK.findall(document.read_text()):
        assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_fences_have_a_language(document: Path) -> None:
    for block in blocks(document):
        assert block.language, f"{block.name}: say sh, text, python, json, ini …"


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.name)
def test_commands_parse(block) -> None:
    for line in block.commands():
        for words in simple_commands(line):
            check(words)


def simple_commands(line: str) -> list[list[str]]:
    """The commands of a line of shell, cut at ; && || and |."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if word in _SEPARATORS:
            found.append([])
        else:
            found[-1].append(word)
    return [words for words in found if words]


def test_each_block_of_a_host_is_followed_by_its_words() -> None:
    """test_virsh.py is slow, and finds a block by words that somebody may have changed since."""
    tree = ast.parse((CHECKOUT / "tests/package/test_virsh.py").read_text())
    calls = [each for each in ast.walk(tree) if isinstance(each, ast.Call)]
    followed = [
        ast.literal_eval(each.args[1])
        for each in calls
        if isinstance(each.func, ast.Attribute) and each.func.attr == "follow"
    ]
    hosts = [block for block in SHELL if block.mark == "host"]
    found = [block.name for words in followed for block in hosts if words in block.text]
    assert sorted(found) == sorted(block.name for block in hosts)
    assert len(found) == len(followed)


def check(words: list[str]) -> None:
    """That the program exists and takes these options, where it is one of the checkout."""
    while words and ("=" in words[0] or words[0] in ("sudo", "exec")):
        words = words[1:]
    program = words[0].removeprefix("./") if words else ""
    if program == "prtrace":
        check_prtrace(words[1:])
    elif program == "tools/lab":
        check_lab(words[1:])
    elif program.startswith("tools/"):
        assert (CHECKOUT / program).exists(), program
    elif words[:3] == ["python", "-m", "pytest"]:
        for word in words[3:]:
            if word.startswith("tests/"):
                assert (CHECKOUT / word.partition("::")[0]).exists(), word


def check_prtrace(words: list[str]) -> None:
    command: click.Command = cli
    context = click.Context(cli, info_name="prtrace")
    while isinstance(command, click.Group):
        while words and words[0].startswith("-"):
            words = words[1:]
        if not words:
            return
        found = command.get_command(context, words[0])
        assert found is not None, f"prtrace has no command {words[0]}"
        command, words = found, words[1:]
        context = click.Context(command, parent=context)
    # Options only: whether a device is there is not for this host to say.
    placeholders = [word for word in words if word != "…"]
    command.make_parser(context).parse_args(placeholders)


def check_lab(words: list[str]) -> None:
    lab_cli.parser().parse_args([word for word in words if word != "…"])


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_the_proxys_socket_is_its_units(document: Path) -> None:
    units = sorted((CHECKOUT / "prtrace/systemd").glob("*.socket"))
    listening = {
        line.removeprefix("ListenStream=")
        for unit in units
        for line in unit.read_text().splitlines()
    }
    for path in re.findall(r"path='(/run/prtrace[^']*)'", document.read_text()):
        assert path in listening, f"no unit listens on {path}"
