"""The file that travels from source to destination: prtrace.save/2, JSON with a checksum (pure).

The checksum is SHA-256 over the object without it, as JSON with sorted keys and no blanks.
It is there against cut and edited files, not against forgery.

It is a hint with a date: which move, which key and which nexuses of the source it is about.
Role, type and holder count only as what prepare expects to find.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from prtrace.errors import MalformedError
from prtrace.model import LocalNexus, Nexus, ReservationType
from prtrace.state.event import key_text, nanoseconds, rfc3339

SCHEMA: Final = "prtrace.save/2"
MAX_SIZE: Final = 16 << 20
MAX_ORDER: Final = 10**20 - 1
"""Twenty digits: the time in nanoseconds since the epoch has nineteen until the year 2286."""
_FAMILY: Final = "prtrace.save/"
_WHAT: Final = "save file"


class WithPorts:
    """A nexus as a file keeps it: its address then, and its port names."""

    __slots__ = ()
    nexus: Nexus
    initiator_port: str | None
    relative_target_port: int | None

    @property
    def named(self) -> bool:
        """Whether both port names are known, which tell the nexus from every other.

        A relative target port of 0 is one: LIO's loopback has it since Linux 6.5.
        """
        return self.initiator_port is not None and self.relative_target_port is not None

    def as_nexus(self, lu: str, name: Nexus) -> LocalNexus:
        """The nexus in the form that readings are matched with, called name."""
        return LocalNexus(
            name,
            lu,
            initiator_port=self.initiator_port,
            relative_target_port=self.relative_target_port,
        )


@dataclass(frozen=True, slots=True)
class SavedPath(WithPorts):
    """One of the source's nexuses.  registered: it had the key."""

    nexus: Nexus
    device: str
    initiator_port: str | None
    relative_target_port: int | None
    registered: bool

    @property
    def name(self) -> str:
        """What the nexus is called where its address may be another's by now: by its ports, as
        readings name a nexus that is not of this host."""
        if self.named:
            return f"{self.initiator_port},{self.relative_target_port}"
        return f"{self.nexus} (as it was saved)"


@dataclass(frozen=True, slots=True)
class SavedUnit:
    """One logical unit."""

    lu: str
    device: str
    target: str
    key: int | None
    """None where the guest has nothing here; the rest then says nothing."""
    type: ReservationType | None
    """Of the reservation, whoever holds it; None where nothing is reserved."""
    held: bool
    """The guest held it; for the all-registrants types: it is a registrant."""
    generation: int | None
    """PRGENERATION at the time, None where it was not known."""
    basis: str
    """ "observed" or "read"."""
    paths: tuple[SavedPath, ...]
    others: tuple[tuple[Nexus, int], ...]
    """The registrations of other nexuses, for people."""
    leftovers: tuple[Nexus, ...] = ()
    """Nexuses that an earlier move left with the key, as readings name them."""
    aptpl: bool | None = None
    """Whether registrations persisted through power loss, as the source knew it; for a device that
    does not say it by itself.  None where it was not known."""


@dataclass(frozen=True, slots=True)
class SaveFile:
    """What travels."""

    id: str
    """32 hex digits that name this move."""
    order: int
    """Orders moves of a logical unit, and is at most MAX_ORDER: greater than that of every move
    that the source knew, and at least the time in nanoseconds since the epoch.  So a clock that is
    behind does no harm where the hosts know of each other's moves, nor a lost journal where clocks
    are right."""
    time: int
    """Nanoseconds since the epoch."""
    host: str
    guest: str
    units: tuple[SavedUnit, ...]

    def unit(self, lu: str) -> SavedUnit | None:
        """The saved unit with this designator."""
        return next((unit for unit in self.units if unit.lu == lu), None)

    def dump(self) -> str:
        """The file's text."""
        return json.dumps(self.to_document(), indent=1) + "\n"

    def to_document(self) -> dict[str, Any]:
        """The prtrace.save/2 object, its checksum included."""
        document = self.to_json()
        return document | {"checksum": _checksum(document)}

    def to_json(self) -> dict[str, Any]:
        """The object, without its checksum."""
        return {
            "schema": SCHEMA,
            "id": self.id,
            "order": str(self.order),
            "time": rfc3339(self.time),
            "host": self.host,
            "guest": self.guest or None,
            "units": [_unit_json(unit) for unit in self.units],
        }


def parse(text: str) -> SaveFile:
    """Read the file's text; MalformedError says what is wrong with it."""
    if len(text) > MAX_SIZE:
        raise MalformedError(_WHAT, f"longer than {MAX_SIZE} characters")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedError(
            _WHAT, f"not whole JSON: {error}"[:200], hint="copy it again, or save anew"
        ) from None
    if not isinstance(document, dict):
        raise MalformedError(_WHAT, "not a JSON object")
    return from_document(document)


