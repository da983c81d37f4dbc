"""A unit as text: where a registration is that is no path of this host now."""

import pytest
from explain.story import LU, read

from prtrace.cli.rebuild import Rebuilt
from prtrace.cli.unit import unit_lines
from prtrace.state.view import unit_view

ISCSI = "iqn.2026-11.org.example:node1,i,0x"


def shown(folder, path, registered):
    """What is shown of a unit with that path, where a reading lists that registration."""
    file = folder / "story.txt"
    file.write_text(
        f"paths sda=1:0:0:0@{path}\n12:00:00 prtrace sda FULL 4 {registered}:a1*WERO\n"
    )
    rebuilt = Rebuilt()
    for event in read(file).hosts[""]:
        rebuilt.add(event)
    state = rebuilt.states[LU]
    lines = list(unit_lines(unit_view(state, rebuilt.unit(state), rebuilt.newest)))
    row = next(line for line in lines if "0x00000000000000a1" in line and "read" in line)
    return row.split(), " ".join(" ".join(lines).split())


@pytest.mark.parametrize(
    ("path", "registered", "word", "held"),
    [
        (
            f"{ISCSI}00023d000002,1",
            f"{ISCSI}00023d000001,1",
            "former",
            "(this host, in an iSCSI session that it does not have now)",
        ),
        (
            "naa.2100000000000aaa,1",
            "naa.2100000000000aaa,2",
            "gone",
            "(this host, over no path that it has now)",
        ),
        ("naa.2100000000000aaa,1", "naa.2100000000000bbb,1", "elsewhere", "(elsewhere)"),
        ("naa.2100000000000aaa,1", "naa.2100000000000aaa,1", "/dev/sda", "(/dev/sda)"),
    ],
)
def test_whose_a_registration_is(tmp_path, path, registered, word, held):
    row, text = shown(tmp_path, path, registered)
    assert word in row
    assert held in text
