"""The file that travels: whole, or refused."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shipped import valid

from prtrace.errors import MalformedError
from prtrace.model import ReservationType
from prtrace.move import savefile
from prtrace.move.savefile import SavedPath, SavedUnit, SaveFile

UNIT = SavedUnit(
    lu="naa.6001405",
    device="/dev/sda",
    target="LIO-ORG/disk/4.0",
    key=0x4B,
    type=ReservationType.EARO,
    held=True,
    generation=0,
    basis="observed",
    paths=(
        SavedPath("0:0:0:0", "/dev/sda", "iqn.a,i,0x00023d000001", 0, registered=True),
        SavedPath("1:0:0:0", "", None, None, registered=False),
    ),
    others=(("naa.5,1", 0x99),),
    leftovers=("naa.7,1",),
)
AT = 1_700_000_000_123_456_789
FILE = SaveFile("0123456789abcdef" * 2, AT + 1, AT, "here", "db1", (UNIT,))


def test_a_file_is_read_as_it_was_written():
    assert savefile.parse(FILE.dump()) == FILE


def test_fits_its_schema():
    valid(json.loads(FILE.dump()), "save.2")


@given(st.integers(0, len(FILE.dump()) - 3))
def test_a_file_that_was_cut_is_refused(length):
    with pytest.raises(MalformedError):
        savefile.parse(FILE.dump()[:length])


@given(st.integers(0, len(FILE.dump()) - 1), st.characters())
def test_a_file_that_was_edited_is_refused_or_means_the_same(place, letter):
    text = FILE.dump()
    edited = text[:place] + letter + text[place + 1 :]
    try:
        read = savefile.parse(edited)
    except MalformedError:
        return
    assert read == FILE  # a blank, or an escape that means the same


@given(st.text())
def test_what_is_no_file_is_refused(text):
    with pytest.raises(MalformedError):
        savefile.parse(text)


def sealed(document):
    return json.dumps(document | {"checksum": savefile._checksum(document)})


def resealed(**changes):
    """A file that was edited by somebody who knows how to make the checksum."""
    document = FILE.to_json()
    document["units"][0] |= changes
    return sealed(document)


def places(value, place=()):
    """The place of every value in a JSON value."""
    yield place
    inside = value.items() if isinstance(value, dict) else ()
    inside = enumerate(value) if isinstance(value, list) else inside
    for name, each in inside:
        yield from places(each, (*place, name))


PLACES = [place for place in places(FILE.to_json()) if place]
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
)


@settings(max_examples=4 * settings.default.max_examples)
@given(st.sampled_from(PLACES), anything | st.sampled_from([1e999, -1e999, 1 << 70, [], {}, ""]))
def test_any_value_anywhere(place, value):
    """Whole, with the checksum that fits: read as what the schema says, or refused."""
    document = json.loads(json.dumps(FILE.to_json()))
    inner = document
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    try:
        read = savefile.parse(sealed(document))
    except MalformedError:
        return
    valid(json.loads(read.dump()), "save.2")


def test_a_file_of_no_unit_is_refused():
    with pytest.raises(MalformedError, match="no logical unit"):
        savefile.parse(sealed(FILE.to_json() | {"units": []}))


@pytest.mark.parametrize("field", ["lu", "device", "target"])
def test_text_that_is_none(field):
    """JSON can name half of a surrogate pair; no name of a file can be made of it."""
    with pytest.raises(MalformedError, match="surrogates"):
        savefile.parse(resealed(**{field: "naa.\ud800"}))


def test_an_order_that_no_machine_writes_is_refused():
    with pytest.raises(MalformedError):
        savefile.parse(sealed(FILE.to_json() | {"order": "9" * 5000}))


@pytest.mark.parametrize(
    "changes",
    [
        {"key": "0x0"},
        {"key": 5},
        {"type": "XX"},
        {"type": None},
        {"held": 1},
        {"paths": None},
        {"leftovers": [1]},
        {"lu": None},
        {"device": 5},
        {"generation": float("inf")},
        {"generation": "4"},
        {"generation": 1 << 32},
    ],
    ids=str,
)
def test_a_file_that_contradicts_itself_is_refused(changes):
    with pytest.raises(MalformedError):
        savefile.parse(resealed(**changes))


def test_other_versions_and_other_files_are_refused():
    newer = FILE.dump().replace("prtrace.save/2", "prtrace.save/3")
    with pytest.raises(MalformedError) as refused:
        savefile.parse(newer)
    assert "another version" in refused.value.hint
    with pytest.raises(MalformedError):
        savefile.parse('{"schema": "prtrace.show/1"}')
    with pytest.raises(MalformedError):
        savefile.parse("[" * 100_000)
