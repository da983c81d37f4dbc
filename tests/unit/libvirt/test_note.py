"""The note, there and back, and what no note may be."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prtrace.errors import MalformedError
from prtrace.libvirt.domain import Domain
from prtrace.libvirt.machine import Given
from prtrace.libvirt.note import Note, parse
from prtrace.model import ReservationType
from prtrace.move.savefile import SavedPath, SavedUnit, SaveFile, from_document

UUID = "11111111-2222-4333-8444-555555555555"
LU = "naa.6001405365ae78790335bfe9ec942559"


def file(kind: ReservationType | None = None, *, held: bool = False) -> dict[str, Any]:
    path = SavedPath("0:0:1:0", "/dev/lun", "naa.6001405a00000001", 1, registered=True)
    unit = SavedUnit(LU, "/dev/lun", "LIO-ORG", 0x4B4B, kind, held, 3, "observed", (path,), ())
    return SaveFile("0" * 32, 1, 0, "a", "waldi", (unit,)).to_document()


NOTE = Note(UUID, "a", "boot", 3, {"sda": LU}, file())


def carried(note: Note, uuid: str = UUID) -> Domain:
    text = ElementTree.fromstring(note.element()).text or ""
    return Domain(uuid, "waldi", {"sda": "/dev/there"}, text)


def test_a_note_arrives_as_it_was_written() -> None:
    assert parse(carried(NOTE)) == NOTE
    assert NOTE.devices(carried(NOTE)) == {LU: "/dev/there"}


def test_a_second_try_is_a_move_of_its_own() -> None:
    given = from_document(NOTE.file or {})
    first, second = (from_document(NOTE.fresh(now)) for now in (0, 9))
    assert len({given.id, first.id, second.id}) == 3
    assert (first.order, second.order) == (given.order + 1, 9)
    assert first.units == second.units == given.units


def test_a_clock_that_is_behind_does_not_make_a_second_try_the_first() -> None:
    first = from_document(NOTE.fresh(0))
    second = from_document(NOTE.fresh(0, newest=first.order))
    assert second.order > first.order


def test_no_note_is_not_a_damaged_one() -> None:
    assert parse(Domain(UUID, "waldi", {}, "")) is None
    for text in ("{}", "[]", "null", "x", '{"version": 2}', "[" * 100_000):
        with pytest.raises(MalformedError):
            parse(Domain(UUID, "waldi", {}, text))


def test_another_guests_note_is_refused() -> None:
    with pytest.raises(MalformedError, match="about guest"):
        parse(carried(NOTE, uuid=UUID.replace("1", "2")))


def test_a_note_with_a_changed_file_is_refused() -> None:
    changed = replace(NOTE, file={**file(), "host": "c"})
    with pytest.raises(MalformedError, match="checksum"):
        parse(carried(changed))


@pytest.mark.parametrize("kind", [None, *ReservationType])
@pytest.mark.parametrize("held", [False, True])
def test_who_holds_alone(kind: ReservationType | None, held: bool) -> None:
    if kind is None and held:
        return
    note = replace(NOTE, file=file(kind, held=held))
    alone = held and kind is not None and not kind.all_registrants
    assert note.holds is alone


def test_a_note_without_a_file_says_why() -> None:
    note = replace(NOTE, file=None, why="shared key <&>")
    assert parse(carried(note)) == note
    assert (note.given, NOTE.given) == (Given.BLOCKED, Given.FILE)


NAMES = ("version", "uuid", "host", "boot", "count", "disks", "file", "why")
VALUES = st.one_of(st.none(), st.integers(), st.text(), st.lists(st.text()))


@given(st.dictionaries(st.sampled_from(NAMES), VALUES))
def test_any_object_is_a_note_or_refused(given: dict[str, Any]) -> None:
    with contextlib.suppress(MalformedError):
        parse(Domain(UUID, "waldi", {}, json.dumps({"version": 1, **given})))
