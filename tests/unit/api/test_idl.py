"""The interface definition language: what is read, what is refused, and values checked by it."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prtrace.api.idl import Array, Choice, Dictionary, Optional, Scalar, Struct, check, parse
from prtrace.errors import MalformedError

TEXT = """
# A comment, (with marks): ?[]
interface io.example
type Colour (red, green)
type Point (x: int, y: ?int)
method Draw(at: Point, in: Colour, names: [string]string, more: ?[](z: float)) -> ()
error Refused (why: object)
"""


def test_the_whole_language_is_read():
    read = parse(TEXT)
    point = Struct({"x": Scalar("int"), "y": Optional(Scalar("int"))})
    assert read.name == "io.example"
    assert read.text == TEXT
    assert read.errors == {"Refused": Struct({"why": Scalar("object")})}
    assert read.methods["Draw"].gives == Struct({})
    assert read.methods["Draw"].takes.fields == {
        "at": point,
        "in": Choice(("red", "green")),
        "names": Dictionary(Scalar("string")),
        "more": Optional(Array(Struct({"z": Scalar("float")}))),
    }


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "'interface' is wanted"),
        ("interface", "a name is wanted"),
        ("interface a.b\nnonsense X ()", "line 2 .*nonsense is no keyword"),
        ("interface a.b\n\nmethod M(a: Missing) -> ()", "line 3 .*Missing is not defined"),
        ("interface a.b method M(a: ??int) -> ()", "one \\?"),
        ("interface a.b method M(a: int b: int) -> ()", "',' is wanted"),
        ("interface a.b method M(a: int, b) -> ()", "some have none"),
        ("interface a.b method M(a: int, a: int) -> ()", "twice"),
        ("interface a.b method M(a, b) -> ()", "names with types"),
        ("interface a.b method M() -> () error M ()", "defined twice"),
        ("interface a.b method M() -> ({)", "begins nothing"),
        ("interface a.b method M(", "a name is wanted"),
        ("interface a.b method M()", "'->' is wanted"),
    ],
)
def test_what_is_no_definition_is_refused(text, why):
    with pytest.raises(MalformedError, match=why):
        parse(text)


@given(st.text(alphabet="interfacmthodypl.[]strg->?():, \n#Xé", max_size=80))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(MalformedError):
        parse("interface a.b\n" + text)


TAKES = parse(TEXT).methods["Draw"].takes
GOOD = {"at": {"x": 1}, "in": "red", "names": {"a": "b"}}


def test_what_is_null_is_left_out():
    assert check(TAKES, GOOD | {"more": None, "at": {"x": 1, "y": None}}) == GOOD


def test_an_object_holds_any_json_null_too():
    takes = parse("interface a.b method M(file: [string]object, one: object) -> ()").methods["M"]
    given = {"file": {"key": None, "units": [None, {"a": 1}]}, "one": None}
    assert check(takes.takes, given) == {"file": given["file"]}
    with pytest.raises(MalformedError) as refused:
        check(takes.takes, {"file": {}})
    assert refused.value.what == "one"


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"at": 1}, "at"),
        ({"at": {}}, "at"),
        ({"at": {"x": True}}, "at"),
        ({"at": {"x": 1 << 63}}, "at"),
        ({"at": {"x": 1, "z": 2}}, "at"),
        ({"in": "blue"}, "in"),
        ({"in": ["red"]}, "in"),
        ({"names": ["a"]}, "names"),
        ({"names": {"a": 1}}, "names"),
        ({"more": [{"z": "1"}]}, "more"),
        ({"more": {}}, "more"),
        ({"other": 1}, "other"),
    ],
)
def test_the_parameter_that_does_not_fit_is_named(wrong, what):
    with pytest.raises(MalformedError) as refused:
        check(TAKES, GOOD | wrong)
    assert refused.value.what == what


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["at", "x", "y", "in", "z", "more", "names"]), inner)
    ),
    max_leaves=8,
)


@given(json_values)
def test_any_value_is_taken_or_refused_and_taken_again(value):
    try:
        taken = check(TAKES, value)
    except MalformedError:
        return
    assert check(TAKES, taken) == taken
