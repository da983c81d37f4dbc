"""docs/migration.md has the table that the machine runs by, row by row and verb by verb."""

from pathlib import Path

import pytest

from prtrace.move import machine
from prtrace.move.table import TABLE, Row, Verb

DOCUMENT = Path(__file__).parents[3] / "docs/migration.md"
NONE = "\N{EN DASH}"


def written():
    """The cells of the document's tables: {row's title: {verb's name: text}}."""
    verbs = {verb.value for verb in Verb}
    cells = {}
    head = []
    for line in DOCUMENT.read_text().splitlines():
        if not line.startswith("|"):
            head = []
            continue
        parts = [part.strip() for part in line.strip("|").split("|")]
        if not head:
            head = parts
        elif verbs & set(head) and set(line) - set("|- "):
            assert parts[0] not in cells, f"{parts[0]} is there twice"
            cells[parts[0]] = dict(zip(head[1:], parts[1:], strict=True))
    return cells


@pytest.mark.parametrize("row", Row)
def test_row(row):
    expected = {verb.value: cell.text for verb, cell in TABLE[row].items()}
    found = {verb: text for verb, text in written()[row.value].items() if text != NONE}
    assert found == expected


def test_the_document_has_no_other_rows():
    assert set(written()) == {row.value for row in Row}


def test_the_order_of_rows_is_the_documents():
    tried = [row for row, _ in (*machine._DESTINATION, *machine._SOURCE)]
    assert [row.value for row in tried] == list(written())
