"""A Closing is closed at the end of its with block, whatever ended the block."""

from __future__ import annotations

import pytest

from prtrace.linux.closing import Closing


class Counted(Closing):
    closed = 0

    def close(self) -> None:
        self.closed += 1


def test_leaving_the_block_closes() -> None:
    with Counted() as counted:
        assert counted.closed == 0
    assert counted.closed == 1


def test_an_error_is_not_swallowed() -> None:
    counted = Counted()
    with pytest.raises(KeyError), counted:
        raise KeyError
    assert counted.closed == 1


def test_what_has_no_close_of_its_own_says_so() -> None:
    with pytest.raises(NotImplementedError), Closing():
        pass
