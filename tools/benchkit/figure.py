"""What a benchmark says: ratios against named peers, the aims, and how much repeats differ."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Series:
    """Repeats of one measurement; unit of each."""

    values: tuple[float, ...]
    unit: str = ""

    @classmethod
    def of(cls, values: Sequence[float], unit: str = "") -> Series:
        return cls(tuple(values), unit)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """(largest - smallest) / median."""
        return (max(self.values) - min(self.values)) / self.median if self.median else 0.0

    def __str__(self) -> str:
        return f"{_short(self.median)} {self.unit} ±{50 * self.spread:.1g} %".replace("  ", " ")


@dataclass(frozen=True, slots=True)
class Ratio:
    """value is measured / peer; aim is what it should not exceed, None for a figure to know.

    at_least: the aim is what the ratio should reach, not what it should not exceed.
    """

    value: float
    peer: str
    aim: float | None = None
    at_least: bool = False
    unit: str = "x"

    @property
    def met(self) -> bool | None:
        if self.aim is None:
            return None
        return self.value >= self.aim if self.at_least else self.value <= self.aim

    def __str__(self) -> str:
        text = f"{_short(self.value)} {self.unit} {self.peer}".rstrip()
        if self.aim is None:
            return text
        sign = "≥" if self.at_least else "≤"
        return f"{text} (aim {sign} {self.aim:g}{'' if self.met else ', MISSED'})"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of a benchmark's result: what was measured, and what it is compared with."""

    name: str
    ratios: tuple[Ratio, ...]
    series: dict[str, Series] = field(default_factory=dict)

    def __str__(self) -> str:
        line = f"{self.name}: " + "; ".join(map(str, self.ratios))
        measured = "; ".join(f"{name} {series}" for name, series in self.series.items())
        return f"{line}\n    {measured}" if measured else line

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "ratios": [{**asdict(ratio), "met": ratio.met} for ratio in self.ratios],
            "series": {
                name: {"median": s.median, "spread": s.spread, "unit": s.unit, "values": s.values}
                for name, s in self.series.items()
            },
        }


def _short(value: float) -> str:
    """Four digits that count, thousands separated."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
