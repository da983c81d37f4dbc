"""The reservation state as Prometheus metrics (pure).

The text has the form that node_exporter's textfile collector reads: for each family HELP and TYPE,
then a line for each sample.  A fact that is in doubt has no sample: prtrace_in_doubt is 1 instead,
and the details that come from it say certain="no".

Source: Prometheus, "Exposition formats", text-based format 0.0.4.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from prtrace.state.event import Command, nanoseconds
from prtrace.state.unit import Fact

_NS: Final = 1_000_000_000
_YES_OR_NO: Final = {True: "yes", False: "no", None: "unknown"}
_SPC_2: Final = "SPC-2"
"""In the place of a type: RESERVE(6) or RESERVE(10) instead of a persistent reservation."""


@dataclass(frozen=True, slots=True)
class _Sample:
    """One line: labels in the order in which they are printed, and the value."""

    labels: tuple[tuple[str, str], ...]
    value: int | str


@dataclass(frozen=True, slots=True)
class _Family:
    """Every sample of one name."""

    name: str
    kind: str
    """"gauge" or "counter"."""
    about: str
    samples: Iterable[_Sample]

    def lines(self) -> Iterator[str]:
        """The family as text; nothing where it has no sample.

        One series has one sample: where two have the same labels, the first one stays.
        """
        series: dict[str, int | str] = {}
        for sample in self.samples:
            labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in sample.labels)
            series.setdefault(f"{self.name}{{{labels}}}" if labels else self.name, sample.value)
        if series:
            yield f"# HELP {self.name} {self.about}"
            yield f"# TYPE {self.name} {self.kind}"
        yield from (f"{name} {value}" for name, value in series.items())


def unreachable() -> str:
    """The metrics of a host whose agent does not answer."""
    return _text([_up(0)])


def metrics(
    shown: Mapping[str, Any],
    status: Mapping[str, Any],
    conflicts: Iterable[Mapping[str, Any]] = (),
    *,
    details: bool = False,
) -> str:
    """The metrics of a host.

    shown: a prtrace.show/1 object.  status: a prtrace.status/1 object.  conflicts: the recent
    prtrace.event/1 objects, of which those of conflicts count.  details: every registration,
    holder and initiator port, too.
    """
    # A device without persistent reservations has no facts, and may have doubts.
    units = [unit for unit in shown["units"] if unit.get("supported", True) or unit["doubt"]]
    families = [_up(1), *_agent(status), *_states(units), _conflicts(units, conflicts)]
    if details:
        families += _details(units)
    return _text(families)


def _text(families: Iterable[_Family]) -> str:
    return "".join(f"{line}\n" for family in families for line in family.lines())


def _escaped(value: str) -> str:
    """A label's value as the format takes it.

    Backslash, quotation mark and line feed have escapes in the format.  Other characters that do
    not print become \\xNN in the value itself, so that no reader's terminal obeys them.
    """
    shown = "".join(
        each
        if each.isprintable() or each == "\n"
        else f"\\x{ord(each):02x}"
        if ord(each) < 0x100
        else each.encode("ascii", "backslashreplace").decode()
        for each in value
    )
    return shown.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _sample(value: int | str, **labels: object) -> _Sample:
    """A sample; a label without a value is empty, which Prometheus takes for no label."""
    return _Sample(
        tuple((name, "" if each is None else str(each)) for name, each in labels.items()), value
    )


def _up(value: int) -> _Family:
    return _Family("prtrace_up", "gauge", "Whether the agent answers.", [_sample(value)])


def _agent(status: Mapping[str, Any]) -> Iterator[_Family]:
    yield _Family(
        "prtrace_self_test_failed",
        "gauge",
        "Whether the programs do not see what the agent itself sends.",
        [_sample(int(status["self_test"]["result"] == "failed"))],
    )
    yield _Family(
        "prtrace_store_failed",
        "gauge",
        "Whether nothing can be stored at the moment.",
        [_sample(int(bool(status["store"].get("problem"))))],
    )
    yield _Family(
        "prtrace_lost",
        "gauge",
        "Records that are known to be lost.",
        [_sample(sum(each["count"] for each in status["loss"]))],
    )


def _states(units: list[Mapping[str, Any]]) -> Iterator[_Family]:
    """What every unit has: few series, and none of a fact that is in doubt."""
    yield _Family(
        "prtrace_generation",
        "gauge",
        "PRGENERATION of the logical unit.",
        [
            _sample(unit["generation"], lu=unit["lu"])
            for unit in units
            if unit["generation"] is not None and not _doubted(unit, Fact.GENERATION)
        ],
    )
    yield _Family(
        "prtrace_reserved",
        "gauge",
        "Whether a persistent reservation is held on the logical unit.",
        [
            _sample(int(unit["reservation"] is not None), lu=unit["lu"])
            for unit in units
            if not _doubted(unit, Fact.RESERVATION)
        ],
    )
    yield _Family(
        "prtrace_in_doubt",
        "gauge",
        "Whether a fact may be wrong, by fact.",
        [
            _sample(int(_doubted(unit, fact)), lu=unit["lu"], fact=fact.value)
            for unit in units
            for fact in Fact
        ],
    )
    yield _Family(
        "prtrace_last_confirmation_timestamp_seconds",
        "gauge",
        "When the device last confirmed what is known; what other hosts did later is not in it.",
        [
            _sample(_seconds(unit["as_of"]), lu=unit["lu"])
            for unit in units
            if unit.get("as_of") is not None
        ],
    )


def _conflicts(units: list[Mapping[str, Any]], events: Iterable[Mapping[str, Any]]) -> _Family:
    """Conflicts by whether their path is registered now; no sample where a unit had none."""
    registered = {
        (unit["lu"], path["nexus"]): _YES_OR_NO[path.get("registered")]
        for unit in units
        for path in unit.get("nexuses", ())
    }
    counted: dict[tuple[str, str], int] = {}
    for event in events:
        if event["command"] == Command.CONFLICT.value:
            lu = event["lu"]
            key = (lu, registered.get((lu, event["nexus"]), _YES_OR_NO[None]))
            counted[key] = counted.get(key, 0) + event.get("count", 1)
    return _Family(
        "prtrace_recent_conflicts",
        "gauge",
        "RESERVATION CONFLICTs of the last 10 minutes, by whether the path is registered now.",
        [_sample(n, lu=lu, registered=rank) for (lu, rank), n in counted.items() if lu],
    )


def _details(units: list[Mapping[str, Any]]) -> Iterator[_Family]:
    yield _Family(
        "prtrace_registration_info",
        "gauge",
        "A registration, by initiator port and relative target port identifier (rtpi).",
        [_registration(unit, each) for unit in units for each in unit["registrations"]],
    )
    yield _Family(
        "prtrace_holder_info",
        "gauge",
        "A holder of the reservation, and its type.",
        [sample for unit in units for sample in _holders(unit)],
    )
    yield _Family(
        "prtrace_port_info",
        "gauge",
        "An initiator port of this host.",
        [
            _sample(1, initiator_port=path["initiator_port"])
            for unit in units
            for path in unit.get("nexuses", ())
            if path.get("initiator_port")
        ],
    )


def _registration(unit: Mapping[str, Any], each: Mapping[str, Any]) -> _Sample:
    return _sample(
        1,
        lu=unit["lu"],
        initiator_port=each["initiator_port"],
        rtpi=each["relative_target_port"],
        own=_own(each),
        source=each["source"],
        certain=_YES_OR_NO[not _doubted(unit, Fact.REGISTRATIONS)],
    )


def _holders(unit: Mapping[str, Any]) -> Iterator[_Sample]:
    registrations = {each["nexus"]: each for each in unit["registrations"]}
    paths = {each["nexus"]: each for each in unit.get("nexuses", ())}
    certain = _YES_OR_NO[not _doubted(unit, Fact.RESERVATION)]
    held = unit["reservation"]
    holders = [] if held is None else [(nexus, held["type"]) for nexus in held["holders"]]
    if (legacy := unit.get("legacy_reservation")) is not None:
        holders.append((legacy, _SPC_2))
    for nexus, kind in holders:
        each = registrations.get(nexus) or paths.get(nexus, {})
        own = _own(each) if "local" in each else _YES_OR_NO[True if nexus in paths else None]
        yield _sample(
            1,
            lu=unit["lu"],
            initiator_port=each.get("initiator_port"),
            rtpi=each.get("relative_target_port"),
            own=own,
            type=kind,
            certain=certain,
        )


def _own(registration: Mapping[str, Any]) -> str:
    """Whether it is this host's: "unknown" where a port name is not known."""
    return _YES_OR_NO[None if registration.get("maybe_local") else registration["local"]]


def _doubted(unit: Mapping[str, Any], fact: Fact) -> bool:
    """Whether the fact is in doubt, or not to be known on this host."""
    return any(
        each["what"] == fact.value for each in (*unit["doubt"], *unit.get("unknowable", ()))
    )


def _seconds(time: str) -> str:
    """A time (RFC 3339) as seconds since the epoch, to the millisecond."""
    ns = nanoseconds(time)
    return f"{ns // _NS}.{ns % _NS // 1_000_000:03d}"
