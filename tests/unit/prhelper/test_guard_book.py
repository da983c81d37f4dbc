"""What the guard knows over a restart."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from prtrace.errors import UnavailableError
from prtrace.prhelper import guard_book
from prtrace.prhelper.guard import User
from prtrace.prhelper.guard_book import NAME, GuardBook

ONE, TWO = User("machine:1", "one", 10, 1, "waldi"), User("machine:2", "two", 20, 2)


def opened(folder: Path) -> GuardBook:
    book = GuardBook(folder)
    book.begin((key, user) for keys, user in book.load() for key in keys)
    return book


def known(folder: Path) -> set[tuple[str, User]]:
    return {(key, user) for keys, user in GuardBook(folder).load() for key in keys}


def test_a_restart_knows_the_uses_that_have_begun_and_not_ended(tmp_path: Path) -> None:
    book = opened(tmp_path)
    assert known(tmp_path) == set()
    book.note(("a", "b"), ONE, using=True)
    book.note(("a",), TWO, using=True)
    assert known(tmp_path) == {("a", ONE), ("b", ONE), ("a", TWO)}
    book.note(("a", "b"), ONE, using=False)
    assert known(tmp_path) == {("a", TWO)}
    book.close()
    opened(tmp_path).close()
    assert known(tmp_path) == {("a", TWO)}


def test_another_boot_knows_nothing(tmp_path: Path) -> None:
    book = opened(tmp_path)
    book.note(("a",), ONE, using=True)
    book.close()
    text = (tmp_path / NAME).read_text()
    boot = json.loads(text.splitlines()[0])["boot"]
    (tmp_path / NAME).write_text(text.replace(boot, "another"))
    assert known(tmp_path) == set()


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "[" * 100_000,
        "\udc00",
        '{"using": true}',
        json.dumps({"using": 1, "keys": ["a"], "identity": "", "title": "", "pid": 1,
                    "start_ns": 1, "claimed": ""}),
        json.dumps({"using": True, "keys": "a", "identity": "", "title": "", "pid": 1,
                    "start_ns": 1, "claimed": ""}),
        json.dumps({"using": True, "keys": ["a"], "identity": "", "title": "", "pid": -1,
                    "start_ns": 1, "claimed": ""}),
        json.dumps({"using": True, "keys": [1], "identity": "", "title": "", "pid": 1,
                    "start_ns": 1, "claimed": ""}),
    ],
)  # fmt: skip
def test_a_damaged_line_changes_nothing(tmp_path: Path, line: str) -> None:
    book = opened(tmp_path)
    book.note(("a",), ONE, using=True)
    with (tmp_path / NAME).open("ab") as file:
        file.write(line.encode("utf-8", "surrogatepass") + b"\n")
    book.note(("b",), TWO, using=True)
    assert known(tmp_path) == {("a", ONE), ("b", TWO)}


def test_a_line_that_was_cut_off_does_not_take_the_next_with_it(tmp_path: Path) -> None:
    book = opened(tmp_path)
    with (tmp_path / NAME).open("ab") as file:
        file.write(b'{"using": tr')
    book.note(("b",), TWO, using=True)
    assert known(tmp_path) == {("b", TWO)}


def test_a_full_file_system_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = opened(tmp_path)
    full = os.open("/dev/full", os.O_WRONLY)
    monkeypatch.setattr(book, "_fd", full)
    with pytest.raises(OSError, match="No space left") as found:
        book.note(("a",), ONE, using=True)
    assert found.value.errno == errno.ENOSPC
    os.close(full)


def test_it_is_written_anew_when_it_is_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard_book, "_MOST", 1000)
    book = opened(tmp_path)
    due = [book.note(("a",), ONE, using=True) for _ in range(10)]
    assert due[0] is False
    assert due[-1] is True
    book.begin([("a", ONE)])
    assert (tmp_path / NAME).stat().st_size < 1000
    assert known(tmp_path) == {("a", ONE)}


def test_a_directory_that_is_not_there_and_a_link_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="cannot be used"):
        GuardBook(tmp_path / "x").begin([])
    (tmp_path / NAME).symlink_to("/etc/passwd")
    with pytest.raises(UnavailableError, match="cannot be used"):
        GuardBook(tmp_path).load()
