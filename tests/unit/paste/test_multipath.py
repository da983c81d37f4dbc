"""multipathd's log."""
# ruff: noqa: E501  # log lines are as long as they are

import pytest

from paste.lines import only


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("mpatha: configured reservation key doesn't match: 0x0", "0x0000000000000000"),
        ("Nov 27 21:43:55 host multipathd[12]: 3600a: configured reservation key doesn't match: 0x12ab",
         "0x00000000000012ab"),
        ("123.4 | mpatha: no configured reservation key", "none"),
    ],
)  # fmt: skip
def test_multipath(line, key):
    seen = only(line)
    assert seen.device in ("mpatha", "3600a")
    assert dict(seen.facts)["reservation_key of multipathd"] == key
