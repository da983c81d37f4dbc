"""No cell of the table is idle: without it the exploration finds a broken invariant.

A cell that is taken away leaves its picture to the rows below.  What is found then is a broken
invariant, or a picture that no row speaks of any more.
"""

import pytest
from explorer import Explorer, Setting

from prtrace.move import machine
from prtrace.move.table import TABLE

SETTINGS = [
    Setting(extra=0),
    Setting(extra=0, holder="P", guest=("rekey",)),
    Setting(peers=("same key",), holder="P", crashes=0),
    Setting(paths=2, extra=0),
    Setting(holder="P", paths=2, crashes=2),
    Setting(flow="counted", paths=2, extra=0),
    Setting(flow="late", paths=2, extra=0),
    Setting(flow="late", holder="P", guest=("leave",)),
    Setting(off=True, holder="P", extra=0),
    Setting(character="SPDK", extra=0),
    Setting(character="SPDK", flow="release", peers=("reserve",)),
    Setting(running=True, guest=("release", "rekey"), extra=0),
    Setting(blind=True, extra=0),
    Setting(),
]


def found(setting):
    try:
        return Explorer(setting).explore(limit=400_000).story is not None
    except LookupError:
        return True


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("row", "verb"),
    [(row, verb) for row, cells in TABLE.items() for verb in cells],
    ids=lambda each: each.name,
)
def test_every_cell_is_needed(row, verb, monkeypatch):
    table = {each: dict(cells) for each, cells in TABLE.items()}
    del table[row][verb]
    monkeypatch.setattr(machine, "TABLE", table)
    assert any(found(setting) for setting in SETTINGS), f"{row.value}: {verb.value} is idle"
