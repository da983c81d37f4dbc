"""The interface definition language of Varlink: a definition's text, and values checked by it.

Source: https://varlink.org/Interface-Definition.  A type is defined above its first use, so no
type can hold itself.  A value is checked as JSON decodes it.

    interface io.example
    method Ping(word: string, times: ?int) -> (words: []string)
    error Refused (message: string)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, NoReturn, assert_never

from prtrace.errors import MalformedError

_TOKENS: Final = re.compile(
    r"(?P<skip>[ \t\r\n]+|#[^\n]*)"
    r"|(?P<word>[A-Za-z][A-Za-z0-9._-]*)"
    r"|(?P<mark>\[string\]|\[\]|->|[?():,])"
)
_INTEGERS: Final = range(-(1 << 63), 1 << 63)
_OF_ANOTHER_TYPE: Final = "the value is of another type"
_SCALARS: Final[Mapping[str, tuple[type, ...]]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "string": (str,),
    "object": (dict, list, str, int, float, bool, type(None)),
}


@dataclass(frozen=True, slots=True)
class Scalar:
    """bool, int, float, string, or object (any JSON value, null among them)."""

    name: str


@dataclass(frozen=True, slots=True)
class Optional:
    """A value that may be null or left out."""

    of: Type


@dataclass(frozen=True, slots=True)
class Array:
    """A JSON array."""

    of: Type


@dataclass(frozen=True, slots=True)
class Dictionary:
    """A JSON object with any names."""

    of: Type


@dataclass(frozen=True, slots=True)
class Struct:
    """A JSON object with these names."""

    fields: Mapping[str, Type]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some words."""

    words: tuple[str, ...]


Type = Scalar | Optional | Array | Dictionary | Struct | Choice


class Method(NamedTuple):
    """What a method takes and gives."""

    takes: Struct
    gives: Struct


class Definition(NamedTuple):
    """An interface."""

    name: str
    methods: Mapping[str, Method]
    errors: Mapping[str, Struct]
    text: str
    """The definition as it was read."""


def parse(text: str) -> Definition:
    """The interface that text defines.  Raises MalformedError with what is wrong and where."""
    return _Parser(text).definition()


def check(wanted: Type, value: Any, where: str = "") -> Any:
    """value, if it is of the type wanted; a Struct comes back without what is null.

    where: the name of what is checked.  Raises MalformedError, whose what is the name of
    the parameter that does not fit.
    """
    match wanted:
        case Scalar(name):
            # bool is an int to Python and none to JSON.
            fits = isinstance(value, _SCALARS[name]) and not (
                isinstance(value, bool) and name in ("int", "float")
            )
            if not fits or (name == "int" and value not in _INTEGERS):
                raise MalformedError(where, _OF_ANOTHER_TYPE)
            return value
        case Optional(of):
            return None if value is None else check(of, value, where)
        case Array(of):
            if not isinstance(value, list):
                raise MalformedError(where, _OF_ANOTHER_TYPE)
            return [check(of, each, where) for each in value]
        case Dictionary(of):
            if not isinstance(value, dict):
                raise MalformedError(where, _OF_ANOTHER_TYPE)
            return {name: check(of, each, where) for name, each in value.items()}
        case Struct(fields):
            return _check_struct(fields, value, where)
        case Choice(words):
            if not isinstance(value, str) or value not in words:
                raise MalformedError(where, _OF_ANOTHER_TYPE)
            return value
        case _:
            assert_never(wanted)


def _check_struct(fields: Mapping[str, Type], value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MalformedError(where, _OF_ANOTHER_TYPE)
    for name in value:
        if name not in fields:
            raise MalformedError(where or name, "the definition has no such name")
    for name, of in fields.items():
        if name not in value and not isinstance(of, Optional):
            raise MalformedError(where or name, "it is missing")
    checked = {name: check(of, value.get(name), where or name) for name, of in fields.items()}
    return {name: each for name, each in checked.items() if each is not None}


class _Parser:
    """Reads one token after the other."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = self._split()
        self._types: dict[str, Type] = {}
        self._at = 0
        self._token = ""
        self._next()

    def definition(self) -> Definition:
        methods: dict[str, Method] = {}
        errors: dict[str, Struct] = {}
        self._take("interface")
        name = self._word()
        while self._token:
            keyword, what = self._word(), self._word()
            if what in methods or what in errors or what in self._types:
                self._refuse(f"{what} is defined twice")
            if keyword == "method":
                takes = self._struct()
                self._take("->")
                methods[what] = Method(takes, self._struct())
            elif keyword == "error":
                errors[what] = self._struct()
            elif keyword == "type":
                self._types[what] = self._struct_or_choice()
            else:
                self._refuse(f"{keyword} is no keyword")
        return Definition(name, methods, errors, self._text)

    def _split(self) -> Iterator[str]:
        at = 0
        while at < len(self._text):
            found = _TOKENS.match(self._text, at)
            if found is None:
                self._refuse(f"{self._text[at]!r} begins nothing", at)
            at = found.end()
            self._at = found.start()
            if found.lastgroup != "skip":
                yield found[0]

    def _next(self) -> str:
        token, self._token = self._token, next(self._tokens, "")
        return token

    def _found(self, wanted: str) -> bool:
        """Whether the token is wanted; if so it is taken."""
        if self._token != wanted:
            return False
        self._next()
        return True

    def _take(self, wanted: str) -> None:
        if self._token != wanted:
            self._refuse(f"{wanted!r} is wanted, not {self._token!r}")
        self._next()

    def _word(self) -> str:
        if not self._token[:1].isalpha():
            self._refuse(f"a name is wanted, not {self._token!r}")
        return self._next()

    def _type(self) -> Type:
        if self._found("?"):
            if self._token.startswith("?"):
                self._refuse("a type takes one ?")
            return Optional(self._type())
        if self._found("[]"):
            return Array(self._type())
        if self._found("[string]"):
            return Dictionary(self._type())
        if self._token.startswith("("):
            return self._struct_or_choice()
        name = self._word()
        if name in _SCALARS:
            return Scalar(name)
        if name not in self._types:
            self._refuse(f"type {name} is not defined above")
        return self._types[name]

    def _struct(self) -> Struct:
        read = self._struct_or_choice()
        if not isinstance(read, Struct):
            self._refuse("names with types are wanted")
        return read

    def _struct_or_choice(self) -> Struct | Choice:
        fields: dict[str, Type] = {}
        words: list[str] = []
        self._take("(")
        while not self._found(")"):
            if fields or words:
                self._take(",")
            name = self._word()
            if name in fields or name in words:
                self._refuse(f"{name} stands there twice")
            if self._found(":"):
                fields[name] = self._type()
            else:
                words.append(name)
        if words and fields:
            self._refuse("some names have types and some have none")
        return Choice(tuple(words)) if words else Struct(fields)

    def _refuse(self, why: str, at: int | None = None) -> NoReturn:
        line = self._text.count("\n", 0, self._at if at is None else at) + 1
        raise MalformedError(f"line {line} of an interface definition", why)
