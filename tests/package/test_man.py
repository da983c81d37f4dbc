"""Manual pages and completions: every option has its line, and programs that read them agree."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from labkit import pace

from prtrace.cli.main import COMMANDS, cli

TOP = Path(__file__).parents[2]
CONTEXT = click.Context(cli, info_name="prtrace", **cli.context_settings)


def make(tool: str, folder: Path) -> Path:
    subprocess.run(
        [sys.executable, TOP / "tools" / tool, folder], check=True, timeout=pace.limit(60)
    )
    return folder


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("build-man", tmp_path_factory.mktemp("man"))


@pytest.fixture(scope="module")
def completions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("build-completions", tmp_path_factory.mktemp("completions"))


def rendered(page: Path) -> str:
    done = subprocess.run(
        ["mandoc", "-T", "utf8", page],
        capture_output=True,
        text=True,
        check=True,
        timeout=pace.limit(60),
    )
    return re.sub(r".\x08", "", done.stdout)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_help_is_in_the_page(pages, name):
    (page,) = pages.glob(f"prtrace-{name}.[18]")
    text = rendered(page)
    command = cli.get_command(CONTEXT, name)
    for parameter in command.get_params(click.Context(command, parent=CONTEXT, info_name=name)):
        if isinstance(parameter, click.Option):
            for option in parameter.opts + parameter.secondary_opts:
                assert option in text, f"{option} is missing in {page.name}"
    assert "EXAMPLES" in text


def test_mandoc_has_nothing_to_say(pages):
    done = subprocess.run(
        ["mandoc", "-T", "lint", *sorted(pages.iterdir())],
        capture_output=True,
        text=True,
        timeout=pace.limit(60),
    )
    known = {page.name for page in pages.iterdir()}
    for line in done.stdout.splitlines():
        # The pages are not installed here, so mandoc cannot find one from the other: we look.
        referenced = re.search(r"referenced manual not found: Xr (\S+) (\d)", line)
        assert referenced, line
        assert f"{referenced[1]}.{referenced[2]}" in known, line


def test_the_interfaces_page_has_every_method(pages):
    text = rendered(pages / "io.prtrace.7")
    definition = (TOP / "prtrace" / "schema" / "io.prtrace.varlink").read_text()
    for method in re.findall(r"^method (\w+)", definition, re.MULTILINE):
        assert f"method {method}" in text


def test_bash_completes_a_command(completions):
    subprocess.run(["bash", "-n", completions / "prtrace"], check=True, timeout=pace.limit(60))
    script = f"""
        prtrace() {{ {sys.executable} -m prtrace "$@"; }}
        export -f prtrace
        source {completions / "prtrace"}
        export _PRTRACE_COMPLETE=bash_complete COMP_WORDS="prtrace sh" COMP_CWORD=1
        {sys.executable} -c 'from prtrace.cli.main import cli; cli(prog_name="prtrace")'
    """
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=pace.limit(60)
    )
    assert done.stdout.splitlines() == ["plain,show"]
    assert {path.name for path in completions.iterdir()} == {"prtrace", "_prtrace", "prtrace.fish"}