def from_document(given: Mapping[str, Any]) -> SaveFile:
    """Read the prtrace.save/2 object, checksum included; MalformedError as parse() has it."""
    document = dict(given)
    schema = document.get("schema")
    if schema != SCHEMA:
        newer = isinstance(schema, str) and schema.startswith(_FAMILY)
        raise MalformedError(
            _WHAT,
            f"schema {schema!r:.60}, this program reads {SCHEMA}",
            hint="it was written by another version: use the same prtrace on both hosts"
            if newer
            else "name the file that prtrace save wrote",
        )
    claimed = document.pop("checksum", None)
    try:
        fits = claimed == _checksum(document)
    except (TypeError, ValueError, RecursionError) as error:
        raise MalformedError(_WHAT, f"not JSON: {error}"[:200]) from None
    if not fits:
        raise MalformedError(
            _WHAT, "the checksum does not fit: it was changed", hint="copy it again, or save anew"
        )
    try:
        return _from_json(document)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise MalformedError(_WHAT, f"{type(error).__name__}: {error}"[:200]) from None


def _checksum(document: Mapping[str, Any]) -> str:
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def _unit_json(unit: SavedUnit) -> dict[str, Any]:
    return {
        "lu": unit.lu,
        "device": unit.device,
        "target": unit.target,
        "key": key_text(unit.key),
        "type": None if unit.type is None else unit.type.name,
        "type_code": None if unit.type is None else int(unit.type),
        "scope": "LU",
        "held": unit.held,
        "generation": unit.generation,
        "basis": unit.basis,
        "paths": [
            {
                "nexus": path.nexus,
                "device": path.device or None,
                "initiator_port": path.initiator_port,
                "relative_target_port": path.relative_target_port,
                "registered": path.registered,
            }
            for path in unit.paths
        ],
        "others": [{"nexus": nexus, "key": key_text(key)} for nexus, key in unit.others],
        "leftovers": list(unit.leftovers),
        "aptpl": unit.aptpl,
    }


def _from_json(document: Mapping[str, Any]) -> SaveFile:
    units = tuple(_unit(each) for each in _list(document["units"]))
    if not units:
        raise ValueError("it speaks of no logical unit")
    if len({unit.lu for unit in units}) != len(units):
        raise ValueError("a logical unit is in it twice")
    name, order = _text(document["id"]), _text(document["order"])
    if not re.fullmatch("[0-9a-f]{32}", name):
        raise ValueError("id is not 32 hex digits")
    return SaveFile(
        name,
        parse_order(order),
        nanoseconds(_text(document["time"])),
        _text(document["host"]),
        _text_or_none(document.get("guest")) or "",
        units,
    )


def parse_order(text: str) -> int:
    """The order that text says; ValueError where it is none."""
    if not re.fullmatch("[0-9]{1,20}", text):
        raise ValueError("order is not a number of at most 20 digits")
    return int(text)


def _unit(value: object) -> SavedUnit:
    given = _object(value)
    key = None if given["key"] is None else _key(given["key"])
    unit = SavedUnit(
        lu=_text(given["lu"]),
        device=_text(given["device"]),
        target=_text(given["target"]),
        key=key,
        type=None if given["type"] is None else ReservationType[_text(given["type"])],
        held=flag(given["held"]),
        generation=_number(given["generation"], 32),
        basis=_basis(given["basis"]),
        paths=tuple(_path(each) for each in _list(given["paths"])),
        others=tuple(
            (_text(each["nexus"]), _key(each["key"]))
            for each in map(_object, _list(given["others"]))
        ),
        leftovers=tuple(_text(each) for each in _list(given["leftovers"])),
        aptpl=None if given.get("aptpl") is None else flag(given["aptpl"]),
    )
    if unit.held and unit.type is None:
        raise ValueError("it contradicts itself")
    return unit


def _path(value: object) -> SavedPath:
    given = _object(value)
    return SavedPath(
        _text(given["nexus"]),
        _text_or_none(given["device"]) or "",
        _text_or_none(given["initiator_port"]),
        _number(given["relative_target_port"], 16),
        flag(given["registered"]),
    )


def _key(text: object) -> int:
    key = int(_text(text), 16)
    if not 0 < key < 1 << 64:
        raise ValueError(f"a key has 1 to 64 bits, not {text!r:.40}")
    return key


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text was expected, not {value!r:.40}")
    # JSON can name half a surrogate pair, which is no character: no file can be called so.
    value.encode()
    return value


def _basis(value: object) -> str:
    if value not in ("observed", "read"):
        raise ValueError(f"observed or read was expected, not {value!r:.40}")
    return str(value)


def _text_or_none(value: object) -> str | None:
    return None if value is None else _text(value)


def _number(value: object, bits: int) -> int | None:
    """A whole number that fits bits; null is one that is not known."""
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << bits:
        raise TypeError(f"a number of at most {bits} bits was expected, not {value!r:.40}")
    return value


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"a list was expected, not {value!r:.40}")
    return value


def _object(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"an object was expected, not {value!r:.40}")
    return value


def flag(value: object) -> bool:
    """A JSON true or false; TypeError for anything else."""
    if not isinstance(value, bool):
        raise TypeError(f"true or false was expected, not {value!r:.40}")
    return value
